from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, ttest_1samp

from babyvlm.report.comparisons import holm, mcnemar, paired_bootstrap, paired_test, permutation
from babyvlm.report.estimates import bootstrap_mean


@pytest.mark.parametrize("rate", [0.5, 0.7])
def test_bootstrap_mean_interval_has_nominal_coverage(rate):
    draw = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        found = bootstrap_mean(draw.binomial(1, rate, 120).astype(float), resamples=300)
        covered += found.low <= rate <= found.high
    assert 0.90 <= covered / 200 <= 0.99


def test_bootstrap_mean_interval_agrees_with_normal_approximation():
    credit = np.repeat([0.0, 0.5, 1.0], [300, 200, 500])
    found = bootstrap_mean(credit)
    half_width = norm.ppf(0.975) * credit.std() / np.sqrt(len(credit))
    assert found.mean == credit.mean()
    assert found.items == 1000
    assert found.low == pytest.approx(found.mean - half_width, abs=0.004)
    assert found.high == pytest.approx(found.mean + half_width, abs=0.004)
    assert bootstrap_mean(credit) == found
    assert bootstrap_mean(credit, seed=1) != found
    assert bootstrap_mean(credit, seed=1).low == pytest.approx(found.low, abs=0.003)


@pytest.mark.parametrize("credit", [[1.0], [0.0, 0.0], [0.25] * 30])
def test_bootstrap_mean_of_constant_credits_has_empty_interval(credit):
    found = bootstrap_mean(np.array(credit))
    assert (found.low, found.mean, found.high) == (credit[0],) * 3


def test_bootstrap_mean_resamples_groups():
    credit, draw = np.repeat([0.0, 0.5, 1.0], [30, 20, 50]), np.random.default_rng(0)
    groups = np.repeat(np.arange(100), 2)
    order = draw.permutation(200)
    assert bootstrap_mean(np.repeat(credit, 2)[order], groups[order]).low == pytest.approx(bootstrap_mean(credit).low)
    mirrored = draw.binomial(1, 0.5, 100).astype(float)
    found = bootstrap_mean(np.stack([mirrored, 1 - mirrored], 1).ravel(), groups)
    assert (found.low, found.mean, found.high, found.items) == (0.5, 0.5, 0.5, 200)


def test_paired_test_permutes_groups():
    one, other = pairs(12, 2)
    groups = np.arange(len(one))
    assert paired_test(one, other, multiple_choice=True, groups_N=groups).test == "McNemar"
    twice = paired_test(np.repeat(one, 2), np.repeat(other, 2), multiple_choice=True, groups_N=np.repeat(groups, 2))
    assert twice.test == "permutation of groups"
    assert twice.p == pytest.approx(mcnemar(one, other), abs=0.005)  # duplicates add no information
    assert mcnemar(np.repeat(one, 2), np.repeat(other, 2)) < 0.001


def test_bootstrap_mean_rejects_no_items():
    with pytest.raises(ValueError, match="no item"):
        bootstrap_mean(np.array([]))


def pairs(only_one, only_other, both=3, neither=2):
    one = [1.0] * only_one + [0.0] * only_other + [1.0] * both + [0.0] * neither
    other = [0.0] * only_one + [1.0] * only_other + [1.0] * both + [0.0] * neither
    return np.array(one), np.array(other)


# Computed by hand: twice the binomial tail of the smaller count at 1/2.
@pytest.mark.parametrize(
    ("only_one", "only_other", "p"),
    [(0, 0, 1), (1, 0, 1), (5, 0, 2 / 32), (0, 5, 2 / 32), (3, 1, 2 * 5 / 16), (2, 2, 1), (10, 3, 2 * 378 / 8192)],
)
def test_mcnemar_matches_binomial_tail(only_one, only_other, p):
    assert mcnemar(*pairs(only_one, only_other)) == pytest.approx(p)
    found = paired_test(*pairs(only_one, only_other), multiple_choice=True)
    assert (found.p, found.test) == (pytest.approx(p), "McNemar")
    assert found.difference.mean == pytest.approx((only_one - only_other) / (only_one + only_other + 5))


@given(st.lists(st.sampled_from([-1.0, -0.75, -0.5, 0.0, 0.5, 0.75, 1.0]), min_size=1, max_size=9))
def test_permutation_of_few_items_is_exact(differences):
    signs = list(product((-1, 1), repeat=len(differences)))
    as_far = sum(abs(np.dot(sign, differences)) >= abs(sum(differences)) - 1e-9 for sign in signs)
    assert permutation(np.array(differences)) == pytest.approx(as_far / len(signs))


def test_paired_test_uses_permutation_for_ties_and_bootstrap_for_captions():
    draw = np.random.default_rng(0)
    one, other = draw.choice([0, 0.5, 1], 200, p=[0.2, 0.1, 0.7]), draw.choice([0, 0.5, 1], 200, p=[0.5, 0.1, 0.4])
    with_ties = paired_test(one, other, multiple_choice=True)
    assert with_ties.test == "permutation"
    assert with_ties.p == pytest.approx(1 / 5000)  # the smallest possible value
    captions = paired_test(one * 0.3, other * 0.3, multiple_choice=False)
    assert captions.test == "bootstrap"
    assert captions.p < 0.001
    assert captions.difference.low < 0.3 * (one - other).mean() < captions.difference.high


@pytest.mark.parametrize("shift", [0.0, 0.02, 0.05])
def test_permutation_and_bootstrap_agree_with_t_test(shift):
    difference = np.random.default_rng(3).normal(0, 0.3, 400).round(2)
    difference += shift - difference.mean()
    expected = ttest_1samp(difference, 0).pvalue
    assert permutation(difference) == pytest.approx(expected, abs=0.02)
    assert paired_bootstrap(difference) == pytest.approx(expected, abs=0.02)
    assert permutation(difference) == permutation(-difference)


def test_paired_test_of_equal_credits_has_p_one():
    same = np.array([0.25, 1.0, 0.5])
    for multiple_choice in (True, False):
        found = paired_test(same, same, multiple_choice=multiple_choice)
        assert found.p == 1
        assert (found.difference.low, found.difference.high) == (0, 0)


def test_holm_matches_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.6]) == [1, 1]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_uncorrected_and_bonferroni(p_values):
    corrected = np.array(holm(p_values))
    assert (corrected >= np.array(p_values)).all()
    assert (corrected <= np.minimum(np.array(p_values) * len(p_values), 1)).all()
    assert corrected[np.argmin(p_values)] == pytest.approx(min(1, min(p_values) * len(p_values)))
    assert (np.diff(corrected[np.argsort(p_values)]) >= 0).all()
