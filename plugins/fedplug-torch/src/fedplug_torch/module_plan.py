"""A bare ``torch.nn.Module`` class as a training plan for tabular data.

`bundle_module` writes a plan around the module's own source; what the plan does stands in `ModulePlan`.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fedplug.core.class_source import class_source, free_names
from fedplug.core.data import DataManager
from fedplug.core.errors import DatasetError, PlanError, PlanSourceError
from fedplug.core.plan_source import PlanBundle, checked_bundle
from fedplug_torch.plan import TorchTrainingPlan

# Packages that may be imported for a module's sake without asking; a node that trains PyTorch has them.
_KNOWN_PACKAGES = {"torch", "numpy", *sys.stdlib_module_names}

_PLAN = '''

class {name}Plan(ModulePlan):
    """Trains {name} on the columns of the data set; written by FedPlug around the bare module."""

    module_class = {name}
'''


class ModulePlan(TorchTrainingPlan):
    """Trains a module on a table: every column but the data set's target is a feature.

    Whole numbers as target mean classes (cross entropy; with a single output: the logit of class 1),
    any other target means regression (mean squared error).
    """

    module_class: ClassVar[type[nn.Module]]

    @classmethod
    def default_dependencies(cls) -> list[str]:
        """What every PyTorch plan has, and this base."""
        return [*super().default_dependencies(), "from fedplug_torch.module_plan import ModulePlan"]

    def init_model(self, model_args: dict[str, Any]) -> nn.Module:
        """``module_class(**model_args)``."""
        try:
            return self.module_class(**model_args)
        except TypeError as error:
            raise PlanError(
                f"{self.module_class.__name__}(**model_args) failed: {error}.",
                cure=f"model_args must hold the arguments of {self.module_class.__name__}.__init__ by name; "
                f"it holds: {', '.join(model_args) or 'nothing'}.",
            ) from error

    def training_data(self) -> DataManager:
        """The features and the target of the node's data set."""
        dataset = self.dataset
        if not dataset.target:
            raise DatasetError(
                f"Data set {dataset.name!r} does not say which column is to be predicted.",
                cure="Its owner can name it (fedplug node dataset add --target NAME); or write a TorchTrainingPlan.",
            )
        others = [name for name in dataset.arrays() if name != dataset.target]
        single = dataset.column(others[0]) if len(others) == 1 else None
        features = single if single is not None and single.ndim > 1 else dataset.table(others)
        return DataManager(np.asarray(features, np.float32), dataset.column(dataset.target))

    def training_step(self, data: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Cross entropy or mean squared error."""
        output = self.forward(data)
        if target.is_floating_point():
            return F.mse_loss(_like(output, target), target)
        if _is_logit(output, target):
            return F.binary_cross_entropy_with_logits(_like(output, target), target.to(output.dtype))
        return F.cross_entropy(output, target)

    def testing_step(self, data: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
        """Accuracy and loss of a classifier; mean squared error of a regression."""
        output = self.forward(data)
        if target.is_floating_point():
            return {"mse": F.mse_loss(_like(output, target), target).item()}
        logit = _is_logit(output, target)
        predicted = (_like(output, target) > 0).long() if logit else output.argmax(1)
        accuracy = (predicted == target).float().mean().item()
        return {"accuracy": accuracy, "loss": self.training_step(data, target).item()}


def bundle_module(module: type[nn.Module]) -> PlanBundle:
    """A training plan around a module class.

    Raises:
        PlanSourceError: The source of the class cannot be found, or it uses names that do not travel.
    """
    source = class_source(module)
    dependencies = [*ModulePlan.default_dependencies()]
    known = {"torch", "nn", "F"}
    namespace = vars(sys.modules[module.__module__]) if module.__module__ in sys.modules else {}
    dependencies += _imports(sorted(free_names(source, module.__name__) - known), namespace)
    name = module.__name__
    try:
        return checked_bundle(PlanBundle(f"{name}Plan", source + _PLAN.format(name=name), tuple(dependencies)))
    except PlanSourceError as error:
        raise PlanSourceError(
            f"{name} as a training plan of its own: {error.message}",
            cure=f"Derive a plan from TorchTrainingPlan and define {name}, and what it needs, inside it.",
        ) from error


def _imports(names: Iterable[str], namespace: Mapping[str, Any]) -> list[str]:
    """Import lines for those of ``names`` that stand for something of a well-known package."""
    lines = []
    for name in names:
        value = namespace.get(name)
        if isinstance(value, types.ModuleType):
            if value.__name__.partition(".")[0] in _KNOWN_PACKAGES:
                lines.append(f"import {value.__name__}" + ("" if value.__name__ == name else f" as {name}"))
            continue
        home = getattr(value, "__module__", None) or ""
        own_name = getattr(value, "__name__", "")
        if home.partition(".")[0] in _KNOWN_PACKAGES and getattr(sys.modules.get(home), own_name, None) is value:
            lines.append(f"from {home} import {own_name}" + ("" if own_name == name else f" as {name}"))
    return lines


def _is_logit(output: torch.Tensor, target: torch.Tensor) -> bool:
    return output.dim() == 1 or (output.dim() == 2 and output.shape[1] == 1 and target.dim() == 1)


def _like(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """``output`` in the shape of ``target``, where the two differ by axes of length 1 only."""
    return output.reshape(target.shape) if output.numel() == target.numel() else output
