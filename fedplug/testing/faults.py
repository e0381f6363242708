"""What can go wrong on a line, and what is written down about it: the words of `fedplug.testing.fault_proxy`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Way = Literal["up", "down"]
Kind = Literal["cut", "reset", "hole", "flip"]
What = Literal["opened", "cut", "reset", "hole", "flip", "node-left", "researcher-left", "refused"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong, once.

    Attributes:
        kind: ``"cut"`` closes both ends as a process that ends would, ``"reset"`` with RST. ``"hole"`` leaves both
            connected and swallows everything from then on, in both directions and without a word. ``"flip"`` turns
            one bit over in the byte at ``at``.
        at: Bytes carried in this direction before it happens.
        way: In which direction they are counted.
    """

    kind: Kind
    at: int
    way: Way = "up"


@dataclass(frozen=True, slots=True)
class Pace:
    """How slow the line is.

    Attributes:
        rate: Bytes a second in each direction; None for as fast as it goes.
        latency: Seconds that bytes travel in each direction.
        jitter: Seconds, up to which a travel may take longer. Bytes never overtake each other.
    """

    rate: float | None = None
    latency: float = 0.0
    jitter: float = 0.0


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that happened to a connection.

    Attributes:
        what: A fault, ``"opened"``, which side closed its end, or ``"refused"`` if nobody listens behind the proxy.
        connection: Which one, counted from 1.
        when: Reading of the monotonic clock, in seconds.
    """

    what: What
    connection: int
    when: float


def every(kind: Kind, step: int, times: int, way: Way = "up") -> tuple[Fault, ...]:
    """The same fault after each ``step`` bytes, ``times`` times."""
    return tuple(Fault(kind, step * number, way) for number in range(1, times + 1))
