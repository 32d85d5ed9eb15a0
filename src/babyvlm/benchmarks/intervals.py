"""Uncertainty of means over dependent items, shared by ``evaluate`` and the reports. Needs neither torch nor Lightning.

Kept by hand, because no library offers it: statsmodels' cluster-robust variances allow at most two nested or crossed
groupings, while a Labeled-S trial belongs to the clusters of its four images at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import numpy.typing as npt

Credits = npt.NDArray[np.float64]
Groups = npt.NDArray[np.int64]  # (N,) number of each item's group, from 0
LEVEL = 0.95
# Range of each kind of mean: its interval where the variance is unknown.
BOUNDS = {
    "share": (0.0, 1.0),
    "weighted share": (0.0, 1.0),
    "correlation": (-1.0, 1.0),
    "difference": (-1.0, 1.0),
    "free": (-np.inf, np.inf),
}
MAX_PAIRS = 30_000_000  # dependent pairs in memory, 360 MB; beyond it, items that are connected form a group


@dataclass(frozen=True, eq=False)
class Dependence:
    """Which of N items depend on each other, because they show the same image or belong to the same group.

    Attributes:
        groups_N: number of each item's group; items of different groups share nothing, even indirectly.
        related_NN: sparse matrix of 1 for dependent pairs and for each item with itself; None if items are related
            exactly when they are in the same group.
        units: effective number of units (images or groups) that items share, Kish's (sum of sizes)^2 / (sum of
            squared sizes); an item that shares nothing is a unit.
        freedom: degrees of freedom of ``variance_of_mean``.
    """

    groups_N: Groups
    related_NN: npt.NDArray[np.float64] | None  # scipy.sparse.csr_array, which has no type parameters
    units: float
    freedom: float

    @property
    def is_nested(self) -> bool:
        """Whether all items of a group depend on each other, so that groups are exchangeable."""
        return self.related_NN is None

    def variance_of_mean(self, values_KN: Credits) -> Credits:
        """Return the (K,) variances of K means over the items.

        The sum of the products of the deviations of all dependent pairs of items (Aronow, Samii and Assenova 2015, for
        clusters that overlap), corrected for the bias that independent deviations would have, and not less than the
        variance for independent items. For groups that do not overlap this is the usual cluster-robust variance with
        the factor G / (G - 1); for independent items, that of a mean.

        Args:
            values_KN: K rows of values.

        Raises:
            ValueError: there are fewer than two items, or all items depend on each other.
        """
        count = len(self.groups_N)
        if self.related_NN is None:
            pairs = float((np.bincount(self.groups_N, minlength=1) ** 2).sum())
        else:
            pairs = float(self.related_NN.sum())
        effective = count - pairs / max(count, 1)  # the expected sum of products, in units of an item's variance
        if effective < 1e-9 * count or not count:
            raise ValueError("fewer than two items, or groups of items")
        deviation_KN = values_KN - values_KN.mean(1, keepdims=True)
        if self.related_NN is None:
            products_K = (group_sums(deviation_KN, self.groups_N) ** 2).sum(1)
            return np.asarray(products_K / (effective * count))
        products_K = ((self.related_NN @ deviation_KN.T).T * deviation_KN).sum(1)
        # The sum over overlapping clusters is noisy, in short lists even negative. Never less than independent items.
        independent_K = (deviation_KN**2).sum(1) / ((count - 1) * count)
        return np.asarray(np.maximum(products_K / (effective * count), independent_K))


def dependence(units: Sequence[Collection[Hashable]]) -> Dependence:
    """Return which items depend on each other: those that share a unit.

    >>> dependence([{"a.jpg"}, {"a.jpg", "b.jpg"}, {"b.jpg"}, {"c.jpg"}]).groups_N.tolist()
    [0, 0, 0, 1]

    Args:
        units: what each item depends on, such as its images.
    """
    counts = Counter(chain.from_iterable(units))
    numbers = {unit: number for number, unit in enumerate(unit for unit, count in counts.items() if count > 1)}
    if not numbers:
        return independent(len(units))
    from scipy.sparse import csr_array, eye_array
    from scipy.sparse.csgraph import connected_components

    entries = [(item, numbers[unit]) for item, own in enumerate(units) for unit in own if unit in numbers]
    item_E, unit_E = np.array(entries).T
    ones_E, items = np.ones(len(entries)), len(units)
    # The graph whose nodes are items and units.
    graph = csr_array((ones_E, (item_E, unit_E + items)), shape=(items + len(numbers),) * 2)
    labels_N = connected_components(graph, directed=False)[1][:items]
    groups_N = np.unique(labels_N, return_inverse=True)[1].astype(np.int64)
    size_G = np.bincount(groups_N).astype(np.float64)
    sizes_U = np.append(np.bincount(unit_E).astype(np.float64), np.ones(items - len(set(item_E.tolist()))))
    if (sizes_U**2).sum() > MAX_PAIRS:
        return Dependence(groups_N, None, *_units_and_freedom(size_G[groups_N], size_G))
    member_NU = csr_array((ones_E, (item_E, unit_E)), shape=(items, len(numbers)))
    related_NN = (member_NU @ member_NU.T + eye_array(items)).tocsr()
    related_NN.data[:] = 1.0
    degree_N = np.diff(related_NN.indptr).astype(np.float64)
    nested = related_NN.nnz == int((size_G**2).sum())
    return Dependence(groups_N, None if nested else related_NN, *_units_and_freedom(degree_N, sizes_U))


def _units_and_freedom(degree_N: Credits, sizes_U: Credits) -> tuple[float, float]:
    """Return ``Dependence.units`` and ``Dependence.freedom``.

    Satterthwaite's degrees of freedom for independent items (Bell and McCaffrey 2002) are too few where units overlap,
    since every pair of items that might be dependent counts as noise; the number of units is too large. We use their
    geometric mean, by coverage in simulations (docs/how-to/report.md). For groups that do not overlap, both are the
    number of groups.

    Args:
        degree_N: number of items that each item depends on, itself included.
        sizes_U: number of items of each unit.
    """
    count, pairs = len(degree_N), float(degree_N.sum())
    squares = pairs - 2 * float((degree_N**2).sum()) / count + (pairs / count) ** 2
    fewest = (count - pairs / count) ** 2 / squares + 1 if squares > 1e-9 * count else 1.0
    most = min(float(sizes_U.sum()) ** 2 / float((sizes_U**2).sum()), float(count))
    return most, ((fewest * most) ** 0.5 if fewest < most else most) - 1


def units_of(item: str, group: str, images: Collection[str]) -> set[tuple[str, str]]:
    """Return what an item shares with the items that it depends on: its group and its images."""
    return {("group", group) if group else ("item", item), *(("image", image) for image in images)}


def independent(count: int) -> Dependence:
    """Return the dependence of independent items."""
    return Dependence(np.arange(count), None, float(count), count - 1.0)


def effective_items(weight_N: Credits) -> float:
    """Return Kish's effective number of weighted items: (sum of weights)^2 / (sum of squared weights)."""
    return float(weight_N.sum() ** 2 / (weight_N**2).sum())


