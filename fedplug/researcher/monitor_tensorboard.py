"""TensorBoard event files of an experiment: one run for each node and one for the aggregate.

The files hold plain ``simple_value`` scalars, written with the record writer of the package ``tensorboard``.
Two other ways were open. ``tensorboard.summary.Writer`` calls itself experimental and writes tensors, which
``EventAccumulator.Scalars`` does not find. ``EventFileWriter`` writes what we write, but keeps a thread and an
open file for each run; with hundreds of nodes that meets the limit of open files. Here events wait in memory and
are appended when a round ends, or after a few seconds within a round, so nothing stays open in between.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedplug.core.context import RoundContext, RoundResult
from fedplug.core.errors import StoreError, UsageError
from fedplug.core.messages import NodeInfo, Progress, TrainReply
from fedplug.core.monitor import Monitor
from fedplug.researcher.history import rounds_behind
from fedplug.researcher.history_entries import PRIVACY, TEST_GLOBAL, TEST_LOCAL, TRAIN, split_name
from fedplug.researcher.progress.board import Clock
from fedplug.researcher.tensorboard_layout import layout, layout_value

AGGREGATED = "aggregated"
"""Name of the run that holds what concerns all nodes together."""

VALIDATION_GLOBAL, VALIDATION_LOCAL = "VALIDATION ON GLOBAL UPDATES", "VALIDATION ON LOCAL UPDATES"

_GROUPS = {TRAIN: "ROUND", TEST_GLOBAL: VALIDATION_GLOBAL, TEST_LOCAL: VALIDATION_LOCAL, PRIVACY: "PRIVACY"}
_TESTS = (TEST_GLOBAL, TEST_LOCAL)
_log = logging.getLogger(__name__)
_file_number = itertools.count()
_MOST_TAGS = 200  # of one run: names of metrics come from the network and cost TensorBoard memory
_LONGEST_NAME = 60
_DEVICE_NAMES = frozenset({"con", "prn", "aux", "nul", *(f"{d}{i}" for d in ("com", "lpt") for i in range(10))})


@dataclass(slots=True)
class _Run:
    """One folder, one event file, and what is not written yet."""

    folder: Path
    file: Path | None = None
    tags: set[str] = field(default_factory=set)
    pending: list[tuple[str, float, int, float]] = field(default_factory=list)
    full: bool = False


class TensorBoardMonitor(Monitor):
    """Writes scalars to ``log_dir/<node name>`` and ``log_dir/aggregated``.

    Watch them with ``tensorboard --logdir <log_dir>``, also while the experiment runs. Tags:

    - ``TRAINING/Loss`` (and ``TRAINING/<metric>``): nodes; step = optimizer steps of the node over all rounds.
    - ``TRAINING/Round`` and ``TRAINING/Epoch``: nodes; which round and epoch those steps belong to, from 1.
    - ``VALIDATION ON GLOBAL UPDATES/<METRIC>``, ``VALIDATION ON LOCAL UPDATES/<METRIC>``: nodes and aggregate;
      step = rounds that have made the tested model: that of a round is tested on global updates before, and on
      local updates after, its training.
    - ``ROUND/<metric>``: nodes and aggregate, all other metrics of a round; step = round, from 1.
    - ``PRIVACY/<name>``: nodes that keep their own account, and aggregate; step = round.
    - ``TIMING/<name>`` in seconds: nodes as they report it, ``TIMING/round`` for the aggregate; step = round.
    - ``TRAFFIC/<name>`` in bytes and ``TRAINING/Nodes``, ``TRAINING/Nodes dropped``: aggregate; step = round.

    The page "Custom Scalars" puts the most important ones first, each with all nodes in one chart.

    Args:
        log_dir: The folder ``runs`` of the experiment; made when there is something to write.
        steps: Optimizer steps that each node has made already, in rounds that were logged before.
        clock: Monotonic seconds.
        wall: Seconds since the epoch.
        flush_every: Seconds after which training scalars are written within a round.

    Raises:
        UsageError: The package tensorboard is not installed.
    """

    def __init__(
        self,
        log_dir: Path,
        steps: Mapping[str, int] | None = None,
        *,
        clock: Clock = time.monotonic,
        wall: Clock = time.time,
        flush_every: float = 5.0,
    ) -> None:
        self._event_type, self._record_writer = _load_tensorboard()
        self.log_dir = Path(log_dir)
        self._clock = clock
        self._wall = wall
        self._flush_every = flush_every
        self._flushed = clock()
        self._folders: dict[str, str] = {}
        self._runs: dict[str, _Run] = {}
        self._offsets = Counter(steps or {})  # optimizer steps of each node in the rounds before this one
        self._steps: dict[str, int] = {}  # and in this one
        self._marks: dict[str, tuple[int, int]] = {}  # round and epoch that were noted last
        self._tests: set[str] = set()  # tags of tests that the layout shows
        self._layout: bytes | None = layout(())  # to be written
        self._round: int | None = None  # what a straggler says after its round is left out

    def started(self, experiment_path: Path, nodes: Mapping[str, NodeInfo], rounds: int) -> None:
        """Choose folders for nodes that are new."""
        new = {node_id: info.name for node_id, info in nodes.items() if node_id not in self._folders}
        self._folders.update(folder_names(new, taken=self._folders.values()))

    def round_started(self, ctx: RoundContext, node_ids: Sequence[str]) -> None:
        """Go on counting each node's steps where the last complete round ended."""
        self._drop_steps()
        self._round = ctx.round

    def progress(self, node_id: str, progress: Progress) -> None:
        """Note the training metrics."""
        if progress.key.round != self._round or progress.phase != "train":
            return
        step = max(progress.step, 0)
        self._steps[node_id] = max(step, self._steps.get(node_id, 0))
        for name, value in progress.metrics.items():
            tag = "TRAINING/Loss" if name == "loss" else f"TRAINING/{_tag(name)}"
            self._add(node_id, tag, value, self._offsets[node_id] + step)
        self._mark(node_id, progress.epoch, self._offsets[node_id] + step)
        if self._clock() - self._flushed >= self._flush_every:
            self.flush()

    def replied(self, node_id: str, reply: TrainReply) -> None:
        """Note the node's metrics and times of the round."""
        if reply.key.round == self._round:
            self._steps[node_id] = max(reply.steps, self._steps.get(node_id, 0))
            self._mark(node_id, 0, self._offsets[node_id] + self._steps[node_id], at_end=True)
        for name, value in reply.metrics.items():
            self._figure(node_id, name, value, reply.key.round)
        for name, value in reply.timing.items():
            self._add(node_id, f"TIMING/{_tag(name)}", value, reply.key.round + 1)

    def round_ended(self, ctx: RoundContext, result: RoundResult) -> None:
        """Note the figures of the round and write all of it."""
        step = ctx.round + 1
        for name, value in result.metrics.items():
            self._figure("", name, value, ctx.round)
        self._add("", "TRAINING/Nodes", len(result.replies), step)
        self._add("", "TRAINING/Nodes dropped", len(result.dropped), step)
        self._add("", "TIMING/round", result.seconds, step)
        for name, size in result.traffic.items():
            self._add("", f"TRAFFIC/{_tag(name)}", size, step)
        self._offsets.update(self._steps)
        self._drop_steps()
        self.flush()

    def tested(self, ctx: RoundContext, result: RoundResult) -> None:
        """Note what a test without training has found over all nodes; what each found was noted as it replied."""
        for name, value in result.metrics.items():
            self._figure("", name, value, ctx.round)
        self.flush()

    def stopped(self, rounds_done: int, error: BaseException | None) -> None:
        """Write what an unfinished round has left. It is not counted: when it is repeated, it gives the same steps."""
        self._drop_steps()
        self.flush()

    def close(self) -> None:
        """Write what waits. Nothing is held open."""
        self.flush()

    def flush(self) -> None:
        """Append all that waits to the event files.

        Raises:
            StoreError: They cannot be written.
        """
        self._flushed = self._clock()
        if self._layout is not None and any(run.pending for run in self._runs.values()):
            self._run("")  # it holds the layout
        for run in self._runs.values():
            if run.pending or (self._layout is not None and run is self._runs.get("")):
                try:
                    self._append(run)
                except OSError as error:
                    raise StoreError(
                        f"TensorBoard files cannot be written to {run.folder}: {error.strerror or error}.",
                        cure="Make room or give write access there, or set tensorboard=False.",
                    ) from error

    def _append(self, run: _Run) -> None:
        events = [
            self._event_type(wall_time=when, step=step, summary={"value": [{"tag": tag, "simple_value": value}]})
            for tag, value, step, when in run.pending
        ]
        if run is self._runs.get("") and self._layout is not None:
            events.append(self._event_type(wall_time=self._wall(), summary={"value": [layout_value(self._layout)]}))
            self._layout = None
        if run.file is None:
            run.folder.mkdir(parents=True, exist_ok=True)
            now = self._wall()
            # TensorBoard reads the files of a folder in the order of their names: time first, then a number.
            place = f"{socket.gethostname()}.{os.getpid()}.{next(_file_number)}"
            run.file = run.folder / f"events.out.tfevents.{int(now):010d}.{place}"
            events.insert(0, self._event_type(wall_time=now, file_version="brain.Event:2"))
        with run.file.open("ab") as file:
            writer = self._record_writer(file)
            for event in events:
                writer.write(event.SerializeToString())
        run.pending.clear()

    def _figure(self, node_id: str, name: str, value: float, number: int) -> None:
        """Note a metric of a round where people look for it."""
        phase, metric = split_name(name)
        tag = f"{_GROUPS[phase]}/{_tag(metric).upper() if phase in _TESTS else _tag(metric)}"
        self._add(node_id, tag, value, rounds_behind(phase, number))
        if phase in _TESTS and tag not in self._tests and len(self._tests) < _MOST_TAGS:
            self._tests.add(tag)
            self._layout = layout(self._tests)

    def _mark(self, node_id: str, epoch: int, step: int, *, at_end: bool = False) -> None:
        """Note which round and epoch a node's step belongs to, where that changes and at the end."""
        number = (self._round or 0) + 1
        before = self._marks.get(node_id, (0, 0))
        self._marks[node_id] = number, epoch or before[1]
        if number != before[0] or at_end:
            self._add(node_id, "TRAINING/Round", number, step)
        if epoch and (number, epoch) != before:
            self._add(node_id, "TRAINING/Epoch", epoch, step)

    def _add(self, node_id: str, tag: str, value: float, step: int) -> None:
        run = self._run(node_id)
        if tag not in run.tags:
            if len(run.tags) >= _MOST_TAGS:
                if not run.full:
                    _log.warning(
                        "TensorBoard: more than %d metrics for %s; the rest is left out.", _MOST_TAGS, run.folder
                    )
                run.full = True
                return
            run.tags.add(tag)
        # An event holds a signed 64-bit step and a 32-bit float; what is larger becomes the largest or infinite.
        run.pending.append((tag, float(value), min(max(step, 0), 2**63 - 1), self._wall()))

    def _run(self, node_id: str) -> _Run:
        """The run of a node; of all nodes together for the empty id."""
        run = self._runs.get(node_id)
        if run is None:
            if node_id and node_id not in self._folders:
                self._folders.update(folder_names({node_id: ""}, taken=self._folders.values()))
            folder = self._folders[node_id] if node_id else AGGREGATED
            run = self._runs[node_id] = _Run(self.log_dir / folder)
        return run

    def _drop_steps(self) -> None:
        self._steps.clear()
        self._round = None


