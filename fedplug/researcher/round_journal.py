"""The journal of an experiment: a round that is cut off at any point goes on where it was, of the same updates.

What is on the disk when the process ends: the round with the keys of its tasks, before anything is sent; each update,
before its node is told that it may forget it; that the round is complete, before the breakpoint is written. So the next
process gives out the same tasks under the same keys, which nodes do not train twice, and takes the updates that are
here from its own disk.
"""

from __future__ import annotations

from pathlib import Path

from fedplug.core.closing import Closing
from fedplug.core.crash_points import crash_point
from fedplug.core.ctrl_c import ctrl_c_waits
from fedplug.core.errors import StoreError
from fedplug.core.journal import Head, Journal
from fedplug.researcher.durable_spool import DurableSpool
from fedplug.researcher.round_plan import RoundPlan
from fedplug.researcher.round_records import AnyRecord, Asked, Begun, RoundState, Stopped, asked_digest
from fedplug.researcher.spool import Spool
from fedplug.researcher.update_file import UpdateFile

FILE = "journal.sqlite"
"""In the experiment's folder."""

_UPDATES = "updates_{:04d}.bin"


class RoundJournal(Closing):
    """The journal of an experiment. It is open while rounds run, and only one process at a time can have it open.

    Args:
        folder: The experiment's folder.
        noted: What a breakpoint of it says of the journal; None if it says nothing.

    Attributes:
        folder: The experiment's folder.
    """

    def __init__(self, folder: Path, noted: Head | None = None) -> None:
        self.folder = folder
        self._noted = noted
        self._known: Head | None = None
        self._journal: Journal[AnyRecord] | None = None
        self._last: RoundState | None = None
        self._file: UpdateFile | None = None

    def open(self) -> None:
        """Verify what is there, and begin to write.

        Raises:
            JournalError: The journal is damaged; the record is named.
            StoreError: Another process works in this folder, or the disk fails.
        """
        self.close()  # Ctrl-C may have kept an earlier run from it
        path = self.folder / FILE
        self.folder.mkdir(parents=True, exist_ok=True)  # it may have been removed
        # One that is not there any more was moved away by somebody who knew what that means.
        noted = self._noted if path.exists() else None
        with ctrl_c_waits():  # or it is open, and nobody knows of it
            journal = self._journal = Journal(path, AnyRecord, noted=noted, verified=self._known)
        if journal.known.number == 0:
            self._last = None
        for entry in journal.entries(after=journal.known.number):
            if isinstance(entry.record, Begun):
                self._last = RoundState(entry.record)
            elif self._last is not None:
                self._last.apply(entry.record)

    def check(self, rounds: int) -> None:
        """Verify what is there, if there is anything, before it is gone on from a breakpoint.

        Args:
            rounds: So many are in the breakpoint; nobody needs their updates any more.

        Raises:
            JournalError: As for `open`.
            StoreError: As for `open`.
        """
        if (self.folder / FILE).exists():
            self.open()
            if self._last is not None and self._last.begun.round < rounds:
                self.forget_updates()
            self.close()

    def note(self) -> Head | None:
        """What a breakpoint is to say of the journal: all of it is on the disk. None if there is none.

        Raises:
            StoreError: It cannot be put there.
        """
        if self._journal is not None:
            self._journal.flush()
            self._noted = self._journal.head
        return self._noted

    def begin(self, job: RoundPlan, budget: int, *, again: bool) -> tuple[RoundPlan, Spool]:
        """Begin a round, or go on with it if it was cut off.

        Args:
            job: The round. Its attempts are used for tasks that have to be given out anew.
            budget: Bytes of memory that waiting updates may take together.
            again: Whether this process has tried the round before, and given its tasks up.

        Returns:
            The round with the attempts that count, and where its updates go.

        Raises:
            DiskFullError: There is no room to write it down.
            StoreError: The disk fails.
        """
        self._close_file()
        journal = self._opened()
        asked, state = asked_digest(job), self._last
        if state is None or not self._is_open(state, job, asked):
            state = self._last = self._begin(journal, job, asked)
        elif state.committed is None and (again or state.stopped):
            self._ask_again(journal, state, job)
        path = self.folder / state.begun.file
        if self._file is None:
            ends = (received.place.start + received.place.nbytes for received in state.received.values())
            self._file = UpdateFile(path, fresh=not path.exists(), end=max(ends, default=0))
        for node in job.ctx.node_ids:
            if state.attempts[node] != job.requests[node].key.attempt:
                job = job.with_node(node, state.attempts[node])
        crash_point("round-begun")
        return job, DurableSpool(self.folder, budget, journal, state, self._file)

    def forget_updates(self) -> None:
        """There is a breakpoint: nobody needs the updates of a round that is complete any more."""
        if self._last is not None and self._last.committed is None:
            return
        self._remove_files()

    def _remove_files(self) -> None:
        self._close_file()
        for path in self.folder.glob(_UPDATES.format(0).replace("0000", "*")):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let another process work here. May be called twice.

        Raises:
            StoreError: What was to be written last cannot be; it is closed all the same.
        """
        with ctrl_c_waits():
            self._close_file()
            journal, self._journal = self._journal, None
            if journal is not None:
                try:
                    journal.close()
                finally:
                    self._known = self._noted = journal.written

    def _is_open(self, state: RoundState, job: RoundPlan, asked: str) -> bool:
        """Whether what the journal says last is about this very round, and of use."""
        begun = state.begun
        if (begun.experiment, begun.round, begun.asked) != (job.ctx.experiment_id, job.ctx.round, asked):
            return False
        if set(begun.attempts) != set(job.requests):
            return False
        return (self.folder / begun.file).exists() or not (state.received or state.committed)

    def _opened(self) -> Journal[AnyRecord]:
        if self._journal is None:
            raise StoreError(f"The journal of the experiment in {self.folder} is not open.")
        return self._journal

    def _begin(self, journal: Journal[AnyRecord], job: RoundPlan, asked: str) -> RoundState:
        self._remove_files()
        begun = Begun(
            experiment=job.ctx.experiment_id,
            round=job.ctx.round,
            asked=asked,
            params=job.params.fingerprint(),
            plan=job.plan.hash,
            attempts={node: request.key.attempt for node, request in job.requests.items()},
            file=_UPDATES.format(job.ctx.round),
        )
        self._file = UpdateFile(self.folder / begun.file, fresh=True)
        journal.write(begun)
        return RoundState(begun)

    def _ask_again(self, journal: Journal[AnyRecord], state: RoundState, job: RoundPlan) -> None:
        """The tasks that were given up get a new attempt: nodes may have forgotten the one before."""
        records: list[AnyRecord] = [] if state.stopped else [Stopped(reason="it ended without a word")]
        records += [
            Asked(node=node, attempt=request.key.attempt)
            for node, request in job.requests.items()
            if node not in state.received
        ]
        for record in records:
            journal.append(record)
            state.apply(record)
        journal.flush()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
