"""A researcher's transport that tampers with what passes: frames come twice, late, changed, or were never sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from fedplug.core.transport import Buffer, Channel, Frame, Item, Listener, Transport, TransportOptions
from fedplug.wire import AnyHeader, decode_header

Incoming = Callable[[Frame, AnyHeader], Iterable[Item]]
"""What becomes of a frame on its way in."""

Outgoing = Callable[[AnyHeader], object]
"""Told of each message on its way out."""


class TamperedTransport(Transport):
    """Another transport, whose listeners give out what ``incoming`` makes of each frame.

    Args:
        inner: The true one.
        incoming: Gives what the researcher receives in place of a frame.
        outgoing: Told of each header that the researcher sends.
        copies: How often each frame that the researcher sends goes out.
    """

    def __init__(
        self,
        inner: Transport,
        incoming: Incoming = lambda frame, header: [frame],
        outgoing: Outgoing = lambda header: None,
        copies: int = 1,
    ) -> None:
        self.inner, self.incoming, self.outgoing, self.copies = inner, incoming, outgoing, copies

    def listen(self, url: str, options: TransportOptions) -> Listener:
        return _Listener(self, self.inner.listen(url, options))

    def connect(self, url: str, options: TransportOptions) -> Channel:
        return self.inner.connect(url, options)


class _Listener(Listener):
    def __init__(self, transport: TamperedTransport, inner: Listener) -> None:
        super().__init__()
        self._transport, self._inner, self.traffic = transport, inner, inner.traffic
        self._ready: deque[Item] = deque()

    @property
    def address(self) -> str:
        return self._inner.address

    def receive(self, timeout: float | None) -> Item | None:
        if self._ready:
            return self._ready.popleft()
        item = self._inner.receive(timeout)
        if not isinstance(item, Frame):
            return item
        self._ready.extend(self._transport.incoming(item, decode_header(item.header)))
        return self._ready.popleft() if self._ready else None

    def send(self, peer: bytes, header: Buffer, body: Buffer = b"") -> bool:
        sent = self._inner.send(peer, header, body)
        if sent:
            self._transport.outgoing(decode_header(header))
            for _ in range(self._transport.copies - 1):
                self._inner.send(peer, header, body)  # If there is no room for it, it is as if it had been lost.
        return sent

    def drop(self, peer: bytes) -> None:
        self._inner.drop(peer)

    def wake(self) -> None:
        self._inner.wake()

    def close(self) -> None:
        self._inner.close()
