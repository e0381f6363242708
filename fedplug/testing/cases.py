"""Seeded random inputs for the laws of aggregation: small shapes, bounded magnitudes, several dtypes, always the same.

A law that only holds for friendly numbers is no law; but numbers near overflow test NumPy, not an aggregator.
So all values lie in [-8, 8], which every dtype can hold. (What is hostile is made in `fedplug.testing.hostile`.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from fedplug.core.aggregator import NodePayload
from fedplug.core.context import RoundContext
from fedplug.core.params import Array, Params
from fedplug.core.rng import SeedTree
from fedplug.core.training_args import TrainingArgs
from fedplug.core.update import Update

BOUND = 8.0
"""Largest magnitude of a value."""

GRID = 64
"""Values on the grid are multiples of one 64th: with shifts of whole numbers, every dtype holds them exactly."""

Layout = Sequence[tuple[str, tuple[int, ...], str]]
"""Name, shape and dtype of each array."""

LAYOUTS: tuple[Layout, ...] = (
    (("w", (5,), "float32"),),
    (("weight", (3, 2), "float64"), ("bias", (), "float64")),
    (("layer.weight", (2, 2), "float32"), ("half", (3,), "float16"), ("num_batches", (), "int64")),
)
"""One dtype, several shapes, several dtypes; with an integer counter as BatchNorm has one."""

NODE_COUNTS = (1, 2, 3, 6)

_ARGS = TrainingArgs(num_updates=10).dict()

Complete = Callable[[Update, "Case"], Update]
"""Adds to an update what its node would send beside the parameters."""


@dataclass(frozen=True)
class Case:
    """One round as an aggregator sees it, and the updates of the rounds that follow it.

    Attributes:
        start: The global parameters of the first round; a later round starts with the result of the one before.
        updates: The updates of the first round, in sorted node order.
        ctx: The first round.
        later: The updates of the rounds that follow.
        complete: See `fedplug.testing.Subject`.
        payloads: What each node was sent beside the parameters; known while a round is played.
    """

    start: Params
    updates: tuple[Update, ...]
    ctx: RoundContext
    later: tuple[tuple[Update, ...], ...] = ()
    complete: Complete | None = field(default=None, repr=False, compare=False)
    payloads: Mapping[str, NodePayload | None] = field(default_factory=lambda: MappingProxyType({}), repr=False)

    @property
    def rounds(self) -> tuple[tuple[Update, ...], ...]:
        """The updates of each round."""
        return (self.updates, *self.later)

    def with_updates(self, updates: Sequence[Update]) -> Case:
        """The first round alone, with other updates."""
        return replace(self, updates=tuple(updates), later=(), ctx=self._context(updates))

    def each(self, change: Callable[[Sequence[Update]], Iterable[Update]]) -> Case:
        """All rounds with their updates changed."""
        first, *later = (tuple(change(updates)) for updates in self.rounds)
        return replace(self, updates=first, later=tuple(later), ctx=self._context(first))

    def mapped(self, function: Callable[[str, Array], Any]) -> Case:
        """All rounds with ``function(name, array)`` for each array of the start and of the updates."""

        def moved(params: Params) -> Params:
            spec = params.spec
            return Params.build(spec, lambda name, out: np.copyto(out, function(name, params[name]), casting="unsafe"))

        changed = self.each(lambda updates: [replace(update, params=moved(update.params)) for update in updates])
        return replace(changed, start=moved(self.start))

    def until(self, rounds: int) -> Case:
        """The first ``rounds`` rounds."""
        return replace(self, later=self.later[: rounds - 1])

    def rest(self, rounds: int, result: object) -> Case:
        """What follows after ``rounds`` rounds that have led to ``result``.

        Where that is no model it begins at `start`: one law is about that, and the others go on as well as they can.
        """
        fits = isinstance(result, Params) and not self.start.spec.difference(result.spec)
        start = result if isinstance(result, Params) and fits else self.start
        first, *later = self.rounds[rounds:]
        ctx = context([update.node_id for update in first], self.start, self.ctx.round + rounds)
        return replace(self, start=start, updates=first, later=tuple(later), ctx=ctx)

    def copied(self) -> Case:
        """The first round in memory of its own, so that who writes into it does no harm to other trials."""

        def copy(params: Params) -> Params:
            return Params(params.spec, bytearray(params.buffer))

        updates = tuple(replace(update, params=copy(update.params)) for update in self.updates)
        return replace(self, start=copy(self.start), updates=updates, later=())

    def largest(self, name: str) -> float:
        """Largest magnitude of one array over the start and all updates."""
        everything = [self.start, *(update.params for updates in self.rounds for update in updates)]
        return max(float(np.max(np.abs(np.asarray(params[name], np.float64)), initial=0)) for params in everything)

    def _context(self, updates: Iterable[Update]) -> RoundContext:
        return context([update.node_id for update in updates], self.start, self.ctx.round)

    def __str__(self) -> str:
        lines = [f"start: {show(self.start)}"]
        for number, updates in enumerate(self.rounds, self.ctx.round + 1):
            words = f"round {number}, update" if self.later else "update"
            lines += [
                f"{words} of {u.node_id} (sample_count={u.sample_count}, steps={u.steps}): {show(u.params)}"
                for u in updates
            ]
        return "\n".join(lines)


def cases(minimum_updates: int = 1, *, seed: int = 0, rounds: int = 1) -> Iterator[Case]:
    """Every layout with every number of nodes that is allowed.

    Args:
        minimum_updates: Smallest number of updates.
        seed: Root of the random draws.
        rounds: Number of rounds in each case.
    """
    tree = SeedTree.root(seed)
    counts = sorted({max(count, minimum_updates) for count in (*NODE_COUNTS, minimum_updates + 1)})
    for index, layout in enumerate(LAYOUTS):
        for count in counts:
            yield make_case(layout, count, tree.child("case", index, count).generator(), rounds=rounds)


def make_case(layout: Layout, count: int, rng: np.random.Generator, *, rounds: int = 1, bound: float = BOUND) -> Case:
    """A case of ``count`` nodes with random updates."""
    nodes = [f"node-{number}" for number in range(count)]
    drawn = [tuple(_update(node, layout, rng, bound) for node in nodes) for _ in range(rounds)]
    start = draw(layout, rng, bound)
    return Case(start, drawn[0], context(nodes, start), tuple(drawn[1:]))


def context(node_ids: Sequence[str], start: Params | None = None, number: int = 0) -> RoundContext:
    """A round with these nodes; the whole numbers of ``start`` are its buffers."""
    nodes, spec = tuple(sorted(node_ids)), () if start is None else start.spec.tensors
    buffers = frozenset(tensor.name for tensor in spec if tensor.is_exact)
    seed = SeedTree.root(0).child("round", number)
    return RoundContext("check", number, seed, nodes, dict(_ARGS), nodes, buffers)


def draw(layout: Layout, rng: np.random.Generator, bound: float = BOUND) -> Params:
    """Random parameters of a layout."""

    def values(shape: tuple[int, ...], dtype: str) -> Array:
        if np.dtype(dtype).kind in "iu":
            return rng.integers(0, int(bound) + 1, shape).astype(dtype)
        return np.asarray(rng.uniform(-bound, bound, shape)).astype(dtype)

    return Params.from_arrays({name: values(shape, dtype) for name, shape, dtype in layout})


def on_grid(case: Case) -> Case:
    """``case`` with its values on a grid: what is scaled by a quarter, 3 or 4, or shifted by a few, stays exact."""

    def rounded(_: str, array: Array) -> Array:
        exact = array.dtype.kind in "iu"
        return np.asarray(array * 4 if exact else np.rint(np.asarray(array, np.float64) * GRID) / GRID)

    return case.mapped(rounded)


def show(params: Params) -> str:
    """Parameters as a line of text, exact to the bit."""
    parts: list[str] = []
    for name, array in params.items():
        flat: list[Any] = [np.format_float_positional(v) if array.dtype.kind == "f" else str(v) for v in array.ravel()]
        parts.append(f"{name} {array.dtype}{list(array.shape)} = [{', '.join(flat)}]")
    return "; ".join(parts)


def _update(node: str, layout: Layout, rng: np.random.Generator, bound: float) -> Update:
    params = draw(layout, rng, bound)
    samples, steps = int(rng.integers(1, 100)), int(rng.integers(1, 20))
    loss, seconds = float(rng.uniform(0.1, 2)), float(rng.uniform(1, 9))
    timing = {"train": seconds, "train_cpu": seconds, "total": seconds + 1}
    return Update(node, params, samples, steps, metrics={"loss": loss}, timing=timing)
