"""Benchmarks of what a model knows, and how a model is evaluated on them.

Names are imported on first use: building a benchmark needs neither torch nor Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from babyvlm.benchmarks.alignment import Alignment
    from babyvlm.benchmarks.base import Benchmark, ForcedChoice, Judgement, Measure, ScoreBenchmark
    from babyvlm.benchmarks.contamination_check import ContaminationCheck
    from babyvlm.benchmarks.devbench import DevBenchChoice, DevBenchSimilarity, DevBenchWordAssociation
    from babyvlm.benchmarks.devcv import DevCV, DevCVMatching
    from babyvlm.benchmarks.evaluation_callback import EvaluationCallback
    from babyvlm.benchmarks.held_out import HeldOutUtterances
    from babyvlm.benchmarks.image_choice import ImageChoice
    from babyvlm.benchmarks.labeled_s import LabeledS
    from babyvlm.benchmarks.linear_probe import LinearProbe
    from babyvlm.benchmarks.machine_devbench import MachineDevBenchGrammatical, MachineDevBenchLexical
    from babyvlm.benchmarks.object_trials import ObjectTrials
    from babyvlm.benchmarks.saycam_caption import SAYCamCaption
    from babyvlm.benchmarks.stamps import TuxPaintStamps
    from babyvlm.benchmarks.vtwt import VTWT, NaturalVTWT
    from babyvlm.benchmarks.winoground import BabyWinoground

__all__ = [
    "VTWT",
    "Alignment",
    "BabyWinoground",
    "Benchmark",
    "ContaminationCheck",
    "DevBenchChoice",
    "DevBenchSimilarity",
    "DevBenchWordAssociation",
    "DevCV",
    "DevCVMatching",
    "EvaluationCallback",
    "ForcedChoice",
    "HeldOutUtterances",
    "ImageChoice",
    "Judgement",
    "LabeledS",
    "LinearProbe",
    "MachineDevBenchGrammatical",
    "MachineDevBenchLexical",
    "Measure",
    "NaturalVTWT",
    "ObjectTrials",
    "SAYCamCaption",
    "ScoreBenchmark",
    "TuxPaintStamps",
]
# Modules of the benchmarks; a new one needs a line here and in `allowed.py`.
BENCHMARKS = {
    "Alignment": "alignment",
    "BabyWinoground": "winoground",
    "DevBenchChoice": "devbench",
    "DevBenchSimilarity": "devbench",
    "DevBenchWordAssociation": "devbench",
    "DevCV": "devcv",
    "DevCVMatching": "devcv",
    "HeldOutUtterances": "held_out",
    "LabeledS": "labeled_s",
    "LinearProbe": "linear_probe",
    "MachineDevBenchGrammatical": "machine_devbench",
    "MachineDevBenchLexical": "machine_devbench",
    "NaturalVTWT": "vtwt",
    "ObjectTrials": "object_trials",
    "SAYCamCaption": "saycam_caption",
    "TuxPaintStamps": "stamps",
    "VTWT": "vtwt",
}
_MODULES = {
    **BENCHMARKS,
    "ContaminationCheck": "contamination_check",
    "EvaluationCallback": "evaluation_callback",
    "ImageChoice": "image_choice",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'base')}"), name)
