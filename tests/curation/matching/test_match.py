import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from babyvlm.curation.matching import device_top_k, lazy
from babyvlm.curation.matching import match as match_module
from babyvlm.curation.matching.match import match, match_greedily, match_randomly
from babyvlm.curation.matching.top_k import TopKSearch
from babyvlm.errors import UserError

WIDTH = 12


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def problem(kind, n, m, seed):
    """Return targets (n, 12) and candidates (m, 12) of a kind that is difficult in its own way."""
    random = np.random.default_rng(seed)
    targets, candidates = random.normal(size=(n, WIDTH)), random.normal(size=(m, WIDTH))
    if kind == "near-duplicate":  # all targets prefer the same few candidates
        targets = np.repeat(targets[: -(-n // 7)], 7, axis=0)[:n] + 0.03 * targets
    elif kind == "duplicated":
        targets, candidates = targets[random.integers(3, size=n) % n], candidates[random.integers(m, size=m)]
    elif kind == "tied":  # corners of a cube: few different scores
        targets, candidates = np.sign(targets), np.sign(candidates)
    elif kind == "quantized":
        targets, candidates = np.round(targets) + 0.001, np.round(candidates) + 0.001
    elif kind == "zero":  # targets and candidates in different dimensions: all scores are 0
        targets, candidates = targets * (np.arange(WIDTH) < 5), candidates * (np.arange(WIDTH) >= 5)
    return unit(targets).astype(np.float32), unit(candidates).astype(np.float32)


def scores_of(targets, candidates, forbidden=()):
    scores = targets.astype(float) @ candidates.astype(float).T
    for row, column in forbidden:
        scores[row, column] = -np.inf
    return scores


def scipy_optimum(scores):
    return scores[linear_sum_assignment(scores, maximize=True)].sum()


def dual_bound(scores, prices):
    """Return the dual value of non-negative prices, from all pairs, independent of lists and batches."""
    assert (prices >= 0).all()
    return (scores - prices).max(axis=1).sum() + prices.sum()


KINDS = ("random", "near-duplicate", "duplicated", "tied", "quantized", "zero")
SHAPES = (
    (1, 1, 1),
    (1, 40, 3),
    (9, 9, 9),
    (31, 31, 4),
    (60, 75, 1),
    (60, 75, 200),
    (80, 300, 2),
    (80, 300, 16),
    (120, 2500, 8),
    (150, 2100, 5000),
)


@pytest.fixture(params=["lazy", "dense"])
def solver(request, monkeypatch):
    if request.param == "lazy":
        monkeypatch.setattr(match_module, "DENSE_PAIRS", 0)
        monkeypatch.setattr(match_module, "DENSE_PAIRS_SQUARE", 0)
    return request.param


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "m", "k"), SHAPES)
def test_match_equals_scipy_and_prices_prove_it(solver, kind, n, m, k):
    targets, candidates = problem(kind, n, m, seed=n + m)
    matching = match(targets, candidates, top_k=k, batch_size=17, progress=False)
    scores = scores_of(targets, candidates)
    best = scipy_optimum(scores)
    assert len(set(matching.index.tolist())) == n
    assert matching.primal == pytest.approx(scores[range(n), matching.index].sum(), abs=1e-9)
    assert matching.primal == pytest.approx(best, abs=1e-6 * n)
    assert dual_bound(scores, matching.prices) == pytest.approx(best, abs=1e-6 * n)
    assert matching.dual == pytest.approx(best, abs=1e-6 * n)
    assert matching.similarity == pytest.approx(scores[range(n), matching.index], abs=1e-6)


def test_match_needs_few_passes_when_all_scores_tie(monkeypatch):
    monkeypatch.setattr(match_module, "DENSE_PAIRS", 0)
    matching = match(*problem("zero", 300, 2200, 0), top_k=1, progress=False)
    assert matching.passes < 20  # lists double, from 1 to 512 in ten steps; at constant length it would take minutes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "m", "k"), [(30, 30, 3), (50, 90, 2), (50, 90, 100), (70, 2500, 4)])
def test_match_avoids_forbidden_pairs_optimally(solver, kind, n, m, k):
    targets, candidates = problem(kind, n, m, seed=n)
    scores = scores_of(targets, candidates)
    order = np.argsort(-scores, axis=1)
    forbidden = [(row, order[row, rank]) for row in range(n) for rank in range(row % 5)]
    matching = match(targets, candidates, top_k=k, batch_size=16, forbidden=np.array(forbidden), progress=False)
    assert not set(forbidden) & set(enumerate(matching.index.tolist()))
    best = scipy_optimum(scores_of(targets, candidates, forbidden))
    assert matching.primal == pytest.approx(best, abs=1e-6 * n)
    assert dual_bound(scores_of(targets, candidates, forbidden), matching.prices) == pytest.approx(best, abs=1e-6 * n)


def test_match_rejects_infeasible_forbidden_pairs(solver):
    targets, candidates = problem("random", 3, 8, 0)
    all_candidates = np.array([(1, column) for column in range(8)])
    two_for_one = np.array([(row, column) for row in (0, 1) for column in range(7)])
    for forbidden in (all_candidates, two_for_one):
        with pytest.raises(UserError, match="no one-to-one matching avoids"):
            match(targets, candidates, top_k=2, forbidden=forbidden, progress=False)


def test_match_is_independent_of_seed_and_accepts_memory_mapped_float16(solver, tmp_path):
    targets, candidates = problem("near-duplicate", 90, 2200, 3)
    for name, rows in (("t", targets), ("c", candidates)):
        np.save(tmp_path / f"{name}.npy", rows.astype(np.float16))
    mapped = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "tc"]
    first, repeated, other = (match(*mapped, top_k=6, batch_size=20, seed=seed, progress=False) for seed in (0, 0, 1))
    assert first.index.tolist() == repeated.index.tolist() == other.index.tolist()
    assert first.prices.tolist() == repeated.prices.tolist()
    assert first.primal == pytest.approx(scipy_optimum(scores_of(*mapped)), abs=1e-4)


