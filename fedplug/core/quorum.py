"""Strategies that do without some of the nodes: a quorum with a deadline, and over-selection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Self

from fedplug.core.context import RoundContext
from fedplug.core.errors import UsageError
from fedplug.core.numbers import is_number, is_whole
from fedplug.core.strategy import SILENCE, Decision, RoundState, Strategy, check_seconds, check_share, draw

WaitFor = Literal["all", "quorum"]

_NAMED = 10
"""So many nodes are named, with what became of them, when a round is given up."""


class QuorumStrategy(Strategy):
    """A round needs the replies of a quorum, and can do without the rest.

    A node that fails, or whose update is refused, is out of the round. A node that is lost or stalled may still come
    with its work: as long as the quorum needs it, it is waited for until the deadline; once the quorum is there it is
    not waited for any more. Without a deadline it is out of the round at once, as nobody can tell how long to wait.
    One that was restarted gets its task again. The round is given up as soon as the quorum cannot be reached.

    Args:
        quorum: Replies that suffice: a whole number of nodes, or a share in (0, 1] of those selected, rounded up.
            ``1`` is one node, ``1.0`` is all of them.
        deadline: Seconds since the round began, after which it ends with what is there, or is given up if that is
            no quorum. None for no deadline. It is looked at once a second.
        fraction: Share of the nodes that train, in (0, 1], drawn anew each round from the experiment's seed.
        count: Number of nodes that train, instead of a share. With neither, all train.
        wait_for: ``"all"`` waits, quorum or not, for everybody who still trains, until the deadline: slow nodes
            count, and time decides about the result only where the deadline strikes. ``"quorum"`` ends the round
            with the reply that completes the quorum: fast, but which nodes count is a matter of speed, so a run
            does not repeat to the bit, and the model leans towards the data of fast nodes.
        replace: Whether another node, drawn from the experiment's seed, takes part in the place of one that is out
            of the round, lost or stalled, as long as there are nodes that were not selected.
        silence: Seconds without any sign of progress after which a node counts as stalled.

    Raises:
        UsageError: An argument is missing, out of range, or at odds with another.
    """

    @classmethod
    def conformance_cases(cls) -> list[Self]:
        """What ``fedplug plugins check`` tests."""
        return [cls(1), cls(0.5), cls(1, fraction=0.5, wait_for="quorum"), cls(1.0, fraction=0.5, replace=True)]

    def __init__(
        self,
        quorum: float | None = None,
        *,
        deadline: float | None = None,
        fraction: float | None = None,
        count: int | None = None,
        wait_for: WaitFor = "all",
        replace: bool = False,
        silence: float = SILENCE,
    ) -> None:
        if not is_whole(quorum, 1) and not (isinstance(quorum, float) and 0 < quorum <= 1):
            raise UsageError(
                f"quorum must be a whole number of nodes, or a share in (0, 1], got {quorum!r}.",
                cure="E.g. QuorumStrategy(3) for three nodes, QuorumStrategy(0.8) for 80 % of those selected.",
            )
        if fraction is not None and count is not None:
            raise UsageError("QuorumStrategy takes fraction or count, not both.", cure="With neither, all nodes train.")
        check_share(fraction, count)
        if count is not None and not isinstance(quorum, float) and quorum > count:
            raise UsageError(
                f"A quorum of {quorum} can never be reached: only {count} {_nodes(count)} would train.",
                cure="Raise count, or lower quorum.",
            )
        _check_deadline(deadline)
        if wait_for not in ("all", "quorum"):
            raise UsageError(f"wait_for must be 'all' or 'quorum', got {wait_for!r}.")
        if not isinstance(replace, bool):
            raise UsageError(f"replace must be True or False, got {replace!r}.")
        if replace and fraction is None and count is None:
            raise UsageError(
                "replace=True needs nodes that were not selected, but all nodes train.",
                cure="Let fewer train: count=10 or fraction=0.5.",
            )
        check_seconds(silence=silence)
        self.quorum = quorum
        self.deadline = deadline
        self.fraction = fraction
        self.count = count
        self.wait_for: WaitFor = wait_for
        self.replace = replace
        self.silence = silence

    def select(self, ctx: RoundContext, nodes: Sequence[str]) -> list[str]:
        """All ``nodes``, or a sample of them, sorted.

        Raises:
            UsageError: There are fewer than the quorum needs.
        """
        selected = draw(ctx, nodes, self.fraction, self.count)
        if self.needed(len(selected)) > len(selected):
            raise UsageError(
                f"A quorum of {self.quorum} cannot be reached: {len(selected)} of {len(nodes)} {_nodes(len(nodes))} "
                "would train.",
                cure="Lower quorum, or give it as a share such as 0.8; or let more nodes train.",
            )
        return selected

    def needed(self, selected: int) -> int:
        """The number of replies that suffices where ``selected`` nodes train."""
        if isinstance(self.quorum, float):
            # rounded first: 0.1 * 30 is 3.0000000000000004, and 10 % of 30 nodes are 3
            return max(1, math.ceil(round(self.quorum * selected, 9)))
        return self.quorum

    def judge(self, ctx: RoundContext, state: RoundState) -> Decision:
        """Wait, be content with the quorum, or give up when it is out of reach."""
        needed = self.needed(len(state.selected) - len(state.added))
        instead = replacements(ctx, state) if self.replace else ()
        return judge_quorum(state, needed, self.deadline, patient=self.wait_for == "all", instead=instead)


class OverSelection(Strategy):
    """More nodes train than are needed, and the first ``count`` replies are aggregated; the others are told to stop.

    So a few slow, failing or lost nodes cost no time. What it costs is their work, and that the model leans towards
    the data of fast nodes; which nodes count is a matter of speed, so a run does not repeat to the bit.

    Bonawitz, Eichner, Grieskamp et al.: "Towards Federated Learning at Scale: System Design", MLSys 2019: rounds with
    a goal count and a time-out, and the selection of 130 % of the goal to make up for devices that drop out and to
    allow stragglers to be discarded.

    Args:
        count: Number of updates that are aggregated.
        extra: How many more nodes train, as a share of ``count``: ``ceil(count * (1 + extra))`` are drawn anew each
            round from the experiment's seed. All train if there are fewer.
        deadline: Seconds since the round began, after which it is given up if ``count`` replies are not there. Until
            then nodes that are lost or stalled may still reply. None for no deadline: they are out of the round.
        silence: Seconds without any sign of progress after which a node counts as stalled.

    Raises:
        UsageError: An argument is missing or out of range.
    """

    @classmethod
    def conformance_cases(cls) -> list[Self]:
        """What ``fedplug plugins check`` tests."""
        return [cls(1), cls(2, extra=0.5)]

    def __init__(
        self,
        count: int | None = None,
        *,
        extra: float = 0.3,
        deadline: float | None = None,
        silence: float = SILENCE,
    ) -> None:
        if count is None:
            raise UsageError("OverSelection needs the number of updates to aggregate.", cure="E.g. OverSelection(10).")
        check_share(None, count)
        if not (is_number(extra) and 0 <= extra < math.inf):
            raise UsageError(f"extra must be a number of at least 0, got {extra!r}.", cure="E.g. 0.3 for 30 % more.")
        _check_deadline(deadline)
        check_seconds(silence=silence)
        self.count = count
        self.extra = extra
        self.deadline = deadline
        self.silence = silence

    def select(self, ctx: RoundContext, nodes: Sequence[str]) -> list[str]:
        """A sample of ``ceil(count * (1 + extra))`` nodes, sorted.

        Raises:
            UsageError: There are fewer than ``count`` nodes.
        """
        if len(nodes) < self.count:
            raise UsageError(
                f"OverSelection needs {self.count} updates, but only {len(nodes)} {_nodes(len(nodes))} could train.",
                cure="Lower count, or use QuorumStrategy with a share of the nodes.",
            )
        return draw(ctx, nodes, count=math.ceil(round(self.count * (1 + self.extra), 9)))

    def judge(self, ctx: RoundContext, state: RoundState) -> Decision:
        """Enough with the reply that makes them ``count``; give up when so many cannot be had."""
        return judge_quorum(state, self.count, self.deadline, patient=False)


def judge_quorum(
    state: RoundState, needed: int, deadline: float | None, *, patient: bool, instead: tuple[str, ...] = ()
) -> Decision:
    """What to make of a round that needs so many replies.

    Args:
        state: The round.
        needed: Replies that suffice.
        deadline: Seconds after which the round ends; None for no deadline.
        patient: Whether to wait, with a quorum, for those who still train.
        instead: Nodes to ask in the place of those that are out of the round.
    """
    replied, training = state.number("replied"), len(state.selected) - len(state.outcomes)
    ask = (*state.restarted, *instead)
    overdue = deadline is not None and state.elapsed >= deadline
    if replied >= needed:
        if not training and not (patient and ask):
            return Decision("enough")
        if overdue:
            return Decision("enough", f"it had not replied by the deadline of {deadline:g} s")
        if patient:
            return Decision("wait", ask=ask)
        return Decision("enough", f"{_replies(replied)} had come before its own, and no more were needed")
    possible = replied + training + len(ask) + (state.number("lost", "stalled") if deadline is not None else 0)
    if overdue:
        because = f"{_replies(replied)} of the {needed} needed had come by the deadline of {deadline:g} s"
    elif possible < needed:
        because = f"{_replies(needed)} needed, of which at most {possible} can still be had"
    else:
        return Decision("wait", ask=ask)
    return Decision("abort", f"{because}: {_absentees(state)}.")


def replacements(ctx: RoundContext, state: RoundState) -> tuple[str, ...]:
    """Nodes to ask in the place of those that are out of the round, lost or stalled; drawn from the round's seed.

    Args:
        ctx: The round.
        state: Where it stands.
    """
    gone = len(state.outcomes) - state.number("replied") - len(state.restarted) - len(state.added)
    if gone <= 0 or not state.others:
        return ()
    random = ctx.seed.child("replace", len(state.added)).generator()
    picked = random.choice(len(state.others), size=min(gone, len(state.others)), replace=False)
    return tuple(sorted(state.others[index] for index in picked))


def _absentees(state: RoundState) -> str:
    """Who has not replied, and why."""
    told = [
        f"{node!r} {state.outcomes[node]} ({state.reasons.get(node) or 'no reason given'})"
        if node in state.outcomes
        else f"{node!r} still training"
        for node in [*state.dropped, *state.missing]
    ]
    more = f" and {len(told) - _NAMED} more" if len(told) > _NAMED else ""
    return "; ".join(told[:_NAMED]) + more


def _check_deadline(deadline: object) -> None:
    if deadline is not None and not (is_number(deadline) and 0 < deadline < math.inf):
        raise UsageError(
            f"deadline must be a number of seconds above zero, or None, got {deadline!r}.", cure="E.g. deadline=600."
        )


def _nodes(count: int) -> str:
    return "node" if count == 1 else "nodes"


def _replies(count: int) -> str:
    return "1 reply" if count == 1 else f"{count} replies"
