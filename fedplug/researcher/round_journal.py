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
from fedplug.core.journal import Head, Journal
from fedplug.researcher.durable_spool import DurableSpool
from fedplug.researcher.round_plan import RoundPlan
from fedplug.researcher.round_records import AnyRecord, Asked, Begun, RoundState, asked_digest
from fedplug.researcher.spool import Spool
from fedplug.researcher.update_file import UpdateFile

FILE = "journal.sqlite"
"""In the experiment's folder."""

_UPDATES = "updates_{:04d}.bin"


class RoundJournal(Closing):
    """The journal of an experiment, open for writing.

    Args:
        folder: The experiment's folder.
        noted: What a breakpoint of it says of the journal; None if it says nothing.

    Raises:
        JournalError: The journal is damaged; the record is named.
        StoreError: Another process works in this folder, or the disk fails.
    """

    def __init__(self, folder: Path, noted: Head | None = None) -> None:
        self._folder = folder
        path = folder / FILE
        self._journal: Journal[AnyRecord] = Journal(path, AnyRecord, noted=noted if path.exists() else None)
        self._last: RoundState | None = None
        self._file: UpdateFile | None = None
        for entry in self._journal.entries():
            if isinstance(entry.record, Begun):
                self._last = RoundState(entry.record)
            elif self._last is not None:
                self._last.apply(entry.record)

    @property
    def head(self) -> Head:
        """The last record, for `noted` when it is opened again."""
        return self._journal.head

    def begin(self, job: RoundPlan, budget: int) -> tuple[RoundPlan, Spool]:
        """Begin a round, or go on with it if it was cut off.

        Args:
            job: The round. Its attempts are used for tasks that have to be given out anew.
            budget: Bytes of memory that waiting updates may take together.

        Returns:
            The round with the attempts that count, and where its updates go.

        Raises:
            DiskFullError: There is no room to write it down.
            StoreError: The disk fails.
        """
        self._close_file()
        asked, state = asked_digest(job), self._last
        if state is None or not self._is_open(state, job, asked):
            state = self._last = self._begin(job, asked)
        elif state.stopped and state.committed is None:
            self._ask_again(state, job)
        path = self._folder / state.begun.file
        if self._file is None:
            ends = (received.place.start + received.place.nbytes for received in state.received.values())
            self._file = UpdateFile(path, fresh=not path.exists(), end=max(ends, default=0))
        for node in job.ctx.node_ids:
            if state.attempts[node] != job.requests[node].key.attempt:
                job = job.with_node(node, state.attempts[node])
        crash_point("round-begun")
        return job, DurableSpool(self._folder, budget, self._journal, state, self._file)

    def forget_updates(self) -> None:
        """The round is in a breakpoint: nobody needs its updates any more."""
        self._close_file()
        for path in self._folder.glob(_UPDATES.format(0).replace("0000", "*")):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let another process work here. May be called twice."""
        self._close_file()
        self._journal.close()

    def _is_open(self, state: RoundState, job: RoundPlan, asked: str) -> bool:
        """Whether what the journal says last is about this very round, and of use."""
        begun = state.begun
        if (begun.experiment, begun.round, begun.asked) != (job.ctx.experiment_id, job.ctx.round, asked):
            return False
        if set(begun.attempts) != set(job.requests):
            return False
        return (self._folder / begun.file).exists() or not (state.received or state.committed)

    def _begin(self, job: RoundPlan, asked: str) -> RoundState:
        self.forget_updates()
        begun = Begun(
            experiment=job.ctx.experiment_id,
            round=job.ctx.round,
            asked=asked,
            params=job.params.fingerprint(),
            plan=job.plan.hash,
            attempts={node: request.key.attempt for node, request in job.requests.items()},
            file=_UPDATES.format(job.ctx.round),
        )
        self._file = UpdateFile(self._folder / begun.file, fresh=True)
        self._journal.write(begun)
        return RoundState(begun)

    def _ask_again(self, state: RoundState, job: RoundPlan) -> None:
        """The tasks that were given up get a new attempt: nodes may have forgotten the one before."""
        for node, request in job.requests.items():
            if node not in state.received:
                record = Asked(node=node, attempt=request.key.attempt)
                self._journal.append(record)
                state.apply(record)
        self._journal.flush()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
