"""Keys over ``zmq://``: what the laws of keys do not say, because it is about CURVE, or about whole endpoints."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import resource
import socket
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zmq

from fedplug.core.errors import AddressError
from fedplug.core.keys import Refusal
from fedplug.core.link import Connected, Disconnected, TaskReceived
from fedplug.core.messages import NodeInfo, TaskKey, TrainReply, TrainRequest
from fedplug.core.params import Params
from fedplug.core.plan_source import PlanBundle
from fedplug.core.pool import NodeJoined, NodeLost, TaskFailed, UpdateFetched, UpdateOffered
from fedplug.core.transport import Closed, Frame, Opened, TransportOptions, TurnedAway
from fedplug.protocol import NodeEndpoint, ResearcherEndpoint
from fedplug.testing.key_checks import KEY_CHECKS
from fedplug.testing.transport_case import TransportCase, expect, greet, push
from fedplug_zmq.address import parse
from fedplug_zmq.curve import DOOR, carry
from fedplug_zmq.handshakes import mechanism_of
from fedplug_zmq.sockets import seal_of
from fedplug_zmq.transport import ZmqTransport

URL = "zmq://127.0.0.1:0"
PLAN = PlanBundle("Plan", "class Plan:\n    pass\n")
KEY = TaskKey(experiment_id="e", round=0, node_id="n1")
WAIT = 60.0


class Federation:
    """The keys of a researcher and of some nodes, and who is allowed."""

    def __init__(self, *names):
        transport = ZmqTransport()
        self.mine = transport.new_keys()
        self.keys = {name: transport.new_keys() for name in names}
        self.allowed = {keys.public: name for name, keys in self.keys.items()}

    @property
    def at_researcher(self):
        return TransportOptions(heartbeat=0.2, keys=self.mine, enrolled=lambda key: self.allowed.get(key, ""))

    def at(self, name):
        return TransportOptions(heartbeat=0.2, keys=self.keys[name], peer_key=self.mine.public)

    def deny(self, name):
        self.allowed.pop(self.keys[name].public)

    def allow(self, name):
        self.allowed[self.keys[name].public] = name


def sealed(header, body=b""):
    """A header as the first one of a connection travels."""
    return seal_of(0, header, len(body)) + header


@pytest.fixture
def both():
    return Federation("n1", "n2")


@pytest.fixture
def listener(both):
    with ZmqTransport().listen(URL, both.at_researcher) as listener:
        yield listener


@pytest.mark.parametrize("check", KEY_CHECKS, ids=lambda check: f"row_33-{check.id}")
def test_zmq_keeps_the_law_of_keys(check):
    case = TransportCase(ZmqTransport, lambda: URL)
    assert check.not_applicable(case) == ""
    check(case)


def test_with_keys_traffic_may_leave_this_machine(both):
    with ZmqTransport().listen("zmq://0.0.0.0:0", both.at_researcher) as listener:
        assert listener.address.startswith("zmq://0.0.0.0:")
    ZmqTransport().check("zmq://hospital.example:7400", both.at("n1"))
    with pytest.raises(AddressError, match="fedplug researcher init"):
        ZmqTransport().check("zmq://hospital.example:7400", TransportOptions())


def test_row_33_without_anybody_at_the_door_nobody_gets_in(both, listener):
    """A ROUTER of libzmq that is not told otherwise lets everybody in when nobody answers at the door."""
    door, listener._end._door = listener._end._door, None
    listener._end._poller.unregister(door.socket)
    door.socket.unbind(DOOR)  # closing does that too, but some time later: a handshake may still reach the door then
    door.socket.close()
    with ZmqTransport().connect(listener.address, both.at("n1")) as channel:
        away = expect(listener, TurnedAway)
        closed = expect(channel, Closed)
        assert away.refusal is Refusal.NO_ANSWER
        # libzmq hangs up, at once or when the handshake has lasted too long; the first looks as if keys did not fit.
        assert closed.refusal in (Refusal.NO_ANSWER, Refusal.WRONG_KEY)
        assert listener.receive(0) is None


def test_row_33_nothing_of_what_a_stranger_has_sent_is_read(both, listener):
    """A socket of ZeroMQ takes messages before it is connected, so a stranger can send as much as fits."""
    strangers = [None, ZmqTransport().new_keys()]
    with zmq.Context() as context, ExitStack() as stack:
        for keys in strangers:
            dealer = stack.enter_context(context.socket(zmq.DEALER))
            dealer.linger = 0
            if keys is not None:
                carry(dealer, keys, both.mine.public)
            dealer.connect(listener.address.replace("zmq://", "tcp://"))
            dealer.send_multipart([sealed(b"header", b"body"), b"body"])
        until = time.monotonic() + WAIT
        while listener.traffic.handshakes_failed < len(strangers):
            assert not isinstance(listener.receive(0.01), Frame | Opened)
            assert time.monotonic() < until
        with ZmqTransport().connect(listener.address, both.at("n1")) as channel:
            greet(listener, channel)
    assert listener.traffic.frames_received == 1


def test_a_node_that_takes_the_token_of_another_one_is_not_taken_for_it(both, listener):
    with zmq.Context() as context, ExitStack() as stack:

        def dealer(name):
            made = stack.enter_context(context.socket(zmq.DEALER))
            made.linger = 0
            made.routing_id = b"the same"
            carry(made, both.keys[name], both.mine.public)
            with made.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED) as monitor:
                made.connect(listener.address.replace("zmq://", "tcp://"))
                while not monitor.poll(10):
                    assert not isinstance(listener.receive(0), Frame)
                made.disable_monitor()
            return made

        first = dealer("n1")
        first.send_multipart([sealed(b"of n1"), b""])
        frame = expect(listener, Frame)
        assert (frame.header, frame.key) == (b"of n1", both.keys["n1"].public)
        first.close()
        second = None
        until = time.monotonic() + WAIT
        while second is None:  # the token is free when the connection of the first has ended
            second = dealer("n2")
            second.send_multipart([sealed(b"of n2"), b""])
            if not listener._end.socket.poll(500):
                second.close()
                second = None
            assert time.monotonic() < until
        frames = []
        while (item := listener.receive(0.2)) is not None:
            frames += [item] if isinstance(item, Frame) else []
        assert {frame.key for frame in frames} <= {both.keys["n2"].public}
        assert len(frames) + listener.traffic.frames_refused == 1


@pytest.fixture
def many_files():
    """As many open files as the system allows: both ends of the connections are in this process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], min(4096, before[1])), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("many_files")
