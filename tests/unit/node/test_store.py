from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys

import msgspec
import pytest

from fedplug.core import file_lock
from fedplug.core.dataset_type import DatasetRecord
from fedplug.core.errors import StoreError, UnknownNameError, UsageError
from fedplug.node import store as store_module
from fedplug.node.lock import FolderLock, is_locked
from fedplug.node.store import STORE_FILE, NodeStore


def record(name, *tags):
    return DatasetRecord(
        dataset_id=f"ds-{name}", name=name, type="csv", path=f"/data/{name}.csv", tags=tags, shape=(3, 2)
    )


def test_a_node_remembers_who_it_is_and_where_it_connects(tmp_path):
    with NodeStore.create(tmp_path / "n", name="Hôpital A", researcher="zmq://r:1") as store:
        who = store.identity
    assert who.name == "Hôpital A"
    assert who.researcher == "zmq://r:1"
    assert len(who.node_id.rpartition("-")[2]) == 8
    with NodeStore.open(tmp_path / "n") as store:
        assert store.identity == who
    assert (tmp_path / "n").stat().st_mode & 0o077 == 0
    assert (tmp_path / "n" / STORE_FILE).stat().st_mode & 0o077 == 0


def test_ids_of_two_nodes_of_one_name_differ():
    with NodeStore.in_memory("a") as one, NodeStore.in_memory("a") as two:
        assert one.identity.node_id != two.identity.node_id


@pytest.mark.parametrize(
    ("name", "node_id"), [("", ""), ("x" * 65, ""), ("a\nb", ""), ("a", "UPPER"), ("a", "-a"), ("a", "../x")]
)
def test_names_and_ids_that_cannot_be_used_are_refused(name, node_id):
    with pytest.raises(UsageError, match="cannot be the"):
        NodeStore.in_memory(name, node_id=node_id)


def test_a_node_is_made_only_once(tmp_path):
    NodeStore.create(tmp_path).close()
    with pytest.raises(UsageError, match="a node already"):
        NodeStore.create(tmp_path)


def test_init_that_was_interrupted_can_be_repeated(tmp_path):
    (tmp_path / STORE_FILE).touch()
    with pytest.raises(UsageError, match="not a node"):
        NodeStore.open(tmp_path)
    with NodeStore.create(tmp_path, name="a") as store:
        assert store.identity.name == "a"


def test_a_folder_without_a_node_says_how_to_make_one(tmp_path):
    with pytest.raises(UsageError, match="fedplug node init"):
        NodeStore.open(tmp_path / "nothing")


@pytest.mark.parametrize(
    "content", [b"just text, and long enough to be looked at" * 100, b"SQLite format 3\0" + b"\xff" * 4096]
)
def test_a_file_that_is_no_database_is_refused_with_a_cure(tmp_path, content):
    (tmp_path / STORE_FILE).write_bytes(content)
    with pytest.raises(StoreError) as caught:
        NodeStore.open(tmp_path)
    assert "init" in caught.value.cure
    assert (tmp_path / STORE_FILE).read_bytes() == content


def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path):
    db = sqlite3.connect(tmp_path / STORE_FILE)
    db.execute("CREATE TABLE customers (name)")
    db.commit()
    db.close()
    with pytest.raises(StoreError, match="not made by FedPlug"):
        NodeStore.open(tmp_path)
    db = sqlite3.connect(tmp_path / STORE_FILE)
    assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("customers",)]
    db.close()


def test_a_store_whose_pages_are_damaged_is_refused(tmp_path):
    with NodeStore.create(tmp_path) as store:
        for number in range(50):
            store.add_dataset(record(f"d{number}", "t" * 100))
    path = tmp_path / STORE_FILE
    data = bytearray(path.read_bytes())
    for start in range(4096, len(data), 4096):
        data[start : start + 200] = b"\xff" * 200
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"damaged|malformed"):
        NodeStore.open(tmp_path)


def test_a_store_of_a_newer_version_is_refused_with_the_cure(tmp_path):
    NodeStore.create(tmp_path).close()
    db = sqlite3.connect(tmp_path / STORE_FILE)
    db.execute("PRAGMA user_version = 999")
    db.close()
    with pytest.raises(StoreError, match="newer FedPlug") as caught:
        NodeStore.open(tmp_path)
    assert "Upgrade" in caught.value.cure


