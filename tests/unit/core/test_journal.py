"""Journals: order, durability, one writer, and what damage does."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from moments import moments

from fedplug.core.errors import DiskFullError, JournalError, StoreError
from fedplug.core.journal import Head, Journal


class Begun(msgspec.Struct, frozen=True, tag="begun", forbid_unknown_fields=True):
    round: int


class Received(msgspec.Struct, frozen=True, tag="received", forbid_unknown_fields=True):
    node: str
    loss: float = 0.0


Kinds = Begun | Received
STORY: list[Kinds] = [Begun(0), Received("lyon", 0.1), Received("nice", float("inf")), Begun(1), Received("paris")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


def told(path: Path) -> list[Kinds]:
    with Journal[Kinds](path, Kinds) as journal:
        return [entry.record for entry in journal.entries()]


def change(path: Path, statement: str) -> None:
    """Change a journal behind our back."""
    db = sqlite3.connect(path)
    db.execute(statement)
    db.commit()
    db.close()


def opened(path: Path) -> tuple[list[Kinds], StoreError | None]:
    """Return the records of a journal that may be damaged, or the error."""
    try:
        return told(path), None
    except StoreError as error:
        return [], error


def image(path: Path, to: Path) -> Path:
    """Copy what would be found had the process been killed now."""
    to.mkdir(exist_ok=True)
    for name in (path.name, f"{path.name}-wal"):
        (to / name).unlink(missing_ok=True)
        if path.with_name(name).exists():
            shutil.copy(path.with_name(name), to / name)
    return to / path.name


@pytest.fixture
def killed(path: Path) -> Iterator[Path]:
    """A journal with a record to a transaction, whose writer was killed."""
    with Journal[Kinds](path, Kinds) as journal:
        for record in STORY:
            journal.write(record)
        yield image(path, path.parent / "killed")


# -- what is written --------------------------------------------------------------------------------------------------


def test_records_come_back_in_order_with_their_numbers(path: Path) -> None:
    with Journal[Kinds](path, Kinds) as journal:
        assert journal.head == Head(0, "0" * 64)
        assert [journal.append(record) for record in STORY[:2]] == [1, 2]
        assert list(journal.entries()) == []  # nothing was flushed
        journal.flush()
        journal.write(*STORY[2:])
        assert [entry.record for entry in journal.entries(after=3)] == STORY[3:]
        head = journal.head
    with Journal[Kinds](path, Kinds, noted=head) as journal:
        entries = list(journal.entries())
        assert ([entry.number for entry in entries], [entry.record for entry in entries]) == ([1, 2, 3, 4, 5], STORY)
        assert journal.head == head
        assert journal.append(Begun(2)) == 6


def test_a_record_that_was_flushed_outlives_the_process(killed: Path) -> None:
    assert told(killed) == STORY


def test_what_was_only_appended_does_not_outlive_the_process(path: Path) -> None:
    with Journal[Kinds](path, Kinds) as journal:
        journal.write(STORY[0])
        journal.append(STORY[1])
        assert told(image(path, path.parent / "killed")) == STORY[:1]
    assert told(path) == STORY[:2]  # closed in order


def test_only_its_owner_may_read_it(path: Path) -> None:
    with Journal[Kinds](path, Kinds) as journal:
        journal.write(*STORY)
        assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}


def test_each_commit_waits_for_the_disk(path: Path) -> None:
    with Journal[Kinds](path, Kinds) as journal:
        settings = [journal._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
        assert settings == ["wal", 2]


def test_threads_that_write_at_the_same_time_share_a_flush(path: Path) -> None:
    commits: list[str] = []
    with Journal[Kinds](path, Kinds) as journal:
        journal._db.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
        with journal._writing:  # as if a slow flush were under way
            threads = [threading.Thread(target=journal.write, args=(Received(f"node-{n}"),)) for n in range(20)]
            for thread in threads:
                thread.start()
            while journal.head.number < 20:
                pass
        for thread in threads:
            thread.join()
        assert len(commits) == 1
        assert sorted(e.record.node for e in journal.entries() if isinstance(e.record, Received)) == sorted(
            f"node-{n}" for n in range(20)
        )


def test_records_that_nobody_needs_are_forgotten_and_the_chain_still_holds(path: Path) -> None:
    with Journal[Kinds](path, Kinds) as journal:
        journal.write(*STORY)
        head = journal.head
        journal.forget(before=4)
        assert [entry.record for entry in journal.entries()] == STORY[3:]
        journal.forget(before=4)
    with Journal[Kinds](path, Kinds, noted=head) as journal:
        assert [entry.number for entry in journal.entries()] == [4, 5]
        journal.forget(before=100)
        journal.write(Begun(9))
    assert told(path) == [Begun(9)]


def test_row_46_a_second_writer_is_refused_until_the_first_has_closed(path: Path) -> None:
    with Journal[Kinds](path, Kinds):
        with pytest.raises(StoreError, match="in use by another process") as caught:
            Journal[Kinds](path, Kinds)
        assert "End that one first" in caught.value.cure
    assert told(path) == []


def test_a_closed_journal_says_so(path: Path) -> None:
    journal = Journal[Kinds](path, Kinds)
    journal.close()
    journal.close()
    with pytest.raises(StoreError, match="has been closed"):
        journal.write(Begun(0))
    with pytest.raises(StoreError, match="has been closed"):
        list(journal.entries())


# -- full and failing disks -------------------------------------------------------------------------------------------


def test_row_37_a_full_disk_loses_nothing_and_the_journal_goes_on_when_there_is_room(path: Path) -> None:
    with Journal[Kinds](path, Kinds) as journal:
        journal.write(STORY[0])
        journal._db.execute("PRAGMA max_page_count = 1")  # SQLite's own way to be full
        journal.append(Received("x" * 20_000))
        for _ in range(2):
            with pytest.raises(DiskFullError, match="disk is full"):
                journal.flush()
        assert told(image(path, path.parent / "killed")) == STORY[:1]
        journal._db.execute("PRAGMA max_page_count = 100000")
        journal.write(STORY[1])
    assert told(path) == [STORY[0], Received("x" * 20_000), STORY[1]]


def test_a_disk_that_fails_is_not_trusted_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        """The connection of a disk whose flush fails once."""

        def __init__(self, db: sqlite3.Connection) -> None:
            self.db, self.failed = db, False

        def __getattr__(self, name: str) -> object:
            return getattr(self.db, name)

        def execute(self, sql: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
            if sql == "COMMIT" and not self.failed:
                self.failed = True
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
                raise error
            return self.db.execute(sql, values)

    journal = Journal[Kinds](path, Kinds)
    journal.write(STORY[0])
    monkeypatch.setattr(journal, "_db", Failing(journal._db))
    for _ in range(2):
        with pytest.raises(StoreError, match="disk I/O error"):
            journal.write(STORY[1])
    with pytest.raises(StoreError, match="disk I/O error"):
        journal.close()
    assert told(path) == STORY[:1]


# -- damage -----------------------------------------------------------------------------------------------------------


def test_row_07_a_torn_tail_is_cut_at_every_byte_of_the_last_record(killed: Path) -> None:
    wal = killed.with_name(f"{killed.name}-wal")
    whole, database = wal.read_bytes(), killed.read_bytes()
    frame = 24 + int.from_bytes(whole[8:12], "big")
    assert (len(whole) - 32) % frame == 0
    every = range(len(whole) - frame, len(whole))
    chosen = [*every[:40], *every[40:-40:97], *every[-40:]]
    for length in chosen:
        killed.write_bytes(database)
        wal.write_bytes(whole[:length])
        assert told(killed) == STORY[:-1]


def test_row_07_a_tail_of_nonsense_is_cut(killed: Path) -> None:
    wal = killed.with_name(f"{killed.name}-wal")
    wal.write_bytes(wal.read_bytes() + random.Random(1).randbytes(9_000))
    assert told(killed) == STORY


def test_row_08_a_bit_flipped_in_the_log_never_loses_what_lies_behind_it(killed: Path) -> None:
    wal = killed.with_name(f"{killed.name}-wal")
    whole, database = wal.read_bytes(), killed.read_bytes()
    rng = random.Random(8)
    stopped = 0
    for _ in range(150):
        at = rng.randrange(len(whole) * 8)
        bad = bytearray(whole)
        bad[at // 8] ^= 1 << at % 8
        killed.write_bytes(database)
        wal.write_bytes(bad)
        found, error = opened(killed)
        stopped += isinstance(error, JournalError)
        # The last one may have been torn: nobody can tell.
        assert isinstance(error, JournalError) or found in (STORY, STORY[:-1]), (at, error)
    assert stopped > 50


@pytest.mark.parametrize("record", [1, 3, 4])
def test_row_08_a_record_that_was_changed_in_the_log_is_named(killed: Path, record: int) -> None:
    wal = killed.with_name(f"{killed.name}-wal")
    data = bytearray(wal.read_bytes())
    frame = 24 + int.from_bytes(data[8:12], "big")
    frames = (len(data) - 32) // frame
    start = 32 + (frames - len(STORY) + record - 1) * frame  # one frame for each record, behind those of the tables
    data[start + 24 + 4000] ^= 1
    before = wal.read_bytes()
    wal.write_bytes(data)
    with pytest.raises(JournalError, match=f"record {record} was changed, in journal.sqlite-wal") as caught:
        told(killed)
    assert caught.value.record == record
    assert wal.read_bytes() == bytes(data), "it is left to be looked at"
    wal.write_bytes(before)
    assert told(killed) == STORY


def test_row_08_a_bit_flipped_in_the_file_stops_the_start_or_harms_no_record(path: Path) -> None:
    with Journal[Kinds](path, Kinds) as journal:
        journal.write(*STORY, *(Received(f"node-{n}" * 50) for n in range(40)))
    whole = told(path)
    clean = path.read_bytes()
    rng = random.Random(8)
    named = 0
    for _ in range(250):
        at = rng.randrange(len(clean) * 8)
        bad = bytearray(clean)
        bad[at // 8] ^= 1 << at % 8
        path.write_bytes(bad)
        found, error = opened(path)
        named += isinstance(error, JournalError) and error.record > 0
        assert isinstance(error, JournalError) or "another version" in str(error) or found == whole, (at, error)
    assert named > 100


@pytest.mark.parametrize(
    ("statement", "record", "words"),
    [
        ("DELETE FROM records WHERE number = 2", 2, "record 2 is missing"),
        ("DELETE FROM records WHERE number = 1", 1, "record 1 is missing"),
        ("UPDATE records SET time = '2001' WHERE number = 3", 3, "record 3 was changed"),
        ("UPDATE records SET body = x'c0' WHERE number = 4", 4, "record 4 was changed"),
        ("UPDATE records SET hash = 'text' WHERE number = 4", 4, "record 4 was changed"),
        ("UPDATE start SET number = 1", 2, "record 2 was changed"),
        ("DELETE FROM start", 0, "does not say where it begins"),
        ("DROP TABLE records", 0, "no such table"),
        ("PRAGMA application_id = 7", 0, "not made by FedPlug"),
    ],
)
def test_row_08_what_was_changed_or_is_missing_is_named(path: Path, statement: str, record: int, words: str) -> None:
    with Journal[Kinds](path, Kinds) as journal:
        journal.write(*STORY)
    change(path, statement)
    with pytest.raises(JournalError, match=words) as caught:
        told(path)
    assert (caught.value.record, "back-up" in caught.value.cure) == (record, True)
    with pytest.raises(JournalError, match=words):  # the lock was given back, and nothing was mended in silence
        told(path)


def test_records_that_were_cut_off_are_missed_by_who_has_noted_the_head(path: Path) -> None:
    with Journal[Kinds](path, Kinds) as journal:
        journal.write(*STORY)
        head = journal.head
    change(path, "DELETE FROM records WHERE number > 3")
    with pytest.raises(JournalError, match="record 5 is not the one"):
        Journal[Kinds](path, Kinds, noted=head)
    assert told(path) == STORY[:3]  # the chain alone cannot know


def test_a_record_of_a_kind_that_is_not_known_is_named(path: Path) -> None:
    with Journal[Kinds](path, Kinds) as journal:
        journal.write(*STORY)
    with pytest.raises(JournalError, match="record 2 is nothing that this version writes"):
        Journal[Begun](path, Begun)


@pytest.mark.parametrize("content", [b"not a database, but a long enough text " * 100, b"\0" * 4096])
def test_a_foreign_file_is_refused_and_stays_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(JournalError, match="damaged"):
        told(path)
    assert path.read_bytes() == content


def test_a_journal_of_another_version_is_left_alone(path: Path) -> None:
    told(path)
    change(path, "PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="another version of FedPlug"):
        told(path)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be opened"):
        told(tmp_path / "missing" / "journal.sqlite")


def test_a_process_that_died_while_it_made_the_journal_leaves_one_to_begin_with(path: Path) -> None:
    path.touch()
    assert told(path) == []


def test_what_this_process_has_verified_is_not_looked_at_again_unless_it_is_another_journal(path: Path) -> None:
    with Journal[Kinds](path, Kinds) as journal:
        journal.write(*STORY[:3])
        verified = journal.head
        assert journal.written == verified
        journal.append(STORY[3])
        assert journal.written == verified
    with Journal[Kinds](path, Kinds, verified=verified) as journal:
        assert (journal.known, journal.head.number) == (verified, 4)
        journal.write(STORY[4])
    change(path, "UPDATE records SET time = '2001' WHERE number = 2")
    with Journal[Kinds](path, Kinds, verified=verified) as journal:
        assert [entry.record for entry in journal.entries(after=journal.known.number)] == STORY[3:]
    change(path, "UPDATE records SET hash = x'00' WHERE number = 3")  # it is not the one that was verified
    with pytest.raises(JournalError, match="record 2 was changed"):
        Journal[Kinds](path, Kinds, verified=verified)
    path.unlink()
    with Journal[Kinds](path, Kinds, verified=verified) as journal:
        assert journal.known == Head(0, "")


def test_ctrl_c_at_any_moment_of_a_call_costs_no_record_and_the_journal_goes_on(path: Path) -> None:
    """A signal is looked for behind each call, and most of a flush is spent in one: that of ``COMMIT``."""
    with Journal[Kinds](path, Kinds) as journal:
        interrupted = 0
        for moment in moments("core/journal.py", _interrupt, calls_only=True):
            before = journal.head.number
            with contextlib.suppress(KeyboardInterrupt), moment:
                journal.write(Received("lyon"), Received("nice"))
            interrupted += moment.came
            journal.write(Begun(before))  # nothing of what was under way is in its way
            assert journal.head == journal.written
    assert interrupted > 20
    kept = [record.round for record in told(path) if isinstance(record, Begun)]  # as each is chained to the one before
    assert len(kept) == interrupted + 1


def _interrupt() -> None:
    raise KeyboardInterrupt
