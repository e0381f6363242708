"""What an experiment is doing, for ``fedplug status``: a small file in its folder that is replaced as a whole."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from fedplug.core.context import RoundContext, RoundResult
from fedplug.core.messages import NodeInfo, Progress, TrainReply
from fedplug.core.monitor import Monitor
from fedplug.core.whole_file import put_file
from fedplug.researcher.progress.text import one_line

STATUS_FILE = "status.json"
_INTERVAL = 0.5
"""Seconds between two writings for what happens often: progress, replies, and rounds that may be short."""

_MOST = 1024 * 1024


class NodeWork(msgspec.Struct, kw_only=True):
    """Where a node stands in the round under way. It is changed in place, as that happens often.

    Attributes:
        name: What people call it.
        state: ``"working"``, ``"replied"`` or ``"out"``.
        step: Optimizer steps done.
        total_steps: Steps to do in all; 0 if that is not known.
        reason: Why it is out.
    """

    name: str = ""
    state: str = "working"
    step: int = 0
    total_steps: int = 0
    reason: str = ""


class ExperimentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What an experiment is doing.

    Attributes:
        pid: The process that runs it.
        address: Where it meets its nodes.
        began: When this run began, in seconds since the epoch.
        written: When this was written.
        over: Whether the run has ended.
        error: What ended it early, in words.
        rounds: Rounds that are complete.
        round: The round under way, from 0; None between rounds.
        nodes: Where the nodes stand, by id.
        counters: What was sent, received, refused and dropped: see `fedplug.protocol.counters`.
    """

    pid: int
    address: str = ""
    began: float = 0.0
    written: float = 0.0
    over: bool = False
    error: str = ""
    rounds: int = 0
    round: int | None = None
    nodes: dict[str, NodeWork] = {}
    counters: dict[str, int] = {}

    @property
    def running(self) -> bool:
        """Whether its process is still there; in rare cases another one that has got its number."""
        if self.over:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


class StatusMonitor(Monitor):
    """Keeps the status file of an experiment up to date.

    A disk that is full, or a folder that cannot be written, never stops a training: the file is then out of date, and
    says since when.

    Args:
        counters: Gives what was sent, received, refused and dropped so far.
        address: Where the nodes are met.
    """

    def __init__(self, counters: Callable[[], Mapping[str, int]], address: Callable[[], str]) -> None:
        self._counters = counters
        self._address = address
        self._path: Path | None = None
        self._now = ExperimentStatus(pid=os.getpid())
        self._nodes: dict[str, NodeWork] = {}
        self._names: dict[str, str] = {}
        self._due = 0.0

    def started(self, experiment_path: Path, nodes: Mapping[str, NodeInfo], rounds: int) -> None:
        """A run begins."""
        self._path = experiment_path / STATUS_FILE
        self._names = {node: info.name for node, info in nodes.items()}
        self._nodes = {}
        self._change(pid=os.getpid(), began=time.time(), over=False, error="", round=None, address=self._address())

    def round_started(self, ctx: RoundContext, node_ids: Sequence[str]) -> None:
        """All selected nodes work."""
        self._nodes = {node: NodeWork(name=self._names.get(node, "")) for node in node_ids}
        self._change(soon=True, round=ctx.round, rounds=ctx.round)

    def progress(self, node_id: str, progress: Progress) -> None:
        """A node shows a sign of life."""
        work = self._of(node_id)
        work.step, work.total_steps = progress.step, progress.total_steps
        self._write(soon=True)

    def replied(self, node_id: str, reply: TrainReply) -> None:
        """A node is through."""
        work = self._of(node_id)
        work.state, work.step = "replied", reply.steps
        self._write(soon=True)

    def dropped(self, node_id: str, reason: str) -> None:
        """A node is out, or away."""
        self._now_is(node_id, "out", one_line(reason, 300))

    def back(self, node_id: str) -> None:
        """A node works again."""
        self._now_is(node_id, "working")

    def asked(self, node_id: str, *, again: bool) -> None:
        """A node is given a task."""
        self._now_is(node_id, "working")

    def round_ended(self, ctx: RoundContext, result: RoundResult) -> None:
        """A round is complete."""
        self._change(soon=True, round=None, rounds=ctx.round + 1)

    def stopped(self, rounds_done: int, error: BaseException | None) -> None:
        """The run is over."""
        told = "" if error is None else one_line(f"{type(error).__name__}: {error}", 500)
        self._change(round=None, over=True, error=told)

    def _of(self, node_id: str) -> NodeWork:
        work = self._nodes.get(node_id)
        if work is None:
            work = self._nodes[node_id] = NodeWork(name=self._names.get(node_id, ""))
        return work

    def _now_is(self, node_id: str, state: str, reason: str = "") -> None:
        work = self._of(node_id)
        work.state, work.reason = state, reason
        self._write(soon=False)

    def _change(self, *, soon: bool = False, **facts: object) -> None:
        self._now = msgspec.structs.replace(self._now, **facts)
        self._write(soon=soon)

    def _write(self, *, soon: bool) -> None:
        now = time.monotonic()
        if self._path is None or (soon and now < self._due):
            return
        self._due = now + _INTERVAL
        status = msgspec.structs.replace(
            self._now, written=time.time(), nodes=self._nodes, counters=dict(self._counters())
        )
        with contextlib.suppress(OSError):
            put_file(self._path, msgspec.json.encode(status))


def read_status(folder: Path) -> ExperimentStatus | None:
    """What the experiment in ``folder`` does, or did last; None if that is not known, or not readable."""
    path = folder / STATUS_FILE
    try:
        if path.stat().st_size > _MOST:
            return None
        return msgspec.json.decode(path.read_bytes(), type=ExperimentStatus)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
