"""Federations without a network: virtual nodes in this process, for research, examples and tests."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fedplug.simulation.engines import Engine, SerialEngine
from fedplug.simulation.faults import Faults
from fedplug.simulation.federation import Federation
from fedplug.simulation.partitions import IID, Dirichlet, Natural, Partition, Parts, Quantity, Shards

if TYPE_CHECKING:
    from fedplug.simulation.cohort import CohortEngine as CohortEngine
    from fedplug.simulation.processes import ProcessEngine as ProcessEngine

_LAZY = {"CohortEngine": "fedplug.simulation.cohort", "ProcessEngine": "fedplug.simulation.processes"}
"""What not every simulation needs."""

__all__ = [
    "IID",
    "CohortEngine",
    "Dirichlet",
    "Engine",
    "Faults",
    "Federation",
    "Natural",
    "Partition",
    "Parts",
    "ProcessEngine",
    "Quantity",
    "SerialEngine",
    "Shards",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
