"""Federated averaging and its family for FedPlug: FedProx, FedNova, Scaffold, and optimizers of the researcher."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fedplug import Component, hookimpl

if TYPE_CHECKING:
    from fedplug.core.trainer import Hook, TrainerInfo
    from fedplug_scaffold.fedaverage import FedAverage
    from fedplug_scaffold.fednova import FedNova
    from fedplug_scaffold.fedopt import FedAdagrad, FedAdam, FedAvgM, FedYogi
    from fedplug_scaffold.fedprox import FedProx
    from fedplug_scaffold.scaffold import Scaffold

__all__ = ["FedAdagrad", "FedAdam", "FedAverage", "FedAvgM", "FedNova", "FedProx", "FedYogi", "Scaffold"]
__fedplug_api__ = 1

_HOMES = {
    "FedAdagrad": "fedopt",
    "FedAdam": "fedopt",
    "FedAverage": "fedaverage",
    "FedAvgM": "fedopt",
    "FedNova": "fednova",
    "FedProx": "fedprox",
    "FedYogi": "fedopt",
    "Scaffold": "scaffold",
}


@hookimpl
def fedplug_register_aggregators() -> list[Component]:
    """Offer the aggregators of this package."""
    weighting = {"weighting": "'samples' (default), 'steps' or 'uniform'"}
    return [
        _offer("fedaverage", "FedAverage", "Mean of the nodes' parameters, weighted by their samples.", weighting),
        _offer("fedprox", "FedProx", "FedAverage of nodes that stay near the global model.", {"mu": "how near (0.01)"}),
        _offer("fednova", "FedNova", "Mean that does not favour nodes which make more steps.", {"momentum": "rho (0)"}),
        _offer("scaffold", "Scaffold", "Control variates against drift; needs num_updates.", {"server_lr": "rate (1)"}),
    ]


@hookimpl
def fedplug_register_agg_optimizers() -> list[Component]:
    """Offer the optimizers of the researcher of this package."""
    adaptive = {"lr": "server learning rate (0.01)", "tau": "how much adaptivity is held back (0.001)"}
    return [
        _offer("fedavgm", "FedAvgM", "Server momentum.", {"lr": "server learning rate (1)", "beta": "momentum (0.9)"}),
        _offer("fedadagrad", "FedAdagrad", "Adagrad at the researcher.", adaptive),
        _offer("fedadam", "FedAdam", "Adam at the researcher.", adaptive),
        _offer("fedyogi", "FedYogi", "Yogi at the researcher.", adaptive),
    ]


@hookimpl
def fedplug_trainer_hooks(info: TrainerInfo) -> list[Hook]:
    """What a node does in a round of Scaffold; nothing in other rounds."""
    only_looked_at = not info.framework and not info.node_id
    if "scaffold" not in info.aux and not only_looked_at:
        return []
    from fedplug_scaffold.hooks import scaffold_hooks

    return scaffold_hooks()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def _offer(name: str, cls: str, summary: str, options: dict[str, str]) -> Component:
    return Component(name, f"fedplug_scaffold.{_HOMES[cls]}:{cls}", summary, options)
