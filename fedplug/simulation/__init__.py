"""Federations without a network: virtual nodes in this process, for research, examples and tests."""

from __future__ import annotations

from fedplug.simulation.engines import Engine, SerialEngine
from fedplug.simulation.faults import Faults
from fedplug.simulation.federation import Federation
from fedplug.simulation.partitions import IID, Dirichlet, Natural, Partition, Parts, Quantity, Shards

__all__ = [
    "IID",
    "Dirichlet",
    "Engine",
    "Faults",
    "Federation",
    "Natural",
    "Partition",
    "Parts",
    "Quantity",
    "SerialEngine",
    "Shards",
]
