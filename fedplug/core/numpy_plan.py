"""A training plan whose model is a handful of NumPy arrays: for small models, examples and tests."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from fedplug.core import model_files
from fedplug.core.errors import ParamsError, PlanError
from fedplug.core.flexible_calls import call_flexibly
from fedplug.core.model_files import ModelFormat
from fedplug.core.numpy_backend import NumpyBackend, kind_of
from fedplug.core.params import Array, Params, ParamsSpec
from fedplug.core.trainer.backend import Backend
from fedplug.core.training_plan import Allocate, TrainingPlan


class NumpyOptimizer(Protocol):
    """What ``init_optimizer`` of a NumPy plan returns.

    To be kept between rounds it also has ``state() -> dict`` of arrays and numbers by name, and
    ``set_state(state)``, which takes such a dict.
    """

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

    def state(self) -> dict[str, Array]:
        """Nothing: every step is for itself."""
        return {}

    def set_state(self, state: Mapping[str, Array]) -> None:
        """Nothing to do."""


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

    def get_params(self, allocate: Allocate | None = None) -> Params:
        """The shared arrays, copied."""
        return self._read(self._tags.shared if self._tags else tuple(self.model()), allocate)

    def set_params(self, params: Params) -> None:
        """Copy ``params`` into the shared arrays."""
        self._write(self._tags.shared if self._tags else tuple(self.model()), params)

    def _names(self) -> Mapping[str, bool]:
        return dict.fromkeys(self.model(), False)

    def read_persistent(self) -> Params:
        """The arrays with the tag ``persistent``, copied."""
        return self._read(self.parameter_tags().persistent)

    def write_persistent(self, params: Params) -> None:
        """Copy what `read_persistent` gave into the arrays."""
        self._write(self.parameter_tags().persistent, params)

    def read_optimizer(self) -> tuple[Params, dict[str, Any]]:
        """What the optimizer's ``state()`` gives."""
        own = self.optimizer()
        if not (callable(getattr(own, "state", None)) and callable(getattr(own, "set_state", None))):
            raise PlanError(
                f"keep_optimizer_state is set, but {type(own).__name__} has no methods state and set_state.",
                cure="Define state() -> dict of arrays and numbers by name, and set_state(state); or leave it out.",
            )
        return Params.from_arrays(own.state()), {"class": type(own).__name__}

    def write_optimizer(self, arrays: Params, values: Mapping[str, Any]) -> None:
        """Hand copies of ``arrays`` to the optimizer's ``set_state``."""
        own = self.optimizer()
        if values.get("class") != type(own).__name__ or not callable(getattr(own, "set_state", None)):
            raise ParamsError(f"it belongs to another optimizer ({values.get('class')})")
        own.set_state({name: np.array(array) for name, array in arrays.items()})

    def _model_formats(self) -> Mapping[str, ModelFormat]:
        return model_files.ARRAY_FORMATS

    def _model_object(self) -> dict[str, Array]:
        return dict(self.model())

    def _take_model_object(self, found: Any, path: str | Path) -> None:
        model = self._model_object()
        arrays = {str(name): np.asarray(value) for name, value in found.items()} if isinstance(found, Mapping) else {}
        model_files.require_layout(path, _layout(model), _layout(arrays))
        params = Params.from_arrays({name: arrays[name] for name in model})
        model_files.require_finite(path, [] if not params.first_non_finite() else [params.first_non_finite()])
        self._write(tuple(model), params)

    def _read(self, names: tuple[str, ...], allocate: Allocate | None = None) -> Params:
        model: dict[str, Array] = self.model()
        spec = self._spec(names)
        buffer = None if allocate is None else allocate(spec.nbytes)
        return Params.build(spec, lambda name, out: np.copyto(out, model[name]), buffer)

    def _write(self, names: tuple[str, ...], params: Params) -> None:
        model: dict[str, Array] = self.model()
        params.require(self._spec(names))
        for name in names:
            np.copyto(model[name], params[name])

    def _spec(self, names: tuple[str, ...]) -> ParamsSpec:
        model: dict[str, Array] = self.model()
        return ParamsSpec.build([(name, model[name].shape, model[name].dtype.name) for name in names])


def _layout(arrays: Mapping[str, Array]) -> model_files.Layout:
    return {name: (array.shape, array.dtype.name) for name, array in arrays.items()}
