"""Progress in a Jupyter cell: one output that is updated, in plain HTML with a text twin. No widgets needed."""

from __future__ import annotations

import importlib
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from fedplug.core.context import RoundContext, RoundResult
from fedplug.core.errors import UsageError
from fedplug.core.messages import LogLine, NodeInfo, Progress, TrainReply
from fedplug.core.monitor import Monitor
from fedplug.researcher.progress.board import Board, Clock, NodeRow
from fedplug.researcher.progress.plain import asked_text, back_text, dropped_text, log_text, round_text
from fedplug.researcher.progress.text import (
    block,
    count,
    duration,
    metric_names,
    number,
    one_line,
    plural,
    size,
)

_NODES_SHOWN = 20
_ROUNDS_SHOWN = 8
_NOTES_SHOWN = 8
_METRICS_SHOWN = 6
_NUMERIC = 'style="text-align:right;padding:1px 8px"'
_WORDS = 'style="text-align:left;padding:1px 8px"'


class NotebookProgress(Monitor):
    """A display that follows the run within one cell's output.

    Args:
        clock: Monotonic seconds.
        every: Least seconds between two redraws for progress; rounds and messages are drawn at once.

    Raises:
        UsageError: IPython is not installed.
    """

    def __init__(self, *, clock: Clock = time.monotonic, every: float = 0.5) -> None:
        try:  # fails here, not in the middle of a run
            self._display: Any = importlib.import_module("IPython.display").display
        except ImportError:
            raise UsageError(
                'Progress mode "notebook" needs IPython, which is not installed.',
                cure='pip install ipykernel, or choose another mode, e.g. FEDPLUG_PROGRESS="plain".',
            ) from None
        self._clock = clock
        self._every = every
        self._board = Board(clock)
        self._notes: deque[str] = deque(maxlen=_NOTES_SHOWN)
        self._final = ""
        self._handle: Any = None
        self._drawn = -float("inf")

    def message(self, text: str) -> None:
        """Add it to the notes below the tables."""
        self._note(block(text))

    def started(self, experiment_path: Path, nodes: Mapping[str, NodeInfo], rounds: int) -> None:
        """Open the output, or a new one for a second run."""
        if self._final:  # a second run: it gets an output of its own, maybe in another cell
            self._handle, self._final = None, ""
            self._notes.clear()
        self._board.started(experiment_path, nodes, rounds)
        self._draw()

    def round_started(self, ctx: RoundContext, node_ids: Sequence[str]) -> None:
        """Show the selected nodes, waiting."""
        self._board.round_started(ctx, node_ids)
        self._draw()

    def progress(self, node_id: str, progress: Progress) -> None:
        """Move the node's bar."""
        self._board.progress(node_id, progress)
        if self._clock() - self._drawn >= self._every:
            self._draw()

    def log(self, node_id: str, line: LogLine) -> None:
        """Add it to the notes, under the node's name."""
        self._note(log_text(self._board, node_id, line))

    def replied(self, node_id: str, reply: TrainReply) -> None:
        """Show the node as done."""
        self._board.replied(node_id, reply)
        if self._clock() - self._drawn >= self._every:
            self._draw()

    def dropped(self, node_id: str, reason: str) -> None:
        """Show the reason in the node's row and in the notes."""
        self._board.dropped(node_id, reason)
        self._note(dropped_text(self._board, node_id, reason))

    def back(self, node_id: str) -> None:
        """Show the node at work, and say so in the notes."""
        self._board.works_again(node_id)
        self._note(back_text(self._board, node_id))

    def asked(self, node_id: str, *, again: bool) -> None:
        """Show the node at work, and say so in the notes."""
        self._board.works_again(node_id)
        self._note(asked_text(self._board, node_id, again=again))

    def round_ended(self, ctx: RoundContext, result: RoundResult) -> None:
        """Add the round to the list of finished ones."""
        self._board.round_ended(ctx, result)
        self._draw()

    def testing(self, ctx: RoundContext, node_ids: Sequence[str]) -> None:
        """Show the nodes that test, waiting."""
        self._board.testing(ctx, node_ids)
        self._draw()

    def tested(self, ctx: RoundContext, result: RoundResult) -> None:
        """The nodes are through."""
        self._board.tested()
        self._draw()

    def stopped(self, rounds_done: int, error: BaseException | None) -> None:
        """Draw the last picture, with the last line."""
        self._board.stopped()
        self._final = self._board.final_line(rounds_done, error is not None)
        self._draw()

    def _note(self, text: str) -> None:
        if self._final:  # said after a run: it belongs to the next one
            self._handle, self._final, self._board = None, "", Board(self._clock)
            self._notes.clear()
        self._notes.append(text)
        self._draw()

    def _draw(self) -> None:
        self._drawn = self._clock()
        bundle = {
            "text/html": page(self._board, self._notes, self._final),
            "text/plain": plain_page(self._board, self._notes, self._final),
        }
        if self._handle is None:
            self._handle = self._display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


