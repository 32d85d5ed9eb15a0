"""Bootstrap intervals of means, shared by ``evaluate`` and the reports. Needs neither torch nor Lightning."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Credits = npt.NDArray[np.float64]
Groups = npt.NDArray[np.int64]  # (N,) number of each item's group, from 0
LEVEL = 0.95
RESAMPLES = 2000  # our choice: the ends of an interval vary by less than 0.002 between random seeds


def bootstrap_interval(
    credit_N: Credits, groups_N: Groups | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Return the 95% percentile bootstrap interval of a mean (scipy), resampling groups of items.

    Args:
        credit_N: credit of each item.
        groups_N: items of a group are resampled together; every item is its own group by default.
        resamples: number of bootstrap samples.
        seed: random seed of the resampling.

    Raises:
        ValueError: there is no item.
    """
    if not len(credit_N):
        raise ValueError("no item to average over")
    sum_G, size_G = group_sums(credit_N, groups_N), group_sums(np.ones(len(credit_N)), groups_N)
    if np.ptp(sum_G / size_G) == 0:  # every resample has the same mean
        return float(credit_N.mean()), float(credit_N.mean())
    from scipy.stats import bootstrap  # 0.7 s

    interval = bootstrap(
        (sum_G, size_G),
        lambda sums, sizes, axis: sums.sum(axis) / sizes.sum(axis),
        paired=True,
        n_resamples=resamples,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
        batch=100,
    ).confidence_interval
    return float(interval.low), float(interval.high)


def group_sums(values_N: Credits, groups_N: Groups | None) -> Credits:
    """Return the (G,) sum of each group; without groups the values themselves."""
    return values_N if groups_N is None else np.bincount(groups_N, weights=values_N).astype(np.float64)
