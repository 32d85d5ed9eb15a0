"""The best candidates of a batch of targets at given prices, by a blocked product over all candidates.

Shape letters: N targets, M candidates, D embedding width, F forbidden pairs, B rows of a batch, T columns of a tile.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no types

from babyvlm.curation.matching.augmenting_paths import SLACK
from babyvlm.curation.matching.top_k_kernel import scan, unpack

# A thread's scores fill 4 MB, which stay in the last cache between product and scan; BLAS is at its best from here on.
TILE = 2048
ROWS_AT_ONCE = 512

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Batch:
    """Lists of some rows, one behind the other: the arrays of ``Lists``, but for ``start``."""

    rows: NDArray[np.int64]
    length: NDArray[np.int64]
    bound: NDArray[np.float64]
    column: NDArray[np.int32]
    gain: NDArray[np.float32]
    score: NDArray[np.float32]


class Lister:
    """Lists the best candidates of some targets at given prices.

    Each thread takes rows of its own from the product to the finished lists, so none waits for another, and BLAS, whose
    threads would go on spinning while scores are scanned, is held to one.
    """

    def __init__(
        self, targets: NDArray[Any], candidates: NDArray[Any], forbidden: NDArray[np.int64], seed: int
    ) -> None:
        self.targets = targets
        self.candidates_MD = candidates.astype(np.float32)
        self.forbidden = forbidden
        # Random, so that the first tiles foretell what the later ones hold, whatever the order of the files.
        starts = np.arange(0, len(candidates), TILE)
        self.starts = np.random.default_rng(seed).permutation(starts).tolist()

    def list_best(self, rows: NDArray[np.int64], wanted: NDArray[np.int64], prices: NDArray[np.float64]) -> Batch:
        """List the ``wanted`` (B,) best candidates of each of ``rows`` (B,) by score less price."""
        prices32 = np.zeros(-(-len(prices) // TILE) * TILE, np.float32)
        prices32[: len(prices)] = prices
        parts = [slice(start, start + ROWS_AT_ONCE) for start in range(0, len(rows), ROWS_AT_ONCE)]
        threads: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]  # numba sets it at run time
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
            batches = list(pool.map(lambda part: self._list_part(rows[part], wanted[part], prices32), parts))
        names = [field.name for field in fields(Batch)]
        return Batch(**{name: np.concatenate([getattr(batch, name) for batch in batches]) for name in names})

    def _list_part(self, rows: NDArray[np.int64], wanted: NDArray[np.int64], prices32: NDArray[np.float32]) -> Batch:
        """List for a few rows, in one thread."""
        offsets = np.concatenate([[0], np.cumsum(np.minimum(2 * wanted, len(self.candidates_MD)) + 1)])
        found = np.empty(offsets[-1], np.int64)
        counts, floors = np.zeros(len(rows), np.int64), np.full(len(rows), -np.inf, np.float32)
        rows_BD = self.targets[rows].astype(np.float32)
        banned = self.forbidden[np.isin(self.forbidden[:, 0], rows)]
        order = np.argsort(rows)
        banned[:, 0] = order[np.searchsorted(rows, banned[:, 0], sorter=order)]  # row numbers of the part
        scores_BT = np.empty((len(rows), TILE), np.float32)
        for number, start in enumerate(self.starts):
            self._score(rows_BD, banned, start, scores_BT)
            keep = self._worth_keeping(wanted, number)
            scan(scores_BT, prices32[start : start + TILE], start, found, offsets, keep, counts, floors)
        return _as_batch(rows, wanted, found, offsets, counts, floors, prices32)

    def _worth_keeping(self, wanted: NDArray[np.int64], tiles_seen: int) -> NDArray[np.int64]:
        """How many finds may still be among the best at the end: half as many again as expected, and 32 for chance.

        A wrong guess costs no exactness: lists are shorter then, under a bound that is as true.
        """
        if tiles_seen == 0:
            return wanted
        expected = wanted * (1.5 * tiles_seen / len(self.starts)) + 32
        return np.minimum(wanted, expected.astype(np.int64))

    def _score(self, rows_BD: Floats, banned: NDArray[np.int64], start: int, scores_BT: Floats) -> None:
        """Fill in the scores of a tile; -inf for forbidden pairs and beyond the last candidate."""
        tile_TD = self.candidates_MD[start : start + TILE]
        if len(tile_TD) == TILE:
            np.dot(rows_BD, tile_TD.T, out=scores_BT)
        else:
            scores_BT[:, : len(tile_TD)] = rows_BD @ tile_TD.T
            scores_BT[:, len(tile_TD) :] = -np.inf
        if len(banned):
            here = banned[(banned[:, 1] >= start) & (banned[:, 1] < start + TILE)]
            scores_BT[here[:, 0], here[:, 1] - start] = -np.inf


def _as_batch(
    rows: NDArray[np.int64],
    wanted: NDArray[np.int64],
    found: NDArray[np.int64],
    offsets: NDArray[np.int64],
    counts: NDArray[np.int64],
    floors: NDArray[np.float32],
    prices32: NDArray[np.float32],
) -> Batch:
    """Sort the finds, best first, cut them to the wanted number, and bound what is left out."""
    length = np.minimum(counts, wanted)
    parts = zip(offsets[:-1], counts, length, strict=True)
    best = np.concatenate([np.sort(found[start : start + count])[::-1][:size] for start, count, size in parts])
    column, gain, score = (
        np.empty(len(best), np.int32),
        np.empty(len(best), np.float32),
        np.empty(len(best), np.float32),
    )
    unpack(best, prices32, column, gain, score)
    cut = np.flatnonzero(counts > wanted)
    floors[cut] = gain[np.cumsum(length)[cut] - 1]
    return Batch(rows, length, floors.astype(np.float64) + SLACK, column, gain, score)
