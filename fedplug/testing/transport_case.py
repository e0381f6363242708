"""What the checks of transports have in common: a line to test, and how to wait on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from threading import Event
from typing import TypeVar

from fedplug.core.errors import FedplugError
from fedplug.core.transport import (
    Buffer,
    Channel,
    Closed,
    Frame,
    Item,
    Listener,
    Opened,
    Transport,
    TransportOptions,
    TurnedAway,
)
from fedplug.testing.registry import LawBrokenError

PATIENCE = 30.0
"""Seconds after which something that must happen counts as not happening."""

I = TypeVar("I", Frame, Opened, Closed, TurnedAway)  # noqa: E741 - an item


@dataclass(frozen=True)
class TransportCase:
    """A transport under test.

    Attributes:
        make: Gives the transport.
        make_url: Gives an address that nobody uses, to listen at; ``:0`` for any port.
        options: For `Transport.listen`.
        node_options: For `Transport.connect`; the same by default.
    """

    make: Callable[[], Transport]
    make_url: Callable[[], str]
    options: TransportOptions = field(default_factory=TransportOptions)
    node_options: TransportOptions | None = None

    @property
    def for_node(self) -> TransportOptions:
        """The options of a node."""
        return self.node_options or self.options

    def with_keys(self) -> TransportCase:
        """The same with keys: those of one researcher, and of the node ``n1``.

        Raises:
            KeysError: The transport knows no keys.
        """
        transport = self.make()
        researcher, node = transport.new_keys(), transport.new_keys()
        enrolled = {node.public: "n1"}
        return replace(
            self,
            options=replace(self.options, keys=researcher, enrolled=lambda key: enrolled.get(key, "")),
            node_options=replace(self.for_node, keys=node, peer_key=researcher.public),
        )


class Line:
    """A listener with one channel, connected."""

    def __init__(self, case: TransportCase, stack: ExitStack) -> None:
        self.transport = case.make()
        self.listener = stack.enter_context(self.transport.listen(case.make_url(), case.options))
        self.channel = stack.enter_context(self.transport.connect(self.listener.address, case.for_node))
        self.peer = greet(self.listener, self.channel)


def expect(end: Listener | Channel, kind: type[I], *, serve: Listener | None = None) -> I:
    """The next item of an end, which must be of ``kind``; at a listener others may come and go at any time.

    Args:
        end: Where it must come.
        kind: What must come.
        serve: A listener that has work to do meanwhile: who is to be let in is its business.
    """
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if serve is not None and (other := serve.receive(0.005)) is not None and isinstance(other, Frame | Closed):
            raise LawBrokenError(f"A connection is being made, but {show(other)} came at the researcher.")
        item = end.receive(1.0 if serve is None else 0.005)
        if isinstance(item, kind):
            return item
        if item is not None and not isinstance(item, Opened | TurnedAway):
            raise LawBrokenError(f"Expected {kind.__name__}, but {show(item)} came.")
    raise LawBrokenError(f"Expected {kind.__name__}, but nothing came in {PATIENCE:.0f} s.")


def push(end: Listener | Channel, send: Callable[[], bool]) -> None:
    """Send, and if the way is full wait until it is not."""
    until = time.monotonic() + PATIENCE
    while not send():
        if time.monotonic() > until:
            raise LawBrokenError(f"The way of a {type(end).__name__} stayed full for {PATIENCE:.0f} s.")
        Event().wait(0.001)


def greet(listener: Listener, channel: Channel) -> bytes:
    """Connect for good: `Opened` at the node, a first frame at the researcher. Returns the peer's token."""
    if (opened := expect(channel, Opened, serve=listener)).peer:
        raise LawBrokenError(f"A node has one connection, so its items have no peer; Opened has {opened.peer!r}.")
    push(channel, lambda: channel.send(b"greetings"))
    frame = expect(listener, Frame)
    same(frame, b"greetings", b"", "the first frame")
    return frame.peer


def same(frame: Frame, header: Buffer, body: Buffer, what: str) -> None:
    """Require a frame to be this one."""
    if bytes(frame.header) != header or frame.body != body:
        expected = f"{len(header):,} + {len(body):,} bytes"
        raise LawBrokenError(f"{what.capitalize()} ({expected}) arrived changed, or another came: {show(frame)}.")


def refused(action: Callable[[], object], error: type[FedplugError], what: str) -> None:
    """Require an error of a kind."""
    try:
        action()
    except error:
        return
    except Exception as other:  # a stranger's transport can raise anything
        raise LawBrokenError(f"{what} must raise {error.__name__}, but raised {other!r}.") from other
    raise LawBrokenError(f"{what} must raise {error.__name__}, but did not.")


def quiet(end: Listener | Channel) -> None:
    """Take in what is left over, e.g. a wake-up of the transport's own."""
    while end.receive(0.01) is not None:
        pass


def woken(end: Listener | Channel, what: str) -> None:
    """Require a `receive` to come back early, with nothing."""
    start = time.monotonic()
    item = end.receive(PATIENCE)
    if item is not None:
        raise LawBrokenError(f"Nothing was sent, but {show(item)} came.")
    if time.monotonic() - start > PATIENCE * 0.9:
        raise LawBrokenError(f"A receive {what} of a {type(end).__name__} slept on.")


def show(item: Item) -> str:
    """An item in words."""
    if isinstance(item, Frame):
        return f"a frame ({len(item.header):,} + {len(item.body):,} bytes, header {item.header[:20]!r})"
    return str(item)
