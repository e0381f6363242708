"""The node's supervisor at work: it listens to the researcher, and lets a worker train one task after the other.

Two threads: one follows the link (`Runtime.serve_link`), so that searches and cancellations are answered while
a training runs; the other takes tasks from the queue (`Runtime.serve_tasks`). Neither runs plan code, unless
the node was told to train in its own process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from fedplug.core.errors import CodecError, RefusedError, StoreError, UnknownNameError
from fedplug.core.link import (
    Connected,
    Disconnected,
    ResearcherLink,
    SearchReceived,
    TaskCancelled,
    TaskReceived,
    UpdateCommitted,
)
from fedplug.core.local_state import lineage
from fedplug.core.messages import DatasetCard, LogLine, Progress, TaskFailure, TrainRequest
from fedplug.node.datasets.memory import MemoryDataset
from fedplug.node.gate import Gate
from fedplug.node.jobs import Job, Trained, Worker, failure
from fedplug.node.privacy import noise_key
from fedplug.node.state_store import open_states
from fedplug.node.status import StatusBoard, TaskStatus
from fedplug.node.store import NodeStore

_log = logging.getLogger("fedplug.node")
_LEVELS = {"warning": logging.WARNING, "error": logging.ERROR}


class Runtime:
    """What a running node does, apart from threads and connections.

    Args:
        link: The way to the researcher.
        store: The node's store.
        gate: The owner's rules.
        worker: Runs the plans.
        board: Told about every change.
        memory: Data sets that lie in memory, besides those of the store.
        retry: Seconds between tries to connect, for messages.
    """

    def __init__(
        self,
        link: ResearcherLink,
        store: NodeStore,
        gate: Gate,
        worker: Worker,
        board: StatusBoard,
        *,
        memory: Sequence[MemoryDataset] = (),
        retry: float = 2.0,
    ) -> None:
        self._link = link
        self._store = store
        self._gate = gate
        self._states = open_states(store)
        self._worker = worker
        self._board = board
        self._memory = {dataset.card().dataset_id: dataset for dataset in memory}
        self._retry = retry
        self._changed = threading.Condition()
        self._queue: deque[_Entry] = deque()
        self._current: _Entry | None = None
        self._stopping = False
        self._researcher = ""
        self.connected = threading.Event()

    def stop(self) -> None:
        """Make both loops end soon; what runs is cancelled."""
        with self._changed:
            self._stopping = True
            self._queue.clear()
            if self._current:
                self._cancel(self._current)
            self._changed.notify_all()
        self._link.wake()

    # the link's thread -------------------------------------------------------------------------------------

    def serve_link(self) -> None:
        """Answer the researcher until `stop`."""
        while not self._stopping:
            event = self._link.next_event(None)
            match event:
                case Connected():
                    self._on_connected(event)
                case Disconnected():
                    self._on_disconnected(event)
                case SearchReceived():
                    self._on_search(event)
                case TaskReceived():
                    self._on_task(event)
                case TaskCancelled():
                    self._on_cancel(event)
                case UpdateCommitted():
                    _log.debug("The researcher has the update of %s.", event.key)

    def _on_connected(self, event: Connected) -> None:
        self._researcher = event.researcher
        _log.info("Connected to researcher %s at %s.", event.researcher or "(unnamed)", self._board.now.researcher)
        self._board.change(connection="connected", reason="")
        self.connected.set()

    def _on_disconnected(self, event: Disconnected) -> None:
        self.connected.clear()
        url = self._board.now.researcher
        if event.refused:
            _log.error("The researcher at %s refuses this node: %s", url, event.reason)
        else:
            why = event.reason.removeprefix(f"{url}: ").rstrip(".")
            reason = f" ({why})" if why else ""
            _log.info("No researcher at %s%s; trying again every %g s.", url, reason, self._retry)
        self._board.change(connection="refused" if event.refused else "connecting", reason=event.reason)

    def _on_search(self, event: SearchReceived) -> None:
        """Say what there is. Data that cannot be described must not end the node."""
        try:
            cards = self._cards(event.tags)
        except StoreError as error:
            _log.error("The researcher's search cannot be answered: %s", error)
            return
        try:
            self._link.answer_search(event.query, cards)
            return
        except CodecError as error:
            _log.warning("The researcher gets the data sets without their columns: %s", error.message)
        try:
            bare = [msgspec.structs.replace(card, columns=(), dtypes=(), description="") for card in cards]
            self._link.answer_search(event.query, bare)
        except CodecError as error:
            _log.error("The researcher's search cannot be answered: %s", error.message)

    def _on_task(self, task: TaskReceived) -> None:
        with self._changed:
            self._queue.append(_Entry(task))
            self._changed.notify_all()
        self._count_queue()

    def _on_cancel(self, event: TaskCancelled) -> None:
        with self._changed:
            waiting = [entry for entry in self._queue if entry.task.request.key == event.key]
            for entry in waiting:
                self._queue.remove(entry)
            current = self._current if self._current and self._current.task.request.key == event.key else None
            if current:
                self._cancel(current)
        if waiting or current:
            _log.info("The researcher has cancelled %s: %s", event.key, event.reason or "no reason given")
        self._count_queue()

    def _cancel(self, entry: _Entry) -> None:
        """Cancel the task whose turn it is; the caller holds the lock."""
        entry.unwanted.set()
        if entry.job:
            self._worker.cancel(entry.job)

    def _cards(self, tags: Iterable[str]) -> list[DatasetCard]:
        asked = tuple(tags)
        cards = [record.card() for record in self._store.datasets(asked)]
        cards += [dataset.card() for dataset in self._memory.values() if set(asked) <= set(dataset.tags)]
        _log.info("Search for %s: %d data set(s) found.", ", ".join(asked) or "everything", len(cards))
        return cards

    # the tasks' thread -------------------------------------------------------------------------------------

    def serve_tasks(self) -> None:
        """Train one task after the other until `stop`."""
        self._worker.warm_up()
        while (entry := self._next()) is not None:
            self._count_queue()
            try:
                self._serve(entry)
            except Exception as error:  # noqa: BLE001 - one task must not end the node; the researcher is told
                self._fail(failure(entry.task.request.key, error))
            finally:
                with self._changed:
                    self._current = None
            # The parameters of a task are large: they are not held until the next one comes.
            del entry

    def _next(self) -> _Entry | None:
        with self._changed:
            while not self._queue and not self._stopping:
                self._changed.wait()
            if self._stopping:
                return None
            self._current = self._queue.popleft()
            return self._current

    def _serve(self, entry: _Entry) -> None:
        """One task, from its turn to its answer."""
        request, plan = entry.task.request, entry.task.plan
        name = f"{plan.class_name} ({plan.hash[:8]})"
        try:
            dataset = self._memory.get(request.dataset_id) or self._store.dataset(request.dataset_id)
        except UnknownNameError:
            self._fail(self._no_dataset(request))
            return
        self._store.note_plan(plan)
        self._gate.admit(entry.task, dataset, self._researcher)
        _log.info(
            "Training round %d of experiment %s: plan %s on data set %r.",
            request.key.round + 1, request.key.experiment_id, name, dataset.name,
        )  # fmt: skip
        began = time.time()
        self._board.change(
            task=TaskStatus(
                experiment=request.key.experiment_id,
                round=request.key.round,
                plan=name,
                dataset=dataset.name,
                started=began,
            )
        )
        base = self._states.base_of(request, self._relay)
        key = noise_key(self._store, entry.task, dataset, base)
        job = Job(request, plan, entry.task.params, entry.task.aux, dataset, base, entry.unwanted, key)
        with self._changed:
            entry.job = job
        outcome = self._worker.run(job, self._relay)
        if isinstance(outcome, Trained):
            outcome = self._release(entry, job, outcome)
        if isinstance(outcome, Trained):
            outcome = self._keep_state(job, outcome)
        if isinstance(outcome, Trained):
            self._finish(outcome, time.time() - began, "trained" if request.train else "tested")
        else:
            self._fail(outcome)

    def _release(self, entry: _Entry, job: Job, outcome: Trained) -> Trained | TaskFailure:
        """Let out what was declared, and nothing else."""
        try:
            self._gate.release(job, outcome)
        except RefusedError as error:
            self._gate.note_refusal(entry.task, self._researcher, error)
            return failure(job.key, error)
        return outcome

    def _keep_state(self, job: Job, outcome: Trained) -> Trained | TaskFailure:
        """Store what the training left, before anybody hears that it is done: the next round may depend on it."""
        request, key, state_id = job.request, job.key, ""
        if outcome.state is not None:
            state_id = lineage(request, job.bundle.hash, job.params, job.aux, found=job.state is not None)
            where = (key.experiment_id, request.dataset_id, key.round, state_id)
            try:
                self._states.save(*where, request.acked_state, outcome.state)
            except StoreError as error:
                _log.error("What %s leaves for the next round cannot be stored: %s", key, error)
                text = "The node cannot store what the training leaves for the next round; its owner finds the cause "
                return TaskFailure(key=key, code="state-not-kept", text=text + "in the node's log.")
        return replace(outcome, reply=msgspec.structs.replace(outcome.reply, state_id=state_id))

    def _finish(self, outcome: Trained, seconds: float, done: str) -> None:
        reply = outcome.reply
        self._link.finish(reply, outcome.params, outcome.aux)
        loss = f", loss {reply.metrics['loss']:.4g}" if "loss" in reply.metrics else ""
        amount = f"{reply.sample_count} samples, {reply.steps} steps{loss}"
        text = f"Round {reply.key.round + 1} {done} in {seconds:.1f} s: {amount}."
        _log.info("%s", text)
        self._board.change(task=None, finished=self._board.now.finished + 1, last=text)

    def _fail(self, failed: TaskFailure) -> None:
        now = self._board.now
        if failed.code == "cancelled":
            # The researcher gave it up, or this node is about to say goodbye: nothing to tell.
            _log.info("Training of %s cancelled.", failed.key)
            self._board.change(task=None, last=f"Round {failed.key.round + 1} was cancelled.")
            return
        _log.error("Training of %s failed (%s): %s", failed.key, failed.code, failed.text)
        self._board.change(task=None, failed=now.failed + 1, last=f"Round {failed.key.round + 1} failed: {failed.text}")
        self._link.fail(failed)

    def _no_dataset(self, request: TrainRequest) -> TaskFailure:
        names = sorted([*(record.name for record in self._store.datasets()), *self._memory_names()])
        text = f"This node has no data set {request.dataset_id!r} (any more). It has: {', '.join(names) or 'none'}."
        return TaskFailure(key=request.key, code="no-dataset", text=text + "\nSearch again: Experiment.set_tags.")

    def _relay(self, sign: Progress | LogLine) -> None:
        if isinstance(sign, Progress):
            self._board.progress(sign)
        else:
            text = f"{sign.key}: {sign.text}" if sign.key else sign.text
            _log.log(_LEVELS.get(sign.level, logging.INFO), "%s", text)
        self._link.report(sign)

    def _memory_names(self) -> list[str]:
        return [dataset.name for dataset in self._memory.values()]

    def _count_queue(self) -> None:
        # Under the lock, so that the thread that counts last also writes last.
        with self._changed:
            self._board.change(queued=len(self._queue))


@dataclass(eq=False)
class _Entry:
    """A task in the queue, and later the job that is made of it."""

    task: TaskReceived
    unwanted: threading.Event = field(default_factory=threading.Event)
    job: Job | None = None
