"""ROUTER at the researcher, DEALER at the node, two frames a message.

ZeroMQ alone keeps fewer promises than a transport must: a ROUTER drops what it sends to unknown peers, tells
nobody when a peer goes, and a DEALER reconnects behind everybody's back. So sends never block and never drop
(``ROUTER_MANDATORY``), a channel is one connection (it would reconnect in a day), and the monitor of each socket tells
when a connection ends. At the ROUTER the monitor knows connections by file descriptor only; the descriptor that
comes with each message joins the two.

Sockets are plain; keys (CURVE) will be set in `fedplug_zmq.sockets.configure`, before a socket binds or connects.
"""

from __future__ import annotations

from collections import OrderedDict, deque

import zmq
from zmq.utils import z85

from fedplug.core.errors import AddressError, ConnectionLostError
from fedplug.core.keys import KeyPair
from fedplug.core.transport import (
    MAX_HEADER,
    Buffer,
    Channel,
    Closed,
    Frame,
    Item,
    Listener,
    Opened,
    Transport,
    TransportOptions,
)
from fedplug_zmq.address import check_safe, endpoint, parse
from fedplug_zmq.sockets import End

_LINGER = 500
_NEVER = 86_400_000
"""Milliseconds until a DEALER would reconnect by itself. Its channel is closed long before."""

_GONE = 4096
_LOOK = 64
"""After so many messages in a row the monitor is looked at, even if more are waiting."""

_SMALL = 256 * 1024
"""Bodies up to this size, in bytes, are copied."""

_OPENED = zmq.EVENT_HANDSHAKE_SUCCEEDED
_ENDED: dict[int, str] = {
    zmq.EVENT_DISCONNECTED: "the connection was lost",
    zmq.EVENT_CLOSED: "nobody listens there",
    zmq.EVENT_CLOSE_FAILED: "the connection was lost",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "the other side broke off the handshake",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "the other side does not speak this protocol",
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "the other side refused this side's key",
}


class ZmqTransport(Transport):
    """``zmq://host:port``. Port 0 takes any free port when listening."""

    def new_keys(self) -> KeyPair:
        """A pair of keys of Curve25519, as CurveZMQ uses them."""
        public, secret = zmq.curve_keypair()
        return KeyPair(z85.decode(public).hex(), z85.decode(secret).hex())

    def listen(self, url: str, options: TransportOptions) -> Listener:
        """As `Transport.listen`."""
        host, port = parse(url)
        check_safe(host, url, options)
        return _ZmqListener(host, port, url, options)

    def check(self, url: str, options: TransportOptions) -> None:
        """As `Transport.check`."""
        host, port = parse(url)
        check_safe(host, url, options)
        if port == 0:
            raise AddressError(f"{url}: port 0 is no port to connect to.", cure="Give the researcher's port.")

    def connect(self, url: str, options: TransportOptions) -> Channel:
        """As `Transport.connect`."""
        self.check(url, options)
        host, port = parse(url)
        return _ZmqChannel(host, port, url, options)


class _ZmqListener(Listener):
    """The ROUTER."""

    def __init__(self, host: str, port: int, url: str, options: TransportOptions) -> None:
        super().__init__()
        self._end = End(zmq.ROUTER, zmq.EVENT_DISCONNECTED, options)
        try:
            self._end.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
            self._end.socket.setsockopt(zmq.BACKLOG, 1024)
            self._end.socket.setsockopt(zmq.IPV6, int(":" in host))
            self._end.socket.bind(endpoint(host, port, bind=True))
        except zmq.ZMQError as error:
            self._end.close(0)
            raise _bind_error(error, url, port) from None
        bound = self._end.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._address = bound.rstrip("\0").replace("tcp://", "zmq://", 1)
        self._by_fd: dict[int, bytes] = {}
        self._fd_of: dict[bytes, int] = {}
        self._gone: OrderedDict[bytes, None] = OrderedDict()
        self._ending: deque[bytes] = deque()
        self._ready: deque[Item] = deque()
        self._row = 0

    @property
    def address(self) -> str:
        return self._address

    def receive(self, timeout: float | None) -> Item | None:
        if self._ready:
            return self._ready.popleft()
        waited = False
        while not self._end.closed:
            if self._row >= _LOOK:
                self._look()
            item = self._next() if self._row < _LOOK else self._ended()
            if item is not None:
                return item
            # The queue is empty, so whatever a connection that ended had sent has been read.
            self._look()
            item = self._next() or self._ended()
            if item is not None:
                return item
            if waited or timeout == 0:
                return None
            if self._end.wait(timeout):
                return None
            waited = True
        return None

    def send(self, peer: bytes, header: Buffer, body: Buffer = b"") -> bool:
        if peer not in self._fd_of:
            raise ConnectionLostError(f"{self._address}: that node is not connected.")
        try:
            return self._end.send([peer], header, body, self.traffic)
        except zmq.ZMQError as error:
            raise ConnectionLostError(f"{self._address}: that node is gone ({error}).") from None

    def drop(self, peer: bytes) -> None:
        if peer in self._fd_of:
            self._forget(peer)
            self._ready = deque(item for item in self._ready if item.peer != peer)

    def wake(self) -> None:
        self._end.ring()

    def close(self) -> None:
        self._end.close(_LINGER)

    def _next(self) -> Item | None:
        """The next message of a known or new connection, without waiting."""
        while (parts := self._end.parts(1)) is not None:
            self._row += 1
            if not parts:
                self.traffic.frames_refused += 1
                continue
            peer, header, body = parts
            assert isinstance(peer, bytes) and isinstance(header, bytes) and isinstance(body, zmq.Frame)  # noqa: PT018
            if len(header) > MAX_HEADER or peer in self._gone:
                self.traffic.frames_refused += 1
                continue
            self.traffic.frames_received += 1
            self.traffic.bytes_received += len(header) + len(body)
            frame = Frame(peer, header, _owned(body))
            if peer in self._fd_of:
                return frame
            # A descriptor may have served another connection before; its end has been reported by now.
            self._look()
            fd = int(body.get(zmq.SRCFD))
            self._by_fd[fd] = peer
            self._fd_of[peer] = fd
            self._ready.append(frame)
            return Opened(peer)
        self._row = 0
        return None

    def _look(self) -> None:
        """Note which connections have ended."""
        for _, fd in self._end.events():
            peer = self._by_fd.pop(fd, None)
            if peer is not None:
                self._ending.append(peer)

    def _ended(self) -> Item | None:
        """Report a connection that has ended, unless it was dropped."""
        self._row = 0
        while self._ending:
            peer = self._ending.popleft()
            if peer in self._fd_of:
                self._forget(peer)
                return Closed(peer, "the connection was lost")
        return None

    def _forget(self, peer: bytes) -> None:
        fd = self._fd_of.pop(peer)
        if self._by_fd.get(fd) == peer:
            del self._by_fd[fd]
        self._gone[peer] = None
        if len(self._gone) > _GONE:
            self._gone.popitem(last=False)