def page(board: Board, notes: Iterable[str], final: str) -> str:
    """The board as HTML: no script, no style sheet, the notebook's own colours."""
    parts = []
    if board.path is not None:
        parts.append(f"<div><b>FedPlug</b> {escape(one_line(str(board.path)))}</div>")
        status = ", ".join(board.status())
        parts.append(f"<div>{escape(status)}</div>")
    if board.running and board.rows:
        shown, hidden = board.visible(_NODES_SHOWN)
        now = board.clock()
        head = _cells("th", ("Node", "State", ""), ("Step", "Loss", "Samples/s", "Left"))
        parts.append(f"<table><tr>{head}</tr>{''.join(_node_html(row, now) for row in shown)}</table>")
        if hidden:
            parts.append(f"<div>{escape(board.summary(len(hidden)))}</div>")
    if board.finished:
        parts.append(_rounds_html(board))
    notes = list(notes)
    if notes:
        parts.append(f'<pre style="margin:4px 0">{escape(chr(10).join(notes))}</pre>')
    if final:
        parts.append(f"<div><b>{escape(final)}</b></div>")
    return f'<div class="fedplug-progress">{"".join(parts)}</div>'


def plain_page(board: Board, notes: Iterable[str], final: str) -> str:
    """The same as text, for viewers without HTML and for diffs of notebooks."""
    lines = []
    if board.path is not None:
        lines += [f"FedPlug {one_line(str(board.path))}", ", ".join(board.status())]
    if board.running and board.rows:
        shown, hidden = board.visible(_NODES_SHOWN)
        lines += [f"{row.name}: {row.state}, step {_steps(row)}, loss {number(row.loss)}" for row in shown]
        lines += [board.summary(len(hidden))] if hidden else []
    lines += [f"{board.label(line.round)}: {round_text(line)}" for line in list(board.finished)[-_ROUNDS_SHOWN:]]
    lines += notes
    return "\n".join([*lines, final] if final else lines)


def _steps(row: NodeRow) -> str:
    return f"{count(row.step)}/{count(row.total)}" if row.total else count(row.step)


def _node_html(row: NodeRow, now: float) -> str:
    if row.state == "dropped":
        bar = escape(row.reason)
    elif row.state == "waiting" or row.fraction is None:
        bar = ""
    else:
        bar = f'<progress value="{row.fraction:.4f}" max="1"></progress>'
    words = _cells("td", (escape(row.name), row.state, bar), ())
    figures = (_steps(row), number(row.loss), count(row.rate), duration(row.eta(now)))
    return f"<tr>{words}{_cells('td', (), figures)}</tr>"


def _rounds_html(board: Board) -> str:
    lines = list(board.finished)[-_ROUNDS_SHOWN:]
    every = metric_names({name: 0.0 for line in lines for name in line.metrics})
    names, left = every[:_METRICS_SHOWN], every[_METRICS_SHOWN:]
    headings = ("Loss" if name == "loss" else escape(one_line(name, 40)) for name in names)
    rows = [f"<tr>{_cells('th', (), ('Round', *headings, 'Nodes', 'Time', 'Sent', 'Received'))}</tr>"]
    for line in lines:
        figures = (number(line.metrics.get(name)) for name in names)
        traffic = (size(line.sent), size(line.received))
        cells = (str(line.round + 1), *figures, f"{line.used}/{line.asked}", duration(line.seconds), *traffic)
        rows.append(f"<tr>{_cells('td', (), cells)}</tr>")
    note = f"<div>and {plural(len(left), 'more metric')}: exp.history</div>" if left else ""
    return f"<table>{''.join(rows)}</table>{note}"


def _cells(tag: str, words: Iterable[str], figures: Iterable[str]) -> str:
    left = "".join(f"<{tag} {_WORDS}>{text}</{tag}>" for text in words)
    return left + "".join(f"<{tag} {_NUMERIC}>{text}</{tag}>" for text in figures)
