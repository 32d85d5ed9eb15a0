"""Benchmarks of what a model knows, and how a model is evaluated on them.

Names are imported on first use: building a benchmark needs neither torch nor Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from babyvlm.benchmarks.base import Benchmark, ForcedChoice, Judgement, Measure, ScoreBenchmark
    from babyvlm.benchmarks.contamination_check import ContaminationCheck
    from babyvlm.benchmarks.evaluation_callback import EvaluationCallback
    from babyvlm.benchmarks.held_out import HeldOutUtterances
    from babyvlm.benchmarks.labeled_s import LabeledS
    from babyvlm.benchmarks.saycam_caption import SAYCamCaption
    from babyvlm.benchmarks.vtwt import VTWT, NaturalVTWT
    from babyvlm.benchmarks.winoground import BabyWinoground

__all__ = [
    "VTWT",
    "BabyWinoground",
    "Benchmark",
    "ContaminationCheck",
    "EvaluationCallback",
    "ForcedChoice",
    "HeldOutUtterances",
    "Judgement",
    "LabeledS",
    "Measure",
    "NaturalVTWT",
    "SAYCamCaption",
    "ScoreBenchmark",
]
_MODULES = {
    "BabyWinoground": "winoground",
    "ContaminationCheck": "contamination_check",
    "EvaluationCallback": "evaluation_callback",
    "HeldOutUtterances": "held_out",
    "LabeledS": "labeled_s",
    "NaturalVTWT": "vtwt",
    "SAYCamCaption": "saycam_caption",
    "VTWT": "vtwt",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'base')}"), name)
