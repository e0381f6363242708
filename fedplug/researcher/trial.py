"""Something that may come to nothing: what it has taught anybody is then taken back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from functools import partial
from typing import TypeVar

from fedplug.core.agg_optimizer import AggOptimizer
from fedplug.core.aggregator import Aggregator
from fedplug.core.strategy import Strategy

T = TypeVar("T")
Undo = list[Callable[[], None]]
"""What takes things back, the last one first. Each may be called twice."""


def trial(
    act: Callable[[Undo], T], parts: Iterable[Aggregator | AggOptimizer | Strategy], counts: Callable[[], bool]
) -> T:
    """Call ``act``; if it does not count in the end, everything is as before, whenever Ctrl-C has come.

    So a round that failed is repeated as if it had never been tried, and a test teaches nobody anything.

    Args:
        act: What to do. It may add to what takes things back, whose beginning is the state of each part.
        parts: What learns meanwhile.
        counts: Whether it counts.

    Returns:
        What ``act`` returned.
    """
    undo: Undo = [partial(part.load_state_dict, deepcopy(part.state_dict())) for part in parts]

    def take_back() -> None:
        if not counts():
            for each in reversed(undo):
                each()

    try:  # here and not in a function or a `with`: Ctrl-C could come before that had begun
        try:
            return act(undo)
        finally:
            take_back()
    except KeyboardInterrupt:
        take_back()  # all of it, wherever the first time was interrupted
        raise
