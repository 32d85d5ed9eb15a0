"""Means over items and seeds, with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from babyvlm.benchmarks.intervals import LEVEL, RESAMPLES, Credits, Groups, bootstrap_interval, group_sums


@dataclass(frozen=True)
class Estimate:
    """A mean over items with its 95% confidence interval."""

    mean: float
    low: float
    high: float
    items: int

    def text(self, sign: str = "") -> str:
        """Return the mean and interval as a table shows them; ``sign`` is ``+`` for differences."""
        return f"{self.mean:{sign}.3f} [{self.low:{sign}.3f}, {self.high:{sign}.3f}]"


def bootstrap_mean(
    credit_N: Credits, groups_N: Groups | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Return the mean and its 95% bootstrap interval; arguments and errors as in ``bootstrap_interval``."""
    low, high = bootstrap_interval(credit_N, groups_N, resamples, seed)
    return Estimate(float(credit_N.mean()), low, high, len(credit_N))


def variance_of_mean(values_N: Credits, groups_N: Groups | None = None) -> tuple[float, int]:
    """Return the variance of a mean over grouped items and the number of groups.

    The variance of a ratio of sums with clusters as units (Cochran 1977, section 9A.1); without groups, of a mean.

    Raises:
        ValueError: there are fewer than two groups, so that their variance is unknown.
    """
    deviation_G = group_sums(values_N - values_N.mean(), groups_N)
    if len(deviation_G) < 2:
        raise ValueError("fewer than two items, or groups of items")
    groups = len(deviation_G)
    return groups / (groups - 1) * float((deviation_G**2).sum()) / len(values_N) ** 2, groups


@dataclass(frozen=True)
class Term:
    """The mean credit of a row in a linear combination.

    Attributes:
        weight: factor of the mean.
        row: name of the row; terms of the same row share its seeds.
        credit_SN: credit of S seeds on N items.
        items: name of the set of items; terms on the same set are paired by item.
        groups_N: groups of dependent items, the same for all terms on the same set; none by default.
    """

    weight: float
    row: str
    credit_SN: Credits
    items: str = ""
    groups_N: Groups | None = None


@dataclass(frozen=True)
class LinearCombination:
    """A weighted sum of means with its standard error.

    Attributes:
        mean: the weighted sum.
        error: its standard error.
        freedom: degrees of freedom of the standard error.
        items: number of items of all terms.
        groups: number of groups of items; equal to ``items`` where all items are independent.
        seeds: largest number of seeds of a row.
    """

    mean: float
    error: float
    freedom: float
    items: int
    groups: int
    seeds: int

    @property
    def test(self) -> str:
        """Name of the test."""
        units = "groups of items" if self.groups < self.items else "items"
        return f"t over {units} and seeds" if self.seeds > 1 else f"t over {units}"

    @property
    def estimate(self) -> Estimate:
        """The sum with its 95% t interval."""
        from scipy.stats import t

        half_width = float(t.ppf((1 + LEVEL) / 2, self.freedom)) * self.error if self.error else 0.0
        return Estimate(self.mean, self.mean - half_width, self.mean + half_width, self.items)

    def p_above(self, threshold: float) -> float:
        """Return the one-sided p value of the null hypothesis that the sum is at most ``threshold``."""
        from scipy.stats import t

        gap = self.mean - threshold
        if self.error == 0:  # all groups agree: the p value of a sign test
            return 0.5**self.groups if gap > 0 else 1.0
        return float(t.sf(gap / self.error, self.freedom))

    def p_below(self, threshold: float) -> float:
        """Return the one-sided p value of the null hypothesis that the sum is at least ``threshold``."""
        return replace(self, mean=-self.mean).p_above(-threshold)

    @property
    def p_two_sided(self) -> float:
        """Two-sided p value of the null hypothesis that the sum is 0."""
        return min(1.0, 2 * min(self.p_above(0), self.p_below(0)))


def combine_means(terms: Sequence[Term]) -> LinearCombination:
    """Estimate ``sum(weight * mean(credit_SN))``.

    Items are a random sample, and so are the seeds of a row with several seeds. The two variances add up, with
    Satterthwaite's degrees of freedom. This is Clark's min F' (1973) for one degree of freedom: variance from the
    interaction of items and seeds is counted in both, so the error is conservative. With one seed per row it is a t
    test over items (paired, or Welch's between different items), which does not cover the variance between trainings.
    Groups of dependent items are the units of variance (cluster-robust). Kept by hand: no library offers this
    combination.

    Raises:
        ValueError: there are fewer than two items, or groups of items.
    """
    parts: list[tuple[float, int]] = []  # variance of a mean, degrees of freedom
    items = groups = 0
    for name in dict.fromkeys(term.items for term in terms):
        same_items = [term for term in terms if term.items == name]
        per_item_N = np.sum([term.weight * term.credit_SN.mean(0) for term in same_items], axis=0)
        variance, units = variance_of_mean(per_item_N, same_items[0].groups_N)
        parts.append((variance, units - 1))
        items, groups = items + len(per_item_N), groups + units
    for row in dict.fromkeys(term.row for term in terms):
        per_seed_S = sum(term.weight * term.credit_SN.mean(1) for term in terms if term.row == row)
        row_seeds = len(np.atleast_1d(per_seed_S))
        if row_seeds > 1:
            parts.append((float(np.var(per_seed_S, ddof=1)) / row_seeds, row_seeds - 1))
    mean = float(sum(term.weight * term.credit_SN.mean() for term in terms))
    seeds = max(len(term.credit_SN) for term in terms)
    variance = sum(part for part, _ in parts)
    if variance < 1e-18:  # rounding error
        return LinearCombination(mean, 0.0, 1.0, items, groups, seeds)
    freedom = variance**2 / sum(part**2 / part_freedom for part, part_freedom in parts)
    return LinearCombination(mean, variance**0.5, freedom, items, groups, seeds)
