"""The node's supervisor at work: it listens to its researchers, and lets a worker train one task after the other.

Each researcher has a thread that follows its link (`fedplug.node.contact`); one more takes tasks from the queue
(`Runtime.serve_tasks`). None of them runs plan code, unless the node was told to train in its own process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

import msgspec

from fedplug.core.errors import RefusedError, StoreError
from fedplug.core.link import PlanAsked, ResearcherLink, TaskReceived
from fedplug.core.local_state import lineage
from fedplug.core.messages import DatasetCard, LogLine, PlanAnswer, Progress, TaskFailure, TaskKey
from fedplug.node.commands import node_command
from fedplug.node.contact import Contact
from fedplug.node.datasets.memory import MemoryDataset
from fedplug.node.gate import Gate
from fedplug.node.handover import Handover
from fedplug.node.holdings import Holdings
from fedplug.node.jobs import Job, Trained, Worker, failure
from fedplug.node.journal.contract import NoTaskJournal, TaskJournal
from fedplug.node.outcomes import Outcomes
from fedplug.node.privacy import noise_key
from fedplug.node.queued_task import QueuedTask
from fedplug.node.state_store import open_states
from fedplug.node.status import StatusBoard, TaskStatus
from fedplug.node.store import NodeStore

_log = logging.getLogger("fedplug.node")

TELL_WAITING = 60.0
"""Seconds between two signs of life for tasks that wait for their turn."""


class Runtime:
    """What a running node does, apart from threads and connections.

    Args:
        store: The node's store.
        gate: The owner's rules.
        worker: Runs the plans.
        board: Told about every change.
        memory: Data sets that lie in memory, besides those of the store.
        journal: What is remembered of tasks; None: nothing.
    """

    def __init__(
        self,
        store: NodeStore,
        gate: Gate,
        worker: Worker,
        board: StatusBoard,
        *,
        memory: Sequence[MemoryDataset] = (),
        journal: TaskJournal | None = None,
    ) -> None:
        self.board = board
        self.audit = gate.audit
        self._store = store
        self._gate = gate
        self._states = open_states(store)
        self._worker = worker
        self._holdings = Holdings(store, memory)
        self._changed = threading.Condition()
        self._contacts: list[Contact] = []
        self._queue: deque[QueuedTask] = deque()
        self._current: QueuedTask | None = None
        self._stopping = False
        self._draining = False
        self._tell_due = 0.0
        self._journal = journal or NoTaskJournal()
        self._handover = Handover(lasting=self._journal.lasting)
        self._outcomes = Outcomes(self.audit, self._journal, board, self._handover)

    def add_researcher(self, url: str, link: ResearcherLink, *, retry: float = 2.0) -> Contact:
        """Deal with one more researcher; the caller gives `Contact.serve` a thread.

        Args:
            url: Its address.
            link: The way to it.
            retry: Seconds between tries to connect, for messages.
        """
        contact = Contact(url, link, self, retry=retry)
        self._contacts.append(contact)
        return contact

    def stop(self) -> None:
        """Make all loops end soon; what runs is cancelled."""
        with self._changed:
            self._stopping = True
            self._queue.clear()
            if self._current:
                self._cancel(self._current)
            self._changed.notify_all()
        self._handover.give_up()
        for contact in self._contacts:
            contact.stop()

    def drain(self) -> None:
        """Turn away all trainings but the one under way; return when that has ended and its update was taken.

        Returns early when the node is stopped, and after some minutes if a researcher does not take its update.
        """
        with self._changed:
            self._draining = True
            waiting = list(self._queue)
            self._queue.clear()
            self.board.change(draining=True, queued=0)
        _log.info("The node takes no new training, and stops when the one under way has ended.")
        for entry in waiting:
            self._outcomes.turned_away(entry)
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._current is None)
        self._handover.wait()

    # what researchers ask, in the threads of their links ------------------------------------------------------

    def cards(self, tags: Iterable[str]) -> list[DatasetCard]:
        """What a researcher may know about the data sets that carry all of ``tags``."""
        asked = tuple(tags)
        cards = self._holdings.cards(asked)
        _log.info("Search for %s: %d data set(s) found.", ", ".join(asked) or "everything", len(cards))
        return cards

    def plan_answer(self, contact: Contact, asked: PlanAsked) -> PlanAnswer:
        """What the owner has decided about a plan, which is taken in first if it came along.

        Raises:
            StoreError: The store cannot be used.
        """
        approvals, dataset = self._gate.approvals, self._holdings.name_of(asked.dataset_id)
        if asked.plan is not None:
            try:
                approvals.receive(asked.plan, contact.url, asked.description, dataset=dataset)
            except RefusedError as error:
                return PlanAnswer(plan=asked.plan_hash, status="refused", note=error.message)
        found = approvals.standing(asked.plan_hash, dataset)
        if asked.plan is not None and found.status == "pending":
            _log.info(
                "Plan %s (%s) waits for your decision: %s",
                asked.plan.class_name, asked.plan_hash[:8],
                node_command(self._store.folder, "plan", "show", asked.plan_hash[:12]),
            )  # fmt: skip
        note, until = (found.decision.note, found.decision.expires) if found.decision else ("", "")
        return PlanAnswer(plan=asked.plan_hash, status=found.status, note=note, until=until)

    def submit(self, contact: Contact, task: TaskReceived) -> None:
        """Put a task at the end of the queue; a node that drains turns it away."""
        entry = QueuedTask(contact, task)
        with self._changed:
            draining = self._draining
            if not draining:
                self._queue.append(entry)
                self._changed.notify_all()
        if draining:
            self._outcomes.turned_away(entry)
        else:
            self._count_queue()
            self._tell_waiting(entry)

    def committed(self, contact: Contact, key: TaskKey) -> None:
        """A researcher has an update for good."""
        self._end(contact, key, "committed")
        self._handover.settled(contact, key)

    def cancel(self, contact: Contact, key: TaskKey, reason: str) -> None:
        """Give up a task, if it is one of this researcher's: nobody cancels the trainings of others."""
        with self._changed:
            waiting = [entry for entry in self._queue if entry.is_of(contact, key)]
            for entry in waiting:
                self._queue.remove(entry)
            current = self._current if self._current and self._current.is_of(contact, key) else None
            if current:
                current.given_up = True
                self._cancel(current)
        self._end(contact, key, "cancelled")
        self._handover.settled(contact, key)
        if waiting or current:
            _log.info("The researcher has cancelled %s: %s", key, reason or "no reason given")
        self._count_queue()

    def settle(self) -> None:
        """Write down what was left for a moment without work."""
        self._journal.settle()

    @property
    def unsettled(self) -> bool:
        """Whether `settle` has something to do."""
        return self._journal.unsettled

    def _end(self, contact: Contact, key: TaskKey, how: str) -> None:
        self._journal.end(contact.url, key, how)
        self._outcomes.count_kept()

    def _cancel(self, entry: QueuedTask) -> None:
        """Cancel the task whose turn it is; the caller holds the lock."""
        entry.unwanted.set()
        if entry.job:
            self._worker.cancel(entry.job)

    # the tasks' thread -------------------------------------------------------------------------------------

    def serve_tasks(self) -> None:
        """Train one task after the other until `stop`."""
        self._worker.warm_up()
        while (entry := self._next()) is not None:
            self._count_queue()
            try:
                self._serve(entry)
            except Exception as error:  # noqa: BLE001 - one task must not end the node; the researcher is told
                self._outcomes.failed(entry, failure(entry.task.request.key, error))
            finally:
                with self._changed:
                    self._current = None
                    self._changed.notify_all()
            # The parameters of a task are large: they are not held until the next one comes.
            del entry

    def _next(self) -> QueuedTask | None:
        with self._changed:
            while not self._queue and not self._stopping:
                self._changed.wait()
            if self._stopping:
                return None
            self._current = self._queue.popleft()
            return self._current

    def _serve(self, entry: QueuedTask) -> None:
        """One task, from its turn to its answer."""
        request, plan = entry.task.request, entry.task.plan
        name = f"{plan.class_name} ({plan.hash[:8]})"
        try:
            dataset = self._holdings.dataset(request.dataset_id)
            entry.dataset_name = dataset.name
            self._gate.approvals.receive(plan, entry.contact.url, dataset=dataset.name)
            self._journal.require_room(entry.contact.url, entry.nbytes)
            terms = self._gate.admit(entry.task, dataset, lambda: self._begin(entry))
        except RefusedError as error:
            self._outcomes.refused(entry, error)
            return
        _log.info(
            "Training round %d of experiment %s: plan %s on data set %r.",
            request.key.round + 1, request.key.experiment_id, name, dataset.name,
        )  # fmt: skip
        began = time.time()
        self.board.change(
            task=TaskStatus(
                researcher=entry.contact.url,
                experiment=request.key.experiment_id,
                round=request.key.round,
                plan=name,
                dataset=dataset.name,
                started=began,
            )
        )
        base = self._states.base_of(request, lambda sign: self._relay(entry, sign))
        key = noise_key(self._store, entry.task, dataset, base)
        job = Job(request, plan, entry.task.params, entry.task.aux, dataset, base, entry.unwanted, key, terms)
        with self._changed:
            entry.job = job
        outcome = self._worker.run(job, lambda sign: self._relay(entry, sign))
        if isinstance(outcome, Trained):
            try:
                self._gate.release(job, outcome)
            except RefusedError as error:
                self._outcomes.refused(entry, error)
                return
            outcome = self._keep_state(job, outcome)
        if isinstance(outcome, Trained):
            self._outcomes.finished(entry, outcome, time.time() - began)
        else:
            self._outcomes.failed(entry, outcome)

    def _begin(self, entry: QueuedTask) -> None:
        """Write down that a training begins."""
        self._journal.begin(entry.contact.url, entry.task.request.key)
        # On disk with the entry that follows it, before which nothing leaves.
        self.audit.note_soon("training-started", actor=entry.actor, **entry.facts)

    def _keep_state(self, job: Job, outcome: Trained) -> Trained | TaskFailure:
        """Store what the training left, before anybody hears that it is done: the next round may depend on it."""
        request, key, state_id = job.request, job.key, ""
        if outcome.state is None and not outcome.reply.state_id:
            return outcome
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

    def _relay(self, entry: QueuedTask, sign: Progress | LogLine) -> None:
        """Pass a sign of life on. Progress of the training under way is one of those that wait for it, too."""
        self._outcomes.relay(entry, sign)
        if isinstance(sign, Progress) and time.monotonic() >= self._tell_due:
            self._tell_waiting()

    def _tell_waiting(self, only: QueuedTask | None = None) -> None:
        """Tell researchers that their tasks, or one of them, have to wait, and how long the queue before them is."""
        with self._changed:
            before = 1 if self._current else 0
            waiting = [(place, entry) for place, entry in enumerate(self._queue, before) if only in (None, entry)]
            self._tell_due = time.monotonic() + TELL_WAITING
        for place, entry in waiting:
            if place:
                trainings = "1 training is" if place == 1 else f"{place} trainings are"
                text = f"Waits for its turn on this node: {trainings} before it."
                entry.contact.link.report(LogLine(level="info", text=text, key=entry.task.request.key))

    def _count_queue(self) -> None:
        # Under the lock, so that the thread that counts last also writes last.
        with self._changed:
            self.board.change(queued=len(self._queue))
