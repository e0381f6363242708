"""Seeded random inputs for the laws: small shapes, bounded magnitudes, several dtypes, always the same.

A law that only holds for friendly numbers is no law; but numbers near overflow test NumPy, not an aggregator.
So all values lie in [-8, 8], which every dtype can hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedplug.core.context import RoundContext
from fedplug.core.params import Array, Params
from fedplug.core.rng import SeedTree
from fedplug.core.update import Update

BOUND = 8.0
"""Largest magnitude of a value."""

Layout = Sequence[tuple[str, tuple[int, ...], str]]

LAYOUTS: tuple[Layout, ...] = (
    (("w", (5,), "float32"),),
    (("weight", (3, 2), "float64"), ("bias", (), "float64")),
    (("layer.weight", (2, 2), "float32"), ("half", (3,), "float16"), ("num_batches", (), "int64")),
)
"""One dtype, several shapes, several dtypes; with an integer counter as BatchNorm has one."""

NODE_COUNTS = (1, 2, 3, 6)


@dataclass(frozen=True)
class Case:
    """One round as an aggregator sees it."""

    start: Params
    updates: tuple[Update, ...]
    ctx: RoundContext

    def with_updates(self, updates: Sequence[Update]) -> Case:
        """The same round with other updates."""
        return replace(self, updates=tuple(updates), ctx=context([update.node_id for update in updates]))

    def largest(self, name: str) -> float:
        """Largest magnitude of one array over start and updates."""
        everything = [self.start, *(update.params for update in self.updates)]
        return max(float(np.max(np.abs(np.asarray(params[name], np.float64)))) for params in everything)

    def __str__(self) -> str:
        described = (
            f"update of {u.node_id} (sample_count={u.sample_count}, steps={u.steps}): {show(u.params)}"
            for u in self.updates
        )
        return "\n".join([f"start: {show(self.start)}", *described])


def cases(minimum_updates: int = 1, *, seed: int = 0) -> Iterator[Case]:
    """Every layout with every number of nodes that is allowed.

    Args:
        minimum_updates: Smallest number of updates.
        seed: Root of the random draws.
    """
    tree = SeedTree.root(seed)
    counts = sorted({max(count, minimum_updates) for count in NODE_COUNTS})
    for index, layout in enumerate(LAYOUTS):
        for count in counts:
            rng = tree.child("case", index, count).generator()
            nodes = [f"node-{number}" for number in range(count)]
            updates = [
                Update(node, draw(layout, rng), sample_count=int(rng.integers(1, 100)), steps=int(rng.integers(1, 20)))
                for node in nodes
            ]
            yield Case(draw(layout, rng), tuple(updates), context(nodes))


def context(node_ids: Sequence[str]) -> RoundContext:
    """A first round with these nodes."""
    return RoundContext("check", 0, SeedTree.root(0), tuple(node_ids))


def draw(layout: Layout, rng: np.random.Generator) -> Params:
    """Random parameters of a layout."""

    def values(shape: tuple[int, ...], dtype: str) -> Array:
        if np.dtype(dtype).kind in "iu":
            return rng.integers(0, int(BOUND) + 1, shape).astype(dtype)
        return np.asarray(rng.uniform(-BOUND, BOUND, shape)).astype(dtype)

    return Params.from_arrays({name: values(shape, dtype) for name, shape, dtype in layout})


def show(params: Params) -> str:
    """Parameters as a line of text, exact to the bit."""
    parts: list[str] = []
    for name, array in params.items():
        flat: list[Any] = [np.format_float_positional(v) if array.dtype.kind == "f" else str(v) for v in array.ravel()]
        parts.append(f"{name} {array.dtype}{list(array.shape)} = [{', '.join(flat)}]")
    return "; ".join(parts)
