"""What is known of a running experiment, ready to be drawn. No I/O and no clock of its own."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedplug.core.context import RoundContext, RoundResult
from fedplug.core.messages import NodeInfo, Progress, TrainReply
from fedplug.researcher.progress.text import duration, number, one_line, plural

Clock = Callable[[], float]

STATES = ("sending", "testing", "training", "dropped", "waiting", "done")
"""States of a node within a round, the ones worth a look first."""

_NAME_LIMIT = 40
_KEPT_ROUNDS = 50
_RECENT = 5  # rounds whose mean duration tells how long the next ones take


@dataclass(slots=True)
class NodeRow:
    """One node in the current round. Figures come from the network: read them through the properties."""

    node_id: str
    name: str
    state: str = "waiting"
    reason: str = ""
    attempt: int = 0
    step: int = 0
    total: int = 0
    samples: int = 0
    seconds: float = 0.0
    loss: float | None = None
    heard: float = 0.0

    @property
    def fraction(self) -> float | None:
        """Share of the steps that are done, in [0, 1]; None if the total is not known."""
        if self.state == "done":
            return 1.0
        return min(self.step / self.total, 1.0) if self.total else None

    @property
    def rate(self) -> float | None:
        """Samples per second since training began."""
        return self.samples / self.seconds if self.samples and self.seconds > 0 else None

    def eta(self, now: float) -> float | None:
        """Seconds until the last step, counted down from the last sign of life; None if unknown."""
        if self.state not in ("training", "testing") or not self.step or not self.total or self.seconds <= 0:
            return None
        left = self.seconds * max(self.total - self.step, 0) / self.step
        return max(left - (now - self.heard), 0.0)


@dataclass(frozen=True, slots=True)
class RoundLine:
    """One finished round."""

    round: int
    metrics: Mapping[str, float]
    used: int
    asked: int
    seconds: float
    sent: int | None
    received: int | None


@dataclass(slots=True)
class Board:
    """The state behind every display; the methods follow `fedplug.core.monitor.Monitor`.

    Args:
        clock: Monotonic seconds.
    """

    clock: Clock
    path: Path | None = None
    names: dict[str, str] = field(default_factory=dict)
    rounds: int = 0
    rows: dict[str, NodeRow] = field(default_factory=dict)
    finished: deque[RoundLine] = field(default_factory=lambda: deque(maxlen=_KEPT_ROUNDS))
    current: int | None = None
    is_test: bool = False
    running: bool = False
    _first: int | None = None
    _begin: float = 0.0
    _round_begin: float = 0.0
    _end: float | None = None

    def started(self, path: Path, nodes: Mapping[str, NodeInfo], rounds: int | None) -> None:
        """A run begins: forget the one before."""
        self.path, self.rounds = path, max(rounds or 0, 0)
        self.names = display_names(nodes)
        self.rows = {node_id: NodeRow(node_id, name) for node_id, name in self.names.items()}
        self.finished.clear()
        self.current = self._first = self._end = None
        self.running, self.is_test = True, False
        self._begin = self._round_begin = self.clock()

    def round_started(self, ctx: RoundContext, node_ids: Sequence[str]) -> None:
        """All selected nodes wait; the others are not shown."""
        self.current, self.is_test = ctx.round, False
        self._first = ctx.round if self._first is None else self._first
        self._round_begin = self.clock()
        self.rows = {node_id: NodeRow(node_id, self.name(node_id)) for node_id in node_ids}

    def testing(self, ctx: RoundContext, node_ids: Sequence[str]) -> None:
        """A test without training begins: it is no round, and counts as none."""
        self.current, self.is_test = ctx.round, True
        self.rows = {node_id: NodeRow(node_id, self.name(node_id)) for node_id in node_ids}

    def tested(self) -> None:
        """The test is over."""
        self.current, self.is_test = None, False

    def progress(self, node_id: str, progress: Progress) -> NodeRow | None:
        """Take in a sign of life. None if it is of no concern: another round, another node, work that is over."""
        row = self.rows.get(node_id)
        if row is None or progress.key.round != self.current or progress.key.attempt < row.attempt:
            return None
        if row.state == "done" or (row.state == "dropped" and progress.key.attempt == row.attempt):
            return None
        row.attempt, row.reason, row.heard = progress.key.attempt, "", self.clock()
        row.step, row.total = max(progress.step, 0), max(progress.total_steps, 0)
        row.samples = max(progress.samples, 0)
        row.seconds = progress.seconds if math.isfinite(progress.seconds) else 0.0
        row.loss = progress.metrics.get("loss", row.loss)
        complete = 0 < row.total <= row.step
        if progress.phase == "train":
            row.state = "sending" if complete else "training"
        else:
            row.state = "sending" if complete and progress.phase == "test-local" else "testing"
        return row

    def replied(self, node_id: str, reply: TrainReply) -> None:
        """A node is through."""
        row = self._row(node_id)
        row.state, row.reason = "done", ""
        row.step = row.total = max(reply.steps, row.step, 0)
        row.loss = reply.metrics.get("loss", row.loss)

    def dropped(self, node_id: str, reason: str) -> None:
        """A node is out of this round."""
        row = self._row(node_id)
        row.state, row.reason = "dropped", one_line(reason, 200)

    def works_again(self, node_id: str) -> None:
        """A node that was out of this round, or was not in it, works for it from now on."""
        row = self._row(node_id)
        row.state, row.reason, row.heard = "waiting", "", self.clock()

    def round_ended(self, ctx: RoundContext, result: RoundResult) -> RoundLine:
        """A round is complete."""
        for node_id, reply in result.replies.items():
            self.replied(node_id, reply)
        for node_id, reason in result.dropped.items():
            self.dropped(node_id, reason)
        seconds = result.seconds if math.isfinite(result.seconds) else self.clock() - self._round_begin
        line = RoundLine(
            round=ctx.round,
            metrics=dict(result.metrics),
            used=len(result.replies),
            asked=max(len(self.rows), len(result.replies)),
            seconds=max(seconds, 0.0),
            sent=result.traffic.get("bytes_sent"),
            received=result.traffic.get("bytes_received"),
        )
        self.finished.append(line)
        self.current = None
        return line

    def stopped(self) -> None:
        """The run is over: clocks stand still."""
        self.running = self.is_test = False
        self._end = self.clock()

    def name(self, node_id: str) -> str:
        """What to call a node on a screen."""
        return self.names.get(node_id) or one_line(node_id, _NAME_LIMIT)

    def label(self, number_: int) -> str:
        """``round 2/5`` for the round with this number; people count from 1. ``test`` while there is no training."""
        if self.is_test:
            return "test"
        total = f"/{(self._first or 0) + self.rounds}" if self.rounds else ""
        return f"round {number_ + 1}{total}"

    @property
    def done_rounds(self) -> int:
        """Finished rounds of this run."""
        return 0 if self._first is None or not self.finished else self.finished[-1].round + 1 - self._first

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return (self.clock() if self._end is None else self._end) - self._begin

    @property
    def eta(self) -> float | None:
        """Seconds until the last round ends; None if the number of rounds or their pace is not known."""
        if not self.rounds or not self.running or self.is_test:
            return None
        now = self.clock()
        spent = now - self._round_begin if self.current is not None else 0.0
        if self.finished:
            recent = list(self.finished)[-_RECENT:]
            pace = sum(line.seconds for line in recent) / len(recent)
        else:
            nodes = [left for row in self.rows.values() if (left := row.eta(now)) is not None]
            if not nodes:
                return None
            pace = spent + max(nodes)
        return max(pace * (self.rounds - self.done_rounds) - min(spent, pace), 0.0)

    def counts(self) -> dict[str, int]:
        """How many nodes are in which state, in the order of `STATES`; states without a node are left out."""
        found = Counter(row.state for row in self.rows.values())
        return {state: found[state] for state in STATES if found[state]}

    def visible(self, limit: int) -> tuple[list[NodeRow], list[NodeRow]]:
        """The rows to show, and those left out. If all fit they keep their order, else the busiest come first."""
        rows = list(self.rows.values())
        if len(rows) <= limit:
            return rows, []
        rows.sort(key=lambda row: STATES.index(row.state))  # stable: equals keep their places, so nothing jumps
        return rows[:limit], rows[limit:]

    def status(self) -> list[str]:
        """Where the run is: the round, the time so far, the time left."""
        number_ = self.current
        if number_ is None and self.finished:
            number_ = self.finished[-1].round
        parts = ["Starting" if number_ is None else self.label(number_).capitalize()]
        parts.append(f"elapsed {duration(self.elapsed)}")
        if (eta := self.eta) is not None:
            parts.append(f"about {duration(eta)} left")
        return parts

    def summary(self, hidden: int) -> str:
        """One line for the ``hidden`` nodes that found no room."""
        kinds = ", ".join(f"{amount} {state}" for state, amount in self.counts().items())
        return f"and {hidden} more; of all {len(self.rows)}: {kinds}"

    def final_line(self, rounds_done: int, failed: bool) -> str:
        """The last line of a run. Of an error only that there was one: its text is the caller's to print."""
        if failed:
            return f"Stopped after {plural(rounds_done, 'round')} in {duration(self.elapsed)}."
        loss = self.finished[-1].metrics.get("loss") if self.finished else None
        tail = "" if loss is None else f", final loss {number(loss)}"
        where = "" if self.path is None else f" Results: {one_line(str(self.path))}"
        return f"Finished {plural(rounds_done, 'round')} in {duration(self.elapsed)}{tail}.{where}"

    def _row(self, node_id: str) -> NodeRow:
        return self.rows.setdefault(node_id, NodeRow(node_id, self.name(node_id)))


def display_names(nodes: Mapping[str, NodeInfo]) -> dict[str, str]:
    """A safe name for each node id; nodes of one name are told apart by the end of their id."""
    plain = {node_id: one_line(info.name or node_id, _NAME_LIMIT) for node_id, info in nodes.items()}
    used = Counter(plain.values())
    return {
        node_id: f"{name} ({one_line(node_id, 200)[-6:]})" if used[name] > 1 else name
        for node_id, name in plain.items()
    }
