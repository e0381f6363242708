"""Transports: how two frames get from one process to another.

A transport moves *frames*, pairs of ``(header, body)`` bytes, between one researcher and many nodes. It
knows nothing of tasks, sessions or parameters: those are the business of `fedplug.protocol`, which runs on
any transport that passes `fedplug.testing.check_transport`.

What a transport promises:

- A frame arrives whole, once and unchanged, or not at all; frames between two ends keep their order.
- It may be lost only together with its connection, and then both ends are told (`Closed`).
- `send` never blocks: it takes the frame or says that the way is full (back-pressure).
- Nodes connect outward; only the researcher listens.
- With keys (`TransportOptions.keys`), nothing is sent to or taken from an end that has not proved to hold the key it
  should, and what is sent can be read and changed by nobody on the way.

One thread drives an end (the one that calls `receive` and `send`); `wake` may be called from any thread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from fedplug.core.closing import Closing
from fedplug.core.errors import KeysError
from fedplug.core.keys import Doorkeeper, KeyPair, Refusal, check_public

Buffer = Any
"""Anything with the buffer protocol: bytes, bytearray, memoryview, a read-only array of bytes."""

MAX_HEADER = 256 * 1024
"""Largest header of a frame, in bytes."""

MAX_BODY = 1024 * 1024 + 64 * 1024
"""Largest body of a frame, in bytes: one chunk of a blob and some room."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A pair of bytes that arrived. ``body`` stays valid as long as somebody holds it.

    Attributes:
        peer: Whom it came from: a token of the transport's own making, one per connection. Empty at a node.
        header: At most `MAX_HEADER` bytes.
        body: At most `MAX_BODY` bytes.
        key: The public key that the other end has proved to hold; empty without keys.
    """

    peer: bytes
    header: bytes
    body: memoryview
    key: str = ""


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection is up. At the researcher it may be reported together with its first frame.

    Attributes:
        peer: Which one. Empty at a node.
        key: The public key that the other end has proved to hold; empty without keys.
    """

    peer: bytes
    key: str = ""


@dataclass(frozen=True, slots=True)
class Closed:
    """A connection is gone, or could not be made; frames that were under way on it may be lost.

    Attributes:
        peer: Which one. Empty at a node.
        reason: Why, as far as it is known, in words.
        refusal: Set if the other end is there and the two will not talk until somebody changes something.
    """

    peer: bytes
    reason: str = ""
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """At the researcher: somebody came to the door and was not let in. Nothing of what they sent was read.

    Attributes:
        refusal: Why.
        key: The public key that they have proved to hold; empty if it did not come to that.
        place: Where they came from, e.g. an IP address; empty if it is not known.
        peer: Empty: they never became a peer.
    """

    refusal: Refusal
    key: str = ""
    place: str = ""
    peer: bytes = b""


Item = Frame | Opened | Closed | TurnedAway


@dataclass(slots=True)
class Traffic:
    """Counters of one end, in bytes and frames, header and body together.

    Attributes:
        handshakes_failed: Connections that ended before anything that could be used had come over them.
    """

    bytes_sent: int = 0
    bytes_received: int = 0
    frames_sent: int = 0
    frames_received: int = 0
    frames_refused: int = 0
    handshakes_failed: int = 0


class _End(Closing):
    """What both ends of a transport have in common."""

    def __init__(self) -> None:
        self.traffic = Traffic()

    @abstractmethod
    def receive(self, timeout: float | None) -> Item | None:
        """The next thing that happened.

        Args:
            timeout: Seconds to wait, 0 to only look, None for as long as it takes.

        Returns:
            The item; None after the time-out, or early when `wake` was called.
        """

    @abstractmethod
    def wake(self) -> None:
        """Make a `receive` that waits, or else the next one, return at once. Safe from any thread."""

    @abstractmethod
    def close(self) -> None:
        """Give back sockets and threads. May be called twice."""


