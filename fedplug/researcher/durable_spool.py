"""The spool of a round with a journal: what it takes is on the disk before its node is told that it may forget it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from pathlib import Path

from fedplug.core.crash_points import crash_point
from fedplug.core.errors import CodecError, FedplugWarning, StoreError
from fedplug.core.journal import Journal
from fedplug.core.messages import TaskKey, TrainReply
from fedplug.core.params import Params
from fedplug.core.pool import UpdateFetched
from fedplug.researcher.round_records import (
    AnyRecord,
    Asked,
    Committed,
    Late,
    Received,
    Refused,
    RoundState,
    Stopped,
    update_id,
)
from fedplug.researcher.spool import Recalled, Room, Spool
from fedplug.researcher.update_file import RegionRoom, UpdateFile


class DurableSpool(Spool):
    """Keeps the updates of one round in a file, and says so in the journal.

    Args:
        folder: The experiment's folder.
        budget: Bytes of memory that waiting updates may take together.
        journal: The journal.
        state: What it knows of the round.
        file: The file of the round.
    """

    durable = True

    def __init__(
        self, folder: Path, budget: int, journal: Journal[AnyRecord], state: RoundState, file: UpdateFile
    ) -> None:
        super().__init__(folder, budget)
        self._journal = journal
        self._state = state
        self._file = file
        self._taken: list[UpdateFetched] = []
        self._records: list[tuple[TaskKey, AnyRecord]] = []  # their files are written, but not flushed
        self._appended: list[TaskKey] = []  # the journal is not flushed
        self._damaged: set[str] = set()
        self.complete = state.committed is not None and self._is_whole()
        self.added = [state.key(node) for node in state.added]
        self.refused = dict(state.refused)

    def room(self, nbytes: int, *, in_file: bool) -> Room:
        """As `Spool.room`; small updates are written to the file together, when they are settled."""
        return RegionRoom(self, self._file) if in_file else Room(self, nbytes)

    def recall(self, key: TaskKey) -> Recalled | None:
        """As `Spool.recall`. One that is damaged is asked for again: its node may still have it."""
        received = self._state.received.get(key.node_id)
        if received is None or received.attempt != key.attempt:
            return None
        try:
            return self._file.read(received.place, self)
        except CodecError as error:
            if key.node_id not in self._damaged:
                self._damaged.add(key.node_id)
                warnings.warn(
                    f"The update of node {key.node_id} in {self._file.path} is damaged ({error.message}): the node is "
                    "asked for it again.",
                    FedplugWarning,
                    stacklevel=2,
                )
            return None

    def ask(self, key: TaskKey) -> None:
        """As `Spool.ask`."""
        self._note(Asked(node=key.node_id, attempt=key.attempt))
        self._journal.flush()

    def take(self, event: UpdateFetched) -> None:
        """As `Spool.take`."""
        self._taken.append(event)

    def refuse(self, key: TaskKey, reason: str) -> None:
        """As `Spool.refuse`."""
        self._records.append((key, Refused(node=key.node_id, attempt=key.attempt, reason=reason)))

    def late(self, key: TaskKey) -> None:
        """As `Spool.late`; it is on the disk with the next record that has to be."""
        self._journal.append(Late(round=key.round, node=key.node_id, attempt=key.attempt))

    @property
    def unsettled(self) -> int:
        """As `Spool.unsettled`."""
        return len(self._taken) + len(self._records) + len(self._appended)

    def settle(self) -> list[TaskKey]:
        """As `Spool.settle`. All that came since the last time shares two flushes: of the file, and of the journal."""
        if not self.unsettled:
            return []
        self._store()
        self._journal.flush()
        crash_point("reply-journalled")
        return self._settled()

    def _store(self) -> None:
        """Put what was taken into the file, flush that, and append it to the journal."""
        while self._taken:
            event = self._taken[0]
            key, place = event.reply.key, self._file.write(event.reply, event.params, event.aux)
            update = update_id(key, event.params, event.aux)
            self._records.append((key, Received(node=key.node_id, attempt=key.attempt, update=update, place=place)))
            del self._taken[0]
        if self._records:
            self._file.sync()
            crash_point("update-in-file")
            for key, record in self._records:
                self._note(record)
                self._appended.append(key)
            self._records.clear()

    def _settled(self) -> list[TaskKey]:
        settled, self._appended = self._appended, []
        return settled

    def conclude(self, replies: Mapping[str, TrainReply], params: Params) -> list[TaskKey]:
        """As `Spool.conclude`. What came last shares a flush of the journal with it."""
        self._store()
        updates = tuple(
            (node, self._state.received[node].update, reply.sample_count) for node, reply in sorted(replies.items())
        )
        record = Committed(round=self._state.begun.round, updates=updates, params=params.fingerprint())
        before = self._state.committed
        if before is not None and self.complete and before.params != record.params:
            warnings.warn(
                f"Round {record.round + 1} was complete when the process ended, and does not come to the same again: "
                "the aggregator or the optimizer does not always do the same, or FedPlug was upgraded. It counts as it "
                "is now.",
                FedplugWarning,
                stacklevel=2,
            )
        if record != before:
            self._note(record)
        self._journal.flush()
        crash_point("round-committed")
        return self._settled()

    def stop(self, reason: str) -> None:
        """As `Spool.stop`. What stops the round says more than a disk that fails as well."""
        super().stop(reason)
        with contextlib.suppress(StoreError):
            self._note(Stopped(reason=reason))
            self._journal.flush()

    def _note(self, record: AnyRecord) -> None:
        self._journal.append(record)
        self._state.apply(record)

    def _is_whole(self) -> bool:
        """Whether everything that is in the result of the round can be read."""
        assert self._state.committed is not None
        for node, update, _ in self._state.committed.updates:
            received = self._state.received.get(node)
            recalled = self.recall(self._state.key(node)) if received and received.update == update else None
            if recalled is None:
                return False
            recalled.room.release()
        return True
