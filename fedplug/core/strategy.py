"""Strategies: who trains in a round, and what happens when somebody does not.

Nothing else in FedPlug decides about nodes that fail, hang or leave. Here are the base and the two strategies
that put up with no loss; those that do are in `fedplug.core.quorum`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from fedplug.core.context import RoundContext
from fedplug.core.errors import UsageError
from fedplug.core.numbers import is_number, is_whole
from fedplug.core.stateful import Stateful

Outcome = Literal["replied", "failed", "lost", "rejected"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What a strategy makes of the state of a round.

    Attributes:
        verdict: ``"wait"`` for more replies, ``"enough"`` to aggregate what is there, ``"abort"`` to give up.
        reason: Why, in words for the researcher. Needed for ``"abort"``; with ``"enough"`` it is told of the
            nodes that were still training.
    """

    verdict: Literal["wait", "enough", "abort"]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RoundState:
    """Where a round stands, as `Strategy.judge` sees it.

    Attributes:
        selected: The nodes that were asked to train, sorted.
        outcomes: What became of those that are done: ``replied`` (its update is valid), ``failed`` (it
            said why), ``lost`` (it is gone), ``rejected`` (its update was refused).
        reasons: The words that belong to an outcome other than ``replied``.
        elapsed: Seconds since the round began.
    """

    selected: tuple[str, ...]
    outcomes: Mapping[str, Outcome]
    reasons: Mapping[str, str]
    elapsed: float

    @property
    def replied(self) -> list[str]:
        """The nodes whose update is valid, sorted."""
        return [node for node in self.selected if self.outcomes.get(node) == "replied"]

    @property
    def missing(self) -> list[str]:
        """The nodes that are still training, sorted."""
        return [node for node in self.selected if node not in self.outcomes]

    @property
    def dropped(self) -> list[str]:
        """The nodes that will not reply, sorted."""
        return sorted(node for node, outcome in self.outcomes.items() if outcome != "replied")


class Strategy(Stateful, ABC):
    """Base of all strategies."""

    @abstractmethod
    def select(self, ctx: RoundContext, nodes: Sequence[str]) -> list[str]:
        """The nodes that train in this round.

        Args:
            ctx: The round; ``ctx.seed`` is the stream to draw from.
            nodes: The nodes that hold the data, sorted. One that is away just now is among them: it gets its
                task when it is back, and is ``lost`` until then.
        """

    @abstractmethod
    def judge(self, ctx: RoundContext, state: RoundState) -> Decision:
        """Called whenever a selected node is done, and once a second: go on waiting, aggregate, or give up.

        One reply at a time is taken in, and this is called after each. So the replies that count are those of
        ``state.replied`` when the answer is ``"enough"``: nobody slips in later.
        """


class DefaultStrategy(Strategy):
    """All nodes train, and all must reply."""

    def select(self, ctx: RoundContext, nodes: Sequence[str]) -> list[str]:
        """All ``nodes``."""
        return list(nodes)

    def judge(self, ctx: RoundContext, state: RoundState) -> Decision:
        """Wait for every node; abort as soon as one cannot reply."""
        if state.dropped:
            node = state.dropped[0]
            more = f" (and {len(state.dropped) - 1} more)" if state.dropped[1:] else ""
            return Decision("abort", f"node {node!r} {state.outcomes[node]}: {state.reasons.get(node, '')}{more}")
        return Decision("wait" if len(state.outcomes) < len(state.selected) else "enough")


class RandomStrategy(Strategy):
    """A random part of the nodes trains, drawn anew each round from the experiment's seed.

    Args:
        fraction: Share of the nodes, in (0, 1]; at least one node trains.
        count: Number of nodes instead of a share.

    Raises:
        UsageError: Not exactly one of the two is given, or it is out of range.
    """

    @classmethod
    def conformance_cases(cls) -> list[Self]:
        """What ``fedplug plugins check`` tests."""
        return [cls(0.5), cls(count=2)]

    def __init__(self, fraction: float | None = None, *, count: int | None = None) -> None:
        if (fraction is None) == (count is None):
            raise UsageError("RandomStrategy needs either fraction or count.", cure="E.g. RandomStrategy(0.5).")
        check_share(fraction, count)
        self.fraction = fraction
        self.count = count

    def select(self, ctx: RoundContext, nodes: Sequence[str]) -> list[str]:
        """A sample of ``nodes`` without repetition, sorted."""
        return draw(ctx, nodes, self.fraction, self.count)

    def judge(self, ctx: RoundContext, state: RoundState) -> Decision:
        """Wait for every selected node; abort as soon as one cannot reply."""
        return DefaultStrategy().judge(ctx, state)


def draw(ctx: RoundContext, nodes: Sequence[str], fraction: float | None = None, count: int | None = None) -> list[str]:
    """A random sample of ``nodes`` without repetition, sorted; it depends on the round's seed and nothing else.

    Args:
        ctx: The round.
        nodes: Whom to draw from, sorted.
        fraction: Share of the nodes, in (0, 1]; at least one is drawn.
        count: Number of nodes instead of a share; all if there are fewer. With neither, all are taken.
    """
    if fraction is None and count is None:
        return list(nodes)
    wanted = count if fraction is None else round(fraction * len(nodes))
    size = min(len(nodes), max(1, wanted or 0))
    picked = ctx.seed.child("select").generator().choice(len(nodes), size=size, replace=False)
    return sorted(nodes[index] for index in picked)


def check_share(fraction: object, count: object) -> None:
    """Refuse a ``fraction`` or a ``count`` of nodes that cannot be one; None is neither.

    Raises:
        UsageError: It is not a number, or out of range.
    """
    if fraction is not None and not (is_number(fraction) and 0 < fraction <= 1):
        raise UsageError(f"fraction must lie in (0, 1], got {fraction!r}.", cure="E.g. fraction=0.5 for one half.")
    if count is not None and not is_whole(count, 1):
        raise UsageError(f"count must be a whole number of at least 1, got {count!r}.")