def test_row_31_ten_thousand_garbage_connections_and_500_silent_ones_do_no_harm(both, listener):
    """Good nodes are served while strangers come and go, and nothing of these stays behind."""
    count = 10_000
    address = parse(listener.address)
    garbage = [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, bytes(64), b"", os.urandom(4096)]
    with ZmqTransport().connect(listener.address, both.at("n1")) as channel, ExitStack() as stack:
        peer = greet(listener, channel)
        before = _open_files()
        silent = [stack.enter_context(socket.create_connection(address)) for _ in range(500)]
        for number in range(count):
            with socket.create_connection(address) as raw, contextlib.suppress(OSError):
                raw.sendall(garbage[number % len(garbage)])
            if number % 50 == 0:
                _there_and_back(listener, channel, peer, b"%d" % number)
                while listener.receive(0) is not None:
                    pass
        for line in silent:  # the other side hangs up on those who say nothing
            line.settimeout(WAIT)
            with contextlib.suppress(OSError):
                while line.recv(4096):
                    pass
            line.close()
        until = time.monotonic() + WAIT
        while _open_files() > before:
            listener.receive(0.01)
            assert time.monotonic() < until
        # Those that had ended before they were accepted are no connections for ZeroMQ.
        assert listener.traffic.handshakes_failed >= count / 2 + len(silent)
        with ZmqTransport().connect(listener.address, both.at("n2")) as other:
            assert greet(listener, other) != peer


