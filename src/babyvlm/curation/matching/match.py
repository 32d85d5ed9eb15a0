"""One-to-one matching of targets to candidates by summed cosine similarity, with a certificate of optimality.

The paper's "Hungarian matching on CLIP image similarity". Shape letters: N targets, M candidates, D embedding width,
F forbidden pairs.
"""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from babyvlm.curation.matching.dense import assign_dense
from babyvlm.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

Method = Literal["exact", "greedy", "random"]
Array = NDArray[Any]

NORM_TOLERANCE = 1e-2  # float16 keeps a norm to 5e-4; what is further off was never normalised
CHECK_ROWS = 8192  # rows widened to float32 at a time: 16 MB at 512 wide
# Up to so many pairs all scores fit in memory (8 bytes each) and the dense solvers are the quickest.
DENSE_PAIRS = 1 << 22
DENSE_PAIRS_SQUARE = 1 << 26  # squares are lapjv's ground, and the lazy solver's hardest case
GREEDY_SCORES = 1 << 26  # scores that the greedy method holds at a time: 256 MB


@dataclass(frozen=True)
class Matching:
    """Which candidate each target got, and how good that is.

    Attributes:
        index: (N,) int64, the candidate of each target; all different.
        similarity: (N,) float32, the cosine of each matched pair, computed in float64.
        primal: sum of ``similarity``, in float64.
        dual: an upper bound on the sum of any one-to-one matching (weak duality); NaN unless the method is exact.
        gap: ``(dual - primal) / |primal|``; rounding may leave it slightly below 0.
        passes: scored pairs over N x M; 1 is every target against every candidate once.
        seconds: wall clock, over all the calls that a checkpoint joined.
        peak_memory: the process's largest resident set until now, in bytes.
        prices: (M,) float64 >= 0, the proof: ``sum_i max_j (s_ij - prices_j) + sum_j prices_j`` equals ``dual`` up to
            rounding, and is a bound whatever the prices. Empty unless the method is exact.
        method: how it was found.
    """

    index: NDArray[np.int64]
    similarity: NDArray[np.float32]
    primal: float
    dual: float
    gap: float
    passes: float
    seconds: float
    peak_memory: int
    prices: NDArray[np.float64]
    method: Method

    def certificate(self) -> str:
        """Say in words what was found and how it is known to be the best."""
        mean = self.primal / len(self.index)
        found = f"{len(self.index):,} targets matched, similarity {self.primal:.6f} in sum, {mean:.6f} on average"
        cost = f"{self.passes:.3f} passes over all pairs, {self.seconds:.1f} s, {self.peak_memory / 1e9:.2f} GB at most"
        if self.method != "exact":
            return f"{found} ({self.method}: no claim to be the best); {cost}."
        return (
            f"{found}. By the candidates' prices (linear programming duality) no one-to-one matching can reach more "
            f"than {self.dual:.6f}, but for rounding: this one is the best, to a relative {abs(self.gap):.1e}. {cost}."
        )


