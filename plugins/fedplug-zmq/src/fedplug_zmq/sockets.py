"""A ZeroMQ socket as both ends use it: options, monitor, door, two-part messages, and a way to wake its poll."""

from __future__ import annotations

import contextlib
import math
import socket as sockets
import struct
import threading
import zlib
from dataclasses import dataclass

import zmq
from zmq.utils.monitor import recv_monitor_message

from fedplug.core.errors import TransportError
from fedplug.core.keys import Doorkeeper, KeyPair
from fedplug.core.transport import MAX_BODY, MAX_HEADER, Buffer, Traffic, TransportOptions, TurnedAway
from fedplug_zmq.curve import Door, lock

ROOM = 64
"""Messages that wait in each direction of a connection."""

LINGER = 500
"""Milliseconds that a socket has to get rid of its last messages when it is closed."""

SMALL = 256 * 1024
"""Bodies that arrive are copied up to this size, in bytes."""

_SHORTEST_HANDSHAKE = 2.0
"""Seconds that a handshake may take, however short the heartbeat is: a busy machine needs them."""

COPY_BELOW = 64 * 1024
"""Bodies smaller than this are copied: it costs less than keeping track of them."""

# As plain numbers: pyzmq's flags make a new object of a class whenever they are joined.
_NOW = int(zmq.DONTWAIT)
_MORE = int(zmq.SNDMORE | zmq.DONTWAIT)
_IN, _OUT = int(zmq.POLLIN), int(zmq.POLLOUT)

SEAL = 4
"""Bytes before the header of each message."""

_NUMBERS = struct.Struct(">QQ")

DAMAGED = "what came over the connection was damaged on the way"
FLOODED = "more came over the connection than anybody reads, such as a message without an end"


@dataclass(slots=True)
class Message:
    """What was received as one.

    ZeroMQ over plain TCP brings what TCP brings, and TCP's checksum misses some damage. With keys damage is found, but
    a ROUTER of libzmq 4.3.5 may go on behind it as if nothing were missing. So each header travels under a seal: over
    itself, the size of its body and the number of the message on its connection. Bodies need none: headers tell
    whether they are whole. A message whose seal is broken ends its connection, for what follows is worth nothing.

    Attributes:
        peer: The connection that it came over; empty at a node.
        sealed: The header under its seal; empty where a message has too few parts, or too many.
        body: None where a message has too few parts.
    """

    peer: bytes
    sealed: bytes
    body: zmq.Frame | None

    def header(self, number: int) -> bytes | None:
        """The header of the ``number``-th message of its connection; None if this is not it, whole and unchanged."""
        seal, header = self.sealed[:SEAL], self.sealed[SEAL:]
        if self.body is None or len(self.body) > MAX_BODY or len(header) > MAX_HEADER:
            return None
        return header if seal_of(number, header, len(self.body)) == seal else None


