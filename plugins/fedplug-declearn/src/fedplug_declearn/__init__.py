"""declearn's optimizers for FedPlug: in training plans of PyTorch and scikit-learn, and at the researcher.

Importing this package does not import declearn, which takes seconds: `Optimizer` does, when it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fedplug import Component, hookimpl

if TYPE_CHECKING:
    from fedplug.core.schedules import (
        CosineDecay,
        ExponentialDecay,
        InverseDecay,
        Piecewise,
        PolynomialDecay,
        StepDecay,
        Warmup,
    )
    from fedplug_declearn.optimizer import Optimizer

__all__ = [
    "CosineDecay",
    "ExponentialDecay",
    "InverseDecay",
    "Optimizer",
    "Piecewise",
    "PolynomialDecay",
    "StepDecay",
    "Warmup",
]
__fedplug_api__ = 1


@hookimpl
def fedplug_register_agg_optimizers() -> list[Component]:
    """Offer the optimizer, for the researcher."""
    return [
        Component(
            "declearn",
            "fedplug_declearn.optimizer:Optimizer",
            "FedAdam, FedYogi, FedAdagrad, server momentum, ... from declearn's modules.",
            {
                "lr": "learning rate: a number, or a schedule such as CosineDecay",
                "decay": "decoupled weight decay, multiplied by the rate (default 0)",
                "modules": "declearn's modules in order, e.g. ['adam'] or [('momentum', {'beta': 0.9})]",
                "regularizers": "declearn's regularizers, e.g. [('ridge', {'alpha': 0.01})]",
            },
        )
    ]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "fedplug_declearn.optimizer" if name == "Optimizer" else "fedplug.core.schedules"
    return getattr(import_module(home), name)
