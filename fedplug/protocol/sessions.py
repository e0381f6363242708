"""Who is at the other end of a connection: identity, versions, liveness. The researcher's records of its nodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fedplug.core.messages import NodeInfo, TaskKey
from fedplug.wire import VERSION
from fedplug.wire.headers import Hello, Session, Welcome

if TYPE_CHECKING:
    from fedplug.protocol.limits import Limits
    from fedplug.protocol.tasks import Task

VERSIONS = (1, VERSION)
"""Lowest and highest protocol version that this release speaks."""

PLAN_STATUS = "plan-status"
"""The capability of a node to say whether its owner has approved a plan. Nodes without it run every plan."""

JOURNAL = "journal"
"""The capability of a node to know, after a restart, the tasks that it has begun before. It may be given one again that
it does not hold: it takes it if it had not begun it, and says how it ended if it had."""

CHUNK_SUMS = "chunk-sums"
"""The capability of either side to do without a crc32 in each CHUNK: who finds that the whole is wrong asks for them.

A node says so in HELLO, a researcher in WELCOME, to such nodes only.
"""

PACE = "pace"
"""The capability of a node to be told, in a session, how often both sides give signs of life."""

CAPABILITIES: tuple[str, ...] = (PLAN_STATUS, CHUNK_SUMS, PACE)


def negotiate(versions: tuple[int, int]) -> int | None:
    """The highest version that both sides speak; None if there is none."""
    best = min(versions[1], VERSIONS[1])
    return best if best >= max(versions[0], VERSIONS[0]) else None


@dataclass(slots=True, eq=False)
class Peer:
    """One connection.

    Attributes:
        token: The transport's name for it.
        key: The public key that the other end has proved to hold; empty without keys.
        node: The node that has a session on it.
        opened: When it was first heard of.
    """

    token: bytes
    opened: float
    key: str = ""
    node: Node | None = None


@dataclass(slots=True, eq=False)
class Node:
    """One node, connected or not, since it was first seen.

    Attributes:
        info: What it last said about itself.
        peer: Its connection; None while it is lost.
        session: Its latest session.
        heartbeat: Seconds between two signs of life in its session, of either side.
        heard: When it last said something in its session.
        told: When it was last sent something.
        tasks: Its open tasks.
        strangers: Tasks that it holds and that nobody here has asked for (yet): a resumed experiment may.
        moved_on: Whether it was given a task since it was first seen.
        known_plan: Id of the plan that it was last sent in this session.
        known_params: Id of the model that it was last sent in this session.
        capabilities: Optional things that it can do.
        rival: The incarnation that last had to stand back behind the one that is connected, and since when.
        alarmed: The incarnation beside which that one turned up, if it was told.
    """

    node_id: str
    info: NodeInfo
    peer: Peer | None = None
    session: Session = (0, 0)
    heartbeat: float = 0.0
    heard: float = 0.0
    told: float = 0.0
    tasks: dict[TaskKey, Task] = field(default_factory=dict)
    strangers: set[TaskKey] = field(default_factory=set)
    moved_on: bool = False
    known_plan: str = ""
    known_params: str = ""
    capabilities: frozenset[str] = frozenset()
    rival: tuple[int, float] = (0, 0.0)
    alarmed: int = 0

    def new_pace(self, pace: float, now: float) -> float:
        """Give signs of life at another pace from now on; what the node is to be told of it, 0 if nothing changes."""
        if pace == self.heartbeat or PACE not in self.capabilities:
            return 0.0
        self.heartbeat = pace
        self.heard = max(self.heard, now - pace)  # who could be silent for longer until now is not late yet
        return pace

    @property
    def known(self) -> frozenset[str]:
        """Blobs that need not be sent along."""
        return frozenset((self.known_plan, self.known_params))


def welcome(node: Node, hello: Hello, limits: Limits, *, epoch: str, researcher: str) -> Welcome:
    """What a researcher says to a node that has greeted, and is let in."""
    return Welcome(
        session=node.session,
        version=negotiate(hello.versions) or VERSIONS[1],
        chunk=limits.chunk,
        credit=limits.peer_credit,
        heartbeat=node.heartbeat,
        epoch=epoch,
        researcher=researcher,
        capabilities=(CHUNK_SUMS,) if CHUNK_SUMS in hello.capabilities else (),
    )