def folder_names(names: Mapping[str, str], taken: Iterable[str] = ()) -> dict[str, str]:
    """A folder name for each node: its own name if that is harmless and unique, else with a hash of its id.

    The result holds only ASCII letters, digits, ``.``, ``_`` and ``-``, does not begin with a dot, is no
    device name, and is unique also where upper and lower case are the same.

    Args:
        names: Name by node id; an empty name stands for the id.
        taken: Folder names that are in use.
    """
    slugs = {node_id: _slug(name or node_id) for node_id, name in names.items()}
    wanted = Counter(slug.casefold() for slug in slugs.values())
    used = {name.casefold() for name in taken} | {AGGREGATED}
    folders: dict[str, str] = {}
    for node_id in sorted(slugs):
        slug = folder = slugs[node_id]
        faithful = slug == (names[node_id] or node_id) and wanted[slug.casefold()] == 1
        if not faithful:
            digest = hashlib.sha256(node_id.encode("utf-8", "surrogatepass")).hexdigest()
            slug = folder = f"{slug}-{digest[:8]}"
        number = 1
        while folder.casefold() in used:  # e.g. a node that is *named* like another one with its hash
            number += 1
            folder = f"{slug}-{number}"
        used.add(folder.casefold())
        folders[node_id] = folder
    return folders


def _slug(name: str) -> str:
    """The harmless part of a name."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "_", name[:_LONGEST_NAME]).lstrip(".").rstrip(". ")
    if not slug.strip("_") or slug.split(".")[0].casefold() in _DEVICE_NAMES:
        slug = f"node_{slug.strip('_')}".rstrip("_")
    return slug


def _tag(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_./ -]", "_", name[:_LONGEST_NAME]).strip("/ ") or "_"


def _load_tensorboard() -> tuple[Any, Any]:
    """The types of an event and of a record writer. Costs about 0.3 s CPU, hence not at module level."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter
    except ImportError as error:
        raise UsageError(
            f"TensorBoard files need the package tensorboard, which cannot be imported ({error}).",
            cure="pip install fedplug[tensorboard], or set tensorboard=False.",
        ) from error
    return Event, RecordWriter
