"""The node: data sets under tags, and a supervisor that lets a worker train on them.

Import `Node` to run one from a script; the command line is ``fedplug node``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedplug.node.datasets.memory import MemoryDataset as MemoryDataset
    from fedplug.node.node import Node as Node
    from fedplug.node.store import NodeStore as NodeStore

_LAZY = {
    "MemoryDataset": "fedplug.node.datasets.memory",
    "Node": "fedplug.node.node",
    "NodeStore": "fedplug.node.store",
}

__all__ = ["MemoryDataset", "Node", "NodeStore"]


def __getattr__(name: str) -> Any:
    # The worker process runs as a module of this package and must start before NumPy is imported.
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
