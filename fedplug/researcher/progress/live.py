"""Progress in a terminal: a table that is redrawn in place, while messages scroll by above it."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedplug.core.context import RoundContext, RoundResult
from fedplug.core.messages import LogLine, NodeInfo, Progress, TrainReply
from fedplug.core.monitor import Monitor
from fedplug.researcher.progress.board import Board, Clock, NodeRow
from fedplug.researcher.progress.plain import asked_text, back_text, dropped_text, log_text
from fedplug.researcher.progress.text import (
    block,
    count,
    duration,
    metric_names,
    number,
    one_line,
    size,
)

_STYLES = {
    "waiting": "dim",
    "training": "cyan",
    "testing": "magenta",
    "sending": "blue",
    "done": "green",
    "dropped": "red",
}
_LOG_STYLES = {"warning": "yellow", "error": "red", "critical": "red"}
_ROUNDS_SHOWN = 5
_FIXED_LINES = 8  # header, blank and table heads; see _Picture


class LiveProgress(Monitor):
    """The live display. The terminal is given back by ``stopped``, by ``close``, and when the program ends.

    Args:
        file: The terminal; None if a console is given.
        console: The rich console to draw on, for tests.
        clock: Monotonic seconds.
        auto_refresh: Whether a thread redraws four times a second, so that the clocks run between events.
    """

    def __init__(
        self,
        file: IO[str] | None = None,
        *,
        console: Console | None = None,
        clock: Clock = time.monotonic,
        auto_refresh: bool = True,
    ) -> None:
        self._console = console or Console(
            file=file, markup=False, highlight=False, emoji=False, force_jupyter=False, soft_wrap=False
        )
        self._auto_refresh = auto_refresh
        self._board = Board(clock)
        self._lock = threading.Lock()  # the redrawing thread reads the board that the experiment's thread changes
        self._live: Live | None = None

    def message(self, text: str) -> None:
        """Print it above the display."""
        self._print(block(text))

    def started(self, experiment_path: Path, nodes: Mapping[str, NodeInfo], rounds: int) -> None:
        """Take the terminal."""
        self.close()
        with self._lock:
            self._board.started(experiment_path, nodes, rounds)
        self._live = Live(
            console=self._console,
            get_renderable=lambda: _Locked(self._board, self._lock),
            auto_refresh=self._auto_refresh,
            # What is piped into a file must go on landing there, so only terminals are redirected.
            redirect_stdout=_is_terminal(sys.stdout),
            redirect_stderr=_is_terminal(sys.stderr),
        )
        atexit.register(self.close)  # a run that ends without `stopped` must not leave the cursor hidden
        self._live.start(refresh=True)

    def round_started(self, ctx: RoundContext, node_ids: Sequence[str]) -> None:
        """Show the selected nodes, waiting."""
        with self._lock:
            self._board.round_started(ctx, node_ids)

    def progress(self, node_id: str, progress: Progress) -> None:
        """Move the node's bar."""
        with self._lock:
            self._board.progress(node_id, progress)

    def log(self, node_id: str, line: LogLine) -> None:
        """Print it above the display, under the node's name."""
        self._print(log_text(self._board, node_id, line), _LOG_STYLES.get(line.level.lower(), ""))

    def replied(self, node_id: str, reply: TrainReply) -> None:
        """Show the node as done."""
        with self._lock:
            self._board.replied(node_id, reply)

    def dropped(self, node_id: str, reason: str) -> None:
        """Show the reason in the node's row, and above the display, where it stays."""
        with self._lock:
            self._board.dropped(node_id, reason)
        self._print(dropped_text(self._board, node_id, reason), "red")

    def back(self, node_id: str) -> None:
        """Show the node at work, and say so above the display."""
        self._works_again(node_id, back_text(self._board, node_id))

    def asked(self, node_id: str, *, again: bool) -> None:
        """Show the node at work, and say so above the display."""
        self._works_again(node_id, asked_text(self._board, node_id, again=again))

    def _works_again(self, node_id: str, text: str) -> None:
        with self._lock:
            self._board.works_again(node_id)
        self._print(text, "green")

    def round_ended(self, ctx: RoundContext, result: RoundResult) -> None:
        """Add the round to the list of finished ones."""
        with self._lock:
            self._board.round_ended(ctx, result)

    def testing(self, ctx: RoundContext, node_ids: Sequence[str]) -> None:
        """Show the nodes that test, waiting."""
        with self._lock:
            self._board.testing(ctx, node_ids)

    def tested(self, ctx: RoundContext, result: RoundResult) -> None:
        """The nodes are through."""
        with self._lock:
            self._board.tested()

    def stopped(self, rounds_done: int, error: BaseException | None) -> None:
        """Give the terminal back and print the last line."""
        with self._lock:
            self._board.stopped()
        self.close()
        self._print(self._board.final_line(rounds_done, error is not None), "bold" if error is None else "yellow")

    def close(self) -> None:
        """Give the terminal back."""
        live, self._live = self._live, None
        if live is None:
            return
        atexit.unregister(self.close)
        with self._lock:
            self._board.running = False
        try:
            live.stop()
        finally:
            self._console.show_cursor(True)  # also when a second Ctrl-C hits the last redraw

    def _print(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style=style), soft_wrap=True)