def linearized(credit_N: Credits, weight_N: Credits) -> Credits:
    """Return values whose mean is the weighted mean of credits, and the variance of whose mean is that of it.

    They are the mean plus the influence of each item on it (the delta method), and may lie outside of [0, 1].

    >>> linearized(np.array([1.0, 0.0]), np.array([1.5, 0.5])).tolist()
    [1.125, 0.375]

    Args:
        credit_N: credit of each item.
        weight_N: its weight; their mean is 1.
    """
    mean = float((weight_N * credit_N).mean())
    return np.asarray(mean + weight_N * (credit_N - mean))


def weighted_dependence(related: Dependence, effective: float) -> Dependence:
    """Return a dependence for the interval of a weighted share: of no more units than items are effective."""
    freedom = max(1.0, min(related.freedom, effective - 1))
    return replace(related, units=min(related.units, effective), freedom=freedom)


def mean_interval(
    credit_N: Credits,
    related: Dependence | None = None,
    level: float = LEVEL,
    *,
    correlation: bool = False,
    effective: float | None = None,
) -> tuple[float, float]:
    """Return the confidence interval of a mean: ``share_interval`` if all credits are from 0 to 1, else a t interval.

    Args:
        credit_N: credit of each item.
        related: which items depend on each other; none by default.
        level: coverage.
        correlation: the mean is a correlation, see ``correlation_interval``.
        effective: the mean is a weighted share, the credits are ``linearized``; the effective number of items. Its
            variance is not less than that of so many independent items, because the variance that is estimated from
            few items with large weights is unreliable: in simulations, its intervals cover 79 to 93% alone.

    Raises:
        ValueError: there is no item.
    """
    if not len(credit_N):
        raise ValueError("no item to average over")
    related, mean = related or independent(len(credit_N)), float(credit_N.mean())
    is_share = effective is not None or bool(((credit_N >= 0) & (credit_N <= 1)).all())
    kind = "correlation" if correlation else "share" if is_share else "free"
    try:
        variance = float(related.variance_of_mean(credit_N[None])[0])
    except ValueError:  # the variance of one item or group is unknown
        return BOUNDS[kind]
    if effective is not None:
        related = weighted_dependence(related, effective)
        relative = max(relative_variance(mean, variance, related.units), 1 / related.units)
        return share_interval(mean, relative, related.freedom, level)
    if kind == "share":
        return share_interval(mean, relative_variance(mean, variance, related.units), related.freedom, level)
    from scipy.stats import t

    half = float(t.ppf((1 + level) / 2, related.freedom)) * variance**0.5
    return correlation_interval(mean, half) if correlation else (mean - half, mean + half)


