"""Assignment with all similarities in memory, for problems small enough: N targets, M candidates, F forbidden pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from babyvlm.errors import UserError


def assign_dense(
    targets: NDArray[Any], candidates: NDArray[Any], forbidden: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], float]:
    """Solve with all N x M similarities in memory: index (N,), prices (M,) and the dual value.

    lapjv takes squares only, and pads badly; scipy takes rectangles and forbidden pairs.
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
            raise no_matching() from None
    prices = least_prices(scores, index)
    return index, prices, float((scores - prices).max(axis=1).sum() + prices.sum())


def least_prices(scores: NDArray[np.float64], index: NDArray[np.int64]) -> NDArray[np.float64]:
    """The lowest prices (M,) at which no target prefers another's candidate to its own.

    A least fixed point of ``price[of k] = max_i (s[i, of k] - s[i, of i] + price[of i])``, from 0 (Bellman-Ford). It
    knows nothing of how ``index`` was found; the bound it gives meets the primal value only if ``index`` is optimal.
    """
    own = scores[np.arange(len(index)), index]
    envy = scores[:, index] - own[:, None]  # (N, N): what i would gain by k's candidate, prices aside
    price = np.zeros(len(index))
    for _ in range(len(index)):
        risen = np.maximum(price, (envy + price[:, None]).max(axis=0))
        if (risen - price).max() < 1e-13:
            break
        price = risen
    prices = np.zeros(scores.shape[1])
    prices[index] = price
    return prices


def no_matching() -> UserError:
    """The error for forbidden pairs that leave no one-to-one matching."""
    return UserError("no one-to-one matching avoids all forbidden pairs; forbid fewer or add candidates")