def test_the_stranger_who_asks_for_the_mechanism_is_answered_by_zeromq_only(listener, both):
    host, port = parse(listener.address)
    assert mechanism_of(host, port, keys=True) == "CURVE"
    with ZmqTransport().listen(URL, TransportOptions()) as plain:
        assert mechanism_of(*parse(plain.address), keys=False) == "NULL"
    with socket.create_server(("127.0.0.1", 0)) as mute:
        assert mechanism_of(*mute.getsockname(), keys=True, patience=0.05) == ""
    assert mechanism_of(host, mute_port(), keys=True) == ""


def test_a_service_that_is_not_zeromq_is_no_wrong_key(both):
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        ZmqTransport().connect(f"zmq://127.0.0.1:{server.getsockname()[1]}", both.at("n1")) as channel,
    ):
        line, _ = server.accept()
        line.close()
        server.close()  # so nobody answers the stranger either
        closed = expect(channel, Closed)
    assert closed.refusal is None
    assert closed.reason


# whole endpoints ---------------------------------------------------------------------------------------------------


def test_row_01_a_node_that_is_not_enrolled_joins_when_it_is(both, caplog):
    """It starts before the researcher, finds them, is refused until it is allowed; one line for each of these."""
    caplog.set_level(logging.WARNING, "fedplug.experiment")
    with ZmqTransport().listen(URL, both.at_researcher) as listener:
        address = listener.address
    both.deny("n1")
    with NodeEndpoint(ZmqTransport(), address, NodeInfo(node_id="n1"), both.at("n1"), retry=0.02) as link:
        away = _link(link, Disconnected)
        assert not away.refused
        with ResearcherEndpoint(ZmqTransport(), address, both.at_researcher) as pool:
            away = _link(link, Disconnected)
            assert away.refused
            assert f"fedplug researcher allow n1 {both.keys['n1'].public}" in away.reason
            until = time.monotonic() + WAIT
            while pool.traffic().get("turned_away_unknown-key", 0) < 4:
                assert link.next_event(0.05) is None
                assert time.monotonic() < until
            both.allow("n1")
            assert _pool(pool, NodeJoined).node.node_id == "n1"
            _link(link, Connected)
    told = [record.getMessage() for record in caplog.records if record.name == "fedplug.experiment"]
    assert len(told) == 1
    assert f"fedplug researcher allow NODE {both.keys['n1'].public}" in told[0]


def test_row_34_a_key_that_is_revoked_in_mid_transfer_is_out_and_goes_on_when_it_is_allowed_again(both):
    update = Params.from_arrays({"w": np.arange(6_000_000, dtype=np.float32)})
    with _connected(both) as (pool, link):
        _give(pool, link)
        link.finish(TrainReply(key=KEY, sample_count=1), update)
        _pool(pool, UpdateOffered)
        chunks = []

        def settle():
            chunks.append(1)
            if len(chunks) == 1:
                both.deny("n1")

        pool.fetch(KEY, settle=settle)
        lost = _pool(pool, NodeLost)
        assert (lost.node_id, lost.reason) == ("n1", "its key is not enrolled any more")
        away = _link(link, Disconnected)
        while not away.refused:
            away = _link(link, Disconnected)
        assert "fedplug researcher allow n1" in away.reason
        assert pool.next_event(0) is None
        received = pool.traffic()["bytes_received"]
        assert received < 0.9 * 4 * 6_000_000
        both.allow("n1")
        _pool(pool, NodeJoined)
        fetched = _pool(pool, UpdateFetched)
        assert fetched.params.fingerprint() == update.fingerprint()
        assert pool.traffic()["bytes_received"] < 1.6 * 4 * 6_000_000


