"""What a running node is doing, for `fedplug node status`: a small file that is replaced as a whole."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from fedplug.core.messages import Progress
from fedplug.core.whole_file import put_file
from fedplug.node.isolation.layers import Layer
from fedplug.node.lock import is_locked

STATUS_FILE = "status.json"
_WRITE_INTERVAL = 0.2
_COUNT_INTERVAL = 5.0
"""Seconds between two looks at what was counted while nothing else has changed."""


_log = logging.getLogger("fedplug.node")


class TaskStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A training that is under way.

    Attributes:
        researcher: Address of the researcher who asked for it.
        experiment: Id of the experiment.
        round: Number of the round, from 0.
        plan: Class name and short hash of the plan.
        dataset: Name of the data set.
        started: Seconds since the epoch.
        step: Optimizer steps done.
        total_steps: Steps to do in all; 0 if that is not known.
        epoch: Epoch, from 1.
        metrics: The latest scalars by name.
    """

    researcher: str
    experiment: str
    round: int
    plan: str
    dataset: str
    started: float
    step: int = 0
    total_steps: int = 0
    epoch: int = 0
    metrics: dict[str, float] = {}


class LinkStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The way to one researcher.

    Attributes:
        url: Address that the node connects to.
        researcher: What the researcher there calls itself; empty until it has welcomed the node.
        connection: ``"connected"``, ``"connecting"``, ``"refused"`` or ``"stopped"``.
        reason: Why it is not connected, in words.
    """

    url: str
    researcher: str = ""
    connection: str = "connecting"
    reason: str = ""


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a node is doing.

    Attributes:
        running: Whether its process lives.
        pid: Its process; 0 if it does not run.
        signals: Whether that process is the command ``fedplug node start``, which signals tell to stop; a script that
            runs a node is not told so.
        draining: Whether it takes no new training and stops when the one under way has ended.
        links: The ways to its researchers.
        task: The training under way.
        queued: Trainings that wait.
        finished: Trainings finished since it was started.
        failed: Trainings failed since it was started.
        kept: Finished updates that it keeps on its disk until their researchers have taken them.
        last: What became of the last training, in words.
        isolation: How far trainings are shut in; empty where they are not.
        counters: What was sent, received, refused and dropped: see `fedplug.protocol.counters`.
        updated: When this was written, in seconds since the epoch.
    """

    running: bool = False
    pid: int = 0
    signals: bool = False
    draining: bool = False
    links: tuple[LinkStatus, ...] = ()
    task: TaskStatus | None = None
    queued: int = 0
    finished: int = 0
    failed: int = 0
    kept: int = 0
    last: str = ""
    isolation: tuple[Layer, ...] = ()
    counters: dict[str, int] = {}
    updated: float = 0.0


class StatusBoard:
    """Keeps the status of a running node, and its file if the node has a folder.

    The file is written by a thread of its own, right after a change but at most five times a second, so that
    small rounds do not wait for the disk.

    Args:
        folder: The node's folder; None for a node without.
        urls: Addresses of its researchers.
    """

    def __init__(self, folder: Path | None, urls: Sequence[str]) -> None:
        self._path = folder / STATUS_FILE if folder else None
        self._changed = threading.Condition()  # re-entrant
        self._dirty = False
        self._closed = False
        self._closing = threading.Event()
        self._broken = False
        self._sources: list[Callable[[], Mapping[str, int]]] = []
        self.now = NodeStatus(running=True, pid=os.getpid(), links=tuple(LinkStatus(url=url) for url in urls))
        self._write(self.now)
        self._thread = threading.Thread(target=self._serve, name="fedplug-status", daemon=True)
        if self._path is not None:
            self._thread.start()

    def change(self, **fields: object) -> None:
        """Note a change of state."""
        with self._changed:
            self.now = msgspec.structs.replace(self.now, **fields, updated=time.time())
            if not self._dirty:
                self._dirty = True
                self._changed.notify()

    def link(self, url: str, **fields: object) -> None:
        """Note a change of the way to one researcher."""
        with self._changed:
            links = (msgspec.structs.replace(each, **fields) if each.url == url else each for each in self.now.links)
            self.change(links=tuple(links))

    def count(self, source: Callable[[], Mapping[str, int]]) -> None:
        """Tell of what ``source`` counts, with that of all other sources."""
        with self._changed:
            self._sources.append(source)

    def progress(self, progress: Progress) -> None:
        """Note how far the training is."""
        with self._changed:
            task = self.now.task
            if task is not None:
                task = msgspec.structs.replace(
                    task,
                    step=progress.step,
                    total_steps=progress.total_steps,
                    epoch=progress.epoch,
                    metrics=progress.metrics,
                )
                self.change(task=task)

    def close(self) -> None:
        """Write down that the node has stopped. May be called twice."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._closing.set()
            self._changed.notify()
        if self._path is not None:
            self._thread.join()
        self._write(msgspec.structs.replace(_stopped(self.now), updated=time.time()))

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._dirty or self._closed, _COUNT_INTERVAL)
                if self._closed:
                    return
                counters = self._counted()
                if not self._dirty and counters == self.now.counters:
                    continue
                self._dirty = False
                self.now = now = msgspec.structs.replace(self.now, counters=counters)
            self._write(now)
            self._closing.wait(_WRITE_INTERVAL)  # not woken by the changes that come meanwhile

    def _counted(self) -> dict[str, int]:
        total: Counter[str] = Counter()
        for source in self._sources:
            total.update(source())
        return dict(total)

    def _write(self, status: NodeStatus) -> None:
        if self._path is None:
            return
        try:
            put_file(self._path, msgspec.json.encode(status))
            self._broken = False
        except OSError as error:
            # A full disk must not stop a training; the status is for people only.
            if not self._broken:
                _log.warning("The status file cannot be written: %s.", error.strerror)
            self._broken = True


def read_status(folder: Path) -> NodeStatus:
    """The status of the node in ``folder``; one that was killed counts as stopped."""
    try:
        status = msgspec.json.decode((folder / STATUS_FILE).read_bytes(), type=NodeStatus)
    except (OSError, msgspec.MsgspecError):
        status = NodeStatus()
    if is_locked(folder):
        return status
    return msgspec.structs.replace(_stopped(status), pid=0)


def _stopped(status: NodeStatus) -> NodeStatus:
    links = tuple(LinkStatus(url=each.url, connection="stopped") for each in status.links)
    return msgspec.structs.replace(status, running=False, draining=False, links=links, task=None, queued=0)
