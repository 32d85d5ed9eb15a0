"""A matching under way: the lists, who has what, and who waits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from babyvlm.curation.matching.augmenting_paths import IMPOSSIBLE, NOBODY, Assignment, Lists, Search, assign_all
from babyvlm.curation.matching.dense import no_matching
from babyvlm.curation.matching.top_k import Batch

ROOM = 1 << 24  # finds held at a time, 8 bytes each: bounds a batch whose rows want long lists


class LazyAssignment:
    """A matching under way: what is on disk in a checkpoint, and the steps that finish it.

    Attributes:
        lists: candidate lists of the targets that have entered.
        now: who has what at which price.
        wanted: (N,) int64, how long a list each target gets next.
        waiting: targets without a candidate, in the order in which they will be listed.
        batches: how many batches have been listed.
        pairs: how many scores have been computed.
        seconds: time spent in all calls up to the last batch, and
        seconds_before: in the calls before this one.
    """

    def __init__(self, targets: int, candidates: int, *, top_k: int, seed: int) -> None:
        self.lists = Lists(
            np.empty(0, np.int32),
            np.empty(0, np.float32),
            np.empty(0, np.float32),
            np.zeros(targets, np.int64),
            np.zeros(targets, np.int64),
            np.zeros(targets),
        )
        self.filled = 0
        self.now = Assignment(
            np.full(targets, NOBODY), np.full(candidates, NOBODY), np.zeros(targets), np.zeros(candidates)
        )
        self.wanted = np.full(targets, min(top_k, candidates))
        self.waiting = np.random.default_rng(seed).permutation(targets)
        self.batches = self.pairs = 0
        self.seconds = self.seconds_before = 0.0
        integers = (np.empty(candidates, np.int64) for _ in range(5))
        self.search = Search(np.full(candidates, np.inf), *integers)

    def next_rows(self, batch_size: int) -> NDArray[np.int64]:
        """The targets to list next: ``batch_size``, or as many as the room for their finds allows."""
        rows = self.waiting[:batch_size]
        fitting = int(np.searchsorted(np.cumsum(2 * self.wanted[rows]), ROOM))
        return rows[: max(1, fitting)]

    def add_lists(self, batch: Batch) -> None:
        """Take over the lists of a batch; older lists of the same targets are left to waste (a few per cent)."""
        end = self.filled + len(batch.column)
        if end > len(self.lists.column):
            # Never touched memory costs nothing: room for all targets at the lengths seen so far, and half as much.
            size = max(int(1.5 * end), int(1.3 * len(self.wanted) * len(batch.column) / len(batch.rows)))
            self.lists = self.lists._replace(
                column=_enlarged(self.lists.column, self.filled, size),
                gain=_enlarged(self.lists.gain, self.filled, size),
                score=_enlarged(self.lists.score, self.filled, size),
            )
        self.lists.column[self.filled : end] = batch.column
        self.lists.gain[self.filled : end] = batch.gain
        self.lists.score[self.filled : end] = batch.score
        self.lists.start[batch.rows] = self.filled + np.cumsum(batch.length) - batch.length
        self.lists.length[batch.rows] = batch.length
        self.lists.bound[batch.rows] = batch.bound
        self.filled = end

    def assign_batch(self, rows: NDArray[np.int64]) -> None:
        """Assign listed targets; those whose lists prove too short join those waiting, to get lists twice as long."""
        parked = np.empty(len(rows), np.int64)
        count = assign_all(rows, self.lists, self.now, self.search, parked)
        if count == IMPOSSIBLE:
            raise no_matching()
        parked = parked[:count]
        self.wanted[parked] = np.minimum(2 * self.wanted[parked], len(self.now.price))
        self.waiting = np.concatenate([self.waiting[len(rows) :], parked])
        self.batches += 1


def _enlarged(array: NDArray[Any], filled: int, size: int) -> NDArray[Any]:
    larger = np.empty(size, array.dtype)
    larger[:filled] = array[:filled]
    return larger
