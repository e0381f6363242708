"""``inproc://name``: bytes over bounded queues inside one process. A real transport, only without a network.

Bodies are passed on without a copy: they must not change after they were sent, which is the rule of all
transports. Each direction of a connection holds at most `ROOM` frames; a sender that found it full is woken
when there is room again.

Keys work as on any transport, so that what is built on them can be tested here; but nothing is encrypted, because
nothing leaves the process, and to prove a key is to show its secret to this module.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import secrets
from collections import deque
from threading import Condition, Lock

from fedplug.core.errors import AddressError, ConnectionLostError, KeysError, TransportError
from fedplug.core.keys import Doorkeeper, KeyPair, Refusal, fingerprint
from fedplug.core.transport import (
    MAX_BODY,
    MAX_HEADER,
    Buffer,
    Channel,
    Closed,
    Frame,
    Item,
    Listener,
    Opened,
    Traffic,
    Transport,
    TransportOptions,
    TurnedAway,
)

ROOM = 64
"""Frames that one direction of a connection holds."""

_NAME = re.compile(r"inproc://([A-Za-z0-9._-]+)(?::0)?")
_listeners: dict[str, _InprocListener] = {}
_numbers = itertools.count(1)
_lock = Lock()
"""Guards all queues of this process. Nothing that takes time is done under it."""


class InprocTransport(Transport):
    """See the module."""

    def new_keys(self) -> KeyPair:
        """As `Transport.new_keys`."""
        secret = secrets.token_hex(32)
        return KeyPair(_public_of(secret), secret)

    def listen(self, url: str, options: TransportOptions) -> Listener:
        """As `Transport.listen`."""
        name = _name(url)
        keys, keeper = options.researcher_keys() or (None, None)
        _check_pair(keys)
        with _lock:
            if name in _listeners:
                raise AddressError(
                    f"inproc://{name} is in use: a researcher listens there in this process.",
                    cure="Close it first, or use another name.",
                )
            listener = _listeners[name] = _InprocListener(name, keys, keeper)
            return listener

    def check(self, url: str, options: TransportOptions) -> None:
        """As `Transport.check`."""
        _name(url)

    def connect(self, url: str, options: TransportOptions) -> Channel:
        """As `Transport.connect`."""
        name = _name(url)
        keys, peer_key = options.node_keys() or (None, "")
        _check_pair(keys)
        with _lock:
            return _InprocChannel(name, _listeners.get(name), keys.public if keys else "", peer_key)


class _Inbox:
    """Where an end waits for what comes. All methods are called with the lock held."""

    def __init__(self) -> None:
        self.items: deque[tuple[Item | _Knock, _Way | None]] = deque()
        self.woken = False
        self._condition = Condition(_lock)

    def put(self, item: Item | _Knock, way: _Way | None = None) -> None:
        self.items.append((item, way))
        self._condition.notify()

    def wake(self) -> None:
        self.woken = True
        self._condition.notify()

    def get(self, timeout: float | None) -> tuple[Item | _Knock, _Way | None] | None:
        if not self.items and not self.woken and timeout != 0:
            self._condition.wait(timeout)
        self.woken = False
        return self.items.popleft() if self.items else None


class _Way:
    """One direction of one connection: how full it is, and who waits for room."""

    def __init__(self, sender: _Inbox) -> None:
        self.used = 0
        self.full = False
        self._sender = sender

    def taken(self) -> None:
        """The receiver took a frame out. A sender that found no room is woken at half-empty."""
        self.used -= 1
        if self.full and self.used <= ROOM // 2:
            self.full = False
            self._sender.wake()


class _Knock:
    """A channel with keys waits to be let in."""

    def __init__(self, channel: _InprocChannel) -> None:
        self.channel = channel
        self.peer = channel.token


def _receive(inbox: _Inbox, traffic: Traffic, timeout: float | None) -> Item | _Knock | None:
    with _lock:
        got = inbox.get(timeout)
        if got is None:
            return None
        item, way = got
        if way is not None:
            way.taken()
        if isinstance(item, Frame):
            traffic.frames_received += 1
            traffic.bytes_received += len(item.header) + len(item.body)
        return item


def _send(to: _Inbox, way: _Way, traffic: Traffic, frame: Frame) -> bool:
    if way.used >= ROOM:
        way.full = True
        return False
    way.used += 1
    traffic.frames_sent += 1
    traffic.bytes_sent += len(frame.header) + len(frame.body)
    to.put(frame, way)
    return True


class _InprocListener(Listener):
    def __init__(self, name: str, keys: KeyPair | None = None, keeper: Doorkeeper | None = None) -> None:
        super().__init__()
        self.inbox = _Inbox()
        self.closed = False
        self.key = keys.public if keys else ""
        self._keeper = keeper
        self._name = name
        self._channels: dict[bytes, _InprocChannel] = {}

    @property
    def address(self) -> str:
        return f"inproc://{self._name}"

    def attach(self, channel: _InprocChannel) -> Opened:
        """Connect a channel. Called with the lock held."""
        self._channels[channel.token] = channel
        channel.open(self)
        return Opened(channel.token, channel.key)

    def detach(self, channel: _InprocChannel, reason: str) -> None:
        if self._channels.pop(channel.token, None) is not None:
            self.inbox.put(Closed(channel.token, reason))

    def receive(self, timeout: float | None) -> Item | None:
        item = _receive(self.inbox, self.traffic, timeout)
        if isinstance(item, _Knock):
            return self._let_in(item.channel)
        if isinstance(item, Frame) and self._keeper and (refusal := self._keeper.refuses(item.key)):
            self.traffic.frames_refused += 1
            return self._turn_out(item.peer, refusal)
        return item

    def _let_in(self, channel: _InprocChannel) -> Item | None:
        refusal = self._keeper.refuses(channel.key) if self._keeper else None
        with _lock:
            if self.closed or channel.closed:
                return None
            if refusal is None:
                return self.attach(channel)
            self.traffic.handshakes_failed += 1
            channel.cut(f"{self.address}: the researcher refused this node's key", refusal)
            return TurnedAway(refusal, channel.key)

    def _turn_out(self, peer: bytes, refusal: Refusal) -> Item | None:
        with _lock:
            if self._disconnect(peer, f"{self.address}: the researcher refused this node's key", refusal):
                return Closed(peer, "its key is not enrolled any more", refusal)
            return None

    def _disconnect(self, peer: bytes, reason: str, refusal: Refusal | None = None) -> bool:
        """Cut a connection and forget what came over it. Called with the lock held."""
        channel = self._channels.pop(peer, None)
        if channel is None:
            return False
        channel.cut(reason, refusal)
        self.inbox.items = deque((item, way) for item, way in self.inbox.items if item.peer != peer)
        return True

    def send(self, peer: bytes, header: Buffer, body: Buffer = b"") -> bool:
        frame = _frame(b"", header, body, self.key)
        with _lock:
            channel = self._channels.get(peer)
        if channel is None:
            raise ConnectionLostError(f"{self.address}: that node is not connected.")
        if self._keeper and (refusal := self._keeper.refuses(channel.key)):
            closed = self._turn_out(peer, refusal)
            with _lock:
                if closed is not None:
                    self.inbox.put(closed)
            raise ConnectionLostError(f"{self.address}: the key of that node is not enrolled any more.")
        with _lock:
            return _send(channel.inbox, channel.down, self.traffic, frame)

    def drop(self, peer: bytes) -> None:
        with _lock:
            self._disconnect(peer, f"{self.address}: the researcher closed the connection")

    def wake(self) -> None:
        with _lock:
            self.inbox.wake()

    def close(self) -> None:
        with _lock:
            if self.closed:
                return
            self.closed = True
            del _listeners[self._name]
            for channel in self._channels.values():
                channel.cut(f"{self.address}: the researcher is gone")
            self._channels.clear()
            self.inbox.items.clear()
            self.inbox.wake()


class _InprocChannel(Channel):
    def __init__(self, name: str, listener: _InprocListener | None, key: str = "", peer_key: str = "") -> None:
        super().__init__()
        self.token = next(_numbers).to_bytes(8, "big")
        self.inbox = _Inbox()
        self.key = key
        self.closed = False
        self._name = name
        self._listener: _InprocListener | None = None
        if listener is None:
            self.inbox.put(Closed(b"", f"nobody listens at inproc://{name} in this process"))
        elif refusal := _mismatch(listener.key, key, peer_key):
            listener.traffic.handshakes_failed += 1
            listener.inbox.put(TurnedAway(refusal))
            self.inbox.put(Closed(b"", f"inproc://{name}: the two ends' keys do not fit", refusal))
        elif key:
            listener.inbox.put(_Knock(self))
        else:
            listener.inbox.put(listener.attach(self))

    def open(self, listener: _InprocListener) -> None:
        """The researcher has let this channel in. Called with the lock held."""
        self._listener = listener
        self.down = _Way(listener.inbox)
        self.up = _Way(self.inbox)
        self.inbox.put(Opened(b"", listener.key))

    def cut(self, reason: str, refusal: Refusal | None = None) -> None:
        """The other end is gone. Called with the lock held."""
        self._listener = None
        self.inbox.put(Closed(b"", reason, refusal))

    def receive(self, timeout: float | None) -> Item | None:
        item = _receive(self.inbox, self.traffic, timeout)
        return None if isinstance(item, _Knock) else item

    def send(self, header: Buffer, body: Buffer = b"") -> bool:
        frame = _frame(self.token, header, body, self.key)
        with _lock:
            if self._listener is None:
                raise ConnectionLostError(f"inproc://{self._name}: the researcher is not connected.")
            return _send(self._listener.inbox, self.up, self.traffic, frame)

    def wake(self) -> None:
        with _lock:
            self.inbox.wake()

    def close(self) -> None:
        with _lock:
            self.closed = True
            if self._listener is not None:
                self._listener.detach(self, "the node closed the connection")
                self._listener = None
            self.inbox.items.clear()
            self.inbox.wake()


def _name(url: str) -> str:
    found = _NAME.fullmatch(url)
    if not found:
        raise AddressError(
            f"{url!r} is no inproc address.", cure="Write inproc://name, with letters, digits, '.', '_' and '-'."
        )
    return found.group(1)


def _public_of(secret: str) -> str:
    return hashlib.sha256(bytes.fromhex(secret)).hexdigest()


def _check_pair(keys: KeyPair | None) -> None:
    if keys is not None and _public_of(keys.secret) != keys.public:
        raise KeysError(f"The secret key does not belong to the public key {fingerprint(keys.public)}.")


def _mismatch(researcher: str, node: str, trusted: str) -> Refusal | None:
    """Why two ends do not talk, before it is asked who is enrolled."""
    if researcher and not node:
        return Refusal.PLAINTEXT_NODE
    if node and not researcher:
        return Refusal.PLAINTEXT_RESEARCHER
    return Refusal.WRONG_KEY if trusted != researcher else None


def _frame(peer: bytes, header: Buffer, body: Buffer, key: str) -> Frame:
    view = memoryview(body)
    view = view.cast("B") if view.nbytes else memoryview(b"")
    frame = Frame(peer, bytes(header), view.toreadonly(), key)
    if len(frame.header) > MAX_HEADER or len(frame.body) > MAX_BODY:
        raise TransportError(
            f"A frame of {len(frame.header):,} + {len(frame.body):,} bytes is too large; {MAX_HEADER:,} + "
            f"{MAX_BODY:,} are allowed."
        )
    return frame
