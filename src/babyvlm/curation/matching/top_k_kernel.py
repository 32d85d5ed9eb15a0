"""Compiled search for each target's best candidates in blocks of scores: B targets of a batch, T candidates of a block.

A candidate found is kept as one int64 whose order is that of (value, column): the value's float32 bits, made to order
as integers do, above the column number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable

Function = TypeVar("Function", bound="Callable[..., Any]")
# Scores tested at once for any above the floor: loops of these fixed lengths become vector instructions (10 scores a
# nanosecond and core on AVX2, against 0.5 with a length known only at run time).
STRIDE = 64
STEP = 8


def compiled(function: Function) -> Function:
    """Compile without the interpreter's lock, and keep the machine code beside the module for the next process."""
    return cast("Function", numba.njit(nogil=True, cache=True)(function))


@compiled
def pack(value: np.float32, column: int) -> np.int64:
    """One sortable integer of a value and a column below 2**32."""
    bits = np.int64(np.float32(value).view(np.int32))
    if bits < 0:
        bits ^= 0x7FFFFFFF
    return np.int64((bits << 32) | column)


@compiled
def value_of(packed: np.int64) -> np.float32:
    """The value in a packed integer."""
    bits = packed >> 32
    if bits < 0:
        bits ^= 0x7FFFFFFF
    return np.int32(bits).view(np.float32)


@compiled
def keep_largest(items: NDArray[np.int64], k: int) -> np.int64:
    """Move the ``k`` largest items to the front, in any order, and return the least of them (Hoare's quickselect)."""
    low, high = 0, len(items) - 1
    while low < high:
        pivot = items[(low + high) >> 1]
        i, j = low, high
        while i <= j:
            while items[i] > pivot:
                i += 1
            while items[j] < pivot:
                j -= 1
            if i <= j:
                items[i], items[j] = items[j], items[i]
                i += 1
                j -= 1
        if k - 1 <= j:
            high = j
        elif k - 1 >= i:
            low = i
        else:
            break
    least: np.int64 = items[k - 1]
    return least


@compiled
def _take(
    scores: NDArray[np.float32],
    prices: NDArray[np.float32],
    first_column: int,
    room: NDArray[np.int64],
    state: tuple[int, np.float32, int],
) -> tuple[int, np.float32]:
    """Find in one stride; ``state`` is count, floor and wanted number; returns the new count and floor."""
    count, floor, wanted = state
    for start in range(0, STRIDE, STEP):
        above = False
        for j in range(start, start + STEP):
            above |= scores[j] - prices[j] > floor
        if not above:
            continue
        for j in range(start, start + STEP):
            value = scores[j] - prices[j]
            if value > floor:
                room[count] = pack(value, first_column + j)
                count += 1
                if count == len(room):
                    floor, count = value_of(keep_largest(room, wanted)), wanted
    return count, floor


@compiled
def scan(
    scores_BT: NDArray[np.float32],
    prices_T: NDArray[np.float32],
    first_column: int,
    found: NDArray[np.int64],
    offsets_B: NDArray[np.int64],
    wanted_B: NDArray[np.int64],
    counts_B: NDArray[np.int64],
    floors_B: NDArray[np.float32],
) -> None:
    """Add a block's candidates to what was found for each row.

    Row i's finds lie in ``found[offsets_B[i]:offsets_B[i + 1]]``, ``counts_B[i]`` of them. When there are twice as many
    as ``wanted_B[i]`` or the room is full, the wanted number stays, and the least of these becomes ``floors_B[i]``:
    what was and what will be left out is not above it. NaN and -inf are never found. T is a multiple of ``STRIDE``.
    """
    for i in range(len(scores_BT)):
        room, scores = found[offsets_B[i] : offsets_B[i + 1]], scores_BT[i]
        count, floor, wanted = counts_B[i], floors_B[i], wanted_B[i]
        if count >= 2 * wanted:
            floor, count = value_of(keep_largest(room[:count], wanted)), wanted
        for number in range(scores_BT.shape[1] // STRIDE):  # a range with a step would not be vectorised
            above = False
            for j in range(STRIDE):
                above |= scores[number * STRIDE + j] - prices_T[number * STRIDE + j] > floor
            if above:
                start = number * STRIDE
                stride = slice(start, start + STRIDE)
                state = (count, floor, wanted)
                count, floor = _take(scores[stride], prices_T[stride], first_column + start, room, state)
        counts_B[i], floors_B[i] = count, floor


@compiled
def unpack(
    found: NDArray[np.int64],
    prices_M: NDArray[np.float32],
    columns: NDArray[np.int32],
    gains: NDArray[np.float32],
    scores: NDArray[np.float32],
) -> None:
    """Write finds as columns, gains (score less price) and scores, arrays of the same length."""
    for at, packed in enumerate(found):
        column, gain = packed & 0xFFFFFFFF, value_of(packed)
        columns[at], gains[at], scores[at] = column, gain, gain + prices_M[column]
