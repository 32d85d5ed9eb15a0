"""Differences of means over items and seeds: how large, how sure, how likely if there were none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from babyvlm.report.estimates import Credits, Estimate, Groups, variance_of_mean

LEVEL = 0.95


@dataclass(frozen=True)
class Term:
    """A row's mean credit, with its weight in a contrast.

    Attributes:
        weight: what the mean is multiplied by.
        row: the trained model; all of a row's terms share its seeds.
        credit_SN: credit of S seeds on N items.
        items: name of the items; terms of the same items are compared item by item.
        groups_N: which of the items hang together, the same for terms of the same items; none by default.
    """

    weight: float
    row: str
    credit_SN: Credits
    items: str = ""
    groups_N: Groups | None = None


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of means with its standard error and degrees of freedom.

    Attributes:
        mean, error, freedom: the sum, its standard error, and that error's degrees of freedom.
        items: of all terms.
        groups: of items that hang together; as many as items where each stands alone.
        seeds: of the row that has the most.
    """

    mean: float
    error: float
    freedom: float
    items: int
    groups: int
    seeds: int

    @property
    def test(self) -> str:
        """The name of the test."""
        units = "groups of items" if self.groups < self.items else "items"
        return f"t over {units} and seeds" if self.seeds > 1 else f"t over {units}"

    @property
    def estimate(self) -> Estimate:
        """The mean with its 95 % interval."""
        from scipy.stats import t

        half = float(t.ppf((1 + LEVEL) / 2, self.freedom)) * self.error if self.error else 0.0
        return Estimate(self.mean, self.mean - half, self.mean + half, self.items)

    def p_above(self, threshold: float) -> float:
        """One-sided p against the mean's being at most ``threshold``."""
        from scipy.stats import t

        gap = self.mean - threshold
        if self.error == 0:  # all groups say the same; by a sign test, how likely is that?
            return 0.5**self.groups if gap > 0 else 1.0
        return float(t.sf(gap / self.error, self.freedom))

    def p_below(self, threshold: float) -> float:
        """One-sided p against the mean's being at least ``threshold``."""
        return replace(self, mean=-self.mean).p_above(-threshold)


def contrast(terms: Sequence[Term]) -> Contrast:
    """Estimate ``sum(weight * mean(credit_SN))``.

    Items are a sample, and so are a row's seeds where it has several: the variances of both add up, with
    Satterthwaite's degrees of freedom. That is Clark's min F' (1973) for one degree of freedom: what varies by item and
    seed at once is in both parts, so that the error is rather too large than too small. With one seed a row it is the
    t test over items (paired, or Welch's between different items), and says nothing of another training. Items that
    hang together are drawn together: what varies is their groups.

    Raises:
        ValueError: there are items, or groups of them, of which there are fewer than two.
    """
    parts: list[tuple[float, int]] = []  # variance of a mean, degrees of freedom
    items = groups = 0
    for name in dict.fromkeys(term.items for term in terms):
        own = [term for term in terms if term.items == name]
        per_item_N = np.sum([term.weight * term.credit_SN.mean(0) for term in own], axis=0)
        variance, drawn = variance_of_mean(per_item_N, own[0].groups_N)
        parts.append((variance, drawn - 1))
        items, groups = items + len(per_item_N), groups + drawn
    for row in dict.fromkeys(term.row for term in terms):
        per_seed_S = sum(term.weight * term.credit_SN.mean(1) for term in terms if term.row == row)
        seeds = len(np.atleast_1d(per_seed_S))
        if seeds > 1:
            parts.append((float(np.var(per_seed_S, ddof=1)) / seeds, seeds - 1))
    mean = float(sum(term.weight * term.credit_SN.mean() for term in terms))
    variance = sum(part for part, _ in parts)
    if variance < 1e-18:  # rounding
        return Contrast(mean, 0.0, 1.0, items, groups, _seeds(terms))
    freedom = variance**2 / sum(part**2 / free for part, free in parts)
    return Contrast(mean, variance**0.5, freedom, items, groups, _seeds(terms))


def _seeds(terms: Sequence[Term]) -> int:
    """Of the row that has the most."""
    return max(len(term.credit_SN) for term in terms)
