"""What is special about ``zmq://``: safety without keys, hostile peers, texts of errors."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
import zlib
from dataclasses import replace

import pytest
import zmq

from fedplug.core.errors import AddressError, ConnectionLostError
from fedplug.core.plugins import PluginHost
from fedplug.core.transport import MAX_BODY, MAX_HEADER, Closed, Frame, Opened, TransportOptions
from fedplug.testing.fault_proxy import FaultProxy
from fedplug.testing.faults import Fault
from fedplug.testing.transport_case import expect, greet, push
from fedplug.transports import open_transport
from fedplug_zmq.address import is_loopback, parse
from fedplug_zmq.descriptors import hang_up
from fedplug_zmq.sockets import seal_of
from fedplug_zmq.transport import ZmqTransport

PLAIN = TransportOptions()
URL = "zmq://127.0.0.1:0"


@pytest.fixture
def listener():
    with ZmqTransport().listen(URL, PLAIN) as listener:
        yield listener


@pytest.fixture
def dealer(listener):
    """A peer that keeps no rule."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(listener.address.replace("zmq://", "tcp://"))
        yield dealer


def sealed(header, body=b"", number=0):
    return seal_of(number, header, len(body)) + header


def test_the_plugin_offers_the_transport():
    host = PluginHost.discover()
    assert isinstance(open_transport("zmq://127.0.0.1:7400", host), ZmqTransport)


def test_the_plugin_does_not_import_zmq_before_it_is_used():
    code = "import fedplug_zmq, sys; fedplug_zmq.fedplug_register_transports(); assert 'zmq' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("url", ["zmq://0.0.0.0:0", "zmq://*:0", "zmq://192.0.2.1:7400", "zmq://hospital.example:7400"])
def test_plain_traffic_beyond_this_machine_is_refused_with_the_command_that_makes_keys_and_the_flag(url):
    sides = {"fedplug researcher init": ZmqTransport().listen, "fedplug node trust KEY": ZmqTransport().connect}
    for command, use in sides.items():
        with pytest.raises(AddressError, match="--insecure-plaintext") as caught:
            use(url, PLAIN)
        assert command in caught.value.cure


def test_plain_traffic_beyond_this_machine_can_be_allowed():
    with ZmqTransport().listen("zmq://0.0.0.0:0", TransportOptions(insecure_plaintext=True)) as listener:
        assert listener.address.startswith("zmq://0.0.0.0:")


@pytest.mark.parametrize(("host", "expected"), [("localhost", True), ("127.8.9.1", True), ("[::1]", True),
                                                ("10.0.0.1", False), ("localhost.evil.example", False)])  # fmt: skip
def test_loopback_is_told_from_the_rest(host, expected):
    assert is_loopback(host) is expected


@pytest.mark.parametrize("url", ["zmq://", "zmq://127.0.0.1", "zmq://127.0.0.1:x", "zmq://127.0.0.1:70000",
                                 "http://127.0.0.1:1", "zmq://a b:1"])  # fmt: skip
def test_a_malformed_address_is_refused(url):
    with pytest.raises(AddressError, match="zmq://host:port"):
        parse(url)


def test_localhost_works_on_both_sides():
    with ZmqTransport().listen("zmq://localhost:0", PLAIN) as listener:
        port = parse(listener.address)[1]
        with ZmqTransport().connect(f"zmq://localhost:{port}", PLAIN) as channel:
            greet(listener, channel)


def test_a_port_in_use_by_another_program_says_what_to_do():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(AddressError) as caught:
            ZmqTransport().listen(f"zmq://127.0.0.1:{other.getsockname()[1]}", PLAIN)
    assert "in use" in caught.value.message
    assert "another port" in caught.value.cure


def test_a_frame_that_is_too_large_ends_the_connection_and_nobody_elses(listener, dealer):
    dealer.send_multipart([sealed(b"hi"), b""])
    assert isinstance(listener.receive(10), Opened)
    peer = expect(listener, Frame).peer
    with ZmqTransport().connect(listener.address, PLAIN) as good:
        other = greet(listener, good)
        dealer.send_multipart([sealed(b"header", bytes(MAX_BODY + 1), 1), bytes(MAX_BODY + 1)])
        assert expect(listener, Closed).peer == peer
        push(good, lambda: good.send(b"fine"))
        assert expect(listener, Frame).peer == other


