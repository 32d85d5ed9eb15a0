"""Uncertainty: every statistic against statsmodels, scipy, or a sum by hand, and coverage on simulated results."""

from itertools import product
from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm, pearsonr, t, ttest_1samp, ttest_ind

from babyvlm.benchmarks import intervals
from babyvlm.benchmarks.intervals import correlation_interval, dependence, independent, mean_interval, share_interval
from babyvlm.report.comparisons import holm, mcnemar, paired_test, permutation
from babyvlm.report.estimates import Term, combine_means


def grouped(groups):
    return dependence([{group} for group in groups])


# Wilson's interval by scipy; t has infinitely many degrees of freedom.
@pytest.mark.parametrize(("right", "items"), [(0, 50), (49, 50), (50, 50), (365, 967), (1, 3)])
def test_share_interval_matches_wilson(right, items):
    expected = binomtest(right, items).proportion_ci(0.95, "wilson")
    found = share_interval(right / items, 1 / items, float("inf"))
    assert found == pytest.approx((expected.low, expected.high))


def test_correlation_interval_matches_fisher():
    x, noise = np.random.default_rng(0).normal(size=(2, 30))
    found = pearsonr(x, x + noise)
    half = norm.ppf(0.975) * (1 - found.statistic**2) / sqrt(30 - 3)
    expected = found.confidence_interval(0.95)
    assert correlation_interval(found.statistic, half) == pytest.approx((expected.low, expected.high))


@given(st.floats(-1, 1), st.floats(0, 10))
def test_correlation_interval_stays_inside(correlation, half):
    low, high = correlation_interval(correlation, half)
    assert -1 <= low <= correlation + 1e-9
    assert correlation - 1e-9 <= high <= 1


def test_correlation_of_few_items_stays_inside():
    credit_N = np.array([0.1, 1.6, 0.9, 0.8])  # pseudo-values leave the range of a correlation
    low, high = mean_interval(credit_N, correlation=True)
    assert -1 < low < 0.85 < high < 1
    assert mean_interval(credit_N)[1] > 1
    found = combine_means([[Term(1.0, "a", credit_N[None], independent(4))]], "correlation").interval()
    assert (found.low, found.high) == pytest.approx((low, high))
    assert mean_interval(credit_N[:1], correlation=True) == (-1, 1)


def test_mean_interval_stays_inside_and_does_not_collapse():
    for right in (48, 49, 50):
        low, high = mean_interval(np.array([1.0] * right + [0.0] * (50 - right)))
        assert 0.8 < low < high <= 1
        assert low < 0.94
    assert mean_interval(np.array([1.0])) == (0, 1)  # the variance of one item is unknown
    assert mean_interval(np.ones(6), grouped([0] * 6)) == (0, 1)
    assert mean_interval(np.full(30, 0.25)) == (0.25, 0.25)  # tied by construction
    with pytest.raises(ValueError, match="no item"):
        mean_interval(np.array([]))


def test_variance_of_mean_matches_statsmodels_for_groups():
    from statsmodels.regression.linear_model import OLS

    draw = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), draw.integers(1, 5, 40))
    values = draw.normal(size=40)[groups] + draw.normal(size=len(groups))
    related = grouped(groups.tolist())
    clustered = OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": groups})
    # The factor of statsmodels is G / (G - 1); ours is exact for groups of different sizes.
    sizes = np.bincount(groups)
    factor = 1 / (1 - (sizes**2).sum() / len(values) ** 2) / (40 / 39)
    assert related.is_nested
    assert related.variance_of_mean(values[None])[0] == pytest.approx(clustered.bse[0] ** 2 * factor, rel=1e-9)
    alone = independent(len(values)).variance_of_mean(values[None])[0]
    assert alone == pytest.approx(np.var(values, ddof=1) / len(values))
    assert grouped(np.repeat(np.arange(20), 3).tolist()).units == pytest.approx(20)


def test_variance_of_mean_sums_over_all_pairs_with_a_common_image():
    draw = np.random.default_rng(1)
    units = [set(map(int, draw.integers(0, 30, 4))) for _ in range(60)]
    effects, noise = draw.normal(size=30), draw.normal(size=60)
    shared = np.array([[float(bool(one & other)) for other in units] for one in units])
    centering = np.eye(60) - 1 / 60
    factor = 60 / np.trace(centering @ shared)
    related = dependence(units)
    assert not related.is_nested
    agree = noise + np.array([sum(effects[image] for image in own) for own in units])
    disagree = np.arange(60) % 2 + 0.1 * noise
    for values, is_above in ((agree, True), (disagree, False)):
        rest = values - values.mean()
        total, floor = rest @ shared @ rest * factor / 60**2, np.var(values, ddof=1) / 60  # the latter if independent
        assert (total > floor) == is_above
        assert related.variance_of_mean(values[None])[0] == pytest.approx(max(total, floor))


def test_dependence_with_too_many_pairs_uses_connected_groups(monkeypatch):
    monkeypatch.setattr(intervals, "MAX_PAIRS", 3)
    related = dependence([{0, 1}, {1, 2}, {3}, {4}, {5}, {5}])
    assert related.is_nested
    assert related.groups_N.tolist() == [0, 0, 1, 2, 3, 3]
    with pytest.raises(ValueError, match="fewer than two"):
        dependence([{0}, {0}]).variance_of_mean(np.zeros((1, 2)))


