"""What signals do to ``fedplug node start``."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import time
from fedplug.cli.node.running import _obeying_signals

class Node:
    def request_stop(self):
        print("stop", flush=True)
    def request_drain(self):
        print("drain", flush=True)

with _obeying_signals(Node()):
    print("ready", flush=True)
    while True:
        time.sleep(60)
"""


@pytest.fixture
def program():
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_a_second_ctrl_c_ends_the_process_as_it_is(program):
    program.send_signal(signal.SIGINT)
    assert program.stdout.readline() == "stop\n"
    program.send_signal(signal.SIGINT)
    assert program.wait(30) == 130


def test_the_terminator_may_ask_twice_without_insisting(program):
    for _ in range(2):
        program.send_signal(signal.SIGTERM)
        assert program.stdout.readline() == "stop\n"
    assert program.poll() is None


def test_a_node_is_asked_to_drain_and_ctrl_c_still_stops_it(program):
    program.send_signal(signal.SIGUSR1)
    assert program.stdout.readline() == "drain\n"
    program.send_signal(signal.SIGINT)
    assert program.stdout.readline() == "stop\n"
    assert program.poll() is None
