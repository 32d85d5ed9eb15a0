"""Tests made for babies, as Lightning callbacks, and how such tests are made (``build``).

The callbacks are loaded when they are asked for: making tests needs no Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from babyvlm.benchmarks.caption import Caption
    from babyvlm.benchmarks.contamination import Contamination
    from babyvlm.benchmarks.labeled_s import LabeledS
    from babyvlm.benchmarks.vtwt import VisualTwoWord
    from babyvlm.benchmarks.winoground import BabyWinoground

__all__ = ["BabyWinoground", "Caption", "Contamination", "LabeledS", "VisualTwoWord"]
_MODULES = {
    "BabyWinoground": "winoground",
    "Caption": "caption",
    "Contamination": "contamination",
    "LabeledS": "labeled_s",
    "VisualTwoWord": "vtwt",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
