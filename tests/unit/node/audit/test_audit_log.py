"""The audit log: what is written stays as it was written, or is found out."""

from __future__ import annotations

import dataclasses
import sqlite3
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedplug.core.errors import StoreError, UsageError
from fedplug.node.audit.entry import EVENTS, START, Entry, verify_chain
from fedplug.node.audit.export import export_entries, read_export
from fedplug.node.audit.log import AuditLog
from fedplug.node.store import STORE_FILE, NodeStore


@pytest.fixture
def log():
    with NodeStore.in_memory() as store:
        yield AuditLog(store)


def chain(count: int) -> list[Entry]:
    with NodeStore.in_memory() as store:
        log = AuditLog(store)
        for number in range(count):
            log.note("training-started", actor=f"researcher:r{number}", task=f"e/{number}/n/0", metrics={"loss": 0.5})
        return list(log.all())


WHOLE = chain(6)


def test_entries_come_back_as_they_were_noted_the_newest_first(log):
    log.note("node-started", version="1")
    log.note("training-started", actor="researcher:zmq://r", dataset="patients", task="e/0/n/0")
    log.note("dataset-added", actor="owner", dataset="patients", columns=("a", "b"))
    assert [entry.event for entry in log.entries()] == ["dataset-added", "training-started", "node-started"]
    assert log.entries(limit=1)[0].data == {"dataset": "patients", "columns": ["a", "b"]}
    assert [entry.number for entry in log.entries(dataset="patients", actor="researcher")] == [2]
    assert [entry.number for entry in log.entries(events=["node-started", "connected"])] == [1]
    assert [entry.number for entry in log.entries(before=3, limit=5)] == [2, 1]
    middle = log.entries(before=3)[0].time
    assert [entry.number for entry in log.entries(since=middle)] == [3, 2]
    assert [entry.number for entry in log.entries(until=middle)] == [1]
    assert log.verify().ok
    assert log.head() == log.entries()[0].hash


def test_an_entry_that_is_not_flushed_is_there_and_the_next_one_is_flushed_again(tmp_path):
    with NodeStore.create(tmp_path / "n") as store:
        log = AuditLog(store)
        log.note_soon("training-started")
        assert store.read("PRAGMA synchronous") == [(2,)]
        with pytest.raises(ZeroDivisionError), store.transaction(flush=False):
            1 / 0  # noqa: B018
        assert store.read("PRAGMA synchronous") == [(2,)]
        with NodeStore.open(tmp_path / "n") as other:
            assert [entry.event for entry in AuditLog(other).entries()] == ["training-started"]
        log.note("training-finished")
        assert log.verify().count == 2


def test_an_empty_log_is_whole(log):
    assert log.head() == START
    assert log.verify(START).ok
    assert log.verify().count == 0


def test_facts_are_bounded(log):
    entry = log.note(
        "plan-received", text="x" * 10_000, many=range(3), names=[str(n) for n in range(500)], deep=[[[[[[1]]]]]],
        huge=2**80, nan=float("nan"),
    )  # fmt: skip
    assert len(entry.data["text"]) == 1000
    assert len(entry.data["names"]) == 100
    assert entry.data["huge"] == str(2**80)
    assert len(entry.facts) < 4000
    assert log.verify().ok


def test_an_event_that_nobody_has_explained_is_a_mistake(log):
    with pytest.raises(AssertionError):
        log.note("something")
    assert all(text.endswith(".") for text in EVENTS.values())


@pytest.mark.parametrize("statement", ["DELETE FROM audit", "UPDATE audit SET actor = 'x'"])
def test_the_store_itself_refuses_to_change_the_log(statement):
    with NodeStore.in_memory() as store:
        AuditLog(store).note("node-started")
        with pytest.raises((StoreError, sqlite3.Error)), store.transaction() as db:
            db.execute(statement)
        assert AuditLog(store).verify().count == 1


# the chain ---------------------------------------------------------------------------------------------------


@given(st.integers(0, 5), st.sampled_from([field.name for field in dataclasses.fields(Entry)]), st.integers(0, 300))
def test_a_change_of_any_sign_of_any_field_is_found(index, field, place):
    entry = WHOLE[index]
    value = getattr(entry, field)
    if isinstance(value, int):
        changed = value + place + 1
    else:
        place %= len(value)
        changed = value[:place] + ("x" if value[place] != "x" else "y") + value[place + 1 :]
    entries = [*WHOLE[:index], dataclasses.replace(entry, **{field: changed}), *WHOLE[index + 1 :]]
    verdict = verify_chain(entries)
    assert not verdict.ok
    assert verdict.count == index


@given(st.integers(0, 5), st.integers(0, 5))
def test_what_is_missing_twice_or_in_another_order_is_found(first, second):
    without = [*WHOLE[:first], *WHOLE[first + 1 :]]
    verdict = verify_chain(without)
    assert verdict.ok == (first == 5)  # the end can be cut off; that is what a noted head is for
    assert not verify_chain(without, WHOLE[first].hash).ok
    assert not verify_chain([*WHOLE[: first + 1], *WHOLE[first:]]).ok
    if first != second:
        swapped = list(WHOLE)
        swapped[first], swapped[second] = swapped[second], swapped[first]
        assert not verify_chain(swapped).ok


