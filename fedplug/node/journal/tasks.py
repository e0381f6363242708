"""The journal of a node's tasks: which were begun, which are finished, and how they ended.

The order of effects is what makes a task at most once finished, and a finished one never lost:

    begun (on disk) -> training -> update (on disk) -> offered -> committed (on disk) -> forgotten

A task is finished when its update is on the disk. One that was begun and not finished when the node starts again was
interrupted; it is never trained again under its own key. The end of a task is remembered after its update is gone, so
that nobody trains it when it comes once more.

A flush takes longer than a small training. So that a small update was committed goes to the disk together with the
beginning of the next task, or by `DiskTaskJournal.settle` if none comes.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedplug.core.crash_points import crash_point
from fedplug.core.errors import DiskFullError, FedplugError, RefusedError, StoreError
from fedplug.core.journal import Journal
from fedplug.core.link import EarlierTasks, FinishedTask
from fedplug.core.messages import TaskKey, TrainReply
from fedplug.core.params import Params
from fedplug.node.journal.contract import NoTaskJournal, TaskJournal
from fedplug.node.journal.records import Begun, Ended, Finished, Record
from fedplug.node.journal.updates import Updates
from fedplug.node.policy.schema import Policy
from fedplug.node.store import NodeStore

JOURNAL_FILE = "journal.sqlite"
MAX_AGE_DAYS = 30.0
"""An update that nobody has taken for so long is forgotten."""

REMEMBERED = 20_000
"""Ends of tasks that are remembered, for all researchers together."""

RESERVE = 32 * 2**20
"""Bytes of the disk that updates leave free: the store and the journal write a little more than they hold."""

_SLACK = 1000
_DAY = 86_400.0
_log = logging.getLogger("fedplug.node")

_Which = tuple[str, TaskKey]


@dataclass(slots=True)
class _Open:
    """A task that has not ended: number of its first record, whether its update is kept, and whether that is small."""

    number: int
    finished: bool = False
    small: bool = False


class DiskTaskJournal(TaskJournal):
    """The journal of a node that has a folder.

    Args:
        store: The node's store.
        policy: Gives the rules that are in force now.
        now: Seconds since 1970; for tests.
        free: Gives the free bytes of the disk below a folder; for tests.

    Raises:
        JournalError: The journal was damaged; the record is named.
        StoreError: Journal or store cannot be used.
    """

    def __init__(
        self,
        store: NodeStore,
        *,
        policy: Callable[[], Policy] = Policy,
        now: Callable[[], float] = time.time,
        free: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    ) -> None:
        if store.folder is None:
            raise StoreError("A node without a folder keeps no journal.")
        self._folder = store.folder
        self._policy = policy
        self._free = free
        self._lock = threading.Lock()
        self._open: dict[_Which, _Open] = {}
        # Tasks that were committed: those whose record is not on the disk yet, and those whose update may go.
        self._unsettled: dict[_Which, None] = {}
        self._over: list[_Which] = []
        self._ends: OrderedDict[_Which, tuple[str, int]] = OrderedDict()
        self._updates = Updates(store, now)
        self._journal: Journal[Record] = Journal(store.folder / JOURNAL_FILE, Record)
        try:
            self._replay()
        except BaseException:
            self._journal.close()
            raise

    def earlier(self, researcher: str) -> EarlierTasks:
        """As `TaskJournal.earlier`."""
        finished: list[FinishedTask] = []
        with self._lock:
            tasks = list(self._open.items())
        for which, task in tasks:
            if which[0] != researcher or not task.finished:
                continue
            try:
                finished.append(self._updates.get(*which))
            except FedplugError as error:
                _log.error("The update of %s, which was to be offered again, is lost: %s", which[1], error.message)
                self.end(*which, "update-lost")
        if finished:
            _log.info("%d finished update(s) wait for the researcher at %s.", len(finished), researcher)
        with self._lock:
            ends = {key: how for (whose, key), (how, _) in self._ends.items() if whose == researcher}
        return EarlierTasks(finished, ends)

    def require_room(self, researcher: str, nbytes: int) -> None:
        """As `TaskJournal.require_room`."""
        policy, (waiting, oldest) = self._policy(), self._updates.size(researcher)
        most = policy.resources.updates
        if oldest > MAX_AGE_DAYS * _DAY or (waiting + nbytes > most and self.unsettled):
            self._expire()
            self.settle()
            waiting, _ = self._updates.size(researcher)
        if waiting + nbytes > most:
            place = policy.where("resources.updates")
            raise RefusedError(
                f"This node keeps {waiting:,} bytes of finished updates for this researcher, this training would add "
                f"{nbytes:,}, and {most:,} are the most (rule resources.updates{', ' if place else ''}{place}).",
                code="no-space",
                cure="Go on with the experiments that they belong to: an update is forgotten when it was taken.",
            )
        if self._free(self._folder) < nbytes + RESERVE:
            raise RefusedError(
                "The disk of this node has no room for the update that this training would make.",
                code="no-space",
                cure="Ask the node's owner to free some disk space.",
            )

    def begin(self, researcher: str, key: TaskKey) -> None:
        """As `TaskJournal.begin`."""
        which = (researcher, key)
        self._forget_oldest(_SLACK)
        with self._lock:
            how, _ = self._ends.get(which, ("", 0))
            if how or which in self._open:
                text = "This node has begun this task before, and never trains one twice."
                raise RefusedError(text, code=how or "interrupted", cure="Raise `attempt` to train once more.")
            self._open[which] = _Open(self._journal.append(Begun(*which)))
        self._flush()
        crash_point("task-begun")

    def finish(
        self,
        researcher: str,
        reply: TrainReply,
        params: Params,
        aux: Mapping[str, Params],
        beside: Callable[[], object],
    ) -> bool:
        """As `TaskJournal.finish`."""
        which = (researcher, reply.key)
        crash_point("task-trained")

        over: list[_Which] = []

        def together() -> None:
            over.extend(self._remove_settled())
            beside()

        try:
            small = self._updates.put(researcher, reply, params, aux, together)
        except DiskFullError as error:
            _log.error(
                "The update of %s is kept in memory only, and is lost if this node ends before it was taken: %s",
                reply.key, error.message,
            )  # fmt: skip
            beside()
            return False
        self._forget_settled(over)
        with self._lock:
            task = self._open.get(which)
            if task is not None:
                task.finished, task.small = True, small
        if task is None:  # cancelled meanwhile
            self._updates.remove(which)
        crash_point("update-kept")
        return True

    def end(self, researcher: str, key: TaskKey, how: str) -> None:
        """As `TaskJournal.end`."""
        which = (researcher, key)
        with self._lock:
            task = self._open.pop(which, None)
            if task is None:
                return
            self._journal.append(Ended(researcher, key, how))
            self._ends[which] = (how, task.number)
            later = how == "committed" and task.small
            if later:
                self._unsettled[which] = None
        if later:
            return
        try:
            self._flush(ended=True)
            self._forget_oldest(_SLACK)
        except StoreError as error:
            _log.error("The end of %s (%s) cannot be written down: %s", key, how, error.message)
        self._remove(which)

    @property
    def unsettled(self) -> bool:
        """As `TaskJournal.unsettled`."""
        return bool(self._unsettled or self._over)

    def settle(self) -> None:
        """As `TaskJournal.settle`."""
        if not self.unsettled:
            return
        try:
            self._flush()
            self._forget_oldest(_SLACK)
        except StoreError as error:
            _log.error("The ends of %d task(s) cannot be written down: %s", len(self._unsettled), error.message)
        try:
            self._forget_settled(self._remove_settled())
        except StoreError as error:
            _log.error("Updates that were committed cannot be removed: %s", error.message)

    def _flush(self, *, ended: bool = False) -> None:
        """Bring all records to the disk; the updates of tasks that were committed may go then.

        Args:
            ended: Whether the end of another task is among them.
        """
        with self._lock:
            settled = list(self._unsettled)
        self._journal.flush()
        if ended or settled:
            crash_point("task-ended")
        with self._lock:
            for which in settled:
                if which in self._unsettled:  # or another thread was faster
                    del self._unsettled[which]
                    self._over.append(which)

    def _remove_settled(self) -> list[_Which]:
        """Remove the updates that may go; whose they are, to be forgotten when that is not undone any more."""
        with self._lock:
            over = list(self._over)
        if over:
            self._updates.remove(*over)
        return over

    def _forget_settled(self, over: list[_Which]) -> None:
        with self._lock:
            self._over = [which for which in self._over if which not in over]

    def _remove(self, which: _Which) -> None:
        try:
            self._updates.remove(which)
        except StoreError as error:
            _log.error("The update of %s cannot be removed: %s", which[1], error.message)

    @property
    def waiting(self) -> int:
        """As `TaskJournal.waiting`."""
        with self._lock:
            return sum(task.finished for task in self._open.values())

    def close(self) -> None:
        """As `TaskJournal.close`."""
        self.settle()
        try:
            self._journal.close()
        except StoreError as error:
            _log.error("The journal could not be closed in order: %s", error.message)

    def _replay(self) -> None:
        """Learn what earlier runs have written, and end what they were cut off from."""
        kept = self._updates.kept()
        for entry in self._journal.entries():
            record = entry.record
            which = (record.researcher, record.key)
            if isinstance(record, Begun):
                self._open[which] = _Open(entry.number, which in kept, kept.get(which, False))
            elif isinstance(record, Finished):
                self._open[which] = _Open(self._number(which, entry.number), finished=True)
            else:
                self._ends[which] = (record.how, self._number(which, entry.number))
                self._open.pop(which, None)
        cut_off = [which for which, task in self._open.items() if not task.finished]
        for which in cut_off:
            _log.warning("Training of %s was interrupted by the end of the node.", which[1])
            self.end(*which, "interrupted")
        self._updates.tidy(self._open)
        self._expire()
        self._forget_oldest(0)

    def _number(self, which: _Which, number: int) -> int:
        """The first record of a task; its own number if that one was forgotten."""
        return self._open[which].number if which in self._open else number

    def _expire(self) -> None:
        for which in self._updates.older_than(MAX_AGE_DAYS * _DAY):
            if which in self._open:
                _log.warning("The update of %s is given up: nobody has taken it for %g days.", which[1], MAX_AGE_DAYS)
                self.end(*which, "expired")

    def _forget_oldest(self, slack: int) -> None:
        """Keep the journal short: forget the oldest ends, and the records that nothing is left of."""
        with self._lock:
            if len(self._ends) <= REMEMBERED + slack:
                return
            while len(self._ends) > REMEMBERED:
                self._ends.popitem(last=False)
            first = min([number for _, number in self._ends.values()] + [task.number for task in self._open.values()])
        self._journal.forget(first)


def open_tasks(store: NodeStore, policy: Callable[[], Policy]) -> TaskJournal:
    """The journal of a node: beside its store if that lies in a folder; else there is none."""
    return DiskTaskJournal(store, policy=policy) if store.folder else NoTaskJournal()
