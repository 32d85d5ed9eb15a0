import subprocess
import sys

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from babyvlm.curation.matching import match as match_module
from babyvlm.curation.matching.match import match, match_greedily, match_randomly
from babyvlm.errors import UserError

WIDTH = 12


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def problem(kind, n, m, seed):
    """Targets (n, 12) and candidates (m, 12) of a kind that is hard in its own way."""
    random = np.random.default_rng(seed)
    targets, candidates = random.normal(size=(n, WIDTH)), random.normal(size=(m, WIDTH))
    if kind == "near-duplicate":  # everybody wants the same few candidates
        targets = np.repeat(targets[: -(-n // 7)], 7, axis=0)[:n] + 0.03 * targets
    elif kind == "duplicated":
        targets, candidates = targets[random.integers(3, size=n) % n], candidates[random.integers(m, size=m)]
    elif kind == "tied":  # corners of a cube: a handful of different scores
        targets, candidates = np.sign(targets), np.sign(candidates)
    elif kind == "quantised":
        targets, candidates = np.round(targets) + 0.001, np.round(candidates) + 0.001
    elif kind == "zero":  # targets and candidates in different dimensions: all scores are 0
        targets, candidates = targets * (np.arange(WIDTH) < 5), candidates * (np.arange(WIDTH) >= 5)
    return unit(targets).astype(np.float32), unit(candidates).astype(np.float32)


def scores_of(targets, candidates, forbidden=()):
    scores = targets.astype(float) @ candidates.astype(float).T
    for row, column in forbidden:
        scores[row, column] = -np.inf
    return scores


def scipys_best(scores):
    return scores[linear_sum_assignment(scores, maximize=True)].sum()


def bound(scores, prices):
    """The dual value of any non-negative prices, from all pairs: knows nothing of lists or batches."""
    assert (prices >= 0).all()
    return (scores - prices).max(axis=1).sum() + prices.sum()


KINDS = ("random", "near-duplicate", "duplicated", "tied", "quantised", "zero")
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
def test_the_sum_is_scipys_and_the_prices_prove_it(solver, kind, n, m, k):
    targets, candidates = problem(kind, n, m, seed=n + m)
    found = match(targets, candidates, top_k=k, batch_size=17, progress=False)
    scores = scores_of(targets, candidates)
    best = scipys_best(scores)
    assert len(set(found.index.tolist())) == n
    assert found.primal == pytest.approx(scores[range(n), found.index].sum(), abs=1e-9)
    assert found.primal == pytest.approx(best, abs=1e-6 * n)
    assert bound(scores, found.prices) == pytest.approx(best, abs=1e-6 * n)
    assert found.dual == pytest.approx(best, abs=1e-6 * n)
    assert found.similarity == pytest.approx(scores[range(n), found.index], abs=1e-6)


def test_ties_beyond_the_list_cost_a_few_passes_only(monkeypatch):
    monkeypatch.setattr(match_module, "DENSE_PAIRS", 0)
    found = match(*problem("zero", 300, 2200, 0), top_k=1, progress=False)
    assert found.passes < 20  # lists double, 1 to 512 in ten steps; were they not to grow, it would take minutes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "m", "k"), [(30, 30, 3), (50, 90, 2), (50, 90, 100), (70, 2500, 4)])
def test_forbidden_pairs_are_avoided_at_the_least_loss(solver, kind, n, m, k):
    targets, candidates = problem(kind, n, m, seed=n)
    scores = scores_of(targets, candidates)
    order = np.argsort(-scores, axis=1)
    forbidden = [(row, order[row, rank]) for row in range(n) for rank in range(row % 5)]
    found = match(targets, candidates, top_k=k, batch_size=16, forbidden=np.array(forbidden), progress=False)
    assert not set(forbidden) & set(enumerate(found.index.tolist()))
    best = scipys_best(scores_of(targets, candidates, forbidden))
    assert found.primal == pytest.approx(best, abs=1e-6 * n)
    assert bound(scores_of(targets, candidates, forbidden), found.prices) == pytest.approx(best, abs=1e-6 * n)


def test_forbidding_too_much_is_told(solver):
    targets, candidates = problem("random", 3, 8, 0)
    whole_row = np.array([(1, column) for column in range(8)])
    two_for_one = np.array([(row, column) for row in (0, 1) for column in range(7)])
    for forbidden in (whole_row, two_for_one):
        with pytest.raises(UserError, match="no one-to-one matching avoids"):
            match(targets, candidates, top_k=2, forbidden=forbidden, progress=False)


def test_the_seed_changes_no_result_and_half_precision_files_will_do(solver, tmp_path):
    targets, candidates = problem("near-duplicate", 90, 2200, 3)
    for name, rows in (("t", targets), ("c", candidates)):
        np.save(tmp_path / f"{name}.npy", rows.astype(np.float16))
    mapped = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "tc"]
    found = [match(*mapped, top_k=6, batch_size=20, seed=seed, progress=False) for seed in (0, 0, 1)]
    assert found[0].index.tolist() == found[1].index.tolist() == found[2].index.tolist()
    assert found[0].prices.tolist() == found[1].prices.tolist()
    assert found[0].primal == pytest.approx(scipys_best(scores_of(*mapped)), abs=1e-4)


def test_lists_hold_the_best_by_price_and_bound_the_rest():
    from babyvlm.curation.matching.top_k import Lister

    random = np.random.default_rng(8)
    targets, candidates = problem("random", 600, 9000, 8)  # more than one part of rows, several tiles
    prices = random.uniform(0, 0.3, 9000) * (random.random(9000) < 0.3)
    forbidden = np.array([(row, column) for row in (3, 599) for column in range(0, 9000, 2)])
    rows, wanted = random.permutation(600), random.integers(1, 400, 600)
    lists = Lister(targets, candidates, forbidden, 0).list_best(rows, wanted, prices)
    ends = np.cumsum(lists.length)
    scores = scores_of(targets, candidates, forbidden)
    assert (lists.length >= 0.9 * wanted).mean() > 0.95
    for row, end, size, bound_of_row in zip(lists.rows, ends, lists.length, lists.bound, strict=True):
        part = slice(end - size, end)
        worth = scores[row] - prices
        best = np.argsort(-worth)
        assert lists.gain[part] == pytest.approx(worth[best[:size]], abs=1e-6)
        assert lists.score[part] == pytest.approx(scores[row, lists.column[part]], abs=1e-6)
        assert worth[best[size]] <= bound_of_row <= worth[best[size - 1]] + 2e-6


def bad_inputs():
    rows = problem("random", 4, 6, 0)[1]
    for value in (np.nan, np.inf, -np.inf):
        broken = rows.copy()
        broken[3, 2] = value
        yield broken, rows, "targets: row 3 holds NaN or Inf"
        yield rows, broken, "candidates: row 3 holds NaN or Inf"
    long, nothing = rows.copy(), rows.copy()
    long[5] *= 1.5
    nothing[2] = 0
    yield rows, long, r"candidates: row 5 has norm 1\.5, not 1"
    yield nothing, rows, "targets: row 2 has norm 0, not 1"
    yield rows, rows[:5], "6 targets but only 5 candidates"
    yield rows[:, :5] / np.linalg.norm(rows[:, :5], axis=1, keepdims=True), rows, "targets are 5 wide, candidates 12"
    yield rows[0], rows, "targets: expected floats of shape"
    yield rows[:0], rows, "targets: expected floats of shape"
    yield rows, (rows * 100).astype(int), "candidates: expected floats"


@pytest.mark.parametrize(("targets", "candidates", "told"), bad_inputs())
def test_bad_inputs_are_refused_in_one_line(targets, candidates, told):
    for method in (match, match_greedily, match_randomly):
        with pytest.raises(UserError, match=told) as caught:
            method(targets, candidates)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("forbidden", [[[0, 6]], [[-1, 0]], [[0, 1, 2]], [[0.5, 1]]])
def test_forbidden_pairs_must_be_rows(forbidden):
    targets, candidates = problem("random", 4, 6, 0)
    with pytest.raises(UserError, match="forbidden pair"):
        match(targets, candidates, forbidden=np.array(forbidden))


@pytest.mark.parametrize("sizes", [{"top_k": 0}, {"batch_size": 0}])
def test_sizes_must_be_positive(sizes):
    with pytest.raises(UserError, match="at least 1"):
        match(*problem("random", 4, 6, 0), **sizes)


def test_greedy_takes_the_best_left_and_random_anything():
    targets, candidates = problem("near-duplicate", 60, 90, 1)
    best = match(targets, candidates)
    greedy = match_greedily(targets, candidates, seed=4, progress=False)
    scores = scores_of(targets, candidates)
    taken = []
    for row in np.random.default_rng(4).permutation(60):
        assert scores[row, greedy.index[row]] == pytest.approx(np.delete(scores[row], taken).max(), abs=1e-6)
        taken.append(greedy.index[row])
    chosen = match_randomly(targets, candidates, seed=4)
    assert len(set(chosen.index.tolist())) == 60
    assert chosen.primal < greedy.primal < best.primal
    assert "no claim" in greedy.certificate()
    assert f"{best.dual:.6f}" in best.certificate()
    assert np.isnan(greedy.gap)


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from babyvlm.curation.matching import match
from babyvlm.curation.matching import checkpoint
match.DENSE_PAIRS = 0
whole = checkpoint.Checkpoint.save
def save(self, state, batch):
    if state.batches == 4:  # killed with a batch's lists on disk, but not its state
        np.savez(self._lists(3), torn=np.zeros(1))
        os.kill(os.getpid(), signal.SIGKILL)
    whole(self, state, batch)
checkpoint.Checkpoint.save = save
targets, candidates = np.load(sys.argv[1]), np.load(sys.argv[2])
match.match(targets, candidates, top_k=3, batch_size=20, checkpoint=Path(sys.argv[3]), progress=False)
"""


def test_a_killed_run_goes_on_and_ends_as_if_nothing_had_been(tmp_path, monkeypatch):
    monkeypatch.setattr(match_module, "DENSE_PAIRS", 0)
    targets, candidates = problem("near-duplicate", 150, 2300, 7)
    np.save(tmp_path / "t.npy", targets)
    np.save(tmp_path / "c.npy", candidates)
    state = tmp_path / "state"
    call = [sys.executable, "-c", KILLED, tmp_path / "t.npy", tmp_path / "c.npy", state]
    assert subprocess.run(call, check=False).returncode == -9
    unbroken = match(targets, candidates, top_k=3, batch_size=20, progress=False)
    resumed = match(targets, candidates, top_k=3, batch_size=20, checkpoint=state, progress=False)
    assert resumed.index.tolist() == unbroken.index.tolist()
    assert resumed.prices.tolist() == unbroken.prices.tolist()
    assert resumed.passes == unbroken.passes > 1
    again = match(targets, candidates, top_k=3, batch_size=20, checkpoint=state, progress=False)
    assert again.index.tolist() == unbroken.index.tolist()
    with pytest.raises(UserError, match="other inputs or options"):
        match(targets, candidates[::-1], top_k=3, batch_size=20, checkpoint=state, progress=False)