class _Locked:
    """The picture of a board, taken at the moment it is drawn, for the size the terminal has then."""

    def __init__(self, board: Board, lock: threading.Lock) -> None:
        self._board = board
        self._lock = lock

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        with self._lock:
            drawn = picture(self._board, options.max_width, console.size.height)
        yield drawn


def picture(board: Board, width: int, height: int) -> RenderableType:
    """The display for a terminal of ``width`` columns and ``height`` lines.

    While a run goes on: header, nodes, finished rounds. Afterwards: header and finished rounds.
    """
    room = max(height - _FIXED_LINES, 2)
    if not board.running:
        return Group(*_header(board, width), *_rounds(board, width, room))
    rounds = min(len(board.finished), _ROUNDS_SHOWN, max(room // 3, 1))
    return Group(*_header(board, width), *_nodes(board, width, max(room - rounds, 1)), *_rounds(board, width, rounds))


def _header(board: Board, width: int) -> list[RenderableType]:
    folder = one_line(_short_path(board.path))
    title = Text("FedPlug ", style="bold", no_wrap=True)
    title.append(folder if len(folder) <= width - 8 else "…" + folder[-max(width - 9, 1) :], style="not bold")
    words = "  ".join(board.status())
    if len(words) > width:
        words = words.replace("  ", " ").replace("elapsed ", "").replace("about ", "~")
    status = Text(words, style="cyan" if board.running else "", no_wrap=True, overflow="ellipsis")
    return [title, status]


def _nodes(board: Board, width: int, limit: int) -> list[RenderableType]:
    if not board.rows:
        return []
    shown, hidden = board.visible(limit)
    name_width = min(max(len(row.name) for row in shown) + 1, 24 if width >= 70 else 14)
    table = Table(box=None, expand=width >= 50, pad_edge=False, padding=(0, 1), header_style="dim")
    table.add_column("Node", width=max(name_width, 4), no_wrap=True, overflow="ellipsis")
    table.add_column("State", width=8, no_wrap=True)
    if width >= 50:
        table.add_column("", ratio=1, no_wrap=True, overflow="ellipsis")
    if width >= 38:
        table.add_column("Step", justify="right", no_wrap=True, max_width=15)
    if width >= 50:
        table.add_column("Loss", justify="right", no_wrap=True, width=9)
    if width >= 90:
        table.add_column("Samples/s", justify="right", no_wrap=True, width=9)
    if width >= 70:
        table.add_column("Left", justify="right", no_wrap=True, width=8)
    now = board.clock()
    for row in shown:
        table.add_row(*_node_cells(row, width, now))
    parts: list[RenderableType] = [Text(""), table]
    if hidden:
        parts.append(Text(board.summary(len(hidden)), style="dim", no_wrap=True, overflow="ellipsis"))
    return parts


def _node_cells(row: NodeRow, width: int, now: float) -> list[RenderableType]:
    cells: list[RenderableType] = [Text(row.name), Text(row.state, style=_STYLES[row.state])]
    if width >= 50:
        cells.append(_bar(row))
    if width >= 38:
        steps = f"{count(row.step)}/{count(row.total)}" if row.total else (count(row.step) if row.step else "-")
        cells.append(Text(steps))
    if width >= 50:
        cells.append(Text(number(row.loss)))
    if width >= 90:
        cells.append(Text(count(row.rate)))
    if width >= 70:
        cells.append(Text(duration(row.eta(now))))
    return cells


def _bar(row: NodeRow) -> RenderableType:
    if row.state == "dropped":
        return Text(row.reason, style="red")
    if row.state == "waiting":
        return Text("")
    if row.fraction is None:
        return Text("number of steps not known", style="dim")
    return ProgressBar(total=1.0, completed=row.fraction, complete_style=_STYLES[row.state], finished_style="green")


def _rounds(board: Board, width: int, limit: int) -> list[RenderableType]:
    lines = list(board.finished)[-limit:]
    if not lines:
        return []
    names = metric_names({name: 0.0 for line in lines for name in line.metrics})
    names = names[: max((width - 34) // 12, 1)]
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    table.add_column("Round", justify="right", no_wrap=True)
    for name in names:
        heading = "Loss" if name == "loss" else one_line(name, 24)
        table.add_column(Text(heading), justify="right", no_wrap=True, overflow="ellipsis", max_width=24)
    if width >= 30:
        table.add_column("Nodes", justify="right", no_wrap=True)
    table.add_column("Time", justify="right", no_wrap=True)
    if width >= 60:
        table.add_column("Sent", justify="right", no_wrap=True)
        table.add_column("Received", justify="right", no_wrap=True)
    for line in lines:
        cells = [str(line.round + 1), *(number(line.metrics.get(name)) for name in names)]
        if width >= 30:
            cells.append(f"{line.used}/{line.asked}")
        cells.append(duration(line.seconds))
        if width >= 60:
            cells += [size(line.sent), size(line.received)]
        table.add_row(*map(Text, cells))
    return [Text(""), table]


def _short_path(path: Path | None) -> str:
    """The experiment's folder as people write it: from here or from home, if it lies there."""
    if path is None:
        return ""
    for base, prefix in ((Path.cwd(), ""), (Path.home(), "~" + os.sep)):
        if path.is_absolute() and path != base and path.is_relative_to(base):
            return prefix + str(path.relative_to(base))
    return str(path)


def _is_terminal(stream: IO[str] | None) -> bool:
    return stream is not None and stream.isatty()
