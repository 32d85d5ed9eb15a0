"""How sure a number is, and whether two differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Credits = npt.NDArray[np.float64]
Groups = npt.NDArray[np.int64]  # (N,) of each item the number of its group, from 0
RESAMPLES = 2000  # our choice: an interval's ends move by less than 0.002 between seeds
PERMUTATIONS = 9999  # our choice: the smallest p is 0.0001


@dataclass(frozen=True)
class Estimate:
    """A mean over items with its 95 % interval."""

    mean: float
    low: float
    high: float
    items: int


@dataclass(frozen=True)
class Comparison:
    """A difference of two models' means over the same items, and how likely one as large is if there is none."""

    difference: Estimate
    p: float
    test: str


def estimate(credit_N: Credits, groups_N: Groups | None = None, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Mean and its 95 % percentile bootstrap interval over groups of items (scipy's).

    Args:
        credit_N: credit of each item.
        groups_N: the items that are drawn together; each alone by default.
        resamples: bootstrap samples.
        seed: of the resampling.

    Raises:
        ValueError: no item.
    """
    if not len(credit_N):
        raise ValueError("no item to average over")
    mean = float(credit_N.mean())
    sum_G, size_G = group_sums(credit_N, groups_N), group_sums(np.ones(len(credit_N)), groups_N)
    if np.ptp(sum_G / size_G) == 0:  # nothing to resample: every sample is this one
        return Estimate(mean, mean, mean, len(credit_N))
    from scipy.stats import bootstrap  # 0.7 s

    interval = bootstrap(
        (sum_G, size_G),
        lambda sums, sizes, axis: sums.sum(axis) / sizes.sum(axis),
        paired=True,
        n_resamples=resamples,
        method="percentile",
        rng=np.random.default_rng(seed),
        batch=100,
    ).confidence_interval
    return Estimate(mean, float(interval.low), float(interval.high), len(credit_N))


def group_sums(values_N: Credits, groups_N: Groups | None) -> Credits:
    """(G,) sum of each group; without groups the values themselves."""
    return values_N if groups_N is None else np.bincount(groups_N, weights=values_N).astype(np.float64)


def variance_of_mean(values_N: Credits, groups_N: Groups | None = None) -> tuple[float, int]:
    """Variance of a mean over items of which groups are drawn together, and the number of groups.

    That of a ratio of sums (Cochran 1977, section 9A.1 with clusters as units); of items that stand alone, of a mean.

    Raises:
        ValueError: there are fewer than two groups: nothing says how they vary.
    """
    off_G = group_sums(values_N - values_N.mean(), groups_N)
    if len(off_G) < 2:
        raise ValueError("fewer than two items, or groups of items")
    return len(off_G) / (len(off_G) - 1) * float((off_G**2).sum()) / len(values_N) ** 2, len(off_G)


def paired_test(
    one_N: Credits, other_N: Credits, *, choices: bool, groups_N: Groups | None = None, seed: int = 0
) -> Comparison:
    """Test whether two models differ on the same items, in the same order.

    Args:
        one_N: credit of the first model.
        other_N: credit of the second.
        choices: whether credits are of choices, right or wrong or tied; METEOR's are not. Choices without ties go by
            McNemar's exact test, with ties or in groups by permutation; what is no choice goes by the paired bootstrap.
        groups_N: the items that hang together; choices of a group are exchanged between the models together.
        seed: of the resampling.
    """
    difference_N = one_N - other_N
    sums_G = group_sums(difference_N, groups_N)
    if not choices:
        p, test = paired_bootstrap(difference_N, seed=seed), "bootstrap"
    elif len(sums_G) < len(difference_N):
        p, test = permutation(sums_G, seed=seed), "permutation of groups"
    elif np.isin(one_N, (0, 1)).all() and np.isin(other_N, (0, 1)).all():
        p, test = mcnemar(one_N, other_N), "McNemar"
    else:
        p, test = permutation(difference_N, seed=seed), "permutation"
    return Comparison(estimate(difference_N, groups_N, seed=seed), p, test)


def mcnemar(one_N: Credits, other_N: Credits) -> float:
    """Two-sided p of McNemar's exact test: of the items that only one got right, does one model hold the more?"""
    from scipy.stats import binomtest

    only_one, only_other = int((one_N > other_N).sum()), int((one_N < other_N).sum())
    return float(binomtest(only_one, only_one + only_other).pvalue) if only_one + only_other else 1.0


def permutation(difference_N: Credits, resamples: int = PERMUTATIONS, seed: int = 0) -> float:
    """Two-sided p of a paired permutation test: if the models were one, each difference might as well be negative.

    Exact where there are not more than ``resamples`` ways to turn the signs (scipy's).
    """
    from scipy.stats import permutation_test

    moved_N = difference_N[difference_N != 0]  # the others stay what they are under any sign
    if not len(moved_N):
        return 1.0
    values_N = np.append(moved_N, 0.0)  # scipy wants two
    test = permutation_test(
        (values_N,),
        np.sum,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=1000,
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)


def paired_bootstrap(difference_N: Credits, resamples: int = PERMUTATIONS, seed: int = 0) -> float:
    """Two-sided p of the paired bootstrap: is a mean as far from 0 usual among resamples of the centred differences?

    Efron and Tibshirani 1993, section 16.4, without studentising; Koehn 2004 brought it to the metrics of texts.
    """
    mean = difference_N.mean()
    centred_N, rng = difference_N - mean, np.random.default_rng(seed)
    batches = [resamples // 10] * 10 + [resamples % 10]
    as_far = sum(
        int((np.abs(rng.choice(centred_N, (size, len(centred_N))).mean(1)) >= abs(mean) - 1e-12).sum())
        for size in batches
    )
    return (as_far + 1) / (resamples + 1)


def p_text(p: float) -> str:
    """A p value as it stands in a table."""
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}"


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for there being several (Holm 1979): the chance of any false finding stays what it was."""
    order = np.argsort(p_values)
    stepped = np.asarray(p_values)[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return [float(p) for p in corrected]
