"""How a task ends: what is written down, in which order, and what the researcher is told."""

from __future__ import annotations

import functools
import logging
import threading
from typing import TYPE_CHECKING

from fedplug.core.crash_points import crash_point
from fedplug.core.errors import RefusedError
from fedplug.core.messages import LogLine, Progress, TaskFailure
from fedplug.node.jobs import Trained, failure

if TYPE_CHECKING:
    from fedplug.node.audit.log import AuditLog
    from fedplug.node.handover import Handover
    from fedplug.node.journal.contract import TaskJournal
    from fedplug.node.queued_task import QueuedTask
    from fedplug.node.status import StatusBoard

_log = logging.getLogger("fedplug.node")
_LEVELS = {"warning": logging.WARNING, "error": logging.ERROR}


class Outcomes:
    """Brings tasks to their ends.

    Args:
        audit: Where the owner reads what happened.
        journal: What the node itself remembers.
        board: Told about every change.
        handover: Knows what was offered and not taken yet.
    """

    def __init__(self, audit: AuditLog, journal: TaskJournal, board: StatusBoard, handover: Handover) -> None:
        self._audit = audit
        self._journal = journal
        self._board = board
        self._handover = handover
        self._counting = threading.Lock()

    def finished(self, entry: QueuedTask, outcome: Trained, seconds: float) -> None:
        """Offer an update. It is on disk before anybody hears of it, or else it is said aloud that it is not.

        Raises:
            StoreError: The audit log or the journal cannot be written, so nothing leaves.
        """
        reply, contact = outcome.reply, entry.contact
        note = functools.partial(
            self._audit.note, "training-finished", actor=entry.actor, **entry.facts, seconds=round(seconds, 3),
            sample_count=reply.sample_count, steps=reply.steps, metrics=reply.metrics,
            bytes_out=outcome.params.nbytes + sum(each.nbytes for each in outcome.aux.values()),
        )  # fmt: skip
        if not self._journal.finish(contact.url, reply, outcome.params, outcome.aux, note):
            text = "The disk of this node is full: its update is lost if the node ends before you have it."
            self.relay(entry, LogLine(level="warning", text=text, key=reply.key))
        self._handover.offered(contact, reply.key)
        if entry.given_up:  # just now, by the thread of its researcher, when there was nothing to settle yet
            self._handover.settled(contact, reply.key)
        contact.link.finish(reply, outcome.params, outcome.aux)
        crash_point("update-offered")
        loss = f", loss {reply.metrics['loss']:.4g}" if "loss" in reply.metrics else ""
        amount = f"{reply.sample_count} samples, {reply.steps} steps{loss}"
        done = "trained" if entry.task.request.train else "tested"
        text = f"Round {reply.key.round + 1} {done} in {seconds:.1f} s: {amount}."
        _log.info("%s", text)
        finished = self._board.now.finished + 1
        self._board.change(task=None, finished=finished, last=text)
        self.count_kept()

    def count_kept(self) -> None:
        """Say on the board how many updates wait; from any thread."""
        with self._counting:  # so that the thread that counts last also writes last
            self._board.change(kept=self._journal.waiting)

    def turned_away(self, entry: QueuedTask) -> None:
        """Refuse a training because the node is about to stop; the one under way goes on."""
        request = entry.task.request
        error = RefusedError(
            "This node is about to stop, and takes no new training.", code="node-stops", cure="Try again later."
        )
        _log.info("Training of %s turned away: the node is about to stop.", request.key)
        self._note_refusal(entry, error)
        entry.contact.link.fail(failure(request.key, error))

    def refused(self, entry: QueuedTask, error: RefusedError) -> None:
        """A rule forbids it: write that down, and tell the researcher which."""
        self._note_refusal(entry, error)
        self._tell_failure(entry, failure(entry.task.request.key, error), "refused")

    def failed(self, entry: QueuedTask, failed: TaskFailure) -> None:
        """A training did not end well, or was given up."""
        if failed.code == "cancelled":
            # The researcher gave it up, or this node is about to say goodbye: nothing to tell.
            _log.info("Training of %s cancelled.", failed.key)
            self._audit.note_if_possible("training-cancelled", actor=entry.actor, **entry.facts)
            if entry.given_up:  # if not, the next run of the node finds that it was interrupted
                self._journal.end(entry.contact.url, failed.key, "cancelled")
            self._board.change(task=None, last=f"Round {failed.key.round + 1} was cancelled.")
            return
        self._audit.note_if_possible(
            "training-failed", actor=entry.actor, **entry.facts, code=failed.code, reason=failed.text
        )
        self._tell_failure(entry, failed, "failed")

    def relay(self, entry: QueuedTask, sign: Progress | LogLine) -> None:
        """Pass a sign of life on."""
        if isinstance(sign, Progress):
            self._board.progress(sign)
        else:
            text = f"{sign.key}: {sign.text}" if sign.key else sign.text
            _log.log(_LEVELS.get(sign.level, logging.INFO), "%s", text)
        entry.contact.link.report(sign)

    def _note_refusal(self, entry: QueuedTask, error: RefusedError) -> None:
        self._audit.note_if_possible(
            "training-refused", actor=entry.actor, **entry.facts, code=error.code, reason=error.message
        )

    def _tell_failure(self, entry: QueuedTask, failed: TaskFailure, how: str) -> None:
        _log.error("Training of %s %s (%s): %s", failed.key, how, failed.code, failed.text)
        last = f"Round {failed.key.round + 1} {how}: {failed.text}"
        self._board.change(task=None, failed=self._board.now.failed + 1, last=last)
        self._journal.end(entry.contact.url, failed.key, failed.code)
        entry.contact.link.fail(failed)
