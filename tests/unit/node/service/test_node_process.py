"""Finding the process of a node: nobody else's is ever sent a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import msgspec
import pytest

from fedplug.core.errors import UsageError
from fedplug.node.lock import LOCK_FILE, FolderLock
from fedplug.node.service import process as module
from fedplug.node.service.process import DRAIN, NodeProcess
from fedplug.node.status import STATUS_FILE, NodeStatus

HOLDER = """
import os, signal, sys, time
from pathlib import Path
import msgspec
from fedplug.node.lock import FolderLock
from fedplug.node.status import NodeStatus
folder = Path(sys.argv[1])
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(7))
lock = FolderLock(folder)
(folder / "status.json").write_bytes(msgspec.json.encode(NodeStatus(running=True, pid=os.getpid(), signals=True)))
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock as a node does, and ends with 7 on the signal to drain."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def say_status(folder, **fields):
    (folder / STATUS_FILE).write_bytes(msgspec.json.encode(NodeStatus(running=True, **fields)))


@pytest.mark.parametrize("descriptors", [True, False])
def test_a_node_gets_its_signal_and_its_end_is_noticed(holder, tmp_path, monkeypatch, descriptors):
    if not descriptors:
        monkeypatch.delattr(os, "pidfd_open")
    with NodeProcess.find(tmp_path) as found:
        assert found.pid == holder.pid
        assert found.wait(0) is False
        found.send(DRAIN)
        assert found.wait(30) is True
        holder.wait(30)
        found.send(signal.SIGTERM)  # to nobody
    assert holder.returncode == 7
    assert NodeProcess.find(tmp_path) is None


def test_where_no_node_runs_nobody_is_found_whatever_the_files_say(tmp_path):
    say_status(tmp_path, pid=os.getpid(), signals=True)
    (tmp_path / LOCK_FILE).write_text(f"{os.getpid()}\n")
    assert NodeProcess.find(tmp_path) is None


def test_a_script_that_runs_a_node_is_left_alone(tmp_path):
    lock = FolderLock(tmp_path)
    say_status(tmp_path, pid=os.getpid())
    with pytest.raises(UsageError, match="was started by a program"):
        NodeProcess.find(tmp_path)
    lock.release()


def test_a_process_that_does_not_hold_the_lock_is_left_alone(holder, tmp_path):
    """As seen from outside of a container: the id that the node knows is another process here."""
    say_status(tmp_path, pid=os.getpid(), signals=True)
    (tmp_path / LOCK_FILE).write_text(f"{os.getpid()}\n")
    with pytest.raises(UsageError, match=r"runs as process \d+ elsewhere"):
        NodeProcess.find(tmp_path)


def test_a_status_that_does_not_name_the_holder_is_not_believed(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_STARTING", 0.0)
    say_status(tmp_path, pid=os.getpid(), signals=True)
    with pytest.raises(UsageError, match="does not say as which process"):
        NodeProcess.find(tmp_path)
