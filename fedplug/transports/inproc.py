"""``inproc://name``: bytes over bounded queues inside one process. A real transport, only without a network.

Bodies are passed on without a copy: they must not change after they were sent, which is the rule of all
transports. Each direction of a connection holds at most `ROOM` frames; a sender that found it full is woken
when there is room again.
"""

from __future__ import annotations

import itertools
import re
from collections import deque
from threading import Condition, Lock

from fedplug.core.errors import AddressError, ConnectionLostError, TransportError
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

    def listen(self, url: str, options: TransportOptions) -> Listener:
        """As `Transport.listen`."""
        name = _name(url)
        with _lock:
            if name in _listeners:
                raise AddressError(
                    f"inproc://{name} is in use: a researcher listens there in this process.",
                    cure="Close it first, or use another name.",
                )
            listener = _listeners[name] = _InprocListener(name)
            return listener

    def check(self, url: str, options: TransportOptions) -> None:
        """As `Transport.check`."""
        _name(url)

    def connect(self, url: str, options: TransportOptions) -> Channel:
        """As `Transport.connect`."""
        name = _name(url)
        with _lock:
            return _InprocChannel(name, _listeners.get(name))


class _Inbox:
    """Where an end waits for what comes. All methods are called with the lock held."""

    def __init__(self) -> None:
        self.items: deque[tuple[Item, _Way | None]] = deque()
        self.woken = False
        self._condition = Condition(_lock)

    def put(self, item: Item, way: _Way | None = None) -> None:
        self.items.append((item, way))
        self._condition.notify()

    def wake(self) -> None:
        self.woken = True
        self._condition.notify()

    def get(self, timeout: float | None) -> tuple[Item, _Way | None] | None:
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


def _receive(inbox: _Inbox, traffic: Traffic, timeout: float | None) -> Item | None:
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
    def __init__(self, name: str) -> None:
        super().__init__()
        self.inbox = _Inbox()
        self.closed = False
        self._name = name
        self._channels: dict[bytes, _InprocChannel] = {}

    @property
    def address(self) -> str:
        return f"inproc://{self._name}"

    def attach(self, channel: _InprocChannel) -> None:
        self._channels[channel.token] = channel
        self.inbox.put(Opened(channel.token))

    def detach(self, channel: _InprocChannel, reason: str) -> None:
        if self._channels.pop(channel.token, None) is not None:
            self.inbox.put(Closed(channel.token, reason))

    def receive(self, timeout: float | None) -> Item | None:
        return _receive(self.inbox, self.traffic, timeout)

    def send(self, peer: bytes, header: Buffer, body: Buffer = b"") -> bool:
        frame = _frame(b"", header, body)
        with _lock:
            channel = self._channels.get(peer)
            if channel is None:
                raise ConnectionLostError(f"{self.address}: that node is not connected.")
            return _send(channel.inbox, channel.down, self.traffic, frame)

    def drop(self, peer: bytes) -> None:
        with _lock:
            channel = self._channels.pop(peer, None)
            if channel is None:
                return
            channel.cut(f"{self.address}: the researcher closed the connection")
            kept = [(item, way) for item, way in self.inbox.items if item.peer != peer]
            self.inbox.items = deque(kept)

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
    def __init__(self, name: str, listener: _InprocListener | None) -> None:
        super().__init__()
        self.token = next(_numbers).to_bytes(8, "big")
        self.inbox = _Inbox()
        self._name = name
        self._listener = listener
        if listener is None:
            self.inbox.put(Closed(b"", f"nobody listens at inproc://{name} in this process"))
        else:
            self.down = _Way(listener.inbox)
            self.up = _Way(self.inbox)
            listener.attach(self)
            self.inbox.put(Opened(b""))

    def cut(self, reason: str) -> None:
        """The other end is gone. Called with the lock held."""
        self._listener = None
        self.inbox.put(Closed(b"", reason))

    def receive(self, timeout: float | None) -> Item | None:
        return _receive(self.inbox, self.traffic, timeout)

    def send(self, header: Buffer, body: Buffer = b"") -> bool:
        frame = _frame(self.token, header, body)
        with _lock:
            if self._listener is None:
                raise ConnectionLostError(f"inproc://{self._name}: the researcher is not connected.")
            return _send(self._listener.inbox, self.up, self.traffic, frame)

    def wake(self) -> None:
        with _lock:
            self.inbox.wake()

    def close(self) -> None:
        with _lock:
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


def _frame(peer: bytes, header: Buffer, body: Buffer) -> Frame:
    view = memoryview(body)
    view = view.cast("B") if view.nbytes else memoryview(b"")
    frame = Frame(peer, bytes(header), view.toreadonly())
    if len(frame.header) > MAX_HEADER or len(frame.body) > MAX_BODY:
        raise TransportError(
            f"A frame of {len(frame.header):,} + {len(frame.body):,} bytes is too large; {MAX_HEADER:,} + "
            f"{MAX_BODY:,} are allowed."
        )
    return frame