def test_row_35_of_two_copies_of_a_node_the_younger_takes_part_and_no_chunks_are_mixed(both, caplog):
    caplog.set_level(logging.WARNING, "fedplug.experiment")
    old, new = (Params.from_arrays({"w": np.full(6_000_000, value, np.float32)}) for value in (1, 2))
    with _connected(both, incarnation=1, transport=GetsStuck()) as (pool, link), ExitStack() as stack:
        _give(pool, link)
        link.finish(TrainReply(key=KEY, sample_count=1), old)
        _pool(pool, UpdateOffered)
        arrived = threading.Event()
        pool.fetch(KEY, settle=arrived.set)
        assert arrived.wait(WAIT)
        clone = stack.enter_context(_node(both, pool.address, incarnation=2))
        _link(clone, Connected)
        away = _link(link, Disconnected)
        assert away.refused
        assert "fedplug node rotate" in away.reason
        assert _pool(pool, TaskFailed).failure.code == "update-lost"
        again = msgspec.structs.replace(KEY, attempt=1)
        _give(pool, clone, again)
        clone.finish(TrainReply(key=again, sample_count=2), new)
        _pool(pool, UpdateOffered)
        pool.fetch(again)
        assert _pool(pool, UpdateFetched).params.fingerprint() == new.fingerprint()
        until = time.monotonic() + WAIT
        while pool.traffic().get("refused_copied-key", 0) < 3:
            pool.next_event(0.05)
            assert time.monotonic() < until
        assert link.next_event(0) is None, "told once"
    alarms = [record.getMessage() for record in caplog.records if "Two copies" in record.getMessage()]
    assert len(alarms) == 1


def test_row_33_a_node_with_the_wrong_researcher_key_says_so_and_gives_none_of_its_own_away(both):
    other = ZmqTransport().new_keys()
    wrong = replace(both.at("n1"), peer_key=other.public)
    with (
        ResearcherEndpoint(ZmqTransport(), URL, both.at_researcher) as pool,
        NodeEndpoint(ZmqTransport(), pool.address, NodeInfo(node_id="n1"), wrong, retry=0.02) as link,
    ):
        away = _link(link, Disconnected)
        assert away.refused
        assert "does not have the key that this node trusts" in away.reason
        assert pool.next_event(0) is None
        assert pool.traffic()["turned_away_wrong-key"] >= 1
        assert pool.traffic()["frames_received"] == 0


class GetsStuck(ZmqTransport):
    """Of a node whose update gets stuck on the way, after 18 of its 23 chunks."""

    def connect(self, url, options):
        channel = super().connect(url, options)
        send, chunks = channel.send, itertools.count()

        def stuck(header, body=b""):
            return (len(body) < 1000 or next(chunks) < 18) and send(header, body)

        channel.send = stuck
        return channel


def _connected(both, *, incarnation=None, transport=None):
    stack = ExitStack()
    with stack:
        pool = stack.enter_context(ResearcherEndpoint(ZmqTransport(), URL, both.at_researcher))
        link = stack.enter_context(_node(both, pool.address, incarnation=incarnation, transport=transport))
        _link(link, Connected)
        _pool(pool, NodeJoined)
        kept = stack.pop_all()
    return _Both(pool, link, kept)


class _Both(contextlib.AbstractContextManager):
    def __init__(self, pool, link, stack):
        self.pool, self.link, self.stack = pool, link, stack

    def __enter__(self):
        return self.pool, self.link

    def __exit__(self, *failure):
        self.stack.close()


def _node(both, address, *, incarnation=None, transport=None):
    info = NodeInfo(node_id="n1")
    transport = transport or ZmqTransport()
    return NodeEndpoint(transport, address, info, both.at("n1"), retry=0.05, incarnation=incarnation)


def _give(pool, link, key=KEY):
    pool.train(TrainRequest(key=key, dataset_id="d", plan_class="Plan"), PLAN, Params.from_arrays({"w": np.zeros(3)}))
    _link(link, TaskReceived)


def _link(link, kind):
    event = link.next_event(WAIT)
    assert isinstance(event, kind), event
    return event


def _pool(pool, kind):
    event = pool.next_event(WAIT)
    assert isinstance(event, kind), event
    return event


def _open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def _there_and_back(listener, channel, peer, header):
    push(channel, lambda: channel.send(header))
    frame = expect(listener, Frame)
    assert frame.header == header
    push(listener, lambda: listener.send(peer, header))
    assert expect(channel, Frame).header == header


def mute_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
