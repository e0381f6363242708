"""What the cost model is fitted to: measured points, in one data file beside this module."""

from __future__ import annotations

import functools
from pathlib import Path

import msgspec

FILE = Path(__file__).with_name("measured.json")


class RoundPoint(msgspec.Struct, frozen=True, kw_only=True):
    """No-op rounds of one federation over ``zmq://`` with echo nodes; CPU by thread.

    Times are lower quartiles over rounds: what a round takes when nobody else wants the machine.


    Attributes:
        nodes: Connected nodes.
        sampled: Nodes that train in a round.
        model: Bytes of the parameters.
        keyed: Whether the connections are encrypted.
        durable: Whether the experiment has a journal and breakpoints.
        rounds: Number of rounds behind the quartiles.
        main: CPU seconds a round of the researcher's thread that runs the round and folds.
        pump: CPU seconds a round of its thread that owns the socket and the protocol's state.
        native: CPU seconds a round of libzmq's own thread: system calls, and encryption with keys.
        echo: CPU seconds a round of the processes that hold the nodes, together.
        wall: Seconds of a round.
        sent: Bytes a round from the researcher to the nodes.
        received: Bytes a round from the nodes to the researcher.
        frames: Frames a round, both ways.
        connect: CPU seconds of the researcher for each node that came in; all threads.
        memory: Bytes of the researcher's memory for each connected node.
        descriptors: File descriptors of the researcher for each connected node.
        rest_pump: CPU seconds a second of the pump while nothing happens.
        rest_native: The same of libzmq's thread.
        rest_frames: Frames a second meanwhile, both ways.
        rest_bytes: Bytes a second meanwhile, both ways.
    """

    nodes: int
    sampled: int
    model: int
    keyed: bool
    durable: bool
    rounds: int
    main: float
    pump: float
    native: float
    echo: float
    wall: float
    sent: float
    received: float
    frames: float
    connect: float
    memory: float
    descriptors: float
    rest_pump: float | None = None
    rest_native: float | None = None
    rest_frames: float | None = None
    rest_bytes: float | None = None


class NodePoint(msgspec.Struct, frozen=True, kw_only=True):
    """A real node process with its worker: CPU of a no-op round.

    Attributes:
        model: Bytes of the parameters.
        keyed: Whether the connections are encrypted.
        cpu: CPU seconds of a node and its worker in a round.
    """

    model: int
    keyed: bool
    cpu: float


class FoldPoint(msgspec.Struct, frozen=True, kw_only=True):
    """The weighted mean alone (workload A1).

    Attributes:
        model: Bytes of an update.
        cpu: CPU seconds to fold one.
    """

    model: int
    cpu: float


class VirtualPoint(msgspec.Struct, frozen=True, kw_only=True):
    """A simulation (workload S4).

    Attributes:
        nodes: Virtual nodes.
        sampled: Nodes that train in a round.
        cpu: CPU seconds of a round.
        resident: Resident bytes of the process.
    """

    nodes: int
    sampled: int
    cpu: float
    resident: int


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was measured, and where.

    Attributes:
        machine: Processor, number of cores and memory.
        versions: Versions of what takes part.
        cores: Cores that researcher and nodes shared.
        rounds: Federations.
        nodes: Node processes.
        folds: The mean alone.
        virtual: Simulations.
    """

    machine: str
    versions: dict[str, str]
    cores: int
    rounds: list[RoundPoint]
    nodes: list[NodePoint]
    folds: list[FoldPoint]
    virtual: list[VirtualPoint]


@functools.cache
def measured(file: Path = FILE) -> Measured:
    """The measured points.

    Args:
        file: Where they are.

    Raises:
        FileNotFoundError: The file is not there; ``python -m benchmarks.scaling measure`` makes it.
    """
    return msgspec.json.decode(file.read_bytes(), type=Measured)


def write(points: Measured, file: Path = FILE) -> None:
    """Keep measured points, one a line."""
    file.write_bytes(msgspec.json.format(msgspec.json.encode(points), indent=1) + b"\n")
    measured.cache_clear()
