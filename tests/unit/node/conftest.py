from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

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
