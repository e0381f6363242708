"""The training loop's view of a model that is a dict of NumPy arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fedplug.core import plan_optimizer
from fedplug.core.errors import ParamsError, PlanError, UsageError
from fedplug.core.metrics import as_metrics
from fedplug.core.params import Array, Params
from fedplug.core.plan_optimizer import PlanOptimizer
from fedplug.core.trainer.backend import Backend, BackendState
from fedplug.core.trainer.points import Phase

if TYPE_CHECKING:
    from fedplug.core.array_plan import ArrayTrainingPlan

Step = Callable[[Any, Any], Any]


class NumpyLoss(float):
    """A loss with its gradients: sums and multiples of it have theirs."""

    __slots__ = ("gradients",)
    gradients: Mapping[str, Array]

    @classmethod
    def of(cls, value: float, gradients: Mapping[str, Array]) -> NumpyLoss:
        """``value`` with ``gradients`` by name."""
        made = cls(value)
        made.gradients = gradients
        return made

    def __add__(self, other: float) -> NumpyLoss:
        gradients = self.gradients
        if isinstance(other, NumpyLoss):
            gradients = {name: array + other.gradients[name] for name, array in gradients.items()}
        return NumpyLoss.of(float(self) + float(other), gradients)

    __radd__ = __add__

    def __mul__(self, factor: float) -> NumpyLoss:
        scaled = {name: np.asarray(array * float(factor), array.dtype) for name, array in self.gradients.items()}
        return NumpyLoss.of(float(self) * float(factor), scaled)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> NumpyLoss:
        return self * (1 / float(divisor))


class NumpyBackend(Backend):
    """Moves a dict of arrays, in place.

    Args:
        model: The arrays by name.
        training_step: Gives the loss of a batch, and its gradient for each array.
        testing_step: Gives metrics of a batch; the loss of ``training_step`` by default.
        optimizer: Has ``step(params, gradients)``.
        make_optimizer: Makes a new one of optimizer arguments.
        predict: The model's output for data.
    """

    def __init__(
        self,
        model: dict[str, Array],
        training_step: Step,
        *,
        testing_step: Step | None = None,
        optimizer: Any = None,
        make_optimizer: Callable[[Mapping[str, Any]], Any] | None = None,
        predict: Callable[[Any], Any] | None = None,
    ) -> None:
        self.model: dict[str, Array] = model
        self.optimizer = optimizer
        self._training_step = training_step
        self._testing_step = testing_step
        self.has_testing_step = testing_step is not None
        self._make_optimizer = make_optimizer
        self._predict = predict
        self._gradients: dict[str, Array] = {}
        self._own = False  # whether the gradients are ours to change
        self._plan: ArrayTrainingPlan | None = None

    @classmethod
    def for_plan(cls, plan: Any) -> Self:
        """The backend of an `ArrayTrainingPlan` that was set up; without an optimizer it can only be tested."""
        made = cls(
            plan.arrays(), plan.training_step, testing_step=getattr(plan, "testing_step", None),
            optimizer=plan._optimizer, predict=getattr(plan, "predict", None) or getattr(plan, "forward", None),
        )  # fmt: skip
        made._plan = plan
        return made

    # a routine ---------------------------------------------------------------------------------------------

    def prepare(self, phase: Phase) -> None:
        """Look whether there is an optimizer."""
        if phase is not Phase.EVAL and self.optimizer is None:
            raise PlanError("This plan was set up without an optimizer; it can be tested, not trained.")

    def forward(self, data: Any, target: Any) -> NumpyLoss:
        """The loss with its gradients, checked."""
        result: object = self._training_step(data, target)
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)):
            raise PlanError(
                f"training_step must return (loss, gradients by name), but returned {kind_of(result)}.",
                cure='E.g. return loss, {"weights": gradient_of_weights, "bias": gradient_of_bias}.',
            )
        loss, gradients = result
        if np.shape(loss) != ():
            raise PlanError(
                f"training_step must return one number as loss, but its loss has shape {np.shape(loss)}.",
                cure="Return the mean over the batch.",
            )
        return NumpyLoss.of(float(loss), self._fitting(gradients))

    def backward(self, loss: Any) -> None:
        """Take the gradients that came with the loss."""
        if not isinstance(loss, NumpyLoss):
            raise PlanError(
                f"ctx.loss_task has lost its gradients: it is a {type(loss).__name__}.",
                cure="Make it of ctx.loss_batch by + and *, which keep them.",
            )
        self._gradients, self._own = dict(loss.gradients), False

    def step(self) -> None:
        """One step of the optimizer."""
        self.optimizer.step(self.model, self._gradients)

    def detached(self, loss: Any) -> float:
        """The value of ``loss`` alone."""
        return float(loss)

    def evaluate(self, data: Any, target: Any) -> dict[str, float]:
        """What ``testing_step`` returns; the loss where there is none."""
        if self._testing_step is not None:
            return as_metrics(self._testing_step(data, target))
        return {"loss": float(self.forward(data, target))}

    def discharge(self) -> None:
        """Forget gradients."""
        self._gradients = {}

    # parameters and gradients ------------------------------------------------------------------------------

    def get_params(self) -> Params:
        """The arrays, copied."""
        return Params.from_arrays(self.model)

    def set_params(self, params: Params) -> None:
        """Copy ``params`` into the arrays."""
        params.require(Params.from_arrays(self.model).spec)
        for name, array in self.model.items():
            np.copyto(array, params[name])

    def trainable(self) -> dict[str, Array]:
        """All arrays."""
        return dict(self.model)

    def snapshot(self) -> dict[str, Array]:
        """Copies of all arrays."""
        return {name: array.copy() for name, array in self.model.items()}

    def gradients(self) -> dict[str, Array]:
        """The gradients of the last batch; what a plan returned is not changed with them."""
        if not self._own:
            self._gradients = {name: np.array(array) for name, array in self._gradients.items()}
            self._own = True
        return self._gradients

    def add_gradients(self, values: Mapping[str, Array]) -> None:
        """Add to the gradients."""
        mine = self.gradients()
        for name, value in values.items():
            mine[name] = mine[name] + np.asarray(value, mine[name].dtype)

    def clip_gradients(self, limit: float) -> None:
        """Shorten the gradient."""
        norm = math.sqrt(sum(float(np.vdot(g, g)) for g in self._gradients.values()))
        if norm > limit:
            mine = self.gradients()
            for name, array in mine.items():
                mine[name] = np.asarray(array * (limit / norm), array.dtype)

    def native(self, params: Mapping[str, Array]) -> dict[str, Array]:
        """``params`` themselves, of the model's shapes."""
        _require_shapes(params, {name: array.shape for name, array in self.model.items()})
        return {name: np.asarray(params[name], self.model[name].dtype) for name in params}

    # the whole ---------------------------------------------------------------------------------------------

    def make_optimizer(self, optimizer_args: Mapping[str, Any] | None = None) -> None:
        """A new optimizer, by the plan's or the given function; without one, the present one's initial state."""
        if self._plan is not None:
            args = self._plan.optimizer_args() if optimizer_args is None else dict(optimizer_args)
            self.optimizer = self._plan._optimizer = self._plan._build_optimizer(args)
        elif self._make_optimizer is not None:
            self.optimizer = self._make_optimizer(dict(optimizer_args or {}))
        elif self.optimizer is None:
            raise UsageError("This backend has no optimizer.", cure="Pass make_optimizer.")

    def use_optimizer(self, optimizer: Any, scheduler: Any) -> None:
        """Go on with an optimizer of before, in the plan too, where its state is kept from."""
        super().use_optimizer(optimizer, scheduler)
        if self._plan is not None and optimizer is not None:
            self._plan._optimizer = optimizer

    def drop_optimizer(self) -> None:
        """Forget the optimizer, if another can be made."""
        if self._plan is not None or self._make_optimizer is not None:
            self.optimizer = None

    def predict(self, data: Any) -> Any:
        """The output of ``predict``; of the plan's ``predict``, or else its ``forward``."""
        if self._predict is None and self._plan is not None:
            raise PlanError(
                f"{type(self._plan).__name__} has no method that gives the model's output, which test_metric needs.",
                cure="Define forward(self, data); or predict(self, data), if that is to be measured.",
            )
        if self._predict is None:
            raise self._cannot("predict")
        return self._predict(data)

    def clone(self) -> NumpyBackend:
        """A copy with its own arrays and optimizer."""
        if self._plan is not None:
            twin_plan = deepcopy(self._plan, {id(self._plan._setup): self._plan._setup})
            twin = self.for_plan(twin_plan)
            twin.optimizer = None if self.optimizer is None else twin.optimizer
            return twin
        memo = {id(self._make_optimizer): self._make_optimizer}
        return deepcopy(self, memo)

    def save_state(self) -> BackendState:
        """The arrays, and the optimizer's attributes."""
        arrays = {f"model/{name}": array for name, array in self.model.items()}
        plain: dict[str, Any] = {"optimizer": self.optimizer is not None}
        if isinstance(self.optimizer, PlanOptimizer):
            kept, plain["state"] = plan_optimizer.read_state(self.optimizer)
            arrays |= {f"optimizer/{name}": array for name, array in kept.items()}
        elif self.optimizer is not None:
            plain["attributes"] = _flatten(vars(self.optimizer), "optimizer", arrays)
        return BackendState(arrays, plain)

    def load_state(self, state: BackendState) -> None:
        """Go on from a saved state."""
        self.set_params(Params.from_arrays(_below("model", state.arrays)))
        self.optimizer = self.optimizer if state.plain["optimizer"] else None
        if state.plain["optimizer"]:
            if self.optimizer is None:
                self.make_optimizer()
            if isinstance(self.optimizer, PlanOptimizer):
                plan_optimizer.write_state(self.optimizer, _below("optimizer", state.arrays), state.plain["state"])
            else:
                vars(self.optimizer).update(_restore(state.plain["attributes"], "optimizer", state.arrays))

    def _fitting(self, gradients: Mapping[str, Any]) -> dict[str, Array]:
        if gradients.keys() != self.model.keys():
            wrong = min(gradients.keys() ^ self.model.keys())
            state = "misses" if wrong in self.model else "has, without there being such an array,"
            raise PlanError(
                f"The gradient of training_step {state} {wrong!r}.",
                cure=f"Return one gradient for each of: {', '.join(self.model)}.",
            )
        fitting = {}
        for name, array in self.model.items():
            gradient = np.asarray(gradients[name])
            if gradient.size != array.size or gradient.squeeze().shape != array.squeeze().shape:
                raise PlanError(f"The gradient of {name!r} has shape {gradient.shape}, the array {array.shape}.")
            fitting[name] = gradient.reshape(array.shape)
        return fitting


