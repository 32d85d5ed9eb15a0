"""Exact assignment without the N x M scores in memory: shortest augmenting paths over lazily priced candidate lists.

Targets enter in batches. One blocked product lists each one's k best candidates by score less price, and bounds what is
not listed; as prices only rise, the bound holds for good. Rows are assigned over the lists alone. A row whose profit
would fall to its bound is parked, and listed afresh with a later batch, at that day's prices, with k doubled. So the
profits and prices are feasible for all pairs, listed or not: at the end they prove the assignment optimal.

Shape letters: N targets, M candidates, D embedding width, F forbidden pairs, B rows of a batch.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from babyvlm.curation.matching.augmenting_paths import settle
from babyvlm.curation.matching.checkpoint import Checkpoint
from babyvlm.curation.matching.state import LazyAssignment
from babyvlm.curation.matching.top_k import Lister

if TYPE_CHECKING:
    from pathlib import Path


def assign_lazily(
    targets: NDArray[Any],
    candidates: NDArray[Any],
    forbidden: NDArray[np.int64],
    *,
    top_k: int,
    batch_size: int,
    seed: int,
    checkpoint: Path | None,
    progress: bool,
) -> tuple[LazyAssignment, float]:
    """Solve; arguments as in ``match``. Returns the finished assignment and its dual value."""
    state = LazyAssignment(len(targets), len(candidates), top_k=top_k, seed=seed)
    arguments = {"top_k": top_k, "batch_size": batch_size, "seed": seed}
    saved = Checkpoint.open(checkpoint, targets, candidates, forbidden, arguments) if checkpoint else None
    if saved:
        saved.restore(state)
    lister = Lister(targets, candidates, forbidden, seed)
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task("matching", total=len(targets), completed=len(targets) - len(state.waiting))
        while len(state.waiting):
            started = time.perf_counter()
            rows = state.next_rows(batch_size)
            batch = lister.list_best(rows, state.wanted[rows], state.now.price)
            state.add_lists(batch)
            state.assign_batch(rows)
            state.pairs += len(rows) * len(candidates)
            state.seconds += time.perf_counter() - started
            if saved:
                saved.save(state, batch)
            bar.update(task, completed=len(targets) - len(state.waiting))
    settle(state.lists, state.now)
    return state, float(state.now.profit.sum() + state.now.price.sum())