def test_an_older_store_is_brought_up_to_date_and_keeps_its_content(tmp_path, monkeypatch):
    from fedplug.node import store as module

    with NodeStore.create(tmp_path, name="old") as store:
        store.add_dataset(record("a", "t"))
    newer = (*module.MIGRATIONS, ("ALTER TABLE plans ADD COLUMN note TEXT", "CREATE TABLE extra (x)"))
    monkeypatch.setattr(module, "MIGRATIONS", newer)
    with NodeStore.open(tmp_path) as store:
        assert store.identity.name == "old"
        assert [r.name for r in store.datasets()] == ["a"]
    db = sqlite3.connect(tmp_path / STORE_FILE)
    assert db.execute("PRAGMA user_version").fetchone() == (len(newer),)
    db.close()


def test_a_migration_that_fails_leaves_the_store_as_it_was(tmp_path, monkeypatch):
    from fedplug.node import store as module

    NodeStore.create(tmp_path, name="old").close()
    with monkeypatch.context() as patch:
        patch.setattr(module, "MIGRATIONS", (*module.MIGRATIONS, ("CREATE TABLE half (x)", "NONSENSE")))
        with pytest.raises(StoreError):
            NodeStore.open(tmp_path)
    with NodeStore.open(tmp_path) as store:
        assert store.read("SELECT name FROM sqlite_master WHERE name = 'half'") == []


def test_it_writes_ahead_and_synchronises_fully(tmp_path):
    with NodeStore.create(tmp_path) as store:
        assert store.read("PRAGMA journal_mode") == [("wal",)]
        assert store.read("PRAGMA synchronous") == [(2,)]


def test_a_second_process_adds_a_data_set_while_the_store_is_open(tmp_path):
    with NodeStore.create(tmp_path) as store:
        code = (
            "import sys\nfrom fedplug.node.store import NodeStore\n"
            "from fedplug.core.dataset_type import DatasetRecord\n"
            "NodeStore.open(sys.argv[1]).add_dataset(DatasetRecord("
            "dataset_id='i', name='late', type='csv', path='/x', tags=('t',)))"
        )
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60)
        assert [r.name for r in store.datasets(["t"])] == ["late"]


def test_a_data_set_is_found_by_all_of_its_tags():
    with NodeStore.in_memory() as store:
        store.add_dataset(record("a", "x", "y"))
        store.add_dataset(record("b", "x"))
        assert [r.name for r in store.datasets(["x"])] == ["a", "b"]
        assert [r.name for r in store.datasets(["y", "x"])] == ["a"]
        assert store.datasets(["x", "z"]) == []
        assert store.dataset("a") == store.dataset("ds-a")


def test_names_of_data_sets_are_unique_and_unknown_ones_are_told_with_the_known():
    with NodeStore.in_memory() as store:
        store.add_dataset(record("patients", "x"))
        with pytest.raises(UsageError, match="named 'patients' already"):
            store.add_dataset(record("patients", "y"))
        with pytest.raises(UnknownNameError, match="Did you mean 'patients'"):
            store.dataset("patient")
        store.remove_dataset("patients")
        with pytest.raises(UnknownNameError):
            store.remove_dataset("patients")


def test_a_store_that_was_closed_says_so(tmp_path):
    store = NodeStore.create(tmp_path)
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.datasets()


def test_a_folder_is_locked_by_one_node_and_the_message_names_its_process(tmp_path):
    lock = FolderLock(tmp_path)
    assert is_locked(tmp_path)
    with pytest.raises(StoreError, match=f"process {os.getpid()}"):
        FolderLock(tmp_path)
    lock.release()
    lock.release()
    assert not is_locked(tmp_path)
    FolderLock(tmp_path).release()