@pytest.fixture
def device_search(monkeypatch):
    """Let PyTorch find the candidates, as on a GPU, with tiles as small as these problems need."""
    monkeypatch.setattr(device_top_k, "TILE", 700)
    monkeypatch.setattr(device_top_k, "SCORES", 700 * 30)
    search = lambda targets, candidates, forbidden, seed, device="gpu": device_top_k.DeviceTopKSearch(  # noqa: E731
        targets, candidates, forbidden, torch.device("cpu")
    )
    monkeypatch.setattr(lazy, "_search", search)
    return search


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "m", "k"), [(60, 75, 200), (80, 300, 2), (120, 2500, 8)])
def test_match_with_candidates_from_a_device_has_the_same_proof(monkeypatch, device_search, kind, n, m, k):
    monkeypatch.setattr(match_module, "DENSE_PAIRS", 0)
    monkeypatch.setattr(match_module, "DENSE_PAIRS_SQUARE", 0)
    targets, candidates = problem(kind, n, m, seed=n + m)
    order = np.argsort(-scores_of(targets, candidates), axis=1)
    forbidden = [(row, order[row, rank]) for row in range(n) for rank in range(row % 3)]
    matching = match(targets, candidates, top_k=k, batch_size=17, forbidden=np.array(forbidden), progress=False)
    scores = scores_of(targets, candidates, forbidden)
    assert len(set(matching.index.tolist())) == n
    assert matching.primal == pytest.approx(scipy_optimum(scores), abs=1e-6 * n)
    assert dual_bound(scores, matching.prices) == pytest.approx(scipy_optimum(scores), abs=1e-6 * n)


def test_match_refuses_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_top_k.gpu_for_matching("auto") is None
    with pytest.raises(UserError, match="--device gpu: this machine has no GPU"):
        device_top_k.gpu_for_matching("gpu")


@pytest.mark.parametrize("where", ["cores", "device"])
def test_top_k_search_lists_best_candidates_and_bounds_the_rest(where, device_search):
    search = TopKSearch if where == "cores" else device_search
    random = np.random.default_rng(8)
    targets, candidates = problem("random", 600, 9000, 8)  # more rows than one task takes, several tiles
    prices = random.uniform(0, 0.3, 9000) * (random.random(9000) < 0.3)
    forbidden = np.array([(row, column) for row in (3, 599) for column in range(0, 9000, 2)])
    rows, top_k = random.permutation(600), random.integers(1, 400, 600)
    lists = search(targets, candidates, forbidden, 0).search(rows, top_k, prices)
    ends = np.cumsum(lists.length)
    scores = scores_of(targets, candidates, forbidden)
    assert sorted(lists.rows) == list(range(600))
    wanted = dict(zip(rows, top_k, strict=True))
    assert np.mean([size >= 0.9 * wanted[row] for row, size in zip(lists.rows, lists.length, strict=True)]) > 0.95
    for row, end, size, bound_of_row in zip(lists.rows, ends, lists.length, lists.bound, strict=True):
        part = slice(end - size, end)
        net_score = scores[row] - prices
        best = np.argsort(-net_score)
        assert lists.net_score[part] == pytest.approx(net_score[best[:size]], abs=1e-6)
        assert lists.score[part] == pytest.approx(scores[row, lists.column[part]], abs=1e-6)
        assert net_score[best[size]] <= bound_of_row <= net_score[best[size - 1]] + 2e-6


