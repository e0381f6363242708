"""Monitors: who wants to see an experiment while it runs (a terminal, a notebook, TensorBoard, a file).

An experiment calls its monitors from its own thread, in the order of this class. A monitor that raises is
told off once and left out from then on; it never stops a training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fedplug.core.context import RoundContext, RoundResult
from fedplug.core.messages import LogLine, NodeInfo, Progress, TrainReply


class Monitor:
    """Base of all monitors: every method does nothing until it is overridden."""

    def message(self, text: str) -> None:
        """The experiment has something to say, e.g. that it waits for nodes."""

    def started(self, experiment_path: Path, nodes: Mapping[str, NodeInfo], rounds: int) -> None:
        """``run`` begins: ``rounds`` rounds (0 if not known) with ``nodes`` (by id)."""

    def round_started(self, ctx: RoundContext, node_ids: Sequence[str]) -> None:
        """A round begins."""

    def progress(self, node_id: str, progress: Progress) -> None:
        """A node shows a sign of life."""

    def log(self, node_id: str, line: LogLine) -> None:
        """A node says something."""

    def replied(self, node_id: str, reply: TrainReply) -> None:
        """A node's update has arrived and is valid."""

    def dropped(self, node_id: str, reason: str) -> None:
        """A node's work will not count in this round."""

    def back(self, node_id: str) -> None:
        """A node that was lost, or made no progress, works again."""

    def asked(self, node_id: str, *, again: bool) -> None:
        """A node takes part from now on, in the place of another; or, ``again``, gets its task once more."""

    def round_ended(self, ctx: RoundContext, result: RoundResult) -> None:
        """A round is complete."""

    def testing(self, ctx: RoundContext, node_ids: Sequence[str]) -> None:
        """A test without training begins: `progress`, `replied` and `dropped` are about it until `tested`.

        ``ctx.round`` is the round that would come next.
        """

    def tested(self, ctx: RoundContext, result: RoundResult) -> None:
        """The global model was tested without any training; ``ctx.round`` is the round that would come next."""

    def stopped(self, rounds_done: int, error: BaseException | None) -> None:
        """``run`` is over; ``error`` is what ended it early, if anything."""

    def close(self) -> None:
        """Give back files and the terminal. May be called twice."""