def match(
    targets: Array,
    candidates: Array,
    *,
    top_k: int = 512,
    batch_size: int = 2048,
    seed: int = 0,
    forbidden: Array | None = None,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> Matching:
    """Give each target a candidate of its own so that the summed cosine is the largest possible.

    Args:
        targets: (N, D) L2-normalised, float16 to float64, in memory or mapped.
        candidates: (M, D) likewise, M >= N.
        top_k: candidates first listed for a target; more cost memory (12 bytes each), fewer cost passes.
        batch_size: targets that enter at a time.
        seed: of the order in which targets enter. It changes the time, and the result only among exact ties.
        forbidden: (F, 2) integer pairs (target row, candidate row) that must not be matched.
        checkpoint: folder in which a long run keeps its state after every batch, and from which it goes on.
        progress: show a progress bar.

    Raises:
        UserError: wrong shapes, NaN or Inf, rows not normalised, N > M, or no matching avoids the forbidden pairs.
    """
    started = time.perf_counter()
    if top_k < 1 or batch_size < 1:
        raise UserError(f"top_k and batch_size must be at least 1, not {top_k} and {batch_size}")
    forbidden = check_inputs(targets, candidates, forbidden)
    pairs = len(targets) * len(candidates)
    is_square = len(targets) == len(candidates) and not len(forbidden)
    if pairs <= (DENSE_PAIRS_SQUARE if is_square else DENSE_PAIRS):
        index, prices, dual = assign_dense(targets, candidates, forbidden)
        return describe(targets, candidates, index, started=started, passes=1.0, prices=prices, dual=dual)
    from babyvlm.curation.matching.lazy import assign_lazily  # numba takes half a second to import

    state, dual = assign_lazily(
        targets,
        candidates,
        forbidden,
        top_k=top_k,
        batch_size=batch_size,
        seed=seed,
        checkpoint=checkpoint,
        progress=progress,
    )
    earlier = state.seconds_before
    return describe(
        targets,
        candidates,
        state.now.column,
        started=started - earlier,
        passes=state.pairs / pairs,
        prices=state.now.price,
        dual=dual,
    )


def match_greedily(
    targets: Array, candidates: Array, *, seed: int = 0, forbidden: Array | None = None, progress: bool = True
) -> Matching:
    """Let targets, in random order, take the candidate most like them of those left. Arguments as in ``match``."""
    from rich.console import Console
    from rich.progress import track

    started = time.perf_counter()
    forbidden = check_inputs(targets, candidates, forbidden)
    order = np.random.default_rng(seed).permutation(len(targets))
    index = np.full(len(targets), -1, np.int64)
    rows_at_once = max(1, GREEDY_SCORES // len(candidates))
    starts = range(0, len(targets), rows_at_once)
    for start in track(starts, "greedy", console=Console(stderr=True), disable=not progress):
        rows = order[start : start + rows_at_once]
        scores = scores_of(targets[rows], candidates)
        for row, score in zip(rows, scores, strict=True):
            score[index[order[:start]]] = -np.inf
            score[index[rows[index[rows] >= 0]]] = -np.inf
            score[forbidden[forbidden[:, 0] == row, 1]] = -np.inf
            index[row] = score.argmax()
            if score[index[row]] == -np.inf:
                raise UserError(f"greedy matching leaves target {row} only forbidden candidates; use the exact method")
    return describe(targets, candidates, index, started=started, passes=1.0, method="greedy")


def match_randomly(targets: Array, candidates: Array, *, seed: int = 0) -> Matching:
    """Give each target a random candidate of its own. Arguments as in ``match``."""
    started = time.perf_counter()
    check_inputs(targets, candidates, None)
    index = np.random.default_rng(seed).choice(len(candidates), len(targets), replace=False)
    return describe(targets, candidates, index, started=started, passes=0.0, method="random")


def scores_of(targets: Array, candidates: Array) -> NDArray[np.float32]:
    """All similarities (N, M) in float32, the candidates widened a block at a time."""
    wide = targets.astype(np.float32)
    scores = np.empty((len(targets), len(candidates)), np.float32)
    for start in range(0, len(candidates), CHECK_ROWS):
        columns = slice(start, start + CHECK_ROWS)
        scores[:, columns] = wide @ candidates[columns].astype(np.float32).T
    return scores


def describe(
    targets: Array,
    candidates: Array,
    index: NDArray[np.int64],
    *,
    started: float,
    passes: float,
    prices: NDArray[np.float64] | None = None,
    dual: float = float("nan"),
    method: Method = "exact",
) -> Matching:
    """Score an assignment in float64 and put it beside its bound; ``started`` is of ``time.perf_counter``."""
    similarity = np.empty(len(index))
    for start in range(0, len(index), CHECK_ROWS):
        rows = slice(start, start + CHECK_ROWS)
        pairs = targets[rows].astype(np.float64), candidates[index[rows]].astype(np.float64)
        similarity[rows] = np.einsum("nd,nd->n", *pairs)
    primal = float(similarity.sum())
    return Matching(
        index=index,
        similarity=similarity.astype(np.float32),
        primal=primal,
        dual=dual,
        gap=(dual - primal) / max(abs(primal), 1e-12),
        passes=passes,
        seconds=time.perf_counter() - started,
        peak_memory=peak_memory(),
        prices=np.empty(0) if prices is None else prices,
        method=method,
    )


def check_inputs(targets: Array, candidates: Array, forbidden: Array | None) -> NDArray[np.int64]:
    """Refuse what cannot be matched; return the forbidden pairs as (F, 2) int64.

    Raises:
        UserError: see ``match``.
    """
    check_embeddings("targets", targets)
    check_embeddings("candidates", candidates)
    if targets.shape[1] != candidates.shape[1]:
        raise UserError(
            f"targets are {targets.shape[1]} wide, candidates {candidates.shape[1]}; embed both with the same model"
        )
    if len(targets) > len(candidates):
        raise UserError(
            f"{len(targets):,} targets but only {len(candidates):,} candidates; one-to-one matching needs at least as "
            "many candidates: add candidates or take a subset of the targets"
        )
    if forbidden is None:
        return np.empty((0, 2), np.int64)
    pairs = np.asarray(forbidden)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or (len(pairs) and not np.issubdtype(pairs.dtype, np.integer)):
        raise UserError(f"forbidden pairs must be integers of shape (F, 2), not {pairs.dtype} of shape {pairs.shape}")
    if ((pairs < 0) | (pairs >= [len(targets), len(candidates)])).any():
        raise UserError("a forbidden pair names a row that is not there; give (target row, candidate row), from 0")
    return np.unique(pairs.astype(np.int64), axis=0)


def check_embeddings(name: str, embeddings: Array) -> None:
    """Refuse anything but (rows, D) finite numbers of norm 1; NaN would pass every later comparison silently.

    Raises:
        UserError: names the first bad row.
    """
    if embeddings.ndim != 2 or 0 in embeddings.shape or not np.issubdtype(embeddings.dtype, np.floating):
        raise UserError(
            f"{name}: expected floats of shape (rows, width), found {embeddings.dtype} of shape {embeddings.shape}"
        )
    for start in range(0, len(embeddings), CHECK_ROWS):
        rows = embeddings[start : start + CHECK_ROWS].astype(np.float32)
        norms = np.sqrt(np.einsum("nd,nd->n", rows, rows))
        wrong = np.flatnonzero(~(np.abs(norms - 1) <= NORM_TOLERANCE))  # catches NaN and Inf too
        if len(wrong):
            row, norm = start + wrong[0], norms[wrong[0]]
            fault = f"has norm {norm:.4g}, not 1; normalise it" if np.isfinite(norm) else "holds NaN or Inf; remake it"
            raise UserError(f"{name}: row {row} {fault}")


def peak_memory() -> int:
    """The process's largest resident set, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB
