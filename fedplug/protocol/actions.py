"""What a state machine wants done. The machines do no I/O: a driver (or the simulator) carries these out, in order."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from fedplug.core.link import LinkEvent
from fedplug.core.messages import LogLine, Progress, TaskKey
from fedplug.core.pool import PoolEvent
from fedplug.core.transport import Buffer


@dataclass(slots=True)
class Send:
    """Send a frame; ``peer`` is empty at a node."""

    peer: bytes
    header: bytes
    body: Buffer = b""


@dataclass(slots=True)
class Drop:
    """Forget a connection of the listener, after what was sent on it."""

    peer: bytes


@dataclass(slots=True)
class Reconnect:
    """Close the channel and connect again, after at least ``after`` seconds."""

    after: float = 0.0


@dataclass(slots=True)
class Deliver:
    """Hand an event to the experiment, or to the node's supervisor."""

    event: PoolEvent | LinkEvent


@dataclass(slots=True)
class Sign:
    """Hand a sign of life to whoever watches."""

    node_id: str
    message: Progress | LogLine


@dataclass(slots=True)
class Say:
    """Write a warning into the log of whoever runs this side."""

    text: str


Action = Send | Drop | Reconnect | Deliver | Sign | Say


class Ledger:
    """How tasks ended, for the last so many of them."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._ends: OrderedDict[TaskKey, str] = OrderedDict()
        self._late: list[TaskKey] = []

    def __contains__(self, key: TaskKey) -> bool:
        return key in self._ends

    def get(self, key: TaskKey) -> str:
        """How the task ended; empty if it is not known."""
        return self._ends.get(key, "")

    def came_late(self, key: TaskKey) -> None:
        """Note that a task which was given up has come to its end all the same."""
        self._ends[key] = "given up"
        self._late.append(key)

    def take_late(self) -> list[TaskKey]:
        """The tasks that came late since the last call."""
        late, self._late = self._late, []
        return late

    def close(self, key: TaskKey, how: str) -> None:
        """Note an end. The first one stays."""
        self._ends.setdefault(key, how)
        if len(self._ends) > self._room:
            self._ends.popitem(last=False)
