"""FPWP/1: sessions, tasks and blobs under credit, as state machines without I/O, and their drivers.

`ResearcherEndpoint` and `NodeEndpoint` run the machines over any transport that moves (header, body) frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedplug.protocol.endpoint_node import NodeEndpoint
    from fedplug.protocol.endpoint_researcher import ResearcherEndpoint
    from fedplug.protocol.limits import Limits
    from fedplug.protocol.node import NodeMachine
    from fedplug.protocol.researcher import ResearcherMachine

_PLACES = {
    "Limits": "limits",
    "NodeEndpoint": "endpoint_node",
    "NodeMachine": "node",
    "ResearcherEndpoint": "endpoint_researcher",
    "ResearcherMachine": "researcher",
}

__all__ = ["Limits", "NodeEndpoint", "NodeMachine", "ResearcherEndpoint", "ResearcherMachine"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
