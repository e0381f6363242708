"""Progress as lines of text: for logs, pipes and cron jobs. And the mode that says next to nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from fedplug.core.context import RoundContext, RoundResult
from fedplug.core.messages import LogLine, NodeInfo, Progress, TrainReply
from fedplug.core.monitor import Monitor
from fedplug.researcher.progress.board import Board, Clock, RoundLine
from fedplug.researcher.progress.text import (
    block,
    count,
    duration,
    metrics_line,
    number,
    one_line,
    plural,
    put,
    size,
)

_MANY_NODES = 8
_ERRORS = frozenset({"error", "critical", "fatal"})


class PlainProgress(Monitor):
    """One short line for each thing that happens.

    Args:
        file: Where to write; None for what is standard error at the time.
        clock: Monotonic seconds.
        every: Seconds between two progress lines of one node. A round that is shorter has none.
    """

    def __init__(self, file: IO[str] | None = None, *, clock: Clock = time.monotonic, every: float = 5.0) -> None:
        self._file = file
        self._clock = clock
        self._every = every
        self._board = Board(clock)
        self._last_line: dict[str, float] = {}

    def message(self, text: str) -> None:
        """Print it as it is."""
        self._put(block(text))

    def started(self, experiment_path: Path, nodes: Mapping[str, NodeInfo], rounds: int) -> None:
        """One line: where, how long, with how many."""
        self._board.started(experiment_path, nodes, rounds)
        length = f"{plural(rounds, 'round')} with " if rounds else ""
        self._put(f"{one_line(str(experiment_path))}: {length}{plural(len(nodes), 'node')}")

    def round_started(self, ctx: RoundContext, node_ids: Sequence[str]) -> None:
        """One line with the nodes' names, or their number if they are many."""
        self._board.round_started(ctx, node_ids)
        self._last_line = dict.fromkeys(node_ids, self._clock())
        few = len(node_ids) <= _MANY_NODES
        who = ", ".join(map(self._board.name, node_ids)) if few else plural(len(node_ids), "node")
        self._put(f"{self._board.label(ctx.round)}: started with {who}")

    def progress(self, node_id: str, progress: Progress) -> None:
        """A line if this node's last one is long enough ago."""
        row = self._board.progress(node_id, progress)
        now = self._clock()
        if row is None or now - self._last_line.get(node_id, now) < self._every:
            return
        self._last_line[node_id] = now
        parts = [f"step {row.step}/{row.total}" if row.total else f"step {row.step}"]
        if row.loss is not None:
            parts.append(f"loss {number(row.loss)}")
        if row.rate is not None:
            parts.append(f"{count(row.rate)} samples/s")
        if (eta := row.eta(now)) is not None:
            parts.append(f"{duration(eta)} left")
        self._put(f"{self._board.label(progress.key.round)}: {row.name} {row.state}, {', '.join(parts)}")

    def log(self, node_id: str, line: LogLine) -> None:
        """Pass the node's line on, under its name."""
        self._put(log_text(self._board, node_id, line))

    def replied(self, node_id: str, reply: TrainReply) -> None:
        """One line with what the node did."""
        self._board.replied(node_id, reply)
        parts = [] if self._board.is_test else [plural(reply.steps, "step")]
        parts.append(plural(reply.sample_count, "sample"))
        if reply.metrics:
            parts.append(metrics_line(reply.metrics))
        self._put(f"{self._board.label(reply.key.round)}: {self._board.name(node_id)} replied, {', '.join(parts)}")

    def dropped(self, node_id: str, reason: str) -> None:
        """One line with the reason."""
        self._board.dropped(node_id, reason)
        self._put(dropped_text(self._board, node_id, reason))

    def back(self, node_id: str) -> None:
        """One line."""
        self._board.works_again(node_id)
        self._put(back_text(self._board, node_id))

    def asked(self, node_id: str, *, again: bool) -> None:
        """One line."""
        self._board.works_again(node_id)
        self._put(asked_text(self._board, node_id, again=again))

    def round_ended(self, ctx: RoundContext, result: RoundResult) -> None:
        """One line with what came out."""
        line = self._board.round_ended(ctx, result)
        self._put(f"{self._board.label(ctx.round)}: {round_text(line)}")

    def testing(self, ctx: RoundContext, node_ids: Sequence[str]) -> None:
        """No line: a message says that the test begins, and another one what it has found."""
        self._board.testing(ctx, node_ids)
        self._last_line = dict.fromkeys(node_ids, self._clock())

    def tested(self, ctx: RoundContext, result: RoundResult) -> None:
        """The nodes are through."""
        self._board.tested()

    def stopped(self, rounds_done: int, error: BaseException | None) -> None:
        """The last line."""
        self._board.stopped()
        self._put(self._board.final_line(rounds_done, error is not None))

    def _put(self, text: str) -> None:
        put(self._file if self._file is not None else sys.stderr, text)


class QuietProgress(Monitor):
    """Only what went wrong: error lines of nodes, and nodes whose work does not count.

    Args:
        file: Where to write; None for what is standard error at the time.
    """

    def __init__(self, file: IO[str] | None = None) -> None:
        self._file = file
        self._board = Board(time.monotonic)

    def started(self, experiment_path: Path, nodes: Mapping[str, NodeInfo], rounds: int) -> None:
        """Learn the nodes' names."""
        self._board.started(experiment_path, nodes, rounds)

    def log(self, node_id: str, line: LogLine) -> None:
        """Print it if it is an error."""
        if line.level.lower() in _ERRORS:
            self._put(log_text(self._board, node_id, line))

    def dropped(self, node_id: str, reason: str) -> None:
        """Print the reason."""
        self._put(dropped_text(self._board, node_id, reason))

    def back(self, node_id: str) -> None:
        """Take back what `dropped` has printed."""
        self._put(back_text(self._board, node_id))

    def asked(self, node_id: str, *, again: bool) -> None:
        """Print it: it follows what `dropped` has printed."""
        self._put(asked_text(self._board, node_id, again=again))

    def _put(self, text: str) -> None:
        put(self._file if self._file is not None else sys.stderr, text)


def log_text(board: Board, node_id: str, line: LogLine) -> str:
    """A node's log line as people see it; lines after the first are indented, so none can pose as ours."""
    text = block(line.text).replace("\n", "\n    ")
    return f"{board.name(node_id)} {one_line(line.level, 10).lower()}: {text}"


def dropped_text(board: Board, node_id: str, reason: str) -> str:
    """One line for a node whose work does not count in this round."""
    return f"{board.name(node_id)} dropped: {one_line(reason)}"


def back_text(board: Board, node_id: str) -> str:
    """One line for a node that was lost, or made no progress, and works again."""
    return f"{board.name(node_id)} is back, and works for this round again"


def asked_text(board: Board, node_id: str, *, again: bool) -> str:
    """One line for a node that is given a task while the round is under way."""
    name = board.name(node_id)
    return f"{name} gets its task again" if again else f"{name} takes part from now on, in the place of another node"


def round_text(line: RoundLine) -> str:
    """What a finished round came to."""
    parts = [f"done in {duration(line.seconds)}"]
    if line.metrics:
        parts.append(metrics_line(line.metrics))
    parts.append(f"{line.used} of {plural(line.asked, 'node')}")
    if line.sent is not None:
        parts.append(f"{size(line.sent)} sent")
    if line.received is not None:
        parts.append(f"{size(line.received)} received")
    return ", ".join(parts)
