"""One-to-one matching of targets to candidates that maximizes the summed cosine similarity, with a proof of optimality.

This is the paper's "Hungarian matching on CLIP image similarity". Shape letters: N targets, M candidates, D embedding
width, F forbidden pairs.
"""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from babyvlm.curation.matching.dense import solve_dense
from babyvlm.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

Method = Literal["exact", "greedy", "random"]
Device = Literal["auto", "cpu", "gpu"]  # `auto`: a GPU if there is one
Vectors = NDArray[np.floating]

NORM_TOLERANCE = 1e-2  # float16 rounds a norm by 5e-4; anything further from 1 was never normalized
BLOCK_ROWS = 8192  # rows converted to float32 at a time: 16 MB at a width of 512
# Up to this many pairs, all scores (8 bytes each) fit in memory and the dense solvers are fastest.
DENSE_PAIRS = 1 << 22
DENSE_PAIRS_SQUARE = 1 << 26  # lapjv is fast on square problems, and they are the lazy solver's worst case
GREEDY_SCORES = 1 << 26  # scores that greedy matching holds at a time: 256 MB


@dataclass(frozen=True)
class Matching:
    """A one-to-one matching and its quality.

    Attributes:
        index: (N,) int64, the candidate of each target; all different.
        similarity: (N,) float32, the cosine of each matched pair, computed in float64.
        primal: sum of ``similarity``, in float64.
        dual: upper bound on the sum of any one-to-one matching (weak duality); NaN unless the method is exact.
        gap: ``(dual - primal) / |primal|``; rounding may make it slightly negative.
        passes: scored pairs divided by N x M; 1 means every target against every candidate once.
        seconds: wall-clock time, including that of interrupted processes that a checkpoint continues.
        peak_memory: largest resident set of the process so far, in bytes.
        prices: (M,) float64 >= 0, the proof: ``sum_i max_j (s_ij - prices_j) + sum_j prices_j`` equals ``dual`` up to
            rounding, and is an upper bound for any non-negative prices. Empty unless the method is exact.
        method: method used.
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
        """Describe the matching, its cost, and how its optimality is known."""
        mean = self.primal / len(self.index)
        if self.method == "exact":
            quality = f"optimal up to rounding (relative duality gap {abs(self.gap):.1e}, upper bound {self.dual:.6f})"
        else:
            quality = f"{self.method} matching, not optimal"
        return (
            f"{len(self.index):,} targets matched: {quality}; total similarity {self.primal:.6f}, mean {mean:.6f}; "
            f"{self.passes:.3f} passes over all pairs, {self.seconds:.1f} s, "
            f"peak memory {self.peak_memory / 1e9:.2f} GB"
        )


def match(
    targets: Vectors,
    candidates: Vectors,
    *,
    top_k: int = 512,
    batch_size: int = 2048,
    seed: int = 0,
    forbidden: NDArray[np.integer] | None = None,
    checkpoint: Path | None = None,
    progress: bool = True,
    device: Device = "auto",
) -> Matching:
    """Match each target to a different candidate such that the summed cosine similarity is maximal.

    Args:
        targets: (N, D) L2-normalized embeddings, float16 to float64, in memory or memory-mapped.
        candidates: (M, D) likewise, M >= N.
        top_k: length of a target's first candidate list. Longer lists need more memory (12 bytes per candidate),
            shorter ones more passes over all pairs.
        batch_size: targets added to the matching at a time.
        seed: random seed of the order in which targets are added. It affects the time, and the result only among
            exact ties.
        forbidden: (F, 2) integer pairs (target row, candidate row) that must not be matched.
        checkpoint: folder in which a large problem saves its state after every batch, and from which it resumes.
        progress: show a progress bar.
        device: what finds the candidates of a large problem: all cores, or a GPU.

    Raises:
        UserError: wrong shapes, NaN or Inf, rows not normalized, N > M, or no matching avoids the forbidden pairs.
    """
    started = time.perf_counter()
    if top_k < 1 or batch_size < 1:
        raise UserError(f"top_k and batch_size must be at least 1, not {top_k} and {batch_size}")
    forbidden = check_inputs(targets, candidates, forbidden)
    pairs = len(targets) * len(candidates)
    is_square = len(targets) == len(candidates) and not len(forbidden)
    if pairs <= (DENSE_PAIRS_SQUARE if is_square else DENSE_PAIRS):
        index, prices, dual = solve_dense(targets, candidates, forbidden)
        return _evaluate(targets, candidates, index, started=started, passes=1.0, prices=prices, dual=dual)
    from babyvlm.curation.matching.lazy import solve_lazily  # importing numba takes half a second

    solver, dual = solve_lazily(
        targets,
        candidates,
        forbidden,
        top_k=top_k,
        batch_size=batch_size,
        seed=seed,
        checkpoint=checkpoint,
        progress=progress,
        device=device,
    )
    return _evaluate(
        targets,
        candidates,
        solver.assignment.column,
        started=started - solver.seconds_before,
        passes=solver.pairs / pairs,
        prices=solver.assignment.price,
        dual=dual,
    )


def match_greedily(
    targets: Vectors,
    candidates: Vectors,
    *,
    seed: int = 0,
    forbidden: NDArray[np.integer] | None = None,
    progress: bool = True,
) -> Matching:
    """Let each target, in random order, take the most similar candidate still available. Arguments as in ``match``."""
    from rich.progress import track

    from babyvlm.io.printing import Console

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
                raise UserError(
                    f"greedy matching: only forbidden candidates are left for target {row}. Use the exact method"
                )
    return _evaluate(targets, candidates, index, started=started, passes=1.0, method="greedy")


def match_randomly(targets: Vectors, candidates: Vectors, *, seed: int = 0) -> Matching:
    """Match each target to a different random candidate. Arguments as in ``match``."""
    started = time.perf_counter()
    check_inputs(targets, candidates, None)
    index = np.random.default_rng(seed).choice(len(candidates), len(targets), replace=False)
    return _evaluate(targets, candidates, index, started=started, passes=0.0, method="random")


def scores_of(targets: Vectors, candidates: Vectors) -> NDArray[np.float32]:
    """Return all similarities (N, M) in float32, converting the candidates a block at a time."""
    targets32 = targets.astype(np.float32)
    scores = np.empty((len(targets), len(candidates)), np.float32)
    for start in range(0, len(candidates), BLOCK_ROWS):
        columns = slice(start, start + BLOCK_ROWS)
        scores[:, columns] = targets32 @ candidates[columns].astype(np.float32).T
    return scores


def _evaluate(
    targets: Vectors,
    candidates: Vectors,
    index: NDArray[np.int64],
    *,
    started: float,
    passes: float,
    prices: NDArray[np.float64] | None = None,
    dual: float = float("nan"),
    method: Method = "exact",
) -> Matching:
    """Score an assignment in float64; ``started`` is a value of ``time.perf_counter``."""
    similarity = np.empty(len(index))
    for start in range(0, len(index), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
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


def check_inputs(targets: Vectors, candidates: Vectors, forbidden: NDArray[np.integer] | None) -> NDArray[np.int64]:
    """Check the inputs of ``match`` and return the forbidden pairs as (F, 2) int64.

    Raises:
        UserError: see ``match``.
    """
    check_embeddings("targets", targets)
    check_embeddings("candidates", candidates)
    if targets.shape[1] != candidates.shape[1]:
        raise UserError(
            f"targets have {targets.shape[1]} dimensions, candidates {candidates.shape[1]}. "
            "Embed both with the same model"
        )
    if len(targets) > len(candidates):
        raise UserError(
            f"{len(targets):,} targets but only {len(candidates):,} candidates: one-to-one matching needs at least as "
            "many candidates. Add candidates or use a subset of the targets"
        )
    if forbidden is None:
        return np.empty((0, 2), np.int64)
    pairs = np.asarray(forbidden)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or (len(pairs) and not np.issubdtype(pairs.dtype, np.integer)):
        raise UserError(f"forbidden pairs must be integers of shape (F, 2), not {pairs.dtype} of shape {pairs.shape}")
    if ((pairs < 0) | (pairs >= [len(targets), len(candidates)])).any():
        raise UserError("a forbidden pair is out of range: pairs are (target row, candidate row), counted from 0")
    return np.unique(pairs.astype(np.int64), axis=0)


def check_embeddings(name: str, embeddings: Vectors) -> None:
    """Check that embeddings are (rows, D), finite and of norm 1; NaN would pass every later comparison silently.

    Raises:
        UserError: they are not; the message has the first bad row.
    """
    if embeddings.ndim != 2 or 0 in embeddings.shape or not np.issubdtype(embeddings.dtype, np.floating):
        raise UserError(
            f"{name}: expected floats of shape (rows, dimensions), found {embeddings.dtype} of shape {embeddings.shape}"
        )
    for start in range(0, len(embeddings), BLOCK_ROWS):
        rows = embeddings[start : start + BLOCK_ROWS].astype(np.float32)
        norms = np.sqrt(np.einsum("nd,nd->n", rows, rows))
        wrong = np.flatnonzero(~(np.abs(norms - 1) <= NORM_TOLERANCE))  # catches NaN and Inf too
        if len(wrong):
            row, norm = start + wrong[0], norms[wrong[0]]
            problem = f"has norm {norm:.4g}, not 1. Normalize the rows" if np.isfinite(norm) else "contains NaN or Inf"
            raise UserError(f"{name}: row {row} {problem}")


def peak_memory() -> int:
    """Return the largest resident set of the process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS reports bytes, Linux KiB
