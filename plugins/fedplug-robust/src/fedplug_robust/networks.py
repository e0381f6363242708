"""Selection networks: which rows of a block to compare, so that the middle of each column stands apart.

A network is a fixed list of comparators ``(i, j)``: the smaller of two rows goes to ``i``, the larger to ``j``, for all
columns at once. Row-wise minima and maxima are what NumPy does at full speed, while sorting each column by itself
costs a call's overhead per column. Batcher's merge exchange (Batcher, Sorting Networks and their Applications, 1968;
Knuth, The Art of Computer Programming 3, 5.2.2, algorithm M) sorts any number of rows. Nobody asks for sorted rows
here, only for the set of those in the middle, so that many of its comparators, and one half of many others, go away.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Comparator = tuple[int, int]


@dataclass(frozen=True)
class Program:
    """A network as a list of operations on registers.

    Attributes:
        steps: ``(operation, a, b, out)``: register ``out`` becomes the minimum or maximum of ``a`` and ``b``. Registers
            from 0 to ``rows - 1`` are the rows, which are never written to; the others are scratch.
        scratch: Number of scratch registers.
        inner: The registers that hold the middle in the end, in no particular order.
    """

    steps: tuple[tuple[Literal["min", "max"], int, int, int], ...]
    scratch: int
    inner: tuple[int, ...]


@lru_cache(maxsize=64)
def program(rows: int, cut: int) -> Program:
    """The operations that set apart the rows that are neither among the ``cut`` smallest nor the ``cut`` largest.

    Args:
        rows: Number of rows, at least ``2 * cut + 1``.
        cut: How many to leave out at each end.
    """
    plans = [_pruned(network, rows, cut) for network in (merge_exchange(rows), extraction(rows, cut))]
    return _allocated(min(plans, key=_operations), rows, cut)


def merge_exchange(rows: int) -> list[Comparator]:
    """Batcher's network, which sorts any number of rows."""
    found: list[Comparator] = []
    top = 1
    while 2 * top < rows:
        top *= 2
    step = top
    while step and rows > 1:
        stride, residue, distance = top, 0, step
        while True:
            found += [(i, i + distance) for i in range(rows - distance) if i & step == residue]
            if stride == step:
                break
            distance, stride, residue = stride - step, stride // 2, step
        step //= 2
    return found


def extraction(rows: int, cut: int) -> list[Comparator]:
    """A network that takes the smallest and the largest row away, ``cut`` times; short where little is cut."""
    found: list[Comparator] = []
    for low in range(cut):
        high = rows - 1 - low
        half = (high - low + 1) // 2
        found += [(low + i, high - i) for i in range(half)]  # the smallest is now in the lower half ...
        middle = low + half if (high - low) % 2 == 0 else None  # ... or, where the number is odd, in the middle
        lower = [*range(low + 1, low + half)] + ([] if middle is None else [middle])
        upper = [*range(high - 1, high - half, -1)] + ([] if middle is None else [middle])
        found += [(low, i) for i in lower]
        found += [(i, high) for i in upper]
    return found


_Plan = list[tuple[int, int, bool, bool]]  # comparators with which of their halves are needed


def _pruned(network: list[Comparator], rows: int, cut: int) -> _Plan:
    """The comparators that matter to the set in the middle, last one first looked at.

    One that comes last on both of its rows can go if both end in the middle: the set stays as it is. Both at the same
    end, neither is ever looked at again.
    """
    inside = [cut <= row < rows - cut for row in range(rows)]
    settled = [True] * rows  # no comparator comes later on this row
    plan: _Plan = []
    for i, j in reversed(network):
        low, high = (not settled[row] or inside[row] for row in (i, j))
        if (settled[i] and settled[j] and inside[i] and inside[j]) or not (low or high):
            continue
        plan.append((i, j, low, high))
        settled[i] = settled[j] = False
    return plan[::-1]


def _operations(plan: _Plan) -> int:
    return sum(low + high for _, _, low, high in plan)


def _allocated(plan: _Plan, rows: int, cut: int) -> Program:
    """``plan`` with a register for each result; a register whose value is not needed any more is used again."""
    at = list(range(rows))  # in which register each row is
    free: list[int] = []
    end = rows
    steps: list[tuple[Literal["min", "max"], int, int, int]] = []
    for i, j, low, high in plan:
        a, b = at[i], at[j]
        spent = [register for register in (a, b) if register >= rows]
        if low and high:
            # the first result must not overwrite what the second one reads; the second may
            if free:
                first = free.pop()
            else:
                first, end = end, end + 1
            steps.append(("min", a, b, first))
            at[i] = first
        if spent:
            target = spent.pop()
        elif free:
            target = free.pop()
        else:
            target, end = end, end + 1
        steps.append(("max" if high else "min", a, b, target))
        at[j if high else i] = target
        free += spent
    return Program(tuple(steps), end - rows, tuple(at[cut : rows - cut]))
