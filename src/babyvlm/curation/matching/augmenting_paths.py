"""Compiled shortest augmenting paths over candidate lists that may be incomplete.

Scores s_ij, prices v_j >= 0 that only rise, profits u_i >= s_ij - v_j. A row's list is sorted by s_ij - v_j as it was
when listed, and everything unlisted was below ``bound[i]`` then, hence is for good. Distances are reduced costs
u_i + v_j - s_ij summed along a path.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from babyvlm.curation.matching.top_k_kernel import compiled

NOBODY = -1
IMPOSSIBLE = -2
# Gains are float32 differences of numbers below 8: a bound made of them is raised by more than their rounding.
SLACK = 5e-7


class Lists(NamedTuple):
    """Candidate lists: row i's entries are ``start[i]`` to ``start[i] + length[i]`` of the first three arrays.

    Attributes:
        column: int32, the candidates.
        gain: float32, score less price when listed, falling along each list.
        score: float32, the similarity.
        start: (N,) int64.
        length: (N,) int64.
        bound: (N,) float64, no unlisted candidate is worth more at any later time.
    """

    column: NDArray[np.int32]
    gain: NDArray[np.float32]
    score: NDArray[np.float32]
    start: NDArray[np.int64]
    length: NDArray[np.int64]
    bound: NDArray[np.float64]


class Assignment(NamedTuple):
    """Who has what at which price.

    Attributes:
        column: (N,) int64, the row's candidate or ``NOBODY``.
        owner: (M,) int64, the candidate's row or ``NOBODY``.
        profit: (N,) float64, u.
        price: (M,) float64, v.
    """

    column: NDArray[np.int64]
    owner: NDArray[np.int64]
    profit: NDArray[np.float64]
    price: NDArray[np.float64]


class Search(NamedTuple):
    """Work space of one search.

    Attributes:
        distance: (M,) float64, infinite where not reached; left so after each search.
        before: (M,) int64, the row through which a column was reached.
        reached: (M,) int64, columns with a finite distance.
        done: (M,) int64, columns whose distance is final.
        heap: (M,) int64, a binary heap of reached columns, the nearest first.
        place: (M,) int64, where in the heap a column is.
    """

    distance: NDArray[np.float64]
    before: NDArray[np.int64]
    reached: NDArray[np.int64]
    done: NDArray[np.int64]
    heap: NDArray[np.int64]
    place: NDArray[np.int64]


@compiled
def _rise(search: Search, at: int, column: int) -> None:
    """Put a column into the heap at ``at`` or above."""
    while at > 0:
        above = (at - 1) >> 1
        if search.distance[search.heap[above]] <= search.distance[column]:
            break
        search.heap[at] = search.heap[above]
        search.place[search.heap[at]] = at
        at = above
    search.heap[at], search.place[column] = column, at


@compiled
def _pop(search: Search, size: int) -> int:
    """Take the nearest column off a heap of ``size``."""
    nearest, moved = search.heap[0], search.heap[size - 1]
    at = 0
    while True:
        below = 2 * at + 1
        if below >= size - 1:
            break
        if below + 1 < size - 1 and search.distance[search.heap[below + 1]] < search.distance[search.heap[below]]:
            below += 1
        if search.distance[search.heap[below]] >= search.distance[moved]:
            break
        search.heap[at] = search.heap[below]
        search.place[search.heap[at]] = at
        at = below
    search.heap[at], search.place[moved] = moved, at
    return int(nearest)


@compiled
def best_listed(lists: Lists, price: NDArray[np.float64], row: int) -> float:
    """The most a row can gain from its list at these prices; -inf from an empty one."""
    best = -np.inf
    for at in range(lists.start[row], lists.start[row] + lists.length[row]):
        if lists.gain[at] + SLACK <= best:
            break
        best = max(best, lists.score[at] - price[lists.column[at]])
    return best


@compiled
def _reach(
    row: int, so_far: float, lists: Lists, now: Assignment, search: Search, state: tuple[float, int, int, int]
) -> tuple[float, int, int, int]:
    """Reach on from a row; ``state`` (nearest end, free column, number reached, size of the heap) is returned anew."""
    nearest, free, reached, size = state
    for at in range(lists.start[row], lists.start[row] + lists.length[row]):
        if so_far + now.profit[row] - lists.gain[at] - SLACK >= nearest:
            break
        column = lists.column[at]
        # Clamped: rounding below the distance so far would let the search run in circles.
        distance = max(so_far, so_far + now.profit[row] + now.price[column] - lists.score[at])
        if distance >= nearest or distance >= search.distance[column]:
            continue
        is_new = search.distance[column] == np.inf
        search.distance[column], search.before[column] = distance, row
        if is_new:
            search.reached[reached] = column
            reached += 1
        if now.owner[column] == NOBODY:
            nearest, free = distance, column
        else:
            _rise(search, size if is_new else search.place[column], column)
            size += is_new
    return nearest, free, reached, size


@compiled
def _search(root: int, lists: Lists, now: Assignment, search: Search) -> tuple[float, int, int, int, int]:
    """Find the nearest free column, or the row that would sooner leave its list (its profit falling to its bound).

    Returns:
        the distance, the free column or ``NOBODY``, the row that leaves, the numbers of ``done`` and of ``reached``.
    """
    nearest, free, leaver = np.inf, NOBODY, root
    done, reached, size = 0, 0, 0
    row, so_far = root, 0.0
    while True:
        leaving = max(so_far, so_far + now.profit[row] - lists.bound[row])
        if leaving < nearest:
            nearest, free, leaver = leaving, NOBODY, row
        nearest, free, reached, size = _reach(row, so_far, lists, now, search, (nearest, free, reached, size))
        if size == 0 or search.distance[search.heap[0]] >= nearest:
            return nearest, free, leaver, done, reached
        column = _pop(search, size)
        size -= 1
        search.done[done] = column
        done += 1
        row, so_far = now.owner[column], search.distance[column]


@compiled
def assign(root: int, lists: Lists, now: Assignment, search: Search) -> int:
    """Assign one more row along a shortest augmenting path, raising prices.

    Returns:
        ``NOBODY``, or the row that lost its place (perhaps ``root``) because its list was too short to tell; or
        ``IMPOSSIBLE`` if neither a free column nor a way off the lists can be reached: there is no matching.
    """
    now.profit[root] = max(best_listed(lists, now.price, root), lists.bound[root])
    if now.profit[root] == -np.inf:
        return IMPOSSIBLE
    distance, column, leaver, done, reached = _search(root, lists, now, search)
    if distance == np.inf:
        return IMPOSSIBLE
    now.profit[root] -= distance
    for at in range(done):
        rise = distance - search.distance[search.done[at]]
        now.price[search.done[at]] += rise
        now.profit[now.owner[search.done[at]]] -= rise
    for at in range(reached):
        search.distance[search.reached[at]] = np.inf
    parked = NOBODY
    if column == NOBODY:
        parked = leaver
        column = now.column[leaver]
        now.column[leaver] = NOBODY
        if leaver == root:
            return parked
    row = NOBODY
    while row != root:
        row = search.before[column]
        left = now.column[row]
        now.column[row], now.owner[column] = column, row
        column = left
    return parked


@compiled
def assign_all(
    rows: NDArray[np.int64], lists: Lists, now: Assignment, search: Search, parked: NDArray[np.int64]
) -> int:
    """Assign rows one after the other; returns how many lost their place, written to ``parked``, or ``IMPOSSIBLE``."""
    count = 0
    for root in rows:
        lost = assign(root, lists, now, search)
        if lost == IMPOSSIBLE:
            return IMPOSSIBLE
        if lost != NOBODY:
            parked[count] = lost
            count += 1
    return count


@compiled
def settle(lists: Lists, now: Assignment) -> None:
    """Set each row's profit to the least that no candidate, listed or not, can better at these prices."""
    for row in range(len(now.profit)):
        now.profit[row] = max(best_listed(lists, now.price, row), lists.bound[row])
