"""BabyVLM: vision-language models from an infant's view of home.

The names below are imported when they are first used, so that ``import babyvlm`` stays fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from babyvlm.benchmarks.evaluate import EvaluationResult as EvaluationResult
    from babyvlm.benchmarks.evaluate import evaluate as evaluate
    from babyvlm.benchmarks.labeled_s import LabeledS as LabeledS
    from babyvlm.benchmarks.saycam_caption import SAYCamCaption as SAYCamCaption
    from babyvlm.benchmarks.vtwt import VTWT as VTWT
    from babyvlm.benchmarks.winoground import BabyWinoground as BabyWinoground
    from babyvlm.curation.store.pair_store import PairStore as PairStore
    from babyvlm.data.pair_mix import PairMix as PairMix
    from babyvlm.data.pair_mix import Source as Source
    from babyvlm.data.vocabulary import Vocabulary as Vocabulary
    from babyvlm.models.babyllava import BabyLLaVA as BabyLLaVA
    from babyvlm.models.cvcl import CVCL as CVCL
    from babyvlm.models.hub import load as load
    from babyvlm.models.networks.auto_classes import register_auto_classes as register_auto_classes

__version__ = "0.2.0"

_MODULES = {
    "BabyLLaVA": "babyvlm.models.babyllava",
    "BabyWinoground": "babyvlm.benchmarks.winoground",
    "CVCL": "babyvlm.models.cvcl",
    "EvaluationResult": "babyvlm.benchmarks.evaluate",
    "LabeledS": "babyvlm.benchmarks.labeled_s",
    "PairMix": "babyvlm.data.pair_mix",
    "PairStore": "babyvlm.curation.store.pair_store",
    "SAYCamCaption": "babyvlm.benchmarks.saycam_caption",
    "Source": "babyvlm.data.pair_mix",
    "VTWT": "babyvlm.benchmarks.vtwt",
    "Vocabulary": "babyvlm.data.vocabulary",
    "evaluate": "babyvlm.benchmarks.evaluate",
    "load": "babyvlm.models.hub",
    "register_auto_classes": "babyvlm.models.networks.auto_classes",
}
__all__ = [
    "CVCL",
    "VTWT",
    "BabyLLaVA",
    "BabyWinoground",
    "EvaluationResult",
    "LabeledS",
    "PairMix",
    "PairStore",
    "SAYCamCaption",
    "Source",
    "Vocabulary",
    "evaluate",
    "load",
    "register_auto_classes",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: torch takes seconds, and most commands do not need it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
