"""Means over worlds, seeds, items and images, with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from babyvlm.benchmarks.intervals import LEVEL, Credits, Dependence, correlation_interval, relative_variance, wilson

Kind = Literal["share", "weighted share", "difference", "correlation", "free"]


@dataclass(frozen=True)
class Estimate:
    """A mean over items with its confidence interval (95% unless a table says otherwise)."""

    mean: float
    low: float
    high: float
    items: int

    def text(self, sign: str = "") -> str:
        """Return the mean and interval as a table shows them; ``sign`` is ``+`` for differences."""
        return f"{self.mean:{sign}.3f} [{self.low:{sign}.3f}, {self.high:{sign}.3f}]"


@dataclass(frozen=True)
class Term:
    """The mean credit of a row in a linear combination, in one world.

    Attributes:
        weight: factor of the mean.
        row: name of the row; terms of the same row share its seeds.
        credit_SN: credit of S seeds on N items.
        related: which items depend on each other; the same for all terms on the same set of items.
        items: name of the set of items; terms on the same set are paired by item.
    """

    weight: float
    row: str
    credit_SN: Credits
    related: Dependence
    items: str = ""


@dataclass(frozen=True)
class LinearCombination:
    """A weighted sum of means with its uncertainty.

    Two t statistics bound it: one with the variance from all sources and Satterthwaite's degrees of freedom, and one
    with the variance between seeds only and their few degrees of freedom. The larger p value and the wider interval
    count.

    Attributes:
        mean: the weighted sum.
        variance: its variance, from all sources.
        freedom: degrees of freedom of ``variance``.
        between: the part of the variance that comes from seeds; 0 for single seeds and for several worlds.
        between_freedom: degrees of freedom of ``between``.
        units: effective number of independent items.
        items: number of items, over all worlds.
        seeds: largest number of seeds of a row in a world.
        worlds: number of worlds.
        kind: ``share``: a mean from 0 to 1, whose interval is Wilson's; ``weighted share``: the same with a variance
            not less than that of ``units`` items; ``difference``: of two such means, from -1 to 1; ``correlation``:
            from -1 to 1, whose interval is that of its Fisher transform; ``free``: any number.
        images: number of different images that the items show, over all worlds; 0 if it is not known.
    """

    mean: float
    variance: float
    freedom: float
    between: float
    between_freedom: float
    units: float
    items: int
    seeds: int
    worlds: int
    kind: Kind
    images: int = 0

    @property
    def test(self) -> str:
        """Name of the test."""
        return "t over worlds" if self.worlds > 1 else "t over items and seeds" if self.seeds > 1 else "t over items"

    def interval(self, level: float = LEVEL) -> Estimate:
        """Return the sum with its confidence interval."""
        from scipy.special import stdtrit  # quantiles of t; scipy.stats.t.ppf is 50 times slower for single numbers

        quantile = (1 + level) / 2
        squared = max((float(stdtrit(freedom, quantile)) ** 2 * part for part, freedom in self._parts), default=0.0)
        if self._is_share:
            return Estimate(self.mean, *wilson(self.mean, squared), self.items)
        if self.kind == "correlation":
            return Estimate(self.mean, *correlation_interval(self.mean, squared**0.5), self.items)
        low, high = self.mean - squared**0.5, self.mean + squared**0.5
        if self.kind == "difference":
            low, high = max(low, -1.0), min(high, 1.0)
        return Estimate(self.mean, low, high, self.items)

    @property
    def _is_share(self) -> bool:
        return self.kind in ("share", "weighted share")

    @property
    def _parts(self) -> list[tuple[float, float]]:
        """Variances with their degrees of freedom; of a share relative to ``share * (1 - share)``."""
        parts = [(self.variance, self.freedom)]
        if self.between:
            parts.append((self.between, self.between_freedom))
        if self._is_share:
            parts = [(relative_variance(self.mean, part, self.units), freedom) for part, freedom in parts]
        if self.kind == "weighted share":
            parts.append((1 / self.units, self.freedom))
        return [(part, freedom) for part, freedom in parts if part]

    def p_above(self, threshold: float) -> float:
        """Return the one-sided p value of the null hypothesis that the sum is at most ``threshold``."""
        return self._p(self.mean - threshold, threshold)

    def p_below(self, threshold: float) -> float:
        """Return the one-sided p value of the null hypothesis that the sum is at least ``threshold``."""
        return self._p(threshold - self.mean, threshold)

    def _p(self, gap: float, threshold: float) -> float:
        from scipy.special import stdtr  # the distribution function of t

        # Wilson's interval inverts the test whose variance is that of a share equal to the threshold.
        scale = threshold * (1 - threshold) if self._is_share else 1.0
        parts = [(scale * part, freedom) for part, freedom in self._parts if scale * part > 0]
        if not parts:
            return 0.0 if gap > 0 else 1.0
        return max(float(stdtr(freedom, -gap / part**0.5)) for part, freedom in parts)

    @property
    def p_two_sided(self) -> float:
        """Two-sided p value of the null hypothesis that the sum is 0."""
        return min(1.0, 2 * min(self.p_above(0), self.p_below(0)))


def combine_means(worlds: Sequence[Sequence[Term]], kind: Kind = "difference") -> LinearCombination:
    """Estimate ``sum(weight * mean(credit_SN))``, averaged over worlds.

    - **Items** are a random sample, and depend on each other if they show the same image or belong to one group:
      ``Dependence.variance_of_mean``.
    - **Seeds** are a random sample, crossed with the items of a world. Their variance is that of the means of the
      seeds, less the part of it that the items explain (the interaction of items and seeds, which the variance over
      items contains already).
    - **Worlds** are a random sample. With several, each is one observation: the variance of their estimates contains
      that of seeds and items.

    A factor that does not vary is fixed: with one seed and world, the result describes that trained model. Kept by
    hand: mixed models of statsmodels (``MixedLM``) need dense matrices of items by images, and no library has crossed
    seeds with overlapping clusters.

    Args:
        worlds: the terms of each world, at least one; items of different worlds are different.
        kind: see ``LinearCombination``. The variance of a difference of choices contains an item that only one of the
            two models answers correctly, and one that only the other does (Bonett and Price 2012), so that its
            interval does not collapse.

    Raises:
        ValueError: a world has fewer than two items, or groups of items.
    """
    found = [_in_one_world(terms, kind) for terms in worlds]
    if len(found) == 1:
        return found[0]
    means_W = np.array([one.mean for one in found])
    floor = 0.0 if kind != "difference" else sum(_floor(terms) for terms in worlds) / len(worlds) ** 2
    variance = float(means_W.var(ddof=1)) / len(found) + floor
    units, items = sum(one.units for one in found), sum(one.items for one in found)
    seeds = max(one.seeds for one in found)
    return LinearCombination(
        float(means_W.mean()), variance, len(found) - 1.0, 0.0, 1.0, units, items, seeds, len(found), kind
    )


def _in_one_world(terms: Sequence[Term], kind: Kind) -> LinearCombination:
    parts: list[tuple[float, float]] = []  # variance of a mean over items, degrees of freedom
    between: list[tuple[float, float]] = []  # between seeds: variance, degrees of freedom
    raw: list[tuple[float, float]] = []  # the same with the interaction
    items, units = 0, 0.0
    for name in dict.fromkeys(term.items for term in terms):
        on_set = [term for term in terms if term.items == name]
        per_item_N = np.sum([term.weight * term.credit_SN.mean(0) for term in on_set], axis=0)
        related = on_set[0].related
        parts.append((float(related.variance_of_mean(per_item_N[None])[0]), related.freedom))
        items, units = items + len(per_item_N), units + related.units
    for row in dict.fromkeys(term.row for term in terms):
        of_row = [term for term in terms if term.row == row]
        seeds = len(of_row[0].credit_SN)
        if seeds > 1:
            mean_S = np.sum([term.weight * term.credit_SN.mean(1) for term in of_row], axis=0)
            variance = float(mean_S.var(ddof=1)) / seeds
            raw.append((variance, seeds - 1))
            between.append((max(variance - _interaction(of_row), 0.0), seeds - 1))
    over_items, over_seeds = (sum(part for part, _ in found) for found in (parts, between))
    total = over_items + over_seeds
    floor = _floor(terms) if kind == "difference" else 0.0
    return LinearCombination(
        float(sum(term.weight * term.credit_SN.mean() for term in terms)),
        total + floor if total + floor > 1e-18 else 0.0,  # rounding error
        _satterthwaite(total, parts + raw),
        over_seeds,
        _satterthwaite(over_seeds, between),
        units,
        items,
        max(len(term.credit_SN) for term in terms),
        1,
        kind,
    )


def _interaction(terms: Sequence[Term]) -> float:
    """Return the part of the variance between a row's seeds that comes from their different answers to the items."""
    total = 0.0
    for name in dict.fromkeys(term.items for term in terms):
        on_set = [term for term in terms if term.items == name]
        credit_SN = np.sum([term.weight * term.credit_SN for term in on_set], axis=0)
        rest_SN = credit_SN - credit_SN.mean(0)
        seeds = len(credit_SN)
        total += float(on_set[0].related.variance_of_mean(rest_SN).sum()) / (seeds - 1) / seeds
    return total


def _floor(terms: Sequence[Term]) -> float:
    return float(sum((term.weight / (term.related.units + 2)) ** 2 for term in terms))


def _satterthwaite(variance: float, parts: Sequence[tuple[float, float]]) -> float:
    """Return the degrees of freedom of a sum of variances; at least those of the part with the fewest."""
    squares = sum(part**2 / freedom for part, freedom in parts if freedom)
    fewest = min((freedom for _, freedom in parts), default=1.0)
    return max(variance**2 / squares, fewest) if squares else fewest
