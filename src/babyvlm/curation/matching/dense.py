"""Exact matching with all similarities in memory, for small problems: N targets, M candidates, F forbidden pairs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from babyvlm.errors import UserError


def solve_dense(
    targets: NDArray[np.floating], candidates: NDArray[np.floating], forbidden: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], float]:
    """Match with all N x M similarities in memory.

    lapjv accepts square matrices only and is slow on padded ones; scipy accepts rectangles and forbidden pairs.

    Returns:
        The candidate of each target (N,), candidate prices (M,), and the dual value.

    Raises:
        UserError: no matching avoids the forbidden pairs.
    """
    scores = targets.astype(np.float64) @ candidates.astype(np.float64).T
    scores[forbidden[:, 0], forbidden[:, 1]] = -np.inf
    if scores.shape[0] == scores.shape[1] and not len(forbidden):
        from lapjv import lapjv

        index = lapjv(-scores)[0].astype(np.int64)
    else:
        from scipy.optimize import linear_sum_assignment

        try:
            index = linear_sum_assignment(scores, maximize=True)[1].astype(np.int64)
        except ValueError:
            raise infeasible() from None
    prices = minimal_prices(scores, index)
    return index, prices, float((scores - prices).max(axis=1).sum() + prices.sum())


def minimal_prices(scores: NDArray[np.float64], index: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the lowest prices (M,) at which no target prefers another target's candidate to its own.

    They are the least fixed point of ``price[index[k]] = max_i (s[i, index[k]] - s[i, index[i]] + price[index[i]])``,
    starting from 0 (Bellman-Ford). The solver's own dual variables are not used, so the resulting bound is independent
    of it; it equals the primal value only if ``index`` is optimal.
    """
    own = scores[np.arange(len(index)), index]
    gain = scores[:, index] - own[:, None]  # (N, N): what target i would gain with k's candidate, prices aside
    price = np.zeros(len(index))
    for _ in range(len(index)):
        raised = np.maximum(price, (gain + price[:, None]).max(axis=0))
        if (raised - price).max() < 1e-13:
            break
        price = raised
    prices = np.zeros(scores.shape[1])
    prices[index] = price
    return prices


def infeasible() -> UserError:
    """Return the error for forbidden pairs that leave no one-to-one matching."""
    return UserError("no one-to-one matching avoids all forbidden pairs. Forbid fewer pairs or add candidates")
