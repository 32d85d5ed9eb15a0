"""Tests made for babies, as Lightning callbacks."""

from babyvlm.benchmarks.labeled_s import LabeledS
from babyvlm.benchmarks.two_word import VisualTwoWord
from babyvlm.benchmarks.winoground import BabyWinoground

__all__ = ["BabyWinoground", "LabeledS", "VisualTwoWord"]
