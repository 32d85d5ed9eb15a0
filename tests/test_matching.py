import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from babyvlm.contracts import UserError
from babyvlm.curation.matching import match


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_small_problems_reach_scipys_optimum_with_a_closed_gap():
    random = np.random.default_rng(0)
    for n, m in ((1, 1), (1, 9), (7, 7), (20, 31)):
        targets, candidates = unit(random.normal(size=(n, 8))), unit(random.normal(size=(m, 8)))
        scores = targets.astype(float) @ candidates.astype(float).T
        best = scores[linear_sum_assignment(scores, maximize=True)].sum()
        found = match(targets, candidates)
        assert found.primal == pytest.approx(best, abs=1e-9)
        assert abs(found.gap) < 1e-9
        assert len(set(found.index.tolist())) == n


def test_more_targets_than_candidates_is_refused():
    rows = unit(np.random.default_rng(0).normal(size=(5, 4)))
    with pytest.raises(UserError, match="5 targets but only 4"):
        match(rows, rows[:4])
