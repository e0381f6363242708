"""DEALER at the node.

Left alone, a DEALER reconnects behind everybody's back. So a channel is one connection (it would reconnect in a day),
and the monitor of its socket tells when that ends.
"""

from __future__ import annotations

import time
from collections import deque

import zmq

from fedplug.core.errors import AddressError, ConnectionLostError
from fedplug.core.transport import Buffer, Channel, Closed, Frame, Item, Opened, TransportOptions
from fedplug_zmq.address import endpoint
from fedplug_zmq.curve import carry, check_pair
from fedplug_zmq.handshakes import refusal_at_node
from fedplug_zmq.sockets import DAMAGED, LINGER, End, handshake_time, owned

_NEVER = 86_400_000
"""Milliseconds until a DEALER would reconnect by itself. Its channel is closed long before."""

_OPENED = zmq.EVENT_HANDSHAKE_SUCCEEDED
_ENDED: dict[int, str] = {
    zmq.EVENT_DISCONNECTED: "the connection was lost",
    zmq.EVENT_CLOSED: "nobody listens there",
    zmq.EVENT_CLOSE_FAILED: "the connection was lost",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "the other side broke off the handshake",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "the other side does not speak this protocol",
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "the other side refused this side's key",
}


class ZmqChannel(Channel):
    """A node's end: a DEALER."""

    def __init__(self, host: str, port: int, url: str, options: TransportOptions) -> None:
        super().__init__()
        events = _OPENED
        for event in _ENDED:
            events |= event
        self._url, self._host, self._port = url, host, port
        self._half_time = time.monotonic() + handshake_time(options) / 2
        self._keys = options.node_keys()
        self._peer_key = self._keys[1] if self._keys else ""
        if self._keys:
            check_pair(self._keys[0])
        self._end = End(zmq.DEALER, events, options)
        try:
            if self._keys:
                carry(self._end.socket, *self._keys)
            # Not IMMEDIATE=1, and not RECONNECT_IVL=-1: with either, what has arrived and was not read yet is
            # thrown away when the connection ends, and with it the researcher's last words.
            self._end.socket.setsockopt(zmq.RECONNECT_IVL, _NEVER)
            self._end.socket.setsockopt(zmq.IPV6, int(":" in host))
            self._end.socket.connect(endpoint(host, port, bind=False))
        except zmq.ZMQError as error:
            self._end.close(0)
            raise AddressError(f"{url} cannot be connected to: {error}.", cure="Check host and port.") from None
        self._sent = self._received = 0
        self._open = False
        self._full = False
        self._closing: Closed | None = None
        self._seen: deque[tuple[int, int]] = deque()

    def receive(self, timeout: float | None) -> Item | None:
        """As `Channel.receive`."""
        waited = False
        while not self._end.closed:
            frame = self._next()
            if frame is not None:
                return frame
            if self._closing is not None:
                # What came before the end has been read by now.
                closed, self._closing, self._open = self._closing, None, False
                return closed
            if self._end.news:
                self._seen.extend(self._end.events())
            while self._seen and self._closing is None:
                event, value = self._seen.popleft()
                if event == _OPENED:
                    self._open = True
                    return Opened(b"", self._peer_key)
                self._closing = self._end_of(event, value)
            if self._closing is not None:
                continue
            if waited:
                return None
            if self._end.wait(timeout, writable=self._full and self._open):
                self._full = False
                return None
            if not (self._end.mail or self._end.news):
                return None
            waited = True
        return None

    def send(self, header: Buffer, body: Buffer = b"") -> bool:
        """As `Channel.send`."""
        if not self._open or self._end.closed:
            raise ConnectionLostError(f"{self._url}: not connected.")
        sent = self._end.send([], self._sent, header, body, self.traffic)
        self._sent += sent
        self._full = not sent
        return sent

    def wake(self) -> None:
        """As `Channel.wake`."""
        self._end.ring()

    def close(self) -> None:
        """As `Channel.close`."""
        self._end.close(LINGER if self._open else 0)

    def _next(self) -> Frame | None:
        if self._closing is not None or (message := self._end.message(0)) is None:
            return None
        header, body = message.header(self._received), message.body
        if header is None or body is None:
            self.traffic.frames_refused += 1
            self._closing = Closed(b"", f"{self._url}: {DAMAGED}")
            return None
        self._received += 1
        self.traffic.frames_received += 1
        self.traffic.bytes_received += len(header) + len(body)
        return Frame(b"", header, owned(body), self._peer_key)

    def _end_of(self, event: int, value: int) -> Closed:
        """What an end means, in words."""
        if self._open:
            # libzmq reports what it cannot decrypt as if it were part of the handshake.
            why = "the connection was lost" if event == zmq.EVENT_DISCONNECTED else DAMAGED
            return Closed(b"", f"{self._url}: {why}")
        waited, keys = time.monotonic() > self._half_time, self._keys is not None
        refusal = refusal_at_node(event, value, self._host, self._port, keys=keys, waited=waited)
        return Closed(b"", f"{self._url}: {_ENDED[event]}", refusal)
