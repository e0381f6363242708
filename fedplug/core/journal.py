"""Journals: what happened, in order, on the disk before anybody is told.

A journal is a file of SQLite (write-ahead log, ``synchronous=FULL``) to which records are only ever appended. Each is
chained to the one before by its hash, and all are verified when the journal is opened: what was being written when the
process died, or the power went, is rolled back by SQLite; a record that was changed, or is missing, stops the start.

Several records share one flush: append them all, then call `Journal.flush` once. Threads that flush at the same time
share one too. Ctrl-C may end any call in the middle: what was appended is written by the next one.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from fedplug.core.closing import Closing
from fedplug.core.errors import DiskFullError, StoreError
from fedplug.core.file_lock import FileLock, holder
from fedplug.core.journal_errors import damaged, journal_error
from fedplug.core.wal_check import is_damaged, last_readable
from fedplug.core.whole_file import sync

T = TypeVar("T")

VERSION = 1
"""Of the layout of a journal; another one cannot be read."""

_APPLICATION_ID = 0x46504A4C  # "FPJL", so that file(1) and we know the file
_BATCH = 1000
_TABLES = (
    "CREATE TABLE records (number INTEGER PRIMARY KEY, time TEXT NOT NULL, body BLOB NOT NULL, hash BLOB NOT NULL)",
    "CREATE TABLE start (number INTEGER NOT NULL, hash BLOB NOT NULL)",
    "INSERT INTO start VALUES (0, zeroblob(32))",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)


class Head(NamedTuple):
    """The last record of a journal at some time: who has noted it notices when records are cut off.

    Attributes:
        number: Of the record; 0 if there is none.
        hash: Its hash (hex), which stands for all records up to it.
    """

    number: int
    hash: str


@dataclass(frozen=True, slots=True)
class Entry(Generic[T]):
    """A record in its place.

    Attributes:
        number: From 1.
        time: When it was appended (UTC, ISO 8601), by a clock that may have been wrong: for people only.
        record: What happened.
    """

    number: int
    time: str
    record: T


class Journal(Closing, Generic[T]):
    """A journal of one writer. Methods may be called from any thread.

    Args:
        path: The file. It is made if it is missing, readable by its owner only; its folder must be there. SQLite keeps
            ``<path>-wal`` beside it, and ``<path>.lock`` says who writes.
        kinds: What a record may be, for msgspec: a `msgspec.Struct`, or a union of tagged ones.
        noted: A head that was noted earlier; it must still be there.
        verified: A head up to which this process has verified the journal before: the records up to it are not looked
            at again, if it is still there.

    Attributes:
        known: ``verified``, if it is still there; else that of an empty journal.

    Raises:
        JournalError: A record was changed or is missing, or the file is no journal.
        StoreError: Somebody else writes it, or the file cannot be used.
        DiskFullError: There is no room to make it.
    """

    def __init__(self, path: Path, kinds: Any, *, noted: Head | None = None, verified: Head | None = None) -> None:
        self.path = path
        self.known = verified or Head(0, "")
        self._decoder = msgspec.msgpack.Decoder(kinds)
        self._lock = threading.Lock()  # of all below
        self._writing = threading.Lock()  # of the file; taken before the other one
        self._pending: list[tuple[int, str, bytes, bytes]] = []
        self._broken: StoreError | None = None
        self._taken = self._take()
        try:
            fresh = not path.exists()
            self._db = self._connect(fresh)
            try:
                self._written = self._verify(noted)
            except BaseException:
                self._db.close()
                raise
        except BaseException:
            self._taken.release()
            raise

    # -- writing ------------------------------------------------------------------------------------------------

    def append(self, record: T) -> int:
        """Append a record, which is on the disk after the next `flush`.

        Returns:
            Its number.
        """
        body = msgspec.msgpack.encode(record)
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        with self._lock:
            last = self._last()
            digest = _digest(bytes.fromhex(last.hash), last.number + 1, time, body)
            self._pending.append((last.number + 1, time, body, digest))  # one step: Ctrl-C finds the chain whole
            return last.number + 1

    def flush(self) -> None:
        """Wait until every record that was appended so far is on the disk.

        Raises:
            DiskFullError: There is no room. The records are kept: call it again when there is.
            StoreError: The disk failed. Nothing more can be written until the journal is opened anew.
        """
        with self._lock:
            wanted = self._last().number
        with self._writing:
            if self._written.number >= wanted:
                return  # another thread has taken them along
            if self._broken is not None:
                raise self._broken
            with self._lock:
                rows = [row for row in self._pending if row[0] > self._written.number]
            # Those that are there were put there by a call that Ctrl-C has ended before it could note that.
            self._transact([("INSERT INTO records VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", row) for row in rows])
            with self._lock:
                self._written = Head(rows[-1][0], rows[-1][3].hex())
                self._pending = [row for row in self._pending if row[0] > self._written.number]

    def write(self, *records: T) -> None:
        """Append records and wait until they are on the disk; raises what `flush` does."""
        for record in records:
            self.append(record)
        self.flush()

    def forget(self, before: int) -> None:
        """Remove the records before a number, which nobody needs any more; the chain begins at that one then.

        Raises:
            StoreError: As for `flush`.
        """
        self.flush()
        with self._writing:
            if self._broken is not None:
                raise self._broken
            row = self._db.execute("SELECT number, hash FROM records WHERE number < ? ORDER BY number DESC LIMIT 1",
                                   (before,)).fetchone()  # fmt: skip
            if row is not None:
                self._transact([("UPDATE start SET number = ?, hash = ?", row),
                                ("DELETE FROM records WHERE number <= ?", row[:1])])  # fmt: skip

    # -- reading ------------------------------------------------------------------------------------------------

    def entries(self, after: int = 0) -> Iterator[Entry[T]]:
        """The records on the disk, in order.

        Args:
            after: Only those after the one of this number.
        """
        while rows := self._rows(after):
            for number, time, body, _ in rows:
                yield Entry(number, time, self._decoder.decode(body))
            after = rows[-1][0]

    @property
    def head(self) -> Head:
        """The last record, whether or not it is on the disk yet."""
        with self._lock:
            return self._last()

    @property
    def written(self) -> Head:
        """The last record on the disk."""
        with self._lock:
            return self._written

    def close(self) -> None:
        """Write what was appended, and let somebody else have the journal. May be called twice.

        Raises:
            StoreError: As for `flush`; it is closed all the same.
        """
        try:
            self.flush()
        finally:
            with self._writing:
                self._broken = StoreError(f"The journal {self.path} has been closed.")
                self._db.close()
                self._taken.release()

    def _last(self) -> Head:
        """The last record; the caller holds the lock."""
        return Head(self._pending[-1][0], self._pending[-1][3].hex()) if self._pending else self._written

    # -- the file -----------------------------------------------------------------------------------------------

    def _take(self) -> FileLock:
        lock = self.path.with_name(f"{self.path.name}.lock")
        try:
            taken = FileLock.take(lock)
        except OSError as error:
            raise StoreError(
                f"{lock} cannot be opened: {error.strerror}.", cure="Check that this user may write its folder."
            ) from None
        if taken is None:
            raise StoreError(
                f"The journal {self.path} is in use by another process ({holder(lock)}).",
                cure="Only one may work in this folder at a time. End that one first.",
            )
        return taken

    def _connect(self, fresh: bool) -> sqlite3.Connection:
        wal = self.path.with_name(f"{self.path.name}-wal")
        try:
            if fresh:
                self.path.touch(mode=0o600)
                sync(self.path.parent)
            elif is_damaged(wal):
                first = last_readable(self.path, "SELECT max(number) FROM records") + 1
                raise damaged(self.path, f"record {first} was changed, in {wal.name}, and others follow it", first)
            db = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
            db.text_factory = _text
        except OSError as error:
            raise StoreError(f"The journal {self.path} cannot be opened: {error.strerror}.") from None
        except sqlite3.Error as error:
            raise journal_error(self.path, error) from error
        try:
            # Exclusive: no other process may look, so that SQLite needs no shared memory beside the file.
            for name, value in (("locking_mode", "EXCLUSIVE"), ("journal_mode", "WAL"), ("synchronous", "FULL")):
                db.execute(f"PRAGMA {name} = {value}")
            self._db = db
            (application,), (version,) = (db.execute(f"PRAGMA {name}").fetchone() for name in _MARKS)
            if (application, version) == (0, 0) and not db.execute("SELECT 1 FROM sqlite_master").fetchone():
                self._transact([(statement, ()) for statement in _TABLES])
            elif application != _APPLICATION_ID:
                raise damaged(self.path, "it was not made by FedPlug, or its beginning was changed")
            elif version != VERSION:
                raise StoreError(
                    f"The journal {self.path} was written by another version of FedPlug (layout {version}, this one "
                    f"reads {VERSION}).",
                    cure="Go on with the version that wrote it.",
                )
        except sqlite3.Error as error:
            db.close()
            raise journal_error(self.path, error) from error
        except BaseException:
            db.close()
            raise
        return db

    def _verify(self, noted: Head | None) -> Head:
        """Look at every record; the last one."""
        try:
            starts = self._db.execute("SELECT number, hash FROM start").fetchall()
            if len(starts) != 1:
                raise damaged(self.path, "it does not say where it begins")
            number, previous = starts[0]
            known = self._db.execute("SELECT hash FROM records WHERE number = ?", (self.known.number,)).fetchone()
            if known is not None and known[0].hex() == self.known.hash:
                number, previous = self.known.number, known[0]
            else:
                self.known = Head(0, "")
            seen = noted is None or noted.number < number or (number, previous.hex()) == noted
            while rows := self._rows(number):
                for found, time, body, digest in rows:
                    if found != number + 1:
                        raise damaged(self.path, f"record {number + 1} is missing", number + 1)
                    if _digest(previous, found, time, body) != digest:
                        raise damaged(self.path, f"record {found} was changed after it was written", found)
                    self._decode(found, body)
                    number, previous = found, digest
                    seen = seen or (number, previous.hex()) == noted
        except sqlite3.Error as error:
            raise journal_error(self.path, error) from error
        except (TypeError, AttributeError, OverflowError) as error:
            raise damaged(self.path, f"a value is of the wrong kind ({error})") from None
        if not seen and noted is not None:
            raise damaged(self.path, f"record {noted.number} is not the one that it once had", noted.number)
        return Head(number, previous.hex())

    def _rows(self, after: int) -> list[tuple[int, str, bytes, bytes]]:
        query = "SELECT number, time, body, hash FROM records WHERE number > ? ORDER BY number LIMIT ?"
        try:
            with self._writing:
                return self._db.execute(query, (after, _BATCH)).fetchall()
        except sqlite3.Error as error:
            raise journal_error(self.path, error) from error

    def _decode(self, number: int, body: bytes) -> None:
        try:
            self._decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise damaged(self.path, f"record {number} is nothing that this version writes ({error})", number) from None

    def _transact(self, statements: list[tuple[str, tuple[Any, ...]]]) -> None:
        try:
            if self._db.in_transaction:  # which Ctrl-C has cut off
                self._db.execute("ROLLBACK")
            self._db.execute("BEGIN IMMEDIATE")
            for statement, values in statements:
                self._db.execute(statement, values)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            try:
                if self._db.in_transaction:  # a full disk has rolled it back already
                    self._db.execute("ROLLBACK")
                retry = True
            except sqlite3.Error:
                retry = False
            failure = journal_error(self.path, error)
            if not (retry and isinstance(failure, DiskFullError)):
                # After a failed flush nobody knows what the disk has: to try again might only seem to succeed.
                self._broken = failure
            raise failure from error


_MARKS = ("application_id", "user_version")


def _text(data: bytes) -> str:
    """A damaged text as one that has another hash."""
    return data.decode(errors="replace")


def _digest(previous: bytes, number: int, time: str, body: bytes) -> bytes:
    return hashlib.sha256(previous + msgspec.msgpack.encode((number, time, body))).digest()