def test_a_lock_ends_with_a_process_that_is_killed(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from fedplug.node.lock import FolderLock\n"
        "lock = FolderLock(Path(sys.argv[1])); print('locked', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        assert is_locked(tmp_path)
        holder.kill()
    FolderLock(tmp_path).release()


def test_looking_for_a_lock_makes_nothing(tmp_path):
    assert not is_locked(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_became_of_a_data_set_is_remembered_by_its_id(tmp_path):
    with NodeStore.create(tmp_path) as store:
        store.add_dataset(record("a", "t"))
        store.add_dataset(record("b", "t"))
        assert store.former_dataset("ds-a") is None
        store.replace_dataset(record("a", "t"), msgspec.structs.replace(record("a", "u"), dataset_id="ds-new"))
        store.remove_dataset("b")
        changed, removed = store.former_dataset("ds-a"), store.former_dataset("ds-b")
        assert (changed.name, changed.reason) == ("a", "changed")
        assert (removed.name, removed.reason) == ("b", "removed")
        assert store.former_dataset("ds-new") is None
        assert [(each.dataset_id, each.tags) for each in store.datasets()] == [("ds-new", ("u",))]


def test_a_data_set_is_replaced_whole_or_not_at_all(tmp_path):
    with NodeStore.create(tmp_path) as store:
        store.add_dataset(record("a", "t"))
        store.add_dataset(record("b", "t"))
        before = store.datasets()
        with pytest.raises(UsageError, match="named 'b' already"):
            store.replace_dataset(record("a", "t"), msgspec.structs.replace(record("b", "t"), dataset_id="ds-new"))
        with pytest.raises(UnknownNameError):
            store.replace_dataset(record("gone", "t"), record("c", "t"))
        assert store.datasets() == before
        assert store.former_dataset("ds-a") is None
        store.replace_dataset(record("a", "t"), record("a", "other"))  # the same id: only what is said of it changes
        assert store.former_dataset("ds-a") is None
        assert store.dataset("a").tags == ("other",)


def fail_after(store, statement):
    with store.transaction() as inner:
        inner.execute(statement)
    raise ZeroDivisionError


def test_a_transaction_inside_another_is_part_of_it(tmp_path):
    with NodeStore.create(tmp_path / "n", name="n") as store, NodeStore.open(tmp_path / "n") as other:

        def count(seen_by):
            return seen_by.read("SELECT count(*) FROM run")[0][0]

        with store.transaction() as db:
            with store.transaction(flush=False) as inner:
                inner.execute("INSERT INTO run VALUES (1, 7)")
            assert db is inner
            assert (count(store), count(other)) == (1, 0)
        assert count(other) == 1
        with pytest.raises(ZeroDivisionError), store.transaction():
            fail_after(store, "DELETE FROM run")
        assert count(store) == 1
        with pytest.raises(RuntimeError, match="part of one"), store.transaction(flush=False), store.transaction():
            pass
        with store.transaction():
            pass


# two commands at the same time ---------------------------------------------------------------------------------------


def test_of_two_commands_that_make_a_node_at_the_same_time_one_is_told_and_it_has_one_identity(tmp_path, monkeypatch):
    check = store_module.check_no_node

    def and_another_makes_it(folder):
        check(folder)
        monkeypatch.setattr(store_module, "check_no_node", check)
        NodeStore.create(folder, name="first").close()

    monkeypatch.setattr(store_module, "check_no_node", and_another_makes_it)
    with pytest.raises(UsageError, match="another command has made it"):
        NodeStore.create(tmp_path / "node", name="second")
    with NodeStore.open(tmp_path / "node") as store:
        assert store.identity.name == "first"


def test_a_change_of_what_somebody_else_has_changed_meanwhile_is_refused(tmp_path):
    with NodeStore.create(tmp_path) as store:
        store.add_dataset(record("a", "t"))
        old = store.dataset("a")
        store.replace_dataset(old, record("a", "theirs"))
        with pytest.raises(UsageError, match="changed by somebody else meanwhile"):
            store.replace_dataset(old, record("a", "ours"))
        assert store.dataset("a").tags == ("theirs",)


def test_nobody_can_change_a_data_set_while_it_is_removed(tmp_path, monkeypatch):
    with NodeStore.create(tmp_path) as store, NodeStore.open(tmp_path) as other:
        other._db.execute("PRAGMA busy_timeout = 0")
        store.add_dataset(record("a", "t"))
        look = store.dataset

        def and_somebody_changes_it(name):
            found = look(name)
            with contextlib.suppress(StoreError):  # the store is locked
                other.replace_dataset(found, msgspec.structs.replace(found, dataset_id="ds-new"))
            return found

        monkeypatch.setattr(store, "dataset", and_somebody_changes_it)
        store.remove_dataset("a")
        assert store.datasets() == []
        assert store.former_dataset("ds-a").reason == "removed"


def test_who_looks_for_a_lock_is_not_taken_for_its_holder_by_others_who_look(tmp_path, monkeypatch):
    """The page of a node looks four times a second for each browser."""
    FolderLock(tmp_path).release()  # there is a file to look at
    try_lock, seen = file_lock._try_lock, []

    def and_another_looks(*arguments):
        taken = try_lock(*arguments)
        monkeypatch.setattr(file_lock, "_try_lock", try_lock)
        seen.append(is_locked(tmp_path))
        return taken

    monkeypatch.setattr(file_lock, "_try_lock", and_another_looks)
    assert not is_locked(tmp_path)
    assert seen == [False]