def test_combine_means_of_one_seed_is_a_t_test():
    draw = np.random.default_rng(2)
    one, other = draw.normal(size=(1, 50)), draw.normal(size=(1, 40))
    found = combine_means([[Term(1.0, "a", one, independent(50))]], "free")
    expected = ttest_1samp(one[0], 0.1, alternative="greater")
    assert found.p_above(0.1) == pytest.approx(expected.pvalue)
    interval = ttest_1samp(one[0], 0).confidence_interval(0.95)
    assert (found.interval().low, found.interval().high) == pytest.approx((interval.low, interval.high))
    terms = [Term(1.0, "a", one, independent(50), "x"), Term(-1.0, "a", other, independent(40), "y")]
    welch = ttest_ind(one[0], other[0], equal_var=False, alternative="greater")
    assert combine_means([terms], "free").p_above(0) == pytest.approx(welch.pvalue)


def test_combine_means_of_choices_adds_one_changed_item_each_way():
    a, b = np.array([[1.0] * 30 + [0.0] * 20]), np.array([[1.0] * 30 + [0.0] * 20])
    found = combine_means([[Term(1.0, "a", a, independent(50)), Term(-1.0, "b", b, independent(50))]])
    assert found.variance == pytest.approx(2 / 52**2)  # Bonett and Price: two of 52 items differ
    assert found.interval().low == pytest.approx(-t.ppf(0.975, 49) * sqrt(2) / 52)


def test_combine_means_separates_seeds_from_interaction():
    draw = np.random.default_rng(3)
    credit = draw.normal(size=(3, 1)) * 0.1 + draw.normal(size=80) + draw.normal(size=(3, 80))
    found = combine_means([[Term(1.0, "a", credit, independent(80))]], "free")
    over_items = np.var(credit.mean(0), ddof=1) / 80
    rest = credit - credit.mean(0) - credit.mean(1, keepdims=True) + credit.mean()
    interaction = (rest**2).sum() / (2 * 79)  # mean square of a two-way analysis of variance
    between = max(np.var(credit.mean(1), ddof=1) - interaction / 80, 0) / 3
    assert (found.variance, found.between) == pytest.approx((over_items + between, between))


def test_combine_means_of_worlds_is_a_t_test_over_worlds():
    draw = np.random.default_rng(4)
    worlds = [[Term(1.0, "a", draw.normal(size=(2, 30)), independent(30))] for _ in range(4)]
    means = [term.credit_SN.mean() for (term,) in worlds]
    found = combine_means(worlds, "free")
    assert found.p_below(0.2) == pytest.approx(ttest_1samp(means, 0.2, alternative="less").pvalue)
    assert (found.worlds, found.items, found.test) == (4, 120, "t over worlds")


def test_share_interval_inverts_its_test():
    draw = np.random.default_rng(5)
    credit = draw.binomial(1, 0.8, (3, 60)).astype(float)
    found = combine_means([[Term(1.0, "a", credit, grouped((np.arange(60) // 2).tolist()))]], "share")
    interval = found.interval()
    assert found.p_above(interval.low) == pytest.approx(0.025, abs=1e-9)
    assert found.p_below(interval.high) == pytest.approx(0.025, abs=1e-9)


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
    one, other = pairs(only_one, only_other)
    assert mcnemar(one, other) == pytest.approx(p)
    found = paired_test(one, other, independent(len(one)), choices=True)
    assert (found.p, found.test) == (pytest.approx(p), "McNemar")
    assert found.difference.mean == pytest.approx((only_one - only_other) / (only_one + only_other + 5))


@given(st.lists(st.sampled_from([-1.0, -0.75, -0.5, 0.0, 0.5, 0.75, 1.0]), min_size=1, max_size=9))
def test_permutation_of_few_items_is_exact(differences):
    signs = list(product((-1, 1), repeat=len(differences)))
    as_far = sum(abs(np.dot(sign, differences)) >= abs(sum(differences)) - 1e-9 for sign in signs)
    assert permutation(np.array(differences)) == pytest.approx(as_far / len(signs))


def test_paired_test_depends_on_how_items_are_related():
    one, other = pairs(12, 2)
    count = len(one)
    assert paired_test(one * 0.3, other * 0.3, independent(count), choices=False).test == "permutation"
    related = grouped(np.repeat(np.arange(count), 2).tolist())
    twice = paired_test(np.repeat(one, 2), np.repeat(other, 2), related, choices=True)
    assert twice.test == "permutation of groups"
    assert twice.p == pytest.approx(mcnemar(one, other), abs=0.005)  # duplicates add no information
    assert mcnemar(np.repeat(one, 2), np.repeat(other, 2)) < 0.001
    chain = dependence([{item, item + 1} for item in range(count)])
    assert paired_test(one, other, chain, choices=True).test == "t over items"
    assert paired_test(one, one, chain, choices=True).p == 1


def test_permutation_agrees_with_t_test():
    difference = np.random.default_rng(3).normal(0, 0.3, 400).round(2)
    difference += 0.02 - difference.mean()
    assert permutation(difference) == pytest.approx(ttest_1samp(difference, 0).pvalue, abs=0.02)
    assert permutation(difference) == permutation(-difference)


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