def bad_inputs():
    rows = problem("random", 4, 6, 0)[1]
    for value in (np.nan, np.inf, -np.inf):
        broken = rows.copy()
        broken[3, 2] = value
        yield broken, rows, "targets: row 3 contains NaN or Inf"
        yield rows, broken, "candidates: row 3 contains NaN or Inf"
    long, nothing = rows.copy(), rows.copy()
    long[5] *= 1.5
    nothing[2] = 0
    yield rows, long, r"candidates: row 5 has norm 1\.5, not 1"
    yield nothing, rows, "targets: row 2 has norm 0, not 1"
    yield rows, rows[:5], "6 targets but only 5 candidates"
    yield (
        rows[:, :5] / np.linalg.norm(rows[:, :5], axis=1, keepdims=True),
        rows,
        "targets have 5 dimensions, candidates 12",
    )
    yield rows[0], rows, "targets: expected floats of shape"
    yield rows[:0], rows, "targets: expected floats of shape"
    yield rows, (rows * 100).astype(int), "candidates: expected floats"


@pytest.mark.parametrize(("targets", "candidates", "message"), bad_inputs())
def test_match_rejects_bad_inputs_in_one_line(targets, candidates, message):
    for method in (match, match_greedily, match_randomly):
        with pytest.raises(UserError, match=message) as caught:
            method(targets, candidates)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("forbidden", [[[0, 6]], [[-1, 0]], [[0, 1, 2]], [[0.5, 1]]])
def test_match_rejects_malformed_forbidden_pairs(forbidden):
    targets, candidates = problem("random", 4, 6, 0)
    with pytest.raises(UserError, match="forbidden pair"):
        match(targets, candidates, forbidden=np.array(forbidden))


@pytest.mark.parametrize("sizes", [{"top_k": 0}, {"batch_size": 0}])
def test_match_rejects_non_positive_sizes(sizes):
    with pytest.raises(UserError, match="at least 1"):
        match(*problem("random", 4, 6, 0), **sizes)


def test_match_greedily_takes_best_candidate_left():
    targets, candidates = problem("near-duplicate", 60, 90, 1)
    exact = match(targets, candidates)
    greedy = match_greedily(targets, candidates, seed=4, progress=False)
    scores = scores_of(targets, candidates)
    taken = []
    for row in np.random.default_rng(4).permutation(60):
        assert scores[row, greedy.index[row]] == pytest.approx(np.delete(scores[row], taken).max(), abs=1e-6)
        taken.append(greedy.index[row])
    randomly = match_randomly(targets, candidates, seed=4)
    assert len(set(randomly.index.tolist())) == 60
    assert randomly.primal < greedy.primal < exact.primal
    assert "greedy matching, not optimal" in greedy.certificate()
    assert "optimal up to rounding (relative duality gap " in exact.certificate()
    assert f"upper bound {exact.dual:.6f}" in exact.certificate()
    assert np.isnan(greedy.gap)


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from babyvlm.curation.matching import lazy, match
match.DENSE_PAIRS = 0
original = lazy.Checkpoint.save
def save(self, solver, lists):
    if solver.batches == 4:  # killed after a batch's lists are on disk, and before its state is
        np.savez(self._lists(3), torn=np.zeros(1))
        os.kill(os.getpid(), signal.SIGKILL)
    original(self, solver, lists)
lazy.Checkpoint.save = save
targets, candidates = np.load(sys.argv[1]), np.load(sys.argv[2])
match.match(targets, candidates, top_k=3, batch_size=20, checkpoint=Path(sys.argv[3]), progress=False)
"""


def test_match_resumes_killed_run_with_identical_result(tmp_path, monkeypatch):
    monkeypatch.setattr(match_module, "DENSE_PAIRS", 0)
    targets, candidates = problem("near-duplicate", 150, 2300, 7)
    np.save(tmp_path / "t.npy", targets)
    np.save(tmp_path / "c.npy", candidates)
    checkpoint = tmp_path / "checkpoint"
    command = [sys.executable, "-c", KILLED, tmp_path / "t.npy", tmp_path / "c.npy", checkpoint]
    assert subprocess.run(command, check=False).returncode == -9
    uninterrupted = match(targets, candidates, top_k=3, batch_size=20, progress=False)
    resumed = match(targets, candidates, top_k=3, batch_size=20, checkpoint=checkpoint, progress=False)
    assert resumed.index.tolist() == uninterrupted.index.tolist()
    assert resumed.prices.tolist() == uninterrupted.prices.tolist()
    assert resumed.passes == uninterrupted.passes > 1
    again = match(targets, candidates, top_k=3, batch_size=20, checkpoint=checkpoint, progress=False)
    assert again.index.tolist() == uninterrupted.index.tolist()
    with pytest.raises(UserError, match="other inputs or options"):
        match(targets, candidates[::-1], top_k=3, batch_size=20, checkpoint=checkpoint, progress=False)