class _ZmqChannel(Channel):
    """The DEALER."""

    def __init__(self, host: str, port: int, url: str, options: TransportOptions) -> None:
        super().__init__()
        events = _OPENED
        for event in _ENDED:
            events |= event
        self._url = url
        self._end = End(zmq.DEALER, events, options)
        try:
            # Not IMMEDIATE=1, and not RECONNECT_IVL=-1: with either, what has arrived and was not read yet is
            # thrown away when the connection ends, and with it the researcher's last words.
            self._end.socket.setsockopt(zmq.RECONNECT_IVL, _NEVER)
            self._end.socket.setsockopt(zmq.IPV6, int(":" in host))
            self._end.socket.connect(endpoint(host, port, bind=False))
        except zmq.ZMQError as error:
            self._end.close(0)
            raise AddressError(f"{url} cannot be connected to: {error}.", cure="Check host and port.") from None
        self._open = False
        self._full = False
        self._reason: str | None = None

    def receive(self, timeout: float | None) -> Item | None:
        waited = False
        while not self._end.closed:
            frame = self._next()
            if frame is not None:
                return frame
            if self._reason is not None:
                # What came before the end has been read by now.
                reason, self._reason, self._open = self._reason, None, False
                return Closed(b"", f"{self._url}: {reason}")
            for event, _ in self._end.events():
                if event == _OPENED:
                    self._open = True
                    return Opened(b"")
                self._reason = _ENDED[event]
                break
            if self._reason is not None:
                continue
            if waited or timeout == 0:
                return None
            if self._end.wait(timeout, writable=self._full and self._open):
                self._full = False
                return None
            waited = True
        return None

    def send(self, header: Buffer, body: Buffer = b"") -> bool:
        if not self._open or self._end.closed:
            raise ConnectionLostError(f"{self._url}: not connected.")
        sent = self._end.send([], header, body, self.traffic)
        self._full = not sent
        return sent

    def wake(self) -> None:
        self._end.ring()

    def close(self) -> None:
        self._end.close(_LINGER if self._open else 0)

    def _next(self) -> Frame | None:
        while (parts := self._end.parts(0)) is not None:
            if not parts or len(parts[0]) > MAX_HEADER:
                self.traffic.frames_refused += 1
                continue
            header, body = parts
            assert isinstance(header, bytes) and isinstance(body, zmq.Frame)  # noqa: PT018
            self.traffic.frames_received += 1
            self.traffic.bytes_received += len(header) + len(body)
            return Frame(b"", header, _owned(body))
        return None


def _owned(body: zmq.Frame) -> memoryview:
    """The bytes of a message; small ones are copied.

    A small body may carry arrays that ride along, which other threads hold and free. When the main thread frees a
    message of pyzmq while Ctrl-C waits to be handled, the KeyboardInterrupt is raised inside the destructor, where
    it is printed and lost. Large bodies are chunks, which never leave the thread that receives them.
    """
    return memoryview(body.bytes) if len(body) <= _SMALL else body.buffer


def _bind_error(error: zmq.ZMQError, url: str, port: int) -> AddressError:
    if error.errno == zmq.EADDRINUSE:
        return AddressError(
            f"{url}: port {port} is in use by another program, or by another researcher.",
            cure="Stop that program, or choose another port for researcher and nodes.",
        )
    return AddressError(f"{url} cannot be listened on: {error}.", cure="Use an address of this machine.")
