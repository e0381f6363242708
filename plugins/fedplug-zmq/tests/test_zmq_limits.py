"""What a stranger, or a node that means harm, can take of a researcher's process: rows 29, 32 and 49."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedplug.core.keys import Refusal
from fedplug.core.transport import MAX_BODY, Closed, Frame, TransportOptions, TurnedAway
from fedplug.protocol.visitors import Visitors
from fedplug.testing.transport_case import expect, greet, push
from fedplug_zmq import descriptors
from fedplug_zmq.address import parse
from fedplug_zmq.listener import ZmqListener
from fedplug_zmq.sockets import seal_of
from fedplug_zmq.transport import ZmqTransport

PLAIN = TransportOptions()
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
_READY = b"\x05READY" + b"\x0bSocket-Type" + (6).to_bytes(4) + b"DEALER"
READY = bytes([4, len(_READY)]) + _READY


@pytest.fixture
def listener() -> Iterator[ZmqListener]:
    with ZmqTransport().listen("zmq://127.0.0.1:0", PLAIN) as listener:
        yield listener


def still_talks(listener, channel, peer) -> None:
    """A frame goes there and another one back."""
    push(channel, lambda: channel.send(b"fine"))
    until = time.monotonic() + 60
    while not isinstance(item := listener.receive(1), Frame) or item.peer != peer:
        assert time.monotonic() < until, item
    push(listener, lambda: listener.send(peer, b"too"))
    assert expect(channel, Frame).header == b"too"


def frame(data: bytes, *, more: bool) -> bytes:
    """A frame of ZMTP 3.0, in its long form."""
    return bytes([2 | more]) + len(data).to_bytes(8) + data


def shake_hands(hostile: socket.socket) -> None:
    """The beginning of a connection of ZMTP 3.0, without keys."""
    hostile.settimeout(30)
    hostile.sendall(GREETING)
    greeted = b""
    while len(greeted) < len(GREETING):
        greeted += hostile.recv(len(GREETING) - len(greeted))
    hostile.sendall(READY)
    assert hostile.recv(1) == READY[:1]


def peak() -> int:
    """The most memory that this process has held since the last call, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("more", [True, False], ids=["header", "body"])
@pytest.mark.parametrize("claimed", [MAX_BODY + 1, 2**30, 2**33, 2**63 - 1, 2**64 - 1])
def test_row_29_a_frame_that_claims_to_be_huge_ends_its_connection_and_takes_no_memory(listener, claimed, more) -> None:
    with (
        ZmqTransport().connect(listener.address, PLAIN) as good,
        socket.create_connection(("127.0.0.1", parse(listener.address)[1])) as hostile,
    ):
        peer = greet(listener, good)
        shake_hands(hostile)
        peak()
        before = peak()
        start = b"" if more else frame(b"header", more=True)
        hostile.sendall(start + bytes([2 | more]) + claimed.to_bytes(8) + bytes(1000))
        with contextlib.suppress(ConnectionError):
            while hostile.recv(4096):
                pass  # what was sent before the end of the connection
        assert peak() < before + 16 * 2**20
        still_talks(listener, good, peer)
    assert listener.traffic.frames_received == 2, "the greeting and the answer of the good one"


def test_row_32_a_message_without_an_end_ends_its_connection_and_nobody_elses(listener) -> None:
    """ZeroMQ gathers the parts of a message until the last one has come, however many there are."""
    part = frame(bytes(1024 * 1024), more=True)
    with (
        ZmqTransport().connect(listener.address, PLAIN) as good,
        socket.create_connection(("127.0.0.1", parse(listener.address)[1])) as hostile,
    ):
        peer = greet(listener, good)
        shake_hands(hostile)
        hostile.sendall(frame(seal_of(0, b"hi", 0) + b"hi", more=True) + frame(b"", more=False))
        liar = expect(listener, Frame).peer
        sent, closed, until = 0, None, time.monotonic() + 60
        while closed is None:
            assert time.monotonic() < until
            try:
                hostile.sendall(part)
                sent += 1
            except ConnectionError:
                pass
            item = listener.receive(0.01)
            closed = item if isinstance(item, Closed) else None
        assert closed.peer == liar
        assert "a message without an end" in closed.reason
        assert 80 <= sent * 1024 * 1024 / MAX_BODY <= 200
        still_talks(listener, good, peer)
    assert listener.traffic.frames_refused == 1


def test_much_that_is_read_is_no_flood(listener, monkeypatch) -> None:
    monkeypatch.setattr(descriptors, "_UNREAD", 3 * MAX_BODY)
    with ZmqTransport().connect(listener.address, PLAIN) as channel:
        greet(listener, channel)
        for _ in range(30):
            push(channel, lambda: channel.send(b"chunk", bytes(1024 * 1024)))
            assert len(expect(listener, Frame).body) == 1024 * 1024
            listener._floods._next = 0.0
            assert listener.receive(0) is None


@pytest.fixture
def room(listener) -> Iterator[int]:
    """Let this process open few more files than it has; so many connections find room."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = {int(name) for name in os.listdir("/proc/self/fd")}  # noqa: PTH208 - names, not paths
    limit = max(max(used) + 70, 256)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    yield limit - 64 - len(used)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


CROWD = """
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
crowd = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(int(sys.argv[2]))]
print("here", flush=True)
ended = 0
for line in crowd:
    line.settimeout(float(sys.argv[3]))
    try:
        while line.recv(4096):
            pass
        ended += 1
    except ConnectionError:
        ended += 1
    except TimeoutError:
        pass
print(ended)
"""


def test_row_49_a_crowd_finds_no_room_and_who_is_connected_stays(listener, room) -> None:
    with ZmqTransport().connect(listener.address, PLAIN) as good:
        peer = greet(listener, good)
        command = [sys.executable, "-c", CROWD, str(parse(listener.address)[1]), str(room + 200), "60"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as crowd:
            away: list[TurnedAway] = []
            while crowd.poll() is None:
                item = listener.receive(0.05)
                if isinstance(item, TurnedAway):
                    away.append(item)
            said = crowd.stdout.read().split()
        assert said == ["here", str(room + 200)], "all were hung up on: at once, or after they had said nothing"
        assert len(away) >= 100
        assert {item.refusal for item in away} == {Refusal.FULL}
        still_talks(listener, good, peer)
    assert expect(listener, Closed).peer == peer
    with ZmqTransport().connect(listener.address, PLAIN) as later:
        still_talks(listener, later, greet(listener, later))
    visitors = Visitors()
    lines = [visitors.turned_away(item, 0.0) for item in away]
    assert [line for line in lines if line] == lines[:1]
    assert "ulimit -n" in lines[0]
