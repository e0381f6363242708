"""What a plan's code has besides its plans: whatever is changed is noticed, named, and brought back."""

from __future__ import annotations

import functools
import random
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from fedplug.core.belongings import Belongings


class Counter:
    """Counts by itself."""

    def __init__(self) -> None:
        self.count = 0

    def tick(self) -> None:
        self.count += 1


def closing_over() -> Callable[[], None]:
    kept: list[int] = []

    def call() -> None:
        kept.append(1)

    return call


def with_default(kept: list[int] = []) -> None:  # noqa: B006 - that is the point
    kept.append(1)


class Holder:
    """Holds one thing of each kind."""

    number = 1
    items: ClassVar[list[Any]] = [1, {"inner": 2}]
    names: ClassVar[dict[str, int]] = {"one": 1}
    chosen: ClassVar[set[int]] = {1}
    recent: ClassVar[deque[int]] = deque([1], maxlen=3)
    raw = bytearray(b"ab")
    array = np.array([0.0, np.nan])
    drawn = np.random.default_rng(1)
    drawn_before = np.random.RandomState(1)
    drawn_plainly = random.Random(1)
    drawn_by_torch = torch.Generator().manual_seed(1)
    counter = Counter()
    tick = Counter().tick
    preset = functools.partial(with_default, [])
    closed = staticmethod(closing_over())
    default = staticmethod(with_default)

    class Inner:
        """One more."""

        steps = 0


CHANGES: dict[str, Callable[[], object]] = {
    "Holder": lambda: setattr(Holder, "number", 2),
    "Holder.new": lambda: setattr(Holder, "new", 2),
    "Holder.items": lambda: Holder.items.append(2),
    "Holder.items inside": lambda: Holder.items[1].update(inner=3),
    "Holder.names": lambda: Holder.names.update(one=2),
    "Holder.chosen": lambda: Holder.chosen.add(2),
    "Holder.recent": lambda: Holder.recent.append(2),
    "Holder.raw": lambda: Holder.raw.extend(b"c"),
    "Holder.array": lambda: np.copyto(Holder.array, 1.0),
    "Holder.drawn": Holder.drawn.random,
    "Holder.drawn_before": Holder.drawn_before.rand,
    "Holder.drawn_plainly": Holder.drawn_plainly.random,
    "Holder.drawn_by_torch": lambda: torch.rand((), generator=Holder.drawn_by_torch),
    "Holder.counter": Holder.counter.tick,
    "Holder.tick": Holder.tick,
    "Holder.preset": Holder.preset,
    "Holder.closed": Holder.closed,
    "Holder.default": Holder.default,
    "Inner": lambda: setattr(Holder.Inner, "steps", 1),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_is_changed_is_noticed_and_brought_back(what) -> None:
    belongings = Belongings(Holder)
    belongings.note()
    assert belongings.changed() == ""
    CHANGES[what]()
    assert belongings.changed()
    belongings.undo()
    belongings.note()
    CHANGES[what]()
    assert belongings.changed()  # once more: it was as before
    belongings.undo()
    again = Belongings(Holder)
    again.note()
    assert again.changed() == ""


def test_what_is_brought_back_is_as_it_was() -> None:
    belongings = Belongings(Holder)
    belongings.note()
    before = Holder.drawn.random(), list(Holder.items), Holder.counter.count
    Holder.items.append(3)
    Holder.counter.tick()
    belongings.undo()
    assert (Holder.drawn.random(), list(Holder.items), Holder.counter.count) == before
    assert not hasattr(Holder, "new")
    belongings.undo()  # nothing is noted any more


def test_nothing_is_changed_where_nothing_was_noted() -> None:
    belongings = Belongings(Holder)
    Holder.names["two"] = 2
    assert belongings.changed() == ""
    belongings.undo()
    assert Holder.names.pop("two") == 2
