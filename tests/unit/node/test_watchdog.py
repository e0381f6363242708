from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from fedplug.node.isolation.layers import Confinement
from fedplug.node.isolation.usage import MOST_THREADS, Usage, excess, usage
from fedplug.node.watchdog import Watchdog, folder_size


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def watched(tmp_path):
    """A watchdog that looks only when it is asked to, its clock, and what it ended."""
    clock, ended = Clock(), []
    watchdog = Watchdog(lambda *why: ended.append(why), scratch=tmp_path, silence=10, most=100_000, clock=clock)
    watchdog.stop()
    return watchdog, clock, ended


def test_silence_counts_from_the_last_progress(watched):
    watchdog, clock, ended = watched
    clock.now = 9.0
    watchdog.beat()
    clock.now = 19.0
    assert watchdog.look()
    clock.now = 19.5
    assert not watchdog.look()
    assert [code for code, _ in ended] == ["stalled"]


def test_a_full_scratch_folder_ends_the_training(watched, tmp_path):
    watchdog, _, ended = watched
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(b"x" * 90_000)
    assert watchdog.look()
    (tmp_path / "more").write_bytes(b"x" * 20_000)
    assert not watchdog.look()
    assert "into its scratch folder" in ended[0][1]


def test_many_empty_files_fill_a_folder_too(tmp_path):
    for number in range(50):
        (tmp_path / str(number)).touch()
    assert folder_size(tmp_path, 10**9) >= 50 * 256


def test_a_hole_in_a_file_takes_no_room(tmp_path):
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(1 << 30)
    assert folder_size(tmp_path, 10**9) < 1 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows what a process uses")
@pytest.mark.parametrize(
    ("holds", "what"),
    [
        ("fd = os.memfd_create('m'); os.write(fd, bytes(1 << 22))", "memory"),
        ("kept = bytearray(os.urandom(1 << 22))", "memory"),
        ("f = open('gone', 'wb'); f.write(bytes(1 << 22)); f.flush(); os.remove('gone')", "unlinked"),
    ],
)
def test_what_has_no_name_is_counted_as_well(tmp_path, holds, what):
    program = f"import os, sys; print('ready', flush=True); sys.stdin.readline(); {holds}; print('held', flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", program + "; sys.stdin.readline()"],
        cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        process.stdout.readline()
        before = getattr(usage(process.pid), what)
        process.stdin.write(b"go\n")
        process.stdin.flush()
        process.stdout.readline()
        after = getattr(usage(process.pid), what)
        process.stdin.close()
    assert after - before >= (1 << 22) * 0.95
    assert usage(process.pid) is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows what a process uses")
def test_processes_of_the_group_are_counted():
    program = "import subprocess, sys; subprocess.Popen(['sleep', '60']); print(flush=True); sys.stdin.readline()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        process.stdout.readline()
        found = usage(process.pid, count_processes=True)
        os.killpg(process.pid, 9)
    assert found.processes == 2


ALLOWED = Confinement("", memory=1000, processes=2)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Usage(memory=1000, unlinked=500, threads=MOST_THREADS, processes=4), ""),
        (Usage(memory=1001), "of memory"),
        (Usage(unlinked=501), "in files that it removed"),
        (Usage(threads=MOST_THREADS + 1), "threads"),
        (Usage(processes=5), "3 processes"),
    ],
)
def test_more_than_is_allowed_is_named(found, said):
    text = excess(found, ALLOWED, 500)
    assert bool(text) == bool(said)
    assert said in text


def test_nothing_is_ended_for_the_sake_of_a_training_that_is_over(tmp_path):
    """What is found at the last moment must not end the next training, which may have the same process."""
    looks = threading.Event()

    def excess():
        looks.set()
        watchdog._over.wait(30)
        return "it takes too much"

    ended = []
    watchdog = Watchdog(lambda *why: ended.append(why), scratch=tmp_path, most=1, excess=excess)
    assert looks.wait(30)
    watchdog.stop()
    assert not watchdog._thread.is_alive()
    assert ended == [("policy", "it takes too much")]


def test_a_watchdog_with_nothing_to_watch_is_stopped_too():
    Watchdog(lambda *why: None).stop()
