r"""Exact one-to-one matching that never holds the N x M score matrix.

The problem is the rectangular linear assignment problem: with scores s_ij of target i and candidate j, N <= M,

    maximize  sum_ij s_ij x_ij   subject to  sum_j x_ij = 1,  sum_i x_ij <= 1,  x_ij >= 0.

Its linear-programming dual has a profit u_i for each target and a price v_j for each candidate:

    minimize  sum_i u_i + sum_j v_j   subject to  u_i + v_j >= s_ij,  v_j >= 0.

Any feasible dual solution bounds the score of every matching from above (weak duality). A matching whose pairs satisfy
u_i + v_j = s_ij, and whose unused candidates have v_j = 0, reaches this bound and is optimal.

Successive shortest augmenting paths (Jonker and Volgenant, 1987) keep a partial matching and prices with these
properties, and add one target at a time along a path that is shortest in the reduced costs u_i + v_j - s_ij >= 0
(Dijkstra's algorithm). Prices only rise. The paths use few candidates of each target, so that this solver works on
candidate lists, similar to the core-oriented approach of Volgenant (1996):

1. Targets enter in batches, in random order. One blocked matrix product finds each target's ``top_k`` candidates by
   s_ij - v_j at current prices, and a bound b_i >= s_ij - v_j for all others. b_i stays valid because prices only rise.
2. Targets are assigned along shortest augmenting paths through the lists. If u_i would fall to b_i, an unlisted
   candidate could be better: target i becomes unassigned, and enters again with a later batch and a list twice as long.
3. When all targets are assigned, u_i = max(b_i, max over listed j of s_ij - v_j) is feasible for all pairs, listed or
   not. sum_i u_i + sum_j v_j is therefore a valid upper bound, and equals the score of the matching up to rounding.

R. Jonker and A. Volgenant, "A shortest augmenting path algorithm for dense and sparse linear assignment problems",
Computing 38, 325-340, 1987. A. Volgenant, "Linear and semi-assignment problems: a core oriented approach", Computers &
Operations Research 23(10), 917-932, 1996.

Shape letters: N targets, M candidates, F forbidden pairs, B rows of a batch.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from babyvlm.curation.matching.augmenting_paths import (
    INFEASIBLE,
    UNASSIGNED,
    Assignment,
    CandidateLists,
    SearchBuffers,
    assign_all,
    tighten_profits,
)
from babyvlm.curation.matching.dense import infeasible
from babyvlm.curation.matching.lists import TopKLists
from babyvlm.curation.matching.top_k import TopKSearch
from babyvlm.errors import UserError
from babyvlm.io.files import atomic_write
from babyvlm.io.limits import load_json
from babyvlm.io.printing import Console

if TYPE_CHECKING:
    from collections.abc import Mapping

    from babyvlm.curation.matching.device_top_k import DeviceTopKSearch
    from babyvlm.curation.matching.match import Device

MAX_HITS = 1 << 24  # hits held at a time, 8 bytes each; limits a batch whose rows need long lists
HASHED_ROWS = 8192


def solve_lazily(
    targets: NDArray[np.floating],
    candidates: NDArray[np.floating],
    forbidden: NDArray[np.int64],
    *,
    top_k: int,
    batch_size: int,
    seed: int,
    checkpoint: Path | None,
    progress: bool,
    device: Device = "auto",
) -> tuple[LazySolver, float]:
    """Match targets to candidates; arguments as in ``match``.

    Returns:
        The finished solver and the dual value.
    """
    solver = LazySolver(len(targets), len(candidates), top_k=top_k, seed=seed)
    arguments = {"top_k": top_k, "batch_size": batch_size, "seed": seed}
    saved = Checkpoint.open(checkpoint, targets, candidates, forbidden, arguments) if checkpoint else None
    if saved:
        saved.restore(solver)
    search = _search(targets, candidates, forbidden, seed, device)
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task("matching", total=len(targets), completed=len(targets) - len(solver.pending))
        while len(solver.pending):
            started = time.perf_counter()
            rows = solver.next_rows(batch_size)
            lists = search.search(rows, solver.list_length[rows], solver.assignment.price)
            solver.add_lists(lists)
            solver.assign_batch(rows)
            solver.pairs += len(rows) * len(candidates)
            solver.seconds += time.perf_counter() - started
            if saved:
                saved.save(solver, lists)
            bar.update(task, completed=len(targets) - len(solver.pending))
    tighten_profits(solver.lists, solver.assignment)
    return solver, float(solver.assignment.profit.sum() + solver.assignment.price.sum())


def _search(
    targets: NDArray[np.floating],
    candidates: NDArray[np.floating],
    forbidden: NDArray[np.int64],
    seed: int,
    device: Device,
) -> TopKSearch | DeviceTopKSearch:
    """Return what finds the candidates: a GPU if there is one, otherwise all cores."""
    if device == "gpu" or (device == "auto" and Path("/dev/nvidiactl").exists()):  # importing torch takes seconds
        from babyvlm.curation.matching.device_top_k import DeviceTopKSearch, gpu_for_matching

        if (gpu := gpu_for_matching(device)) is not None:
            return DeviceTopKSearch(targets, candidates, forbidden, gpu)
    return TopKSearch(targets, candidates, forbidden, seed)


class LazySolver:
    """State of a matching in progress.

    Args:
        targets: N.
        candidates: M.
        top_k: length of the first candidate list of a target.
        seed: random seed of the order in which targets enter.

    Attributes:
        lists: candidate lists of the targets that have entered.
        assignment: current assignment, profits and prices.
        list_length: (N,) int64, length of the next list of each target.
        pending: unassigned targets, in the order in which they will get lists.
        batches: number of batches done.
        pairs: number of scores computed.
        seconds: time spent up to the last batch, in this and earlier processes.
        seconds_before: time spent in earlier processes.
    """

    def __init__(self, targets: int, candidates: int, *, top_k: int, seed: int) -> None:
        self.lists = CandidateLists(
            column=np.empty(0, np.int32),
            net_score=np.empty(0, np.float32),
            score=np.empty(0, np.float32),
            start=np.zeros(targets, np.int64),
            length=np.zeros(targets, np.int64),
            bound=np.zeros(targets),
        )
        self._filled = 0  # entries of ``lists`` in use
        self.assignment = Assignment(
            column=np.full(targets, UNASSIGNED),
            owner=np.full(candidates, UNASSIGNED),
            profit=np.zeros(targets),
            price=np.zeros(candidates),
        )
        self.list_length = np.full(targets, min(top_k, candidates))
        self.pending = np.random.default_rng(seed).permutation(targets)
        self.batches = self.pairs = 0
        self.seconds = self.seconds_before = 0.0
        integers = (np.empty(candidates, np.int64) for _ in range(5))
        self._search = SearchBuffers(np.full(candidates, np.inf), *integers)

    def next_rows(self, batch_size: int) -> NDArray[np.int64]:
        """Return the next targets to list: ``batch_size``, or as many as ``MAX_HITS`` allows."""
        rows = self.pending[:batch_size]
        fitting = int(np.searchsorted(np.cumsum(2 * self.list_length[rows]), MAX_HITS))
        return rows[: max(1, fitting)]

    def add_lists(self, lists: TopKLists) -> None:
        """Append the lists of a batch. Earlier lists of the same targets stay as unused memory (a few percent)."""
        end = self._filled + len(lists.column)
        if end > len(self.lists.column):
            # Untouched memory costs nothing: reserve room for all targets at the lengths seen so far, plus 30%.
            size = max(int(1.5 * end), int(1.3 * len(self.list_length) * len(lists.column) / len(lists.rows)))
            self.lists = self.lists._replace(
                column=_enlarged(self.lists.column, self._filled, size),
                net_score=_enlarged(self.lists.net_score, self._filled, size),
                score=_enlarged(self.lists.score, self._filled, size),
            )
        self.lists.column[self._filled : end] = lists.column
        self.lists.net_score[self._filled : end] = lists.net_score
        self.lists.score[self._filled : end] = lists.score
        self.lists.start[lists.rows] = self._filled + np.cumsum(lists.length) - lists.length
        self.lists.length[lists.rows] = lists.length
        self.lists.bound[lists.rows] = lists.bound
        self._filled = end

    def assign_batch(self, rows: NDArray[np.int64]) -> None:
        """Assign listed targets; those whose lists are too short become pending, with lists twice as long.

        Raises:
            UserError: no matching avoids the forbidden pairs.
        """
        deferred = np.empty(len(rows), np.int64)
        count = assign_all(rows, self.lists, self.assignment, self._search, deferred)
        if count == INFEASIBLE:
            raise infeasible()
        deferred = deferred[:count]
        self.list_length[deferred] = np.minimum(2 * self.list_length[deferred], len(self.assignment.price))
        self.pending = np.concatenate([self.pending[len(rows) :], deferred])
        self.batches += 1


def _enlarged(array: NDArray[Any], filled: int, size: int) -> NDArray[Any]:
    larger = np.empty(size, array.dtype)
    larger[:filled] = array[:filled]
    return larger


@dataclass(frozen=True)
class Checkpoint:
    """Folder with ``problem.json``, one file of lists per batch, and ``state.npz``, which holds the number of batches.

    The lists of a batch are written first, then the state is replaced atomically: a kill loses one batch at most.
    """

    folder: Path

    @classmethod
    def open(
        cls,
        folder: Path,
        targets: NDArray[np.floating],
        candidates: NDArray[np.floating],
        forbidden: NDArray[np.int64],
        arguments: Mapping[str, int],
    ) -> Checkpoint:
        """Open the folder, or create it.

        Raises:
            UserError: it belongs to another problem.
        """
        problem = {**arguments, "data": [_digest(array) for array in (targets, candidates, forbidden)]}
        path = folder / "problem.json"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as file:
                json.dump(problem, file)
        else:
            try:
                found = load_json(path.read_bytes())
            except (OSError, ValueError):  # damaged
                found = None
            if found != problem:
                raise UserError(f"{folder}: checkpoint of a matching with other inputs or options. Delete it")
        return cls(folder)

    def save(self, solver: LazySolver, lists: TopKLists) -> None:
        """Commit the batch that was just assigned."""
        np.savez(self._lists(solver.batches - 1), **asdict(lists))
        temporary = self.folder / "state.partial.npz"
        np.savez(
            temporary,
            **solver.assignment._asdict(),
            list_length=solver.list_length,
            pending=solver.pending,
            counts=np.array([solver.batches, solver.pairs]),
            seconds=np.array(solver.seconds),
        )
        temporary.replace(self.folder / "state.npz")

    def restore(self, solver: LazySolver) -> None:
        """Bring a new solver to the state of the last commit, if there is one."""
        path = self.folder / "state.npz"
        if not path.exists():
            return
        with np.load(path) as arrays:
            for name, array in solver.assignment._asdict().items():
                array[:] = arrays[name]
            solver.list_length, solver.pending = arrays["list_length"], arrays["pending"]
            solver.batches, solver.pairs = arrays["counts"].tolist()
            solver.seconds = solver.seconds_before = float(arrays["seconds"])
        for number in range(solver.batches):
            with np.load(self._lists(number)) as arrays:
                solver.add_lists(TopKLists(**arrays))

    def _lists(self, number: int) -> Path:
        return self.folder / f"lists-{number:06d}.npz"


def _digest(array: NDArray[Any]) -> str:
    """Hash an array's type, shape and contents, a block of rows at a time."""
    content = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    for start in range(0, len(array), HASHED_ROWS):
        content.update(np.ascontiguousarray(array[start : start + HASHED_ROWS]).data)
    return content.hexdigest()
