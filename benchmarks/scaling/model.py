"""The cost model: what a round, and an idle second, costs one researcher; fitted to the measured points.

A researcher has three threads that matter, and each can fill one core: *main* runs the round, digests and folds; *pump*
owns the socket and the state of the protocol; *native* is libzmq's own, for system calls and encryption. Main and pump
share one interpreter, but what is long in them (digests, sums, copies) runs beside it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import median

from benchmarks.scaling.fit import Feature, Fit, fit
from benchmarks.scaling.points import FoldPoint, Measured, NodePoint, RoundPoint, VirtualPoint, measured
from fedplug.protocol.limits import Limits

MB = 1e6
THREADS = ("main", "pump", "native")
LIMITS = Limits()
HEARTBEAT = LIMITS.heartbeat
"""Seconds between signs of life in what was measured."""

_ROUND: dict[str, Feature[RoundPoint]] = {
    "round": lambda _: 1,
    "MB": lambda p: p.model / MB,
    "connected": lambda p: p.nodes,
    "sampled": lambda p: p.sampled,
    "sampled MB": lambda p: p.sampled * p.model / MB,
}
_KEYED: dict[str, Feature[RoundPoint]] = {
    "sampled, keys": lambda p: p.keyed * p.sampled,
    "sampled MB, keys": lambda p: p.keyed * p.sampled * p.model / MB,
}
_DURABLE: dict[str, Feature[RoundPoint]] = {
    "round, journal": lambda p: p.durable,
    "sampled, journal": lambda p: p.durable * p.sampled,
    "sampled MB, journal": lambda p: p.durable * p.sampled * p.model / MB,
}
_FEATURES: dict[str, dict[str, Feature[RoundPoint]]] = {
    "main": _ROUND | _DURABLE,
    "pump": {name: _ROUND[name] for name in ("round", "sampled", "sampled MB")} | _KEYED | _DURABLE,
    "native": {name: _ROUND[name] for name in ("round", "sampled", "sampled MB")} | _KEYED,
    "echo": {name: _ROUND[name] for name in ("round", "sampled", "sampled MB")} | _KEYED,
}


@dataclass(frozen=True)
class Fits:
    """All fits, by what they say: see `fitted`."""

    rounds: Mapping[str, Fit[RoundPoint]]
    sent: Fit[RoundPoint]
    received: Fit[RoundPoint]
    rest: Mapping[str, Fit[RoundPoint]]
    connect: Fit[RoundPoint]
    memory: Fit[RoundPoint]
    nodes: Fit[NodePoint]
    fold: Fit[FoldPoint]
    virtual: Fit[VirtualPoint]


def fitted(points: Measured) -> Fits:
    """Fit everything.

    Args:
        points: What was measured.

    Raises:
        ValueError: There are too few points.
    """
    many = [p for p in points.rounds if p.rest_pump is not None]
    rest = {
        "pump": _fit_rest(many, [p.rest_pump or 0 for p in many]),
        "native": _fit_rest(many, [p.rest_native or 0 for p in many]),
        "bytes": _fit_rest(many, [p.rest_bytes or 0 for p in many]),
    }
    nothing = {"main": 0.0, "echo": 0.0}
    # signs of life that came and went during a round are no part of its costs
    rounds = {
        thread: fit(
            points.rounds,
            [
                max(getattr(p, thread) - (0 if thread in nothing else p.wall * rest[thread].predict(p)), 1e-6)
                for p in points.rounds
            ],
            features,
        )
        for thread, features in _FEATURES.items()
    }
    keyed: dict[str, Feature[RoundPoint]] = {"node": lambda _: 1, "node, keys": lambda p: p.keyed}
    moved = {
        way: fit(
            points.rounds,
            [max(getattr(p, way) - p.wall * rest["bytes"].predict(p) / 2, 1) for p in points.rounds],
            {name: _ROUND[name] for name in ("sampled", "sampled MB")},
        )
        for way in ("sent", "received")
    }
    of_nodes: dict[str, Feature[NodePoint]] = {
        "task": lambda _: 1,
        "MB": lambda p: p.model / MB,
        "task, keys": lambda p: p.keyed,
        "MB, keys": lambda p: p.keyed * p.model / MB,
    }
    return Fits(
        rounds=rounds,
        sent=moved["sent"],
        received=moved["received"],
        rest=rest,
        connect=fit(many, [p.connect for p in many], keyed),
        memory=fit(many, [p.memory for p in many], keyed),
        nodes=fit(points.nodes, [p.cpu for p in points.nodes], of_nodes),
        fold=fit(points.folds, [p.cpu for p in points.folds], {"MB": lambda p: p.model / MB}),
        virtual=fit(
            points.virtual, [p.resident for p in points.virtual], {"process": lambda _: 1, "node": lambda p: p.nodes}
        ),
    )


def _fit_rest(points: list[RoundPoint], values: list[float]) -> Fit[RoundPoint]:
    return fit(points, values, {"node": lambda p: p.nodes, "node, keys": lambda p: p.keyed * p.nodes})


@dataclass(frozen=True)
class Machine:
    """What one researcher, or one aggregator, has.

    Attributes:
        memory: Bytes.
        bandwidth: Bytes a second of its network, in each direction.
        latency: Seconds from it to a node.
        descriptors: Files and connections that the system lets a process have.
        node_bandwidth: Bytes a second of the line of a node, in each direction.
    """

    memory: float = 64 * 2**30
    bandwidth: float = 1.25e9
    latency: float = 0.01
    descriptors: int = 1_048_576
    node_bandwidth: float = 12.5e6

    def credit_bandwidth(self, bandwidth: float) -> float:
        """Bytes a second that come in under the credit of a receiver: so many chunks may be under way at once.

        A chunk takes a request and its answer over the distance, and its bytes over the line of whoever sends it.

        Args:
            bandwidth: Bytes a second of the lines of those who send.
        """
        seconds = 2 * self.latency + LIMITS.chunk / bandwidth
        return LIMITS.pool_credit * LIMITS.chunk / seconds if seconds else math.inf


@dataclass(frozen=True)
class Load:
    """What is asked of one researcher.

    Attributes:
        connected: Nodes with a connection.
        sampled: Nodes that train in a round.
        model: Bytes of the parameters.
        heartbeat: Seconds between signs of life.
        update: Bytes of an update, over those of the model: 1 from nodes, 2 for sums in float64.
    """

    connected: float
    sampled: float
    model: float
    heartbeat: float = HEARTBEAT
    update: float = 1.0


@dataclass(frozen=True)
class CostModel:
    """Costs of one researcher, with keys unless said otherwise.

    Attributes:
        fits: What they come from.
        base: Bytes of memory of a researcher without nodes and models.
        keyed: Whether connections are encrypted.
        durable: Whether there is a journal.
    """

    fits: Fits
    base: float = 100 * 2**20
    keyed: bool = True
    durable: bool = False
    spare_models: float = 3.0
    spare: float = field(default=64 * 2**20)

    def point(self, load: Load) -> RoundPoint:
        """A point as it would be measured: the form in which fits are asked."""
        return RoundPoint(
            nodes=round(load.connected), sampled=round(load.sampled), model=round(load.model), keyed=self.keyed,
            durable=self.durable, rounds=0, main=0, pump=0, native=0, echo=0, wall=0, sent=0, received=0, frames=0,
            connect=0, memory=0, descriptors=1,
        )  # fmt: skip

    def coefficient(self, thread: str, name: str) -> float:
        """Seconds of a thread for one unit of a feature, keys and journal included where they are used."""
        found = self.fits.rounds[thread].coefficients
        extras = ((", keys", self.keyed), (", journal", self.durable))
        return found.get(name, 0.0) + sum(found.get(name + suffix, 0.0) for suffix, used in extras if used)

    def round_seconds(self, thread: str, load: Load) -> float:
        """Seconds of processor time of a thread in a round."""
        each, mb = functools.partial(self.coefficient, thread), load.model / MB
        # half of what is moved goes down, half comes up
        moved = (1 + load.update) / 2
        return (
            each("round") + each("MB") * mb + each("connected") * load.connected
            + each("sampled") * load.sampled + each("sampled MB") * load.sampled * mb * moved
        )  # fmt: skip

    def rest_share(self, thread: str, load: Load) -> float:
        """Share of a core that signs of life take of a thread."""
        if thread == "main":
            return 0.0
        return self.fits.rest[thread].predict(self.point(load)) * HEARTBEAT / load.heartbeat

    def bytes_down(self, load: Load) -> float:
        """Bytes to the nodes in a round."""
        return self.fits.sent.predict(self.point(load))

    def bytes_up(self, load: Load) -> float:
        """Bytes from the nodes in a round."""
        return self.fits.received.predict(self.point(replace(load, model=load.model * load.update)))

    def rest_bytes(self, load: Load) -> float:
        """Bytes a second, both ways, while nothing happens."""
        return self.fits.rest["bytes"].predict(self.point(load)) * HEARTBEAT / load.heartbeat

    def memory(self, load: Load) -> float:
        """Bytes of memory at the peak of a round."""
        return self.base + self.spare + self.spare_models * load.model + self.node_memory * load.connected

    @property
    def node_memory(self) -> float:
        """Bytes of memory for each connected node."""
        return self.fits.memory.predict(self.point(Load(1, 1, 1)))

    @property
    def connect_seconds(self) -> float:
        """Seconds of processor time to let a node in."""
        return self.fits.connect.predict(self.point(Load(1, 1, 1)))

    def node_seconds(self, model: float) -> float:
        """Seconds of processor time of a node and its worker for a round, without the training."""
        return self.fits.nodes.predict(NodePoint(model=round(model), keyed=self.keyed, cpu=0))

    def shares(self, load: Load, machine: Machine, seconds: float) -> dict[str, float]:
        """How much of each resource is used if the researcher adds so many seconds to a round.

        Args:
            load: What is asked.
            machine: What there is.
            seconds: What a round may take beside the training.

        Returns:
            Resource → used part; above 1 it does not go.
        """
        threads = {
            f"{thread} thread": self.rest_share(thread, load) + self.round_seconds(thread, load) / seconds
            for thread in THREADS
        }
        idle = self.rest_bytes(load) / 2
        return {
            "descriptors": load.connected / machine.descriptors,
            "memory": self.memory(load) / machine.memory,
            **threads,
            "network down": (self.bytes_down(load) / seconds + idle) / machine.bandwidth,
            "network up": (self.bytes_up(load) / seconds + idle) / machine.bandwidth,
            "credit": self._credit_seconds(load, machine) / seconds,
        }

    def first(self, load: Load, machine: Machine, seconds: float) -> tuple[str, float]:
        """The resource that ends first, and its used part."""
        shares = self.shares(load, machine, seconds)
        name = max(shares, key=lambda each: shares[each])
        return name, shares[name]

    def most_connected(self, machine: Machine, heartbeat: float, share: float = 0.5) -> tuple[int, str]:
        """How many nodes can be connected, at most.

        Args:
            machine: What there is.
            heartbeat: Seconds between signs of life.
            share: Part of a core that they may take of a thread at rest.

        Returns:
            The number, and what ends there.
        """
        one = Load(1, 0, 0, heartbeat)
        ends = {
            "descriptors": float(machine.descriptors),
            "memory": (machine.memory - self.base - self.spare) / self.node_memory,
            **{f"{thread} thread": share / self.rest_share(thread, one) for thread in ("pump", "native")},
        }
        name = min(ends, key=lambda each: ends[each])
        return math.floor(ends[name]), name

    def child_seconds(self, model: float, machine: Machine, update: float = 1.0) -> float:
        """Seconds that each node that trains adds to a round: of the slowest thread or direction of the network.

        Args:
            model: Bytes of the parameters.
            machine: What there is.
            update: As in `Load`.
        """
        mb, moved = model / MB, (1 + update) / 2
        threads = (
            self.coefficient(thread, "sampled") + self.coefficient(thread, "sampled MB") * mb * moved
            for thread in THREADS
        )
        load = Load(1, 1, model, update=update)
        network = max(self.bytes_down(load), self.bytes_up(load)) / machine.bandwidth
        return max(*threads, network, self._credit_seconds(load, machine))

    def _credit_seconds(self, load: Load, machine: Machine) -> float:
        """Seconds in which the updates of a round come in under credit. Partial sums come from aggregators' lines."""
        if load.model * load.update <= LIMITS.inline:
            return 0.0
        line = machine.node_bandwidth if load.update == 1.0 else machine.bandwidth
        return load.sampled * load.model * load.update / machine.credit_bandwidth(line)

    def round_extra(self, model: float) -> float:
        """Seconds of the main thread that a round takes for any number of nodes: digest, result."""
        return self.coefficient("main", "round") + self.coefficient("main", "MB") * model / MB


@functools.cache
def cost_model(*, keyed: bool = True, durable: bool = False) -> CostModel:
    """The model of what was measured on the machine named in the data file."""
    return CostModel(fitted(measured()), keyed=keyed, durable=durable)


def descriptors_per_node(points: Measured) -> float:
    """File descriptors that a connection takes, as measured: the median over federations of many nodes."""
    return median(p.descriptors for p in points.rounds if p.nodes >= 100)
