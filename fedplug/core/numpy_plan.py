"""A training plan whose model is a handful of NumPy arrays: for small models, examples and tests."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from fedplug.core import model_files
from fedplug.core.array_plan import ArrayTrainingPlan
from fedplug.core.errors import PlanError
from fedplug.core.flexible_calls import call_flexibly
from fedplug.core.model_files import ModelFormat
from fedplug.core.numpy_backend import NumpyBackend, kind_of
from fedplug.core.params import Array
from fedplug.core.plan_optimizer import plain_gradient_descent
from fedplug.core.trainer.backend import Backend


class NumpyOptimizer(Protocol):
    """What ``init_optimizer`` of a NumPy plan returns: a `PlanOptimizer`, or anything with this method.

    To be kept between rounds it also has ``state() -> dict`` of arrays and numbers by name, and
    ``set_state(state)``, which takes such a dict.
    """

    def step(self, params: dict[str, Array], gradients: Mapping[str, Array]) -> object:
        """Change ``params`` in place by ``gradients``, which have the same names and shapes."""


class NumpyTrainingPlan(ArrayTrainingPlan):
    """Base of training plans that are written in NumPy.

    The model is a dict of arrays; ``self.model()`` gives it. The arrays are changed in place from step to
    step, so that a reference to one of them stays valid.

    Example::

        class Line(NumpyTrainingPlan):
            def init_model(self, model_args):
                return {"slope": np.zeros(1), "offset": np.zeros(1)}

            def training_data(self):
                return DataManager(self.dataset.table(["x"]), self.dataset.column("y"))

            def training_step(self, data, target):
                error = data @ self.model()["slope"] + self.model()["offset"] - target
                return (error**2).mean(), {"slope": 2 * error @ data / len(data), "offset": 2 * error.mean()}
    """

    framework: ClassVar[str] = "numpy"

    # what a researcher writes ------------------------------------------------------------------------------

    @abstractmethod
    def init_model(self, model_args: dict[str, Any]) -> Mapping[str, Array]:
        """The arrays of the model by name, as training starts from scratch. May take no argument."""

    @abstractmethod
    def training_step(self, data: Any, target: Any) -> tuple[float, Mapping[str, Array]]:
        """Loss of a batch (mean over its samples), and its gradient for each array of the model."""

    def init_optimizer(self, optimizer_args: dict[str, Any]) -> NumpyOptimizer:
        """The optimizer; plain gradient descent unless overridden. May take no argument."""
        return plain_gradient_descent(optimizer_args)

    # for the library ---------------------------------------------------------------------------------------

    @classmethod
    def default_dependencies(cls) -> list[str]:
        """NumPy as ``np``, and the names of FedPlug that plans need."""
        return ["import numpy as np", "from fedplug import DataManager, NumpyTrainingPlan, ProcessTypes"]

    def _build_model(self, model_args: Mapping[str, Any]) -> dict[str, Array]:
        made = call_flexibly(self.init_model, model_args)
        if not isinstance(made, Mapping) or not made:
            raise PlanError(
                f"init_model must return a dict of arrays by name, but returned {kind_of(made)}.",
                cure='E.g. return {"weights": np.zeros((4, 2)), "bias": np.zeros(2)}.',
            )
        return {str(name): np.array(value) for name, value in made.items()}

    def _build_optimizer(self, optimizer_args: Mapping[str, Any]) -> NumpyOptimizer:
        made = call_flexibly(self.init_optimizer, optimizer_args)
        if not callable(getattr(made, "step", None)):
            raise PlanError(
                f"init_optimizer must return an object with a method step(params, gradients), but returned "
                f"{kind_of(made)}."
            )
        return made  # type: ignore[no-any-return]

    def make_backend(self) -> Backend:
        """This plan's arrays and optimizer, for the loop."""
        return NumpyBackend.for_plan(self)

    def arrays(self) -> dict[str, Array]:
        """The arrays of the model, live."""
        model: dict[str, Array] = self.model()
        return model

    def _model_formats(self) -> Mapping[str, ModelFormat]:
        return model_files.ARRAY_FORMATS

    def _model_object(self) -> dict[str, Array]:
        return dict(self.model())

    def _take_model_object(self, found: Any, path: str | Path) -> None:
        self._take_arrays(found if isinstance(found, Mapping) else {}, path)
