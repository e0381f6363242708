"""A transport that listens in: what a test searches for what must not be there."""

from __future__ import annotations

from typing import Any

from fedplug.core.transport import Frame, Item, Listener, Transport, TransportOptions


class Recorder(Transport):
    """A transport that remembers every byte which the researcher receives."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self.frames: list[bytes] = []

    def listen(self, url: str, options: TransportOptions) -> Listener:
        listener = self._inner.listen(url, options)
        receive = listener.receive

        def recorded(timeout: float | None) -> Item | None:
            item = receive(timeout)
            if isinstance(item, Frame):
                self.frames.append(bytes(item.header) + bytes(item.body))
            return item

        listener.receive = recorded  # type: ignore[method-assign]
        return listener

    def connect(self, url: str, options: TransportOptions) -> Any:
        return self._inner.connect(url, options)
