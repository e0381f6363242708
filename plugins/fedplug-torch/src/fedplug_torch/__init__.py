"""PyTorch for FedPlug: training plans, data, and bare modules as plans.

Importing this package does not import torch: the hooks and `TorchTrainingPlan` do, when they are used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fedplug.core.components import Component
from fedplug.core.markers import API_VERSION, hookimpl

if TYPE_CHECKING:
    from fedplug.core.cohort import CohortAnswer
    from fedplug.core.data import BatchSource, DataManager
    from fedplug.core.plan_source import PlanBundle
    from fedplug.core.training_args import TrainingArgs
    from fedplug.core.training_plan import TrainingPlan
    from fedplug_torch.layers import norm_layer_names
    from fedplug_torch.plan import TorchTrainingPlan

__all__ = ["TorchTrainingPlan", "norm_layer_names"]

__fedplug_api__ = API_VERSION


_HOMES = {"TorchTrainingPlan": "plan", "norm_layer_names": "layers"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


@hookimpl
def fedplug_register_training_plans() -> list[Component]:
    """The PyTorch plan, and the plans of ``fedplug demo``."""
    return [
        Component("torch", "fedplug_torch.plan:TorchTrainingPlan", "A PyTorch module and a torch optimizer."),
        Component("demo-breast-cancer", "fedplug_torch.demo_plans:BreastCancerPlan", "The first plan of fedplug demo."),
        Component("demo-digits", "fedplug_torch.demo_plans:DigitsPlan", "The second plan of fedplug demo."),
    ]


@hookimpl
def fedplug_register_data_managers() -> list[Component]:
    """Tensors in memory, and torch's own data sets."""
    return [
        Component("torch", "fedplug_torch.data:TensorData", "Tensors, NumPy arrays and pandas objects, in memory."),
        Component("torch-dataset", "fedplug_torch.data:DatasetData", "A torch Dataset, through torch's DataLoader."),
    ]


@hookimpl
def fedplug_wrap_data(manager: DataManager, framework: str) -> BatchSource | None:
    """Batches of tensors for PyTorch plans."""
    if framework != "torch":
        return None
    from fedplug_torch.data import wrap

    return wrap(manager)


@hookimpl
def fedplug_train_cohort(plan: TrainingPlan, args: TrainingArgs, compiled: bool) -> CohortAnswer | None:
    """Stacked parameters for PyTorch plans."""
    if plan.framework != "torch":
        return None
    from fedplug_torch.cohort import offer

    return offer(plan, args, compiled)  # type: ignore[arg-type] # the base of all plans of this framework


@hookimpl
def fedplug_wrap_model(model: type) -> PlanBundle | None:
    """A bare ``torch.nn.Module`` class as a plan for tabular data."""
    torch = sys.modules.get("torch")  # not imported: then nobody can have derived a class from its Module
    if torch is None or not issubclass(model, torch.nn.Module):
        return None
    from fedplug_torch.module_plan import bundle_module

    return bundle_module(model)
