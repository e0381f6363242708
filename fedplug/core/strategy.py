"""Strategies: who trains in a round, and what happens when somebody does not.

Nothing else in FedPlug decides about nodes that fail, hang or leave. Here are the base and the two strategies
that put up with no loss; those that do are in `fedplug.core.quorum`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Self, overload

from fedplug.core.context import RoundContext
from fedplug.core.errors import UsageError
from fedplug.core.numbers import is_number, is_whole
from fedplug.core.stateful import Stateful

Outcome = Literal["replied", "failed", "refused", "rejected", "interrupted", "lost", "stalled"]
"""What became of a node in a round: see `RoundState.outcomes`."""

SILENCE = 900.0
"""Seconds without any sign of progress after which a node counts as stalled. Nodes end such a training by themselves,
by default after 600 s; this is for those that do not."""

PATIENCE = 60.0
"""Seconds that the strategies which need every node wait for one that is lost or stalled."""

MOST_TRIES = 3
"""So often is a node given its task in one round, if it is restarted while it trains."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a strategy makes of the state of a round.

    Attributes:
        verdict: ``"wait"`` for more replies, ``"enough"`` to aggregate what is there, ``"abort"`` to give up.
        reason: Why, in words for the researcher. Needed for ``"abort"``; with ``"enough"`` it is told of the
            nodes that were still training.
        ask: With ``"wait"``: nodes that are given a task besides. One that was ``interrupted`` or has ``failed`` gets
            its own once more, as a new attempt; one of `RoundState.others` takes part in the round from now on.
    """

    verdict: Literal["wait", "enough", "abort"]
    reason: str = ""
    ask: tuple[str, ...] = ()


class NodesOnDemand(Sequence[str]):
    """Node ids, sorted, that are looked for when somebody wants them: there may be very many, and few ever do.

    Args:
        find: Finds them; called once at most.
    """

    def __init__(self, find: Callable[[], Iterable[str]]) -> None:
        self._find = find

    @cached_property
    def _found(self) -> tuple[str, ...]:
        return tuple(sorted(self._find()))

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        return self._found[index]

    def __len__(self) -> int:
        return len(self._found)

    def __repr__(self) -> str:
        return repr(self._found)


@dataclass(frozen=True, slots=True)
class RoundState:
    """Where a round stands, as `Strategy.judge` sees it.

    Attributes:
        selected: The nodes that were asked to train, sorted; at the end those of ``added``, in the order of asking.
        outcomes: What became of those that are done. ``replied``: its update is valid. ``failed``: its training
            did, and it said why. ``refused``: its owner's rules forbid the training. ``rejected``: its update was not
            taken. ``interrupted``: it was restarted, is back, and has lost its task. ``lost``: it is gone.
            ``stalled``: it is there and makes no progress. Those of the last two kinds may still reply, and are then no
            longer among the outcomes.
        reasons: The words that belong to an outcome other than ``replied``.
        elapsed: Seconds since the round began.
        since: For each node, seconds since its outcome; for one that still trains, since its last sign of progress.
        tries: How often a node was given its task in this round, where it was more than once.
        others: Nodes that are connected and could be asked besides, sorted; empty if this round can take no more.
        added: Those of ``selected`` that a `Decision` has asked besides.
        counts: How many nodes have each outcome; None: `number` counts them.
    """

    selected: tuple[str, ...]
    outcomes: Mapping[str, Outcome]
    reasons: Mapping[str, str]
    elapsed: float
    since: Mapping[str, float] = field(default_factory=dict)
    tries: Mapping[str, int] = field(default_factory=dict)
    others: Sequence[str] = ()
    added: tuple[str, ...] = ()
    counts: Mapping[Outcome, int] | None = None

    def number(self, *outcomes: Outcome) -> int:
        """How many nodes have one of these outcomes, at once however many there are."""
        counts = self.counts
        if counts is None:
            counts = Counter(self.outcomes.values())
        return sum(counts.get(outcome, 0) for outcome in outcomes)

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
        """The nodes that will not reply, sorted; those that are away may still do."""
        if self.number("replied") == len(self.outcomes):
            return []
        return sorted(node for node, outcome in self.outcomes.items() if outcome != "replied")

    @property
    def away(self) -> list[str]:
        """The nodes that are lost or stalled and may still reply, sorted."""
        if not self.number("lost", "stalled"):
            return []
        return sorted(node for node, outcome in self.outcomes.items() if outcome in ("lost", "stalled"))

    @property
    def restarted(self) -> list[str]:
        """The nodes that were interrupted and have not had their task too often yet, sorted."""
        if not self.number("interrupted"):
            return []
        interrupted = (node for node, outcome in self.outcomes.items() if outcome == "interrupted")
        return sorted(node for node in interrupted if self.tries.get(node, 1) < MOST_TRIES)


class Strategy(Stateful, ABC):
    """Base of all strategies.

    Attributes:
        silence: Seconds without any sign of progress after which a node counts as stalled.
    """

    silence: float = SILENCE

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
    """All nodes train, and all must reply.

    A node that is lost or stalled is given some time; one that was restarted gets its task again.

    Args:
        patience: Seconds to wait for a node that is lost or stalled.
        silence: Seconds without any sign of progress after which a node counts as stalled.

    Raises:
        UsageError: An argument is out of range.
    """

    patience: float = PATIENCE

    def __init__(self, *, patience: float = PATIENCE, silence: float = SILENCE) -> None:
        check_seconds(patience=patience, silence=silence)
        self.patience = patience
        self.silence = silence

    def select(self, ctx: RoundContext, nodes: Sequence[str]) -> list[str]:
        """All ``nodes``."""
        return list(nodes)

    def judge(self, ctx: RoundContext, state: RoundState) -> Decision:
        """Wait for every node; abort as soon as one cannot reply."""
        return judge_all(state, self.patience)


class RandomStrategy(Strategy):
    """A random part of the nodes trains, drawn anew each round from the experiment's seed, and all of it must reply.

    Args:
        fraction: Share of the nodes, in (0, 1]; at least one node trains.
        count: Number of nodes instead of a share.
        patience: As for `DefaultStrategy`.
        silence: As for `DefaultStrategy`.

    Raises:
        UsageError: Not exactly one of the first two is given, or an argument is out of range.
    """

    @classmethod
    def conformance_cases(cls) -> list[Self]:
        """What ``fedplug plugins check`` tests."""
        return [cls(0.5), cls(count=2), cls(0.5, patience=0)]

    def __init__(
        self,
        fraction: float | None = None,
        *,
        count: int | None = None,
        patience: float = PATIENCE,
        silence: float = SILENCE,
    ) -> None:
        if (fraction is None) == (count is None):
            raise UsageError("RandomStrategy needs either fraction or count.", cure="E.g. RandomStrategy(0.5).")
        check_share(fraction, count)
        check_seconds(patience=patience, silence=silence)
        self.fraction = fraction
        self.count = count
        self.patience = patience
        self.silence = silence

    def select(self, ctx: RoundContext, nodes: Sequence[str]) -> list[str]:
        """A sample of ``nodes`` without repetition, sorted."""
        return draw(ctx, nodes, self.fraction, self.count)

    def judge(self, ctx: RoundContext, state: RoundState) -> Decision:
        """Wait for every selected node; abort as soon as one cannot reply."""
        return judge_all(state, self.patience)


def judge_all(state: RoundState, patience: float) -> Decision:
    """What to make of a round that needs every node.

    Args:
        state: The round.
        patience: Seconds to wait for a node that is lost or stalled.
    """
    if state.number("replied") == len(state.outcomes):  # the usual case, quickly
        return Decision("enough" if len(state.outcomes) == len(state.selected) else "wait")
    again, away = state.restarted, state.away
    out = [node for node in state.dropped if node not in again and node not in away]
    out += [node for node in away if state.since.get(node, state.elapsed) >= patience]
    if out:
        node = out[0]
        more = f" (and {len(state.dropped) - 1} more)" if state.dropped[1:] else ""
        waited = f", and was not back within {patience:g} s" if node in away and patience else ""
        return Decision("abort", f"node {node!r} {state.outcomes[node]}: {state.reasons.get(node, '')}{waited}{more}")
    if len(state.replied) == len(state.selected):
        return Decision("enough")
    return Decision("wait", ask=tuple(again))


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


def check_seconds(**values: object) -> None:
    """Refuse a span of time, given under its argument's name, that cannot be one.

    Raises:
        UsageError: It is no finite number of at least 0.
    """
    for name, value in values.items():
        if not (is_number(value) and 0 <= value < math.inf):
            raise UsageError(f"{name} must be a number of seconds of at least 0, got {value!r}.")