def relative_variance(share: float, variance: float, units: float) -> float:
    """Return the variance of a share relative to ``share * (1 - share)``, which is 1 / (effective number of items).

    Where all items agree on 0 or 1, it is that of ``units`` independent items: the interval does not collapse.
    """
    return variance / (share * (1 - share)) if 0 < share < 1 else 1 / units


def share_interval(share: float, relative: float, freedom: float, level: float = LEVEL) -> tuple[float, float]:
    """Return Wilson's interval of a share with an effective number of items and a t quantile.

    It lies within [0, 1]. For clustered data: Korn and Graubard 1998; Dean and Pagano 2015 compare such intervals.

    >>> [round(end, 3) for end in share_interval(0.98, 1 / 50, float("inf"))]  # 49 of 50
    [0.895, 0.996]

    Args:
        share: the mean, from 0 to 1.
        relative: from ``relative_variance``.
        freedom: degrees of freedom of the variance.
        level: coverage.
    """
    from scipy.stats import t

    return wilson(share, float(t.ppf((1 + level) / 2, freedom)) ** 2 * relative)


def wilson(share: float, squared: float) -> tuple[float, float]:
    """Return the p that solve ``(share - p)^2 = squared * p * (1 - p)`` (Wilson 1927)."""
    center = (share + squared / 2) / (1 + squared)
    half = (share * (1 - share) * squared + squared**2 / 4) ** 0.5 / (1 + squared)
    return max(0.0, center - half), min(1.0, center + half)


def correlation_interval(correlation: float, half: float) -> tuple[float, float]:
    """Return the interval of a correlation, computed for its Fisher transform, so that it lies within [-1, 1].

    Args:
        correlation: the estimate.
        half: half the width of its interval without the transform.
    """
    inside = min(max(correlation, -1 + 1e-12), 1 - 1e-12)
    center, half = np.arctanh(inside), half / (1 - inside**2)
    return float(np.tanh(center - half)), float(np.tanh(center + half))


def group_sums(values_KN: Credits, groups_N: Groups) -> Credits:
    """Return the (K, G) sums of each group."""
    count = int(groups_N.max()) + 1
    if count == len(groups_N):
        return values_KN
    return np.stack([np.bincount(groups_N, weights=values_N, minlength=count) for values_N in values_KN])
