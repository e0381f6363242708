"""The training loop's view of a scikit-learn estimator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fedplug.core.data import BatchSource, DataManager
from fedplug.core.errors import PlanError
from fedplug.core.numpy_backend import NumpyBackend
from fedplug.core.trainer import BackendState
from fedplug_sklearn.data import wrap


class SklearnBackend(NumpyBackend):
    """Moves the arrays of an estimator by gradients."""

    def wrap(self, data: Any, target: Any) -> BatchSource:
        """Arrays, tables and sparse matrices as batches of rows."""
        return wrap(DataManager(data, target))


class RowsBackend(SklearnBackend):
    """Moves an estimator that knows by itself what to do with a batch, and has no gradients.

    The plan has ``batch_loss(data, target)``, the loss of a batch before it is learnt, and ``learn(data, target)``.
    """

    _batch: tuple[Any, Any] | None = None

    def forward(self, data: Any, target: Any) -> Any:
        """The loss of a batch, which `step` will learn."""
        self._batch = data, target
        return float(self._plan.batch_loss(data, target))  # type: ignore[union-attr] # for_plan has set it

    def backward(self, loss: Any) -> None:
        """Nothing to do."""

    def step(self) -> None:
        """Let the estimator learn the batch."""
        data, target = self._batch or (None, None)
        self._plan.learn(data, target)  # type: ignore[union-attr] # for_plan has set it

    def evaluate(self, data: Any, target: Any) -> dict[str, float]:
        """What ``testing_step`` returns; the loss where there is none."""
        if self._testing_step is not None:
            return super().evaluate(data, target)
        return {"loss": float(self._plan.batch_loss(data, target))}  # type: ignore[union-attr] # for_plan has set it

    def discharge(self) -> None:
        """Forget the batch."""
        self._batch = None

    # The arrays may be others after each step: what stands for them is looked up in the plan.

    def get_params(self) -> Any:
        """All arrays, copied."""
        return self._plan._read(tuple(self._plan.arrays()))  # type: ignore[union-attr] # for_plan has set it

    def set_params(self, params: Any) -> None:
        """Copy ``params`` into all arrays."""
        plan: Any = self._plan
        plan._write(tuple(plan.arrays()), params)
        plan._arrays_changed()

    def trainable(self) -> dict[str, Any]:
        """Nothing that gradients could move."""
        raise self._no_gradients()

    def gradients(self) -> dict[str, Any]:
        """There are none."""
        raise self._no_gradients()

    def add_gradients(self, values: Mapping[str, Any]) -> None:
        """There are none."""
        raise self._no_gradients()

    def clip_gradients(self, limit: float) -> None:
        """There are none."""
        raise self._no_gradients()

    def snapshot(self) -> dict[str, Any]:
        """Nothing that gradients could move."""
        raise self._no_gradients()

    def make_optimizer(self, optimizer_args: Mapping[str, Any] | None = None) -> None:
        """The estimator is its own."""
        self.optimizer = self._plan._optimizer = self._plan._build_optimizer({})  # type: ignore[union-attr]

    def save_state(self) -> BackendState:
        """All arrays; what else the estimator knows is not kept."""
        return BackendState({f"model/{name}": array for name, array in self.get_params().items()}, {"optimizer": False})

    def _no_gradients(self) -> PlanError:
        return PlanError(f"The model of {type(self._plan).__name__} is not trained by gradients.")


Loss = Callable[[Any, Any], float]
