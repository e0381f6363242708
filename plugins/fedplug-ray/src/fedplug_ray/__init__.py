"""Simulations of FedPlug on a Ray cluster. Only the hook stands here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedplug.core.components import Component
from fedplug.core.markers import API_VERSION, hookimpl

if TYPE_CHECKING:
    from fedplug_ray.engine import RayEngine

__fedplug_api__ = API_VERSION

__all__ = ["RayEngine", "fedplug_register_engines"]


@hookimpl
def fedplug_register_engines() -> list[Component]:
    """Workers on the machines of a Ray cluster."""
    return [
        Component(
            "ray",
            "fedplug_ray.engine:RayEngine",
            "Workers on the machines of a Ray cluster, for simulations that outgrow one machine.",
            {
                "workers": "how many (default: one for each processor of the cluster)",
                "address": "of a cluster that is there, e.g. 'auto' (default: one of its own, on this machine)",
                "engine": "what trains in each worker (default: 'serial')",
                "gpus_per_worker": "share of a GPU that each worker holds (default: 0)",
            },
        )
    ]


def __getattr__(name: str) -> Any:
    if name != "RayEngine":
        raise AttributeError(f"module 'fedplug_ray' has no attribute {name!r}")
    from fedplug_ray.engine import RayEngine

    return RayEngine