class Listener(_End):
    """The researcher's end: one address, many nodes."""

    @property
    @abstractmethod
    def address(self) -> str:
        """The address that nodes can connect to, with a port that was left open (``:0``) filled in."""

    @abstractmethod
    def send(self, peer: bytes, header: Buffer, body: Buffer = b"") -> bool:
        """Queue a frame for ``peer`` without blocking and, for large bodies, without copying.

        The caller must not change ``body`` afterwards.

        Returns:
            Whether the frame was taken. False means that the way is full: try again later.

        Raises:
            ConnectionLostError: The peer is not connected.
            TransportError: The frame is larger than `MAX_HEADER` or `MAX_BODY` allow.
        """

    @abstractmethod
    def drop(self, peer: bytes) -> None:
        """Forget a peer: nothing more is sent to it or received from it. Unknown peers are ignored."""


class Channel(_End):
    """A node's end: one connection to the researcher. It is not rebuilt; connect again for a new one."""

    @abstractmethod
    def send(self, header: Buffer, body: Buffer = b"") -> bool:
        """Queue a frame for the researcher; as `Listener.send`."""


@dataclass(frozen=True)
class TransportOptions:
    """Settings that every transport understands, and room for those of one.

    Attributes:
        insecure_plaintext: Allow unencrypted traffic beyond this machine.
        heartbeat: Seconds between signs of life on an idle connection; three missed mean it is gone. Where very many
            nodes are connected, their sessions use a multiple of it.
        keys: This end's keys. With them everything is encrypted, and the other end must prove who it is; a
            researcher then needs ``enrolled``, a node ``peer_key``.
        peer_key: At a node: the public key of the researcher it trusts. It talks to nobody else.
        enrolled: At the researcher: the id of the node that a public key is enrolled for; empty if nobody may use it.
            It is asked when a node connects and again for every message, so that a key that is denied is out at
            once; so it must be quick. One thread at a time calls it. If it raises, the answer is no.
        extra: Options of a single transport, by name.
    """

    insecure_plaintext: bool = False
    heartbeat: float = 2.0
    keys: KeyPair | None = None
    peer_key: str = ""
    enrolled: Callable[[str], str] | None = None
    extra: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def researcher_keys(self) -> tuple[KeyPair, Doorkeeper] | None:
        """What a listener needs to work with keys; None if it works without.

        Raises:
            KeysError: There are keys, but nothing says who is enrolled; or the other way round.
        """
        if self.keys is not None and self.enrolled is not None:
            return self.keys, Doorkeeper(self.enrolled)
        if self.keys is not None or self.enrolled is not None:
            raise KeysError("A listener with keys needs `keys` and `enrolled`, both.", cure="Give both, or neither.")
        return None

    def node_keys(self) -> tuple[KeyPair, str] | None:
        """What a channel needs to work with keys, its own and the researcher's; None if it works without.

        Raises:
            KeysError: One of the two is missing.
        """
        if self.keys is not None and self.peer_key:
            return self.keys, check_public(self.peer_key, "The researcher's key")
        if self.keys is not None or self.peer_key:
            missing = "its own keys" if self.keys is None else "the researcher's public key"
            raise KeysError(
                f"A node cannot connect with keys: {missing} are missing.",
                cure="Give `keys` and `peer_key`, or neither.",
            )
        return None


class Transport(ABC):
    """A way to move frames, chosen by the scheme of an address (``zmq://host:port``)."""

    def new_keys(self) -> KeyPair:
        """A new pair of keys, for one end.

        Raises:
            KeysError: This transport knows no keys.
        """
        raise KeysError(
            f"{type(self).__name__} knows no keys.", cure="Take a transport that does; zmq:// is one of them."
        )

    @abstractmethod
    def listen(self, url: str, options: TransportOptions) -> Listener:
        """Open the researcher's end.

        Raises:
            AddressError: The address is malformed, in use, or refused for safety.
            KeysError: The keys in ``options`` do not belong together.
        """

    def check(self, url: str, options: TransportOptions) -> None:
        """Refuse an address that `connect` would refuse, without connecting.

        Raises:
            AddressError: The address is malformed or refused for safety.
            KeysError: The keys in ``options`` do not belong together.
        """

    @abstractmethod
    def connect(self, url: str, options: TransportOptions) -> Channel:
        """Open a node's end. Returns at once; `Opened` or `Closed` follows from `Channel.receive`.

        Raises:
            AddressError: The address is malformed or refused for safety.
            KeysError: The keys in ``options`` do not belong together.
        """
