"""ROUTER at the researcher.

ZeroMQ alone keeps fewer promises than a transport must: a ROUTER drops what it sends to unknown peers, and tells nobody
when a peer goes. So sends never block and never drop (``ROUTER_MANDATORY``), and the monitor of the socket tells when a
connection ends. The monitor knows connections by file descriptor only; the descriptor that comes with each message
joins the two.

With keys (`fedplug_zmq.curve`) each message carries the public key of its connection, and it is looked at again.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from dataclasses import dataclass

import zmq

from fedplug.core.errors import AddressError, ConnectionLostError
from fedplug.core.keys import Refusal
from fedplug.core.transport import (
    Buffer,
    Closed,
    Frame,
    Item,
    Listener,
    Opened,
    TransportOptions,
    TurnedAway,
)
from fedplug_zmq.address import endpoint
from fedplug_zmq.curve import check_pair
from fedplug_zmq.descriptors import FloodWatch, hang_up, is_last
from fedplug_zmq.handshakes import refusal_at_researcher
from fedplug_zmq.sockets import DAMAGED, FLOODED, LINGER, End, key_of, owned

_GONE = 4096
_LOOK = 64
"""After so many messages in a row the monitor is looked at, even if more are waiting."""

_TURNED_AWAY = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL


@dataclass(slots=True)
class _Line:
    """A connection.

    Attributes:
        fd: Its file descriptor.
        key: The public key that its other end has proved to hold; empty without keys.
        sent: Messages that went out over it.
        received: Messages that came over it.
    """

    fd: int
    key: str
    sent: int = 0
    received: int = 0


class ZmqListener(Listener):
    """The researcher's end: a ROUTER."""

    def __init__(self, host: str, port: int, url: str, options: TransportOptions) -> None:
        super().__init__()
        keys = options.researcher_keys()
        self._keeper = keys[1] if keys else None
        if keys:
            check_pair(keys[0])
        self._end = End(zmq.ROUTER, zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | _TURNED_AWAY, options)
        try:
            if keys:
                self._end.lock(*keys)
            self._end.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
            self._end.socket.setsockopt(zmq.BACKLOG, 1024)
            self._end.socket.setsockopt(zmq.IPV6, int(":" in host))
            self._end.socket.bind(endpoint(host, port, bind=True))
        except zmq.ZMQError as error:
            self._end.close(0)
            raise _bind_error(error, url, port) from None
        bound = self._end.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._address = bound.rstrip("\0").replace("tcp://", "zmq://", 1)
        self._port = int(self._address.rpartition(":")[2])
        self._floods = FloodWatch()
        self._by_fd: dict[int, bytes] = {}
        self._lines: dict[bytes, _Line] = {}
        self._gone: OrderedDict[bytes, None] = OrderedDict()
        self._ending: deque[bytes] = deque()
        self._ready: deque[Item] = deque()
        self._row = 0

    @property
    def address(self) -> str:
        """As `Listener.address`."""
        return self._address

    def receive(self, timeout: float | None) -> Item | None:
        """As `Listener.receive`."""
        until = None if timeout is None else time.monotonic() + timeout
        while not self._end.closed:
            if self._ready:
                return self._ready.popleft()
            if self._row >= _LOOK:
                self._look()
            item = self._next() if self._row < _LOOK else self._ended()
            if item is not None:
                return item
            # The queue is empty, so whatever a connection that ended had sent has been read.
            item = self._ended()
            if item is not None:
                return item
            left = None if until is None else max(0.0, until - time.monotonic())
            rung = self._end.wait(left)
            if self._end.news or self._floods.due:
                self._look()
            if rung or (left == 0.0 and not (self._end.mail or self._ending or self._ready)):
                return None
        return None

    def send(self, peer: bytes, header: Buffer, body: Buffer = b"") -> bool:
        """As `Listener.send`."""
        line = self._lines.get(peer)
        if line is None:
            raise ConnectionLostError(f"{self._address}: that node is not connected.")
        if self._keeper and (refusal := self._keeper.refuses(line.key)):
            hang_up(line.fd, self._port)
            self._ready.append(self._turn_out(peer, refusal))
            raise ConnectionLostError(f"{self._address}: the key of that node is not enrolled any more.")
        try:
            sent = self._end.send([peer], line.sent, header, body, self.traffic)
        except zmq.ZMQError as error:
            raise ConnectionLostError(f"{self._address}: that node is gone ({error}).") from None
        line.sent += sent
        return sent

    def drop(self, peer: bytes) -> None:
        """As `Listener.drop`."""
        if peer in self._lines:
            self._forget(peer)
            self._ready = deque(item for item in self._ready if item.peer != peer)

    def wake(self) -> None:
        """As `Listener.wake`."""
        self._end.ring()

    def close(self) -> None:
        """As `Listener.close`."""
        self._end.close(LINGER)

    def _next(self) -> Item | None:
        """The next message of a known or new connection, without waiting."""
        while (message := self._end.message(1)) is not None:
            self._row += 1
            peer, body = message.peer, message.body
            if peer in self._gone:
                self.traffic.frames_refused += 1
                continue
            line = self._lines.get(peer)
            key = key_of(body) if self._keeper and body is not None else ""
            if self._keeper and body is not None and (refusal := self._keeper.refuses(key)):
                self.traffic.frames_refused += 1
                hang_up(int(body.get(zmq.SRCFD)), self._port)
                return self._turn_out(peer, refusal, key, str(body.get("Peer-Address")))
            if line is not None and body is not None and line.key != key:
                self.traffic.frames_refused += 1  # A connection that takes the token of another one.
                hang_up(int(body.get(zmq.SRCFD)), self._port)
                continue
            header = message.header(line.received if line else 0)
            if header is None or body is None:
                self.traffic.frames_refused += 1
                if (closed := self._break_off(peer, body)) is not None:
                    return closed
                continue
            self.traffic.frames_received += 1
            self.traffic.bytes_received += len(header) + len(body)
            frame = Frame(peer, header, owned(body), key)
            if line is not None:
                line.received += 1
                return frame
            # A descriptor may have served another connection before; its end has been reported by now.
            self._look()
            fd = int(body.get(zmq.SRCFD))
            self._by_fd[fd] = peer
            self._lines[peer] = _Line(fd, key, received=1)
            self._ready.append(frame)
            return Opened(peer, key)
        self._row = 0
        return None

    def _look(self) -> None:
        """Note which connections have ended, and who was turned away at the door; end those that nobody wants."""
        for event, value in self._end.events():
            if event == zmq.EVENT_ACCEPTED:
                self._floods.accepted(value)
                if is_last(value):
                    hang_up(value, self._port)
                    self._ready.append(TurnedAway(Refusal.FULL))
            elif event == zmq.EVENT_DISCONNECTED:
                self._floods.ended(value)
                if (peer := self._by_fd.pop(value, None)) is not None:
                    self._ending.append(peer)
                else:
                    self.traffic.handshakes_failed += 1
            elif (refusal := refusal_at_researcher(event, value, keys=self._keeper is not None)) is not None:
                self._ready.append(TurnedAway(refusal))
        self._ready.extend(self._end.turned_away())
        for fd in self._floods.floods(self._received):
            hang_up(fd, self._port)
            self._floods.ended(fd)
            self.traffic.frames_refused += 1
            if (peer := self._by_fd.get(fd)) in self._lines:
                self._forget(peer)
                self._ready.append(Closed(peer, FLOODED))

    def _received(self, fd: int) -> int:
        """Messages that came over a connection."""
        line = self._lines.get(self._by_fd.get(fd, b""))
        return line.received if line else 0

    def _break_off(self, peer: bytes, body: zmq.Frame | None) -> Item | None:
        """End a connection over which something unusable came."""
        if body is not None:
            hang_up(int(body.get(zmq.SRCFD)), self._port)
        elif peer in self._lines:
            hang_up(self._lines[peer].fd, self._port)
        if peer in self._lines:
            self._forget(peer)
            return Closed(peer, DAMAGED)
        self._bury(peer)
        return None

    def _turn_out(self, peer: bytes, refusal: Refusal, key: str = "", place: str = "") -> Item:
        """A connection whose key is not enrolled, or not any more, is over."""
        if peer in self._lines:
            self._forget(peer)
            return Closed(peer, "its key is not enrolled any more", refusal)
        self._bury(peer)
        return TurnedAway(refusal, key, place)

    def _ended(self) -> Item | None:
        """Report a connection that has ended, unless it was dropped."""
        self._row = 0
        while self._ending:
            peer = self._ending.popleft()
            if peer in self._lines:
                self._forget(peer)
                return Closed(peer, "the connection was lost")
        return None

    def _forget(self, peer: bytes) -> None:
        # Its descriptor stays known as its own until the monitor says that the connection has ended.
        del self._lines[peer]
        self._bury(peer)

    def _bury(self, peer: bytes) -> None:
        """Remember that nothing more is to be read of a connection."""
        self._gone[peer] = None
        if len(self._gone) > _GONE:
            self._gone.popitem(last=False)


def _bind_error(error: zmq.ZMQError, url: str, port: int) -> AddressError:
    if error.errno == zmq.EADDRINUSE:
        return AddressError(
            f"{url}: port {port} is in use by another program, or by another researcher.",
            cure="Stop that program, or choose another port for researcher and nodes.",
        )
    return AddressError(f"{url} cannot be listened on: {error}.", cure="Use an address of this machine.")
