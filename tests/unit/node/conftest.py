from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path

import pytest

from fedplug.node.migrations import APPLICATION_ID, MIGRATIONS
from fedplug.node.store import STORE_FILE

HERE = Path(__file__).parent


@pytest.fixture
def job(monkeypatch, tmp_path):
    """Makes jobs for stand-in trainers."""
    monkeypatch.syspath_prepend(str(HERE))
    from job_factory import make_job

    return lambda do="double", **more: make_job(tmp_path, do, **more)


@pytest.fixture
def worker(monkeypatch):
    """A process worker with the stand-in trainer, closed in the end."""
    monkeypatch.syspath_prepend(str(HERE))
    from fedplug.node.worker_process import ProcessWorker

    worker = ProcessWorker(trainer="stand_in_trainers:train")
    yield worker
    worker.close()


@pytest.fixture
def gone():
    """Waits until a process is gone (or a zombie that nobody here can reap)."""

    def wait(pid: int) -> bool:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
                os.kill(pid, 0)
            except (FileNotFoundError, ProcessLookupError):
                return True
            if state == "Z":
                return True
            time.sleep(0.01)  # nothing announces the end of a process that is not our child
        return False

    return wait


@pytest.fixture
def old_store():
    """Return ``make(folder, before)``: a store as it was before the migration with the statement that begins so."""

    def make(folder, before):
        version = next(n for n, statements in enumerate(MIGRATIONS) if any(s.startswith(before) for s in statements))
        folder.mkdir()
        with contextlib.closing(sqlite3.connect(folder / STORE_FILE, isolation_level=None)) as db:
            for statements in MIGRATIONS[:version]:
                for statement in statements:
                    db.execute(statement)
            db.execute(
                "INSERT INTO node VALUES (1, 'node-1', 'old', 'zmq://127.0.0.1:7400', '2026-01-01T00:00:00+00:00')"
            )
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {version}")
        return folder

    return make