def test_garbage_on_the_port_is_survived(listener):
    host, port = parse(listener.address)
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, b""):
        with socket.create_connection((host, port)) as raw:
            raw.sendall(garbage)
    with ZmqTransport().connect(listener.address, PLAIN) as channel:
        greet(listener, channel)


def test_a_dead_peer_is_told_from_a_later_one_on_the_same_descriptor(listener):
    for _ in range(20):
        with ZmqTransport().connect(listener.address, PLAIN) as channel:
            peer = greet(listener, channel)
        closed = expect(listener, Closed)
        assert closed.peer == peer


def test_large_bodies_are_sent_without_a_copy_and_kept_until_they_are_away(listener):
    with ZmqTransport().connect(listener.address, PLAIN) as channel:
        peer = greet(listener, channel)
        body = bytearray(b"a" * 1024 * 1024)
        while listener.send(peer, b"h", memoryview(body)):
            pass
        # The way is full, so frames wait: they hold the memory itself, which therefore cannot move.
        with pytest.raises(BufferError):
            body.append(1)
        assert bytes(expect(channel, Frame).body) == b"a" * 1024 * 1024


def test_a_connection_that_cannot_be_made_says_why(listener):
    address = listener.address
    listener.close()
    with ZmqTransport().connect(address, PLAIN) as channel:
        assert "nobody listens" in expect(channel, Closed).reason


def test_a_small_body_does_not_keep_a_message_of_zmq_alive(listener):
    """Its end in the main thread could swallow a Ctrl-C."""
    with ZmqTransport().connect(listener.address, PLAIN) as channel:
        greet(listener, channel)
        for size, kept in ((10, False), (1 << 20, True)):
            assert channel.send(b"h", bytes(size))
            frame = expect(listener, Frame)
            assert len(frame.body) == size
            assert isinstance(frame.body.obj, zmq.Frame) is kept


def test_the_seal_is_the_one_of_the_page_about_the_wire_format():
    number, size, header = (3).to_bytes(8, "big"), (70_000).to_bytes(8, "big"), b"header"
    assert seal_of(3, header, 70_000) == zlib.crc32(header, zlib.crc32(number + size)).to_bytes(4, "big")
    assert seal_of(0, b"", 0).hex() == "ecbb4b55"


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([b"header", b""], id="no seal"),
        pytest.param([b"", b"body"], id="no header"),
        pytest.param([sealed(b"header", number=1)[:-1] + b"s", b""], id="a changed header"),
        pytest.param([sealed(b"header", number=1), b"body"], id="a body of another size"),
        pytest.param([sealed(bytes(MAX_HEADER + 1), number=1), b""], id="a header that is too large"),
        pytest.param([sealed(b"header", number=2), b""], id="the next but one"),
        pytest.param([sealed(b"hi"), b""], id="the one before"),
        pytest.param([sealed(b"header", number=1)], id="one part"),
        pytest.param([sealed(b"header", number=1), b"two", b"three"], id="three parts"),
        pytest.param([b"x"] * 500, id="many parts"),
    ],
)
def test_a_message_that_cannot_be_used_ends_its_connection_and_nobody_elses(listener, dealer, parts):
    """The transport promises all frames of a connection, unchanged, or its end."""
    dealer.send_multipart([sealed(b"hi"), b""])
    peer = expect(listener, Frame).peer
    with ZmqTransport().connect(listener.address, PLAIN) as good:
        other = greet(listener, good)
        with dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED) as monitor:
            dealer.send_multipart(parts)
            dealer.send_multipart([sealed(b"and another", number=2), b""])
            closed = expect(listener, Closed)
            assert (closed.peer, closed.reason) == (peer, "what came over the connection was damaged on the way")
            assert monitor.poll(10_000), "the other end is told"
            dealer.disable_monitor()
        push(good, lambda: good.send(b"fine"))
        assert expect(listener, Frame).peer == other
    assert listener.traffic.frames_refused >= 1


def test_a_stranger_without_a_seal_is_never_heard_of(listener, dealer):
    with dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED) as monitor:
        dealer.send_multipart([b"header", b"body"])
        until = time.monotonic() + 30
        while not monitor.poll(10):
            assert listener.receive(0.01) is None
            assert time.monotonic() < until
        dealer.disable_monitor()
    assert listener.traffic.frames_refused >= 1


