"""Compiled shortest augmenting paths over incomplete candidate lists; ``lazy`` explains the algorithm.

Notation: score s_ij of row (target) i and column (candidate) j, price v_j >= 0, profit u_i. Every candidate j, listed
or not, satisfies u_i >= s_ij - v_j, with equality if j is assigned to i. Path lengths are sums of the reduced costs
u_i + v_j - s_ij >= 0. Prices only rise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable

Function = TypeVar("Function", bound="Callable[..., Any]")
UNASSIGNED = -1
INFEASIBLE = -2
# Scores minus prices are float32 differences of numbers below 8; bounds computed from them are raised by more than
# their rounding error.
ROUNDING = 5e-7


def compiled(function: Function) -> Function:
    """Compile without the interpreter's lock, and cache the machine code beside the module for later processes.

    The cache is valid as long as the module is not modified, so a compiled function must not use constants of another
    module.
    """
    return cast("Function", numba.njit(nogil=True, cache=True)(function))


class CandidateLists(NamedTuple):
    """Candidate lists: row i's entries are ``start[i]`` to ``start[i] + length[i]`` of the first three arrays.

    Attributes:
        column: int32, the candidates.
        net_score: float32, score minus price at the time of listing, in decreasing order within a list.
        score: float32, the similarity.
        start: (N,) int64.
        length: (N,) int64.
        bound: (N,) float64, upper bound on score minus price of every candidate that is not listed. It stays valid
            because prices only rise.
    """

    column: NDArray[np.int32]
    net_score: NDArray[np.float32]
    score: NDArray[np.float32]
    start: NDArray[np.int64]
    length: NDArray[np.int64]
    bound: NDArray[np.float64]


class Assignment(NamedTuple):
    """A partial assignment with its dual variables.

    Attributes:
        column: (N,) int64, the row's candidate or ``UNASSIGNED``.
        owner: (M,) int64, the candidate's row or ``UNASSIGNED``.
        profit: (N,) float64, u.
        price: (M,) float64, v.
    """

    column: NDArray[np.int64]
    owner: NDArray[np.int64]
    profit: NDArray[np.float64]
    price: NDArray[np.float64]


class SearchBuffers(NamedTuple):
    """Reusable memory of Dijkstra's algorithm.

    Attributes:
        distance: (M,) float64, infinite for columns that were not reached; reset after each search.
        previous_row: (M,) int64, the row through which a column was reached.
        reached: (M,) int64, columns with a finite distance.
        final: (M,) int64, columns whose distance is final.
        heap: (M,) int64, binary heap of reached columns, the nearest first.
        heap_position: (M,) int64, position of a column in the heap.
    """

    distance: NDArray[np.float64]
    previous_row: NDArray[np.int64]
    reached: NDArray[np.int64]
    final: NDArray[np.int64]
    heap: NDArray[np.int64]
    heap_position: NDArray[np.int64]


@compiled
def _sift_up(search: SearchBuffers, position: int, column: int) -> None:
    """Insert a column into the heap at ``position`` or above."""
    while position > 0:
        parent = (position - 1) >> 1
        if search.distance[search.heap[parent]] <= search.distance[column]:
            break
        search.heap[position] = search.heap[parent]
        search.heap_position[search.heap[position]] = position
        position = parent
    search.heap[position], search.heap_position[column] = column, position


@compiled
def _pop(search: SearchBuffers, size: int) -> int:
    """Remove the nearest column from a heap of ``size`` columns and return it."""
    nearest, moved = search.heap[0], search.heap[size - 1]
    position = 0
    while True:
        child = 2 * position + 1
        if child >= size - 1:
            break
        if child + 1 < size - 1 and search.distance[search.heap[child + 1]] < search.distance[search.heap[child]]:
            child += 1
        if search.distance[search.heap[child]] >= search.distance[moved]:
            break
        search.heap[position] = search.heap[child]
        search.heap_position[search.heap[position]] = position
        position = child
    search.heap[position], search.heap_position[moved] = moved, position
    return int(nearest)


@compiled
def best_listed(lists: CandidateLists, price: NDArray[np.float64], row: int) -> float:
    """Return max_j (s_ij - v_j) over a row's list; -inf for an empty list."""
    best = -np.inf
    for at in range(lists.start[row], lists.start[row] + lists.length[row]):
        if lists.net_score[at] + ROUNDING <= best:
            break
        best = max(best, lists.score[at] - price[lists.column[at]])
    return best