class End:
    """A ZeroMQ socket with its context, its monitor and a way to wake its poll.

    Attributes:
        mail: Whether the last `wait` has seen that a message is there.
        news: Whether it has seen that the monitor has something to tell, or that somebody waits at the door. To ask
            them when they have nothing costs as much as a message.
    """

    def __init__(self, kind: int, events: int, options: TransportOptions) -> None:
        self.context = zmq.Context()
        self.socket: zmq.Socket[bytes] = self.context.socket(kind)
        self._monitor: zmq.Socket[bytes] | None = None
        self._door: Door | None = None
        self._ear, self._bell = sockets.socketpair()
        self.closed = False
        self._ringing = threading.Lock()
        self.mail = self.news = False
        try:
            self._ear.setblocking(False)
            self._bell.setblocking(False)
            configure(self.socket, options, asks=kind == zmq.ROUTER)
            self._monitor = self.socket.get_monitor_socket(events)
            self._poller = zmq.Poller()
            self._poller.register(self._monitor, zmq.POLLIN)
            self._poller.register(self._ear, zmq.POLLIN)
        except BaseException:
            self.close(0)
            raise

    def lock(self, keys: KeyPair, keeper: Doorkeeper) -> None:
        """Take only encrypted traffic of those whom ``keeper`` lets in. Call it before the socket is bound."""
        self._door = Door(self.context, keeper)
        self._poller.register(self._door.socket, zmq.POLLIN)
        lock(self.socket, keys)

    def wait(self, timeout: float | None, *, writable: bool = False) -> bool:
        """Wait until there is something to do. Returns whether `ring` was called (or there is room to write)."""
        self._poller.register(self.socket, _IN | _OUT if writable else _IN)
        # Rounded up: a time-out of less than a millisecond must not become a busy loop.
        ready = dict(self._poller.poll(None if timeout is None else math.ceil(timeout * 1000)))
        state = int(ready.pop(self.socket, 0))
        self.mail = bool(state & _IN)
        rung = ready.pop(self._ear.fileno(), 0) != 0
        if rung:
            with contextlib.suppress(BlockingIOError):
                while len(self._ear.recv(4096)) == 4096:
                    pass
        self.news = bool(ready)  # what is left are the monitor and the door
        return rung or (writable and bool(state & _OUT))

    def ring(self) -> None:
        """Wake `wait`. Safe from any thread."""
        # Under the lock it is not closed meanwhile: the number of the bell may be that of another socket at once.
        with self._ringing, contextlib.suppress(BlockingIOError):  # full means that it will wake anyhow
            if not self.closed:
                self._bell.send(b"\0")

    def events(self) -> list[tuple[int, int]]:
        """What the monitor has seen since the last call, as (event, value)."""
        self.news = False
        seen: list[tuple[int, int]] = []
        while self._monitor is not None:
            try:
                message = recv_monitor_message(self._monitor, zmq.DONTWAIT)
            except zmq.Again:
                break
            seen.append((int(message["event"]), int(message["value"])))
        return seen

    def turned_away(self) -> list[TurnedAway]:
        """Let in or turn away who waits at the door."""
        return [] if self._door is None else self._door.answer()

    def message(self, lead: int) -> Message | None:
        """The next message of ``lead`` parts that name its connection, header and body; None if there is none."""
        receive = self.socket.recv
        try:
            # Not copied: so a part says by itself whether more follow, and the socket need not be asked.
            part = receive(_NOW, copy=False)
            first, count = part, 1
            sealed = part if lead == 0 else None
            body = None
            while part.more:
                part = receive(_NOW, copy=False)
                count += 1
                if count == lead + 1:
                    sealed = part
                elif count == lead + 2:
                    body = part
        except zmq.Again:
            return None
        whole = sealed is not None and count == lead + 2
        return Message(first.bytes if lead else b"", sealed.bytes if sealed is not None and whole else b"", body)

    def send(self, lead: list[bytes], number: int, header: Buffer, body: Buffer, traffic: Traffic) -> bool:
        """Queue the ``number``-th message of a connection without blocking. False if there is no room."""
        view = memoryview(body)
        size = memoryview(header).nbytes
        if size > MAX_HEADER or view.nbytes > MAX_BODY:
            raise TransportError(
                f"A frame of {size:,} + {view.nbytes:,} bytes is too large; {MAX_HEADER:,} + {MAX_BODY:,} are allowed."
            )
        try:
            # Only the first part can find no room: a message is queued whole or not at all.
            for part in lead:
                self.socket.send(part, _MORE)
            self.socket.send(seal_of(number, header, view.nbytes) + bytes(header), _MORE)
            self.socket.send(view, _NOW, copy=view.nbytes < COPY_BELOW)
        except zmq.Again:
            return False
        traffic.frames_sent += 1
        traffic.bytes_sent += size + view.nbytes
        return True

    def close(self, linger: int) -> None:
        """Give everything back; ``linger`` milliseconds for what is still queued."""
        with self._ringing:
            if self.closed:
                return
            self.closed = True
        if self._monitor is not None:
            self.socket.disable_monitor()
        self.context.destroy(linger=linger)
        self._ear.close()
        self._bell.close()


def configure(socket: zmq.Socket[bytes], options: TransportOptions, *, asks: bool) -> None:
    """What both ends have in common. ZeroMQ's own heartbeat finds dead lines below the sessions' one.

    Args:
        socket: The socket.
        options: What it is to be like.
        asks: Whether this end asks the other one for signs of life. A researcher does: nothing else would tell it to
            give a dead connection back. A node ends its connection itself when its session is silent, and if a
            thousand of them asked as well, that would cost a researcher nearly as much as the signs of their sessions.
    """
    patience = int(7.5 * options.heartbeat * 1000)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, ROOM)
    socket.setsockopt(zmq.RCVHWM, ROOM)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_BODY)
    socket.setsockopt(zmq.HANDSHAKE_IVL, int(1000 * handshake_time(options)))
    if asks:
        socket.setsockopt(zmq.HEARTBEAT_IVL, int(2.5 * options.heartbeat * 1000))
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, patience)
        socket.setsockopt(zmq.HEARTBEAT_TTL, patience)


def handshake_time(options: TransportOptions) -> float:
    """Seconds that a handshake may take."""
    return max(_SHORTEST_HANDSHAKE, 2.5 * options.heartbeat)


def seal_of(number: int, header: Buffer, size: int) -> bytes:
    """The seal (CRC-32) of a header whose body has ``size`` bytes."""
    return zlib.crc32(header, zlib.crc32(_NUMBERS.pack(number, size))).to_bytes(SEAL)


def key_of(body: zmq.Frame) -> str:
    """The public key of the connection that a message came over, which the door has given it."""
    try:
        return str(body.get("User-Id"))
    except zmq.ZMQError:
        return ""


def owned(body: zmq.Frame) -> memoryview:
    """The bytes of a message; small ones are copied.

    A small body may carry arrays that ride along, which other threads hold and free. When the main thread frees a
    message of pyzmq while Ctrl-C waits to be handled, the KeyboardInterrupt is raised inside the destructor, where
    it is printed and lost. Large bodies are chunks, which never leave the thread that receives them.
    """
    return memoryview(body.bytes) if len(body) <= SMALL else body.buffer
