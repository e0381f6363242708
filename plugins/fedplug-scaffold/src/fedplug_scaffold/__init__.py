"""Federated averaging for FedPlug."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedplug import Component, hookimpl

if TYPE_CHECKING:
    from fedplug_scaffold.fedaverage import FedAverage

__all__ = ["FedAverage"]
__fedplug_api__ = 1


@hookimpl
def fedplug_register_aggregators() -> list[Component]:
    """Offer the aggregators of this package."""
    return [
        Component(
            "fedaverage",
            "fedplug_scaffold.fedaverage:FedAverage",
            "Mean of the nodes' parameters, weighted by their numbers of samples.",
            {"weighting": "'samples' (default), 'steps' or 'uniform'"},
        )
    ]


def __getattr__(name: str) -> Any:
    if name == "FedAverage":
        from fedplug_scaffold.fedaverage import FedAverage

        return FedAverage
    raise AttributeError(f"module 'fedplug_scaffold' has no attribute {name!r}")