def test_a_log_that_was_written_anew_does_not_hold_the_head_that_was_noted():
    other = chain(9)
    assert verify_chain(other).ok
    assert "cut off, or written anew" in verify_chain(other, WHOLE[-1].hash).problem
    assert verify_chain(WHOLE, WHOLE[2].hash).ok


def test_who_works_around_the_store_is_found_out(tmp_path):
    with NodeStore.create(tmp_path / "n") as store:
        for _ in range(3):
            AuditLog(store).note("node-started")
    with sqlite3.connect(tmp_path / "n" / STORE_FILE) as db:
        db.execute("DROP TRIGGER audit_does_not_change")
        db.execute("UPDATE audit SET actor = 'nobody' WHERE number = 2")
    db.close()
    with NodeStore.open(tmp_path / "n") as store:
        assert AuditLog(store).verify().problem == "Entry 2 was changed after it was written."


# more than one process ---------------------------------------------------------------------------------------

WRITER = """
import sys
from fedplug.node.audit.log import AuditLog
from fedplug.node.store import NodeStore
with NodeStore.open(sys.argv[1]) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(int(sys.argv[2])):
        AuditLog(store).note("connected", researcher=sys.argv[3])
        print("noted", flush=True)
"""


def writers(folder, count, names):
    found = []
    for name in names:
        command = [sys.executable, "-c", WRITER, str(folder), str(count), name]
        found.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert found[-1].stdout.readline() == "ready\n"
    for process in found:
        process.stdin.write("\n")
        process.stdin.flush()
    return found


def test_processes_that_write_at_once_make_one_chain(tmp_path):
    NodeStore.create(tmp_path / "n").close()
    for process in writers(tmp_path / "n", 40, "abc"):
        assert process.communicate()[0].count("noted") == 40
    with NodeStore.open(tmp_path / "n") as store:
        assert AuditLog(store).verify() == AuditLog(store).verify(AuditLog(store).head())
        assert AuditLog(store).verify().count == 120


def test_a_writer_that_is_killed_leaves_whole_entries_and_all_that_it_was_told_are_there(tmp_path):
    NodeStore.create(tmp_path / "n").close()
    (process,) = writers(tmp_path / "n", 100_000, "a")
    for _ in range(20):
        assert process.stdout.readline() == "noted\n"
    process.kill()
    told = 20 + process.communicate()[0].count("noted")
    with NodeStore.open(tmp_path / "n") as store:
        verdict = AuditLog(store).verify()
    assert verdict.ok
    assert told <= verdict.count <= told + 1


# exports and trainings ---------------------------------------------------------------------------------------


def test_an_export_can_be_verified_without_the_node(tmp_path):
    file = tmp_path / "audit.jsonl"
    assert export_entries(WHOLE, file) == 6
    assert verify_chain(read_export(file)).head == WHOLE[-1].hash
    file.write_text(file.read_text().replace("0.5", "0.4", 1))
    assert verify_chain(read_export(file)).count == 0


def test_a_spreadsheet_takes_no_entry_for_a_formula(tmp_path):
    entry = dataclasses.replace(WHOLE[0], actor="=cmd|' /C calc'!A0")
    export_entries([entry], tmp_path / "a.csv", "csv")
    assert ",'=cmd" in (tmp_path / "a.csv").read_text()


@pytest.mark.parametrize("content", [b"{}\n", b"[1]\n", b"\xff\n", b'{"number": "1"}\n', b"x" * 3_000_000])
def test_a_file_that_is_no_export_is_refused_with_its_line(tmp_path, content):
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(UsageError):
        list(read_export(tmp_path / "f"))
    with pytest.raises(UsageError):
        list(read_export(tmp_path / "none"))


def test_trainings_are_put_together_from_their_entries(log):
    for number, end in enumerate(["finished", "failed", None]):
        facts = {"task": f"e/{number}/n/0", "plan": "ab", "plan_class": "P", "dataset": "d"}
        log.note("training-started", actor="researcher:zmq://r", **facts)
        if end:
            log.note(f"training-{end}", actor="researcher:zmq://r", **facts, steps=number)
    log.note("training-refused", actor="researcher:zmq://s", task="f/0/n/0", code="policy")
    found = log.trainings()
    assert [(each.task, each.outcome, each.researcher) for each in found] == [
        ("f/0/n/0", "refused", "zmq://s"),
        ("e/2/n/0", "running", "zmq://r"),
        ("e/1/n/0", "failed", "zmq://r"),
        ("e/0/n/0", "finished", "zmq://r"),
    ]
    assert found[2].facts["steps"] == 1
    assert found[0].facts["code"] == "policy"
