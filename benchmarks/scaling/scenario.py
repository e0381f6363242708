"""What the simulation of the message flow is given, and what it gives back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from benchmarks.scaling.model import LIMITS, MB, CostModel, Load, Machine


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A round to play.

    Attributes:
        costs: What things cost an aggregator.
        model: Bytes of the parameters.
        fan_outs: Children of an aggregator, from those that nodes connect to up to the root; one number is no tree.
        connected: Nodes that are connected to each aggregator of the lowest level; at least those that train.
        machine: What each aggregator has, and the line of a node.
        node_seconds: Processor seconds of a node in a round, without the training.
        training: Median seconds of a training.
        spread: Standard deviation of the logarithm of that time.
        drop_out: Part of the nodes that are lost while they train; they are given up after the silence.
        dead: Aggregators of the lowest level that die when their first update is in; their nodes turn to the others.
        heartbeat: Seconds between signs of life.
        update: Bytes of a partial sum, over those of the model: 2 for float64.
        pieces: Chunks that a blob is cut into at most; fewer are played faster, and nearly as true.
        cores: Cores of one machine that all take part in; None if everybody has enough of their own.
        hosts: Processes that the nodes share, with one interpreter each; 0 if each node has its own.
        seed: Of the chance in times and faults.

    Raises:
        ValueError: There is nobody to train, or nobody is left when aggregators die.
    """

    costs: CostModel
    model: float
    fan_outs: tuple[int, ...]
    connected: int = 0
    machine: Machine = field(default_factory=Machine)
    node_seconds: float = 0.0
    training: float = 0.0
    spread: float = 0.0
    drop_out: float = 0.0
    dead: int = 0
    heartbeat: float = LIMITS.heartbeat
    update: float = 2.0
    pieces: int = 10**9
    cores: int | None = None
    hosts: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.fan_outs or min(self.fan_outs) < 1 or self.pieces < 1:
            raise ValueError(f"Fan-outs {self.fan_outs} and {self.pieces} pieces: all of them must be at least 1.")
        if self.dead and (len(self.fan_outs) < 2 or self.dead >= self.fan_outs[1]):
            raise ValueError("Each aggregator above the lowest level needs a child that lives: let fewer die.")

    @property
    def leaves(self) -> int:
        """Nodes that train."""
        return math.prod(self.fan_outs)

    def chunks(self, nbytes: float) -> list[float]:
        """The sizes in which a blob travels; small ones ride along in one piece."""
        count = 1 if nbytes <= LIMITS.inline else min(self.pieces, math.ceil(nbytes / LIMITS.chunk))
        return [nbytes / count] * count


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        seconds: Until the root has the new parameters.
        slowest: What the slowest node takes by itself: its line, processor, training, and its silence if it is lost.
        counted: Updates that are in them.
        lost: Nodes that were given up.
        sent: Bytes that went onto lines, all lines together.
        received: Bytes that came off them.
        root: Seconds of work of each thread of the root.
        root_up: Bytes that came to the root.
        root_down: Bytes that the root sent.
        events: Events that were played.
    """

    seconds: float
    slowest: float
    counted: int
    lost: int
    sent: float
    received: float
    root: dict[str, float]
    root_up: float
    root_down: float
    events: int


@dataclass(frozen=True)
class SiteCosts:
    """What one aggregator spends, in seconds of its threads and bytes of its lines.

    Attributes:
        once: Of the main thread for a round: half before the first request, half after the last fold.
        child: Of each thread for a child: half on the request, half on the reply.
        down: Of each thread for the bytes of the parameters to a child.
        up: Of each thread for the bytes of a child's update.
        header_down: Bytes to a child beside its parameters.
        header_up: Bytes from a child beside its update.
        idle: Share of a core that signs of life take, by thread.
        idle_bytes: Bytes a second of signs of life, in each direction.
        connect: Seconds to let a node in.
    """

    once: float
    child: dict[str, float]
    down: dict[str, float]
    up: dict[str, float]
    header_down: float
    header_up: float
    idle: dict[str, float]
    idle_bytes: float
    connect: float


def site_costs(given: Scenario, connected: int, update: float) -> SiteCosts:
    """The costs of an aggregator.

    Args:
        given: The round.
        connected: How many are connected to it.
        update: Size of what its children send, over that of the model.
    """
    costs, mb = given.costs, given.model / MB
    load = Load(connected, 1, given.model, given.heartbeat)
    moved = {name: costs.coefficient(name, "sampled MB") * mb for name in ("main", "pump", "native")}
    return SiteCosts(
        once=costs.round_extra(given.model) + costs.coefficient("main", "connected") * connected,
        child={name: costs.coefficient(name, "sampled") for name in moved},
        down={"main": 0.0, "pump": moved["pump"] / 2, "native": moved["native"] / 2},
        # the main thread touches an update, and not what goes down
        up={"main": moved["main"] * update, "pump": moved["pump"] / 2 * update, "native": moved["native"] / 2 * update},
        header_down=costs.fits.sent["sampled"], header_up=costs.fits.received["sampled"],
        idle={name: costs.rest_share(name, load) for name in ("pump", "native")},
        idle_bytes=costs.rest_bytes(load) / 2, connect=costs.connect_seconds,
    )  # fmt: skip