@compiled
def _relax(
    row: int,
    row_distance: float,
    lists: CandidateLists,
    assignment: Assignment,
    search: SearchBuffers,
    state: tuple[float, int, int, int],
) -> tuple[float, int, int, int]:
    """Relax the edges from a row to its listed candidates.

    Args:
        row: the row.
        row_distance: its distance from the root.
        lists: candidate lists.
        assignment: current assignment.
        search: updated in place.
        state: length of the shortest complete path so far, its free column, number of reached columns, heap size.

    Returns:
        The updated ``state``.
    """
    shortest, free_column, reached, size = state
    for at in range(lists.start[row], lists.start[row] + lists.length[row]):
        if row_distance + assignment.profit[row] - lists.net_score[at] - ROUNDING >= shortest:
            break
        column = lists.column[at]
        # Rounding must not make a distance smaller than its predecessor's, or the search could cycle.
        distance = max(row_distance, row_distance + assignment.profit[row] + assignment.price[column] - lists.score[at])
        if distance >= shortest or distance >= search.distance[column]:
            continue
        is_new = search.distance[column] == np.inf
        search.distance[column], search.previous_row[column] = distance, row
        if is_new:
            search.reached[reached] = column
            reached += 1
        if assignment.owner[column] == UNASSIGNED:
            shortest, free_column = distance, column
        else:
            _sift_up(search, size if is_new else search.heap_position[column], column)
            size += is_new
    return shortest, free_column, reached, size


@compiled
def _shortest_path(
    root: int, lists: CandidateLists, assignment: Assignment, search: SearchBuffers
) -> tuple[float, int, int, int, int]:
    """Find the nearest free column, or a row whose profit would fall to its bound before that column is reached.

    Returns:
        Path length, free column or ``UNASSIGNED``, row that exhausts its list, numbers of ``final`` and of ``reached``.
    """
    shortest, free_column, exhausted_row = np.inf, UNASSIGNED, root
    final, reached, size = 0, 0, 0
    row, row_distance = root, 0.0
    while True:
        to_bound = max(row_distance, row_distance + assignment.profit[row] - lists.bound[row])
        if to_bound < shortest:
            shortest, free_column, exhausted_row = to_bound, UNASSIGNED, row
        shortest, free_column, reached, size = _relax(
            row, row_distance, lists, assignment, search, (shortest, free_column, reached, size)
        )
        if size == 0 or search.distance[search.heap[0]] >= shortest:
            return shortest, free_column, exhausted_row, final, reached
        column = _pop(search, size)
        size -= 1
        search.final[final] = column
        final += 1
        row, row_distance = assignment.owner[column], search.distance[column]


@compiled
def assign(root: int, lists: CandidateLists, assignment: Assignment, search: SearchBuffers) -> int:
    """Assign one more row along a shortest augmenting path and raise prices.

    Returns:
        ``UNASSIGNED``; or the row (possibly ``root``) that is now unassigned because its list is too short to decide;
        or ``INFEASIBLE`` if neither a free column nor a row with unlisted candidates can be reached, so that no
        one-to-one matching exists.
    """
    assignment.profit[root] = max(best_listed(lists, assignment.price, root), lists.bound[root])
    if assignment.profit[root] == -np.inf:
        return INFEASIBLE
    distance, column, exhausted_row, final, reached = _shortest_path(root, lists, assignment, search)
    if distance == np.inf:
        return INFEASIBLE
    assignment.profit[root] -= distance
    for at in range(final):
        rise = distance - search.distance[search.final[at]]
        assignment.price[search.final[at]] += rise
        assignment.profit[assignment.owner[search.final[at]]] -= rise
    for at in range(reached):
        search.distance[search.reached[at]] = np.inf
    deferred = UNASSIGNED
    if column == UNASSIGNED:
        deferred = exhausted_row
        column = assignment.column[exhausted_row]
        assignment.column[exhausted_row] = UNASSIGNED
        if exhausted_row == root:
            return deferred
    row = UNASSIGNED
    while row != root:  # from the end of the path back to the root, each row takes the column that reached it
        row = search.previous_row[column]
        released = assignment.column[row]
        assignment.column[row], assignment.owner[column] = column, row
        column = released
    return deferred


@compiled
def assign_all(
    rows: NDArray[np.int64],
    lists: CandidateLists,
    assignment: Assignment,
    search: SearchBuffers,
    deferred: NDArray[np.int64],
) -> int:
    """Assign rows one after the other.

    Args:
        rows: (B,) rows with candidate lists.
        lists: candidate lists.
        assignment: updated in place.
        search: reusable memory.
        deferred: (B,) output: rows that need a longer list before they can be assigned.

    Returns:
        Number of deferred rows, or ``INFEASIBLE``.
    """
    count = 0
    for root in rows:
        row = assign(root, lists, assignment, search)
        if row == INFEASIBLE:
            return INFEASIBLE
        if row != UNASSIGNED:
            deferred[count] = row
            count += 1
    return count


@compiled
def tighten_profits(lists: CandidateLists, assignment: Assignment) -> None:
    """Set each profit to the smallest value that satisfies u_i >= s_ij - v_j for all candidates, listed or not."""
    for row in range(len(assignment.profit)):
        assignment.profit[row] = max(best_listed(lists, assignment.price, row), lists.bound[row])
