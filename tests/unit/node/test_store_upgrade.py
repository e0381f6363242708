"""The store of an older version: copied, then brought up to date, or left alone."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys

import pytest

from fedplug.core.errors import StoreError
from fedplug.node import store as store_module
from fedplug.node.lock import FolderLock
from fedplug.node.migrations import MIGRATIONS
from fedplug.node.store import STORE_FILE, NodeStore


@pytest.fixture
def old(old_store, tmp_path):
    """The folder of a node whose store has had one migration."""
    return old_store(tmp_path / "n", "CREATE TABLE states")


def dump(path):
    with contextlib.closing(sqlite3.connect(path)) as db:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (application,) = db.execute("PRAGMA application_id").fetchone()
        return version, application, list(db.iterdump())


def copies(folder):
    return [path.name for path in folder.iterdir() if "backup" in path.name]


def test_the_copy_is_the_store_as_it_was_and_only_its_owner_may_read_it(old, caplog):
    before = dump(old / STORE_FILE)
    with NodeStore.open(old) as store:
        assert store.version == len(MIGRATIONS)
        assert store.identity.name == "old"
    copy = old / "node.sqlite.v1.backup"
    assert dump(copy) == before
    assert copy.stat().st_mode & 0o777 == 0o600
    assert f"upgraded from version 1 to {len(MIGRATIONS)}" in caplog.text
    assert str(copy) in caplog.text


def test_who_puts_the_copy_back_has_the_node_of_before(old):
    NodeStore.open(old).close()
    (old / "node.sqlite.v1.backup").replace(old / STORE_FILE)
    with NodeStore.open(old) as store:
        assert store.identity.node_id == "node-1"
        assert store.version == len(MIGRATIONS)


def test_a_store_that_is_up_to_date_is_not_copied(tmp_path):
    NodeStore.create(tmp_path / "n").close()
    NodeStore.open(tmp_path / "n").close()
    assert copies(tmp_path / "n") == []


def test_pages_that_lie_in_the_write_ahead_log_are_in_the_copy(old):
    with contextlib.closing(sqlite3.connect(old / STORE_FILE, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("UPDATE node SET name = 'late'")
        assert (old / f"{STORE_FILE}-wal").stat().st_size
        NodeStore.open(old).close()
    with contextlib.closing(sqlite3.connect(old / "node.sqlite.v1.backup")) as copy:
        assert copy.execute("SELECT name FROM node").fetchone() == ("late",)


@pytest.mark.parametrize("wrong", ["NONSENSE", "INSERT INTO node VALUES (2, 'a', 'b', 'c', 'd')"])
def test_an_upgrade_that_fails_leaves_the_store_and_the_copy(old, monkeypatch, caplog, wrong):
    before = dump(old / STORE_FILE)
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "MIGRATIONS", (*MIGRATIONS, ("CREATE TABLE half (x)", wrong)))
        with pytest.raises(StoreError, match="cannot be upgraded from version 1") as caught:
            NodeStore.open(old)
    assert "node.sqlite.v1.backup" in caught.value.message
    assert "version of FedPlug that you had before" in caught.value.cure
    assert dump(old / STORE_FILE) == before
    assert dump(old / "node.sqlite.v1.backup") == before
    assert "was upgraded" not in caplog.text
    NodeStore.open(old).close()


def test_a_disk_that_is_too_full_is_noticed_before_anything_is_written(old, monkeypatch):
    before = (old / STORE_FILE).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6))
        with pytest.raises(StoreError, match="takes 4 MiB, and the disk has 1 left") as caught:
            NodeStore.open(old)
    assert "Make room" in caught.value.cure
    assert dump(old / STORE_FILE)[0] == 1
    assert copies(old) == []
    assert (old / STORE_FILE).read_bytes()[100:] == before[100:]


def test_a_copy_that_cannot_be_made_stops_the_upgrade(old):
    (old / "node.sqlite.v1.backup").mkdir()
    with pytest.raises(StoreError, match="no copy of it can be made"):
        NodeStore.open(old)
    assert dump(old / STORE_FILE)[0] == 1
    assert copies(old) == ["node.sqlite.v1.backup"]


def test_the_store_of_a_node_that_runs_is_not_changed_under_it(old):
    lock = FolderLock(old)
    with pytest.raises(StoreError, match="a node of that version is running") as caught:
        NodeStore.open(old)
    assert "stop" in caught.value.cure
    assert dump(old / STORE_FILE)[0] == 1
    lock.release()
    NodeStore.open(old).close()


def test_of_processes_that_open_it_at_once_one_upgrades(old):
    code = (
        "import sys; from fedplug.node.store import NodeStore; print('ready', flush=True); sys.stdin.readline()\n"
        "NodeStore.open(sys.argv[1]).close()"
    )
    command = [sys.executable, "-c", code, str(old)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes, env=dict(os.environ)) for _ in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    told = [process.communicate("\n", timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0, 0], told
    assert sum("was upgraded" in text for text in told) == 1
    assert dump(old / "node.sqlite.v1.backup")[0] == 1
