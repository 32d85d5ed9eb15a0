"""Exact top-k search by score minus price: a blocked matrix product, each block scanned by a compiled kernel.

Shape letters: N targets, M candidates, D embedding width, F forbidden pairs, B rows of a batch, T candidates of a tile.

A hit is stored as one int64 that sorts by (value, column): the value's float32 bits, mapped so that they compare as
integers do, above the column number.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import numba
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no types

from babyvlm.curation.matching.augmenting_paths import compiled
from babyvlm.curation.matching.lists import ROUNDING, TopKLists

Floats = NDArray[np.float32]

# A thread's scores take 4 MB and stay in the last-level cache between product and scan; BLAS is at full speed from this
# size on.
TILE = 2048
# Rows that a thread takes at once. A batch of 2,048 rows has enough parts for all cores, up to 32.
ROWS_PER_TASK = 512
MIN_ROWS_PER_TASK = 64
# Scores compared with the threshold at once: loops of these fixed lengths are vectorized (10 scores per nanosecond and
# core on AVX2, against 0.5 with a length known only at run time).
STRIDE = 64
STEP = 8


class TopKSearch:
    """Finds the best candidates of some targets at given prices.

    Each thread takes its rows from the product to the finished lists, so threads never wait for each other. BLAS is
    limited to one thread: its own threads would keep spinning while scores are scanned.

    Args:
        targets: (N, D) embeddings.
        candidates: (M, D) embeddings.
        forbidden: (F, 2) pairs (target, candidate) to leave out.
        seed: random seed of the order of tiles.
    """

    def __init__(
        self, targets: NDArray[np.floating], candidates: NDArray[np.floating], forbidden: NDArray[np.int64], seed: int
    ) -> None:
        self.targets = targets
        self.candidates_MD = candidates.astype(np.float32)
        self.forbidden = forbidden
        # In random order, so that the first tiles are representative of all, whatever the order of the files.
        starts = np.arange(0, len(candidates), TILE)
        self.starts = np.random.default_rng(seed).permutation(starts).tolist()

    def search(self, rows: NDArray[np.int64], top_k: NDArray[np.int64], prices: NDArray[np.float64]) -> TopKLists:
        """List the best candidates of each row by score minus price.

        Args:
            rows: (B,) target rows.
            top_k: (B,) number of candidates wanted for each row.
            prices: (M,) prices of all candidates.
        """
        prices32 = np.zeros(-(-len(prices) // TILE) * TILE, np.float32)
        prices32[: len(prices)] = prices
        threads: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]  # numba sets it at run time
        size = rows_per_task(len(rows), threads)
        parts = [slice(start, start + size) for start in range(0, len(rows), size)]
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
            lists = list(pool.map(lambda part: self._search_part(rows[part], top_k[part], prices32), parts))
        names = [field.name for field in fields(TopKLists)]
        return TopKLists(**{name: np.concatenate([getattr(part, name) for part in lists]) for name in names})

    def _search_part(self, rows: NDArray[np.int64], top_k: NDArray[np.int64], prices32: Floats) -> TopKLists:
        """Search for a few rows, in one thread."""
        offsets = np.concatenate([[0], np.cumsum(np.minimum(2 * top_k, len(self.candidates_MD)) + 1)])
        hits = np.empty(offsets[-1], np.int64)
        counts, thresholds = np.zeros(len(rows), np.int64), np.full(len(rows), -np.inf, np.float32)
        rows_BD = self.targets[rows].astype(np.float32)
        excluded = self.forbidden[np.isin(self.forbidden[:, 0], rows)]
        order = np.argsort(rows)
        excluded[:, 0] = order[np.searchsorted(rows, excluded[:, 0], sorter=order)]  # row numbers within the part
        scores_BT = np.empty((len(rows), TILE), np.float32)
        for number, start in enumerate(self.starts):
            self._score(rows_BD, excluded, start, scores_BT)
            keep = self._hits_to_keep(top_k, number)
            scan(scores_BT, prices32[start : start + TILE], start, hits, offsets, keep, counts, thresholds)
        return _sorted_lists(rows, top_k, hits, offsets, counts, thresholds, prices32)

    def _hits_to_keep(self, top_k: NDArray[np.int64], tiles_done: int) -> NDArray[np.int64]:
        """Return how many hits can still be among the best: 1.5 times the expected number, plus 32 for chance.

        Too small a number does not affect exactness: lists become shorter, with a bound that is still valid.
        """
        if tiles_done == 0:
            return top_k
        expected = top_k * (1.5 * tiles_done / len(self.starts)) + 32
        return np.minimum(top_k, expected.astype(np.int64))

    def _score(self, rows_BD: Floats, excluded: NDArray[np.int64], start: int, scores_BT: Floats) -> None:
        """Compute the scores of a tile; -inf for forbidden pairs and beyond the last candidate."""
        tile_TD = self.candidates_MD[start : start + TILE]
        if len(tile_TD) == TILE:
            np.dot(rows_BD, tile_TD.T, out=scores_BT)
        else:
            scores_BT[:, : len(tile_TD)] = rows_BD @ tile_TD.T
            scores_BT[:, len(tile_TD) :] = -np.inf
        if len(excluded):
            here = excluded[(excluded[:, 1] >= start) & (excluded[:, 1] < start + TILE)]
            scores_BT[here[:, 0], here[:, 1] - start] = -np.inf


def rows_per_task(rows: int, threads: int) -> int:
    """Return how many rows a thread takes at once, so that a batch keeps all threads busy.

    >>> [rows_per_task(2048, threads) for threads in (1, 4, 16, 128)]
    [512, 512, 128, 64]
    """
    return min(ROWS_PER_TASK, max(MIN_ROWS_PER_TASK, -(-rows // threads)))


def _sorted_lists(
    rows: NDArray[np.int64],
    top_k: NDArray[np.int64],
    hits: NDArray[np.int64],
    offsets: NDArray[np.int64],
    counts: NDArray[np.int64],
    thresholds: Floats,
    prices32: Floats,
) -> TopKLists:
    """Sort the hits, best first, truncate them to the wanted number, and bound what is left out."""
    length = np.minimum(counts, top_k)
    parts = zip(offsets[:-1], counts, length, strict=True)
    best = np.concatenate([np.sort(hits[start : start + count])[::-1][:size] for start, count, size in parts])
    column, net_score, score = (
        np.empty(len(best), np.int32),
        np.empty(len(best), np.float32),
        np.empty(len(best), np.float32),
    )
    unpack(best, prices32, column, net_score, score)
    truncated = np.flatnonzero(counts > top_k)
    thresholds[truncated] = net_score[np.cumsum(length)[truncated] - 1]
    return TopKLists(rows, length, thresholds.astype(np.float64) + ROUNDING, column, net_score, score)


@compiled
def pack(value: np.float32, column: int) -> np.int64:
    """Return one sortable integer for a value and a column below 2**32."""
    bits = np.int64(np.float32(value).view(np.int32))
    if bits < 0:
        bits ^= 0x7FFFFFFF
    return np.int64((bits << 32) | column)


@compiled
def value_of(packed: np.int64) -> np.float32:
    """Return the value in a packed integer."""
    bits = packed >> 32
    if bits < 0:
        bits ^= 0x7FFFFFFF
    return np.int32(bits).view(np.float32)


@compiled
def keep_largest(items: NDArray[np.int64], k: int) -> np.int64:
    """Move the ``k`` largest items to the front, in any order, and return the smallest (Hoare's quickselect)."""
    low, high = 0, len(items) - 1
    while low < high:
        pivot = items[(low + high) >> 1]
        i, j = low, high
        while i <= j:
            while items[i] > pivot:
                i += 1
            while items[j] < pivot:
                j -= 1
            if i <= j:
                items[i], items[j] = items[j], items[i]
                i += 1
                j -= 1
        if k - 1 <= j:
            high = j
        elif k - 1 >= i:
            low = i
        else:
            break
    smallest: np.int64 = items[k - 1]
    return smallest


@compiled
def _collect(
    scores: Floats, prices: Floats, first_column: int, hits: NDArray[np.int64], state: tuple[int, np.float32, int]
) -> tuple[int, np.float32]:
    """Collect the hits of one stride.

    Args:
        scores: (STRIDE,) scores.
        prices: (STRIDE,) prices.
        first_column: column of the first score.
        hits: room for the row's hits.
        state: number of hits, threshold, number of hits to keep.

    Returns:
        The new number of hits and threshold.
    """
    count, threshold, keep = state
    for start in range(0, STRIDE, STEP):
        above = False
        for j in range(start, start + STEP):
            above |= scores[j] - prices[j] > threshold
        if not above:
            continue
        for j in range(start, start + STEP):
            value = scores[j] - prices[j]
            if value > threshold:
                hits[count] = pack(value, first_column + j)
                count += 1
                if count == len(hits):
                    threshold, count = value_of(keep_largest(hits, keep)), keep
    return count, threshold


@compiled
def scan(
    scores_BT: Floats,
    prices_T: Floats,
    first_column: int,
    hits: NDArray[np.int64],
    offsets_B: NDArray[np.int64],
    keep_B: NDArray[np.int64],
    counts_B: NDArray[np.int64],
    thresholds_B: Floats,
) -> None:
    """Add a tile's candidates to the hits of each row.

    Row i's hits are the first ``counts_B[i]`` of ``hits[offsets_B[i]:offsets_B[i + 1]]``. When there are twice as many
    as ``keep_B[i]``, or no room is left, the best ``keep_B[i]`` stay, and the smallest of these becomes
    ``thresholds_B[i]``: no candidate left out before or later is above it. NaN and -inf are never hits. T must be a
    multiple of ``STRIDE``.
    """
    for i in range(len(scores_BT)):
        row_hits, scores = hits[offsets_B[i] : offsets_B[i + 1]], scores_BT[i]
        count, threshold, keep = counts_B[i], thresholds_B[i], keep_B[i]
        if count >= 2 * keep:
            threshold, count = value_of(keep_largest(row_hits[:count], keep)), keep
        for number in range(scores_BT.shape[1] // STRIDE):  # a range with a step would not be vectorized
            above = False
            for j in range(STRIDE):
                above |= scores[number * STRIDE + j] - prices_T[number * STRIDE + j] > threshold
            if above:
                start = number * STRIDE
                stride = slice(start, start + STRIDE)
                state = (count, threshold, keep)
                count, threshold = _collect(scores[stride], prices_T[stride], first_column + start, row_hits, state)
        counts_B[i], thresholds_B[i] = count, threshold


@compiled
def unpack(
    packed: NDArray[np.int64], prices_M: Floats, columns: NDArray[np.int32], net_scores: Floats, scores: Floats
) -> None:
    """Write packed hits as columns, net scores (score minus price) and scores, arrays of the same length."""
    for at, item in enumerate(packed):
        column, net_score = item & 0xFFFFFFFF, value_of(item)
        columns[at], net_scores[at], scores[at] = column, net_score, net_score + prices_M[column]