def kind_of(value: Any) -> str:
    """What ``value`` is, for a sentence."""
    return "nothing (is a return missing?)" if value is None else f"a {type(value).__name__}"


def _require_shapes(params: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]) -> None:
    for name, array in params.items():
        if shapes.get(name) != np.shape(array):
            raise ParamsError(f"{name!r} has shape {np.shape(array)}; the model's is {shapes.get(name, 'not there')}.")


def _below(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name.removeprefix(prefix + "/"): arrays[name] for name in arrays if name.startswith(prefix + "/")}


def _flatten(values: Mapping[str, Any], prefix: str, arrays: dict[str, Array]) -> dict[str, Any]:
    """Plain data of nested dicts, whose arrays go to ``arrays`` and leave ``None`` at their places."""
    plain: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            plain[name] = _flatten(value, f"{prefix}/{name}", arrays)
        elif isinstance(value, np.ndarray | np.generic):
            arrays[f"{prefix}/{name}"] = np.asarray(value)
            plain[name] = None
        elif value is None or isinstance(value, bool | int | float | str):
            plain[name] = value
        else:
            raise UsageError(
                f"The optimizer's {name!r} is a {type(value).__name__}, which cannot be saved.",
                cure="Keep numbers, text, arrays, and dicts of them in an optimizer.",
            )
    return plain


def _restore(plain: Mapping[str, Any], prefix: str, arrays: Mapping[str, Array]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in plain.items():
        place = f"{prefix}/{name}"
        if isinstance(value, Mapping):
            found[name] = _restore(value, place, arrays)
        else:
            found[name] = arrays[place].copy() if place in arrays else value
    return found