def test_only_connections_to_the_own_port_are_hung_up(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as one:
        other, _ = server.accept()
        with other, (tmp_path / "file").open("wb") as file:
            port = server.getsockname()[1]
            for fd in (one.fileno(), file.fileno(), 10_000):
                hang_up(fd, port)
            hang_up(other.fileno(), port + 1)
            one.sendall(b"still here")
            assert other.recv(10) == b"still here"
            file.write(b"too")
            hang_up(other.fileno(), port)
            assert one.recv(1) == b""


SHORT = TransportOptions(heartbeat=0.2)


def test_a_connection_that_is_dead_without_a_word_is_given_back_by_the_researcher():
    """Neither end says anything, so that only ZeroMQ's own heartbeat can tell."""
    with (
        ZmqTransport().listen(URL, SHORT) as listener,
        FaultProxy(parse(listener.address)[1]) as proxy,
        ZmqTransport().connect(f"zmq://127.0.0.1:{proxy.port}", SHORT) as channel,
    ):
        assert isinstance(channel.receive(30), Opened)
        channel.send(b"greetings")
        peer = expect(listener, Opened).peer
        assert expect(listener, Frame).header == b"greetings"
        proxy.blackout()
        assert expect(listener, Closed).peer == peer


MANY = 40


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize(
    ("keys", "flips"),
    [pytest.param(False, range(120, 800, 23), id="plain"), pytest.param(True, range(700, 3500, 900), id="keys")],
)
def test_row_23_no_message_arrives_changed_whatever_bit_is_flipped(keys, flips, way):
    """Bits are flipped in what comes after the handshake: lengths, flags, signs of life, headers.

    A ROUTER of libzmq 4.3.5 that cannot decrypt what it gets stops to read, and is ended by its heartbeat only.
    """
    mine, theirs = ZmqTransport().new_keys(), ZmqTransport().new_keys()
    at_researcher = replace(SHORT, keys=mine, enrolled={theirs.public: "n1"}.get) if keys else SHORT
    at_node = replace(SHORT, keys=theirs, peer_key=mine.public) if keys else SHORT
    ended = 0
    with (
        ZmqTransport().listen(URL, at_researcher) as listener,
        FaultProxy(parse(listener.address)[1], seed=3) as proxy,
    ):
        for at in flips:
            proxy.play(Fault("flip", at, way))
            with ZmqTransport().connect(f"zmq://127.0.0.1:{proxy.port}", at_node) as channel:
                ended += _broken(listener, channel, way)
    assert ended > 0.8 * len(flips)


def _broken(listener, channel, way):
    """Send many short messages, and require that those that arrive are as they were; whether the line broke."""
    peer, sent, arrived = None, 0, 0
    until = time.monotonic() + 30
    while arrived < MANY:
        assert time.monotonic() < until
        for end, source in ((channel, way == "up"), (listener, way == "down")):
            item = end.receive(0.002)
            if isinstance(item, Closed) and end is channel:
                return True
            if isinstance(item, Opened) and end is channel:
                channel.send(b"greetings")
            elif isinstance(item, Frame) and item.header == b"greetings":
                peer = item.peer
            elif isinstance(item, Frame):
                assert (source, item.header, bytes(item.body)) == (False, b"header %d" % arrived, b"")
                arrived += 1
        with contextlib.suppress(ConnectionLostError):
            if peer is not None and sent < MANY:
                header = b"header %d" % sent
                sent += channel.send(header) if way == "up" else listener.send(peer, header)
    return False


def test_an_end_that_is_seen_together_with_the_beginning_is_reported(listener, monkeypatch):
    with ZmqTransport().connect(listener.address, PLAIN) as channel:
        seen = [[(zmq.EVENT_HANDSHAKE_SUCCEEDED, 0), (zmq.EVENT_DISCONNECTED, 0)]]
        monkeypatch.setattr(channel._end, "events", lambda: seen.pop() if seen else [])
        channel._end.news = True
        assert isinstance(channel.receive(0), Opened)
        assert isinstance(channel.receive(0), Closed)


def test_the_bell_is_not_closed_while_another_thread_rings(listener):
    """Its number may be that of another socket at once, which would then be sent a byte."""
    end, rung = listener._end, []

    class Bell:
        def send(self, data):
            rung.append(end._ringing.locked() and not end.closed)

        def close(self):
            assert end.closed

    bell, end._bell = end._bell, Bell()
    listener.wake()
    listener.close()
    listener.wake()
    bell.close()
    assert rung == [True]
