"""A training plan whose model is a handful of NumPy arrays: for small models, examples and tests."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import numpy as np

from fedplug.core.errors import PlanError
from fedplug.core.metrics import as_metrics
from fedplug.core.params import Array, Params
from fedplug.core.trainer.backend import Backend
from fedplug.core.training_plan import Allocate, TrainingPlan, call_flexibly


class NumpyOptimizer(Protocol):
    """What ``init_optimizer`` of a NumPy plan returns."""

    def step(self, params: dict[str, Array], gradients: Mapping[str, Array]) -> object:
        """Change ``params`` in place by ``gradients``, which have the same names and shapes."""


class SGD:
    """Plain gradient descent: ``p <- p - lr * g``.

    Args:
        lr: The learning rate.
    """

    def __init__(self, lr: float) -> None:
        self.lr = lr

    def step(self, params: dict[str, Array], gradients: Mapping[str, Array]) -> None:
        """Change ``params`` in place."""
        for name, array in params.items():
            array -= np.asarray(self.lr * gradients[name], array.dtype)


class NumpyTrainingPlan(TrainingPlan):
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
        unknown = sorted(set(optimizer_args) - {"lr"})
        if unknown:
            raise PlanError(
                f"Plain gradient descent takes only lr, but optimizer_args has {', '.join(map(repr, unknown))}.",
                cure="Remove it, or define init_optimizer.",
            )
        return SGD(optimizer_args["lr"])

    # for the library ---------------------------------------------------------------------------------------

    @classmethod
    def default_dependencies(cls) -> list[str]:
        """NumPy as ``np``, and the two names of FedPlug that every plan needs."""
        return ["import numpy as np", "from fedplug import DataManager, NumpyTrainingPlan"]

    def _build_model(self, model_args: Mapping[str, Any]) -> dict[str, Array]:
        made = call_flexibly(self.init_model, model_args)
        if not isinstance(made, Mapping) or not made:
            raise PlanError(
                f"init_model must return a dict of arrays by name, but returned {_kind(made)}.",
                cure='E.g. return {"weights": np.zeros((4, 2)), "bias": np.zeros(2)}.',
            )
        return {str(name): np.array(value) for name, value in made.items()}

    def _build_optimizer(self, optimizer_args: Mapping[str, Any]) -> NumpyOptimizer:
        made = call_flexibly(self.init_optimizer, optimizer_args)
        if not callable(getattr(made, "step", None)):
            raise PlanError(
                f"init_optimizer must return an object with a method step(params, gradients), but returned "
                f"{_kind(made)}."
            )
        return made  # type: ignore[no-any-return]

    def make_backend(self) -> Backend:
        """This plan's arrays and optimizer, for the loop."""
        return _NumpyBackend(self)

    def get_params(self, allocate: Allocate | None = None) -> Params:
        """The arrays, copied."""
        model: dict[str, Array] = self.model()
        spec = Params.from_arrays(model).spec
        buffer = None if allocate is None else allocate(spec.nbytes)
        return Params.build(spec, lambda name, out: np.copyto(out, model[name]), buffer)

    def set_params(self, params: Params) -> None:
        """Copy ``params`` into the arrays."""
        model: dict[str, Array] = self.model()
        params.require(Params.from_arrays(model).spec)
        for name, array in model.items():
            np.copyto(array, params[name])


class _NumpyBackend(Backend):
    def __init__(self, plan: NumpyTrainingPlan) -> None:
        self._plan = plan
        self._model: dict[str, Array] = plan.model()
        self._optimizer: NumpyOptimizer | None = plan._optimizer  # None where only testing
        self._gradients: Mapping[str, Array] = {}

    def forward(self, data: Any, target: Any) -> float:
        result: object = self._plan.training_step(data, target)
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)):
            raise PlanError(
                f"training_step must return (loss, gradients by name), but returned {_kind(result)}.",
                cure='E.g. return loss, {"weights": gradient_of_weights, "bias": gradient_of_bias}.',
            )
        loss, gradients = result
        if np.shape(loss) != ():
            raise PlanError(
                f"training_step must return one number as loss, but its loss has shape {np.shape(loss)}.",
                cure="Return the mean over the batch.",
            )
        self._gradients = self._fitting(gradients)
        return float(loss)

    def backward(self, loss: Any) -> None:
        """Nothing: `forward` brought the gradients with the loss."""

    def step(self) -> None:
        if self._optimizer is None:
            raise PlanError("This plan was set up without an optimizer; it can be tested, not trained.")
        self._optimizer.step(self._model, self._gradients)

    def evaluate(self, data: Any, target: Any) -> dict[str, float]:
        own = getattr(self._plan, "testing_step", None)
        return {"loss": self.forward(data, target)} if own is None else as_metrics(own(data, target))

    def _fitting(self, gradients: Mapping[str, Any]) -> dict[str, Array]:
        if gradients.keys() != self._model.keys():
            wrong = min(gradients.keys() ^ self._model.keys())
            state = "misses" if wrong in self._model else "has, without there being such an array,"
            raise PlanError(
                f"The gradient of training_step {state} {wrong!r}.",
                cure=f"Return one gradient for each of: {', '.join(self._model)}.",
            )
        fitting = {}
        for name, array in self._model.items():
            gradient = np.asarray(gradients[name])
            if gradient.size != array.size or gradient.squeeze().shape != array.squeeze().shape:
                raise PlanError(f"The gradient of {name!r} has shape {gradient.shape}, the array {array.shape}.")
            fitting[name] = gradient.reshape(array.shape)
        return fitting


def _kind(value: Any) -> str:
    return "nothing (is a return missing?)" if value is None else f"a {type(value).__name__}"
