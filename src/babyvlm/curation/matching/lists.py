"""Candidate lists of some targets, as a search returns them. A module of its own, for machines without numba."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Scores minus prices are float32 differences of numbers below 8; bounds computed from them are raised by more than
# their rounding error. The compiled functions of ``augmenting_paths`` have the same constant.
ROUNDING = 5e-7


@dataclass(frozen=True)
class TopKLists:
    """Concatenated lists of some rows: the arrays of ``CandidateLists`` without ``start``."""

    rows: NDArray[np.int64]
    length: NDArray[np.int64]
    bound: NDArray[np.float64]
    column: NDArray[np.int32]
    net_score: NDArray[np.float32]
    score: NDArray[np.float32]
