"""The training loop's view of a scikit-learn estimator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedplug.core.data import BatchSource, DataManager
from fedplug.core.errors import PlanError
from fedplug.core.numpy_backend import NumpyBackend
from fedplug.core.params import Params
from fedplug.core.trainer import BackendState
from fedplug_sklearn.data import wrap

if TYPE_CHECKING:
    from fedplug_sklearn.no_gradients import RowsPlan


class SklearnBackend(NumpyBackend):
    """Moves the arrays of an estimator by gradients."""

    def wrap(self, data: Any, target: Any) -> BatchSource:
        """Arrays, tables and sparse matrices as batches of rows, which must fit the model."""
        rows, plan = wrap(DataManager(data, target)), self._of_plan()
        plan.check_rows(rows)
        return rows

    def _of_plan(self) -> Any:
        """The plan; there always is one, as `for_plan` makes these backends."""
        return self._plan


class RowsBackend(SklearnBackend):
    """Moves an estimator that knows by itself what to do with a batch, and has no gradients.

    The estimator's arrays may be others after each step, so they are looked up in the plan.
    """

    _batch: tuple[Any, Any] = (None, None)

    def _of_plan(self) -> RowsPlan:
        plan: Any = self._plan
        return plan  # type: ignore[no-any-return] # for_plan

    # a routine ---------------------------------------------------------------------------------------------

    def forward(self, data: Any, target: Any) -> Any:
        """The loss of a batch, which `step` will learn."""
        self._batch = data, target
        return float(self._of_plan().batch_loss(data, target))

    def backward(self, loss: Any) -> None:
        """Nothing to do."""

    def step(self) -> None:
        """Let the estimator learn the batch."""
        self._of_plan().learn(*self._batch)
        self.model = dict(self._of_plan().arrays())

    def evaluate(self, data: Any, target: Any) -> dict[str, float]:
        """What ``testing_step`` returns; the loss where there is none."""
        if self._testing_step is not None:
            return super().evaluate(data, target)
        return {"loss": float(self._of_plan().batch_loss(data, target))}

    def discharge(self) -> None:
        """Forget the batch."""
        self._batch = None, None

    # parameters --------------------------------------------------------------------------------------------

    def get_params(self) -> Params:
        """All arrays, copied."""
        return Params.from_arrays(self._of_plan().arrays())

    def set_params(self, params: Params) -> None:
        """Copy ``params`` into all arrays."""
        self._of_plan().put_params(params)

    def save_state(self) -> BackendState:
        """All arrays; what else the estimator knows is not kept."""
        return BackendState({f"model/{name}": array for name, array in self.get_params().items()}, {"optimizer": False})

    # gradients, of which there are none ----------------------------------------------------------------------

    def trainable(self) -> dict[str, Any]:
        """Nothing that gradients could move."""
        raise self._no_gradients()

    def snapshot(self) -> dict[str, Any]:
        """Likewise."""
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

    def _no_gradients(self) -> PlanError:
        return PlanError(
            f"A hook wants the gradients of {type(self._plan).__name__}, whose estimator learns without any.",
            cure="Leave the hook out, or use a plan that has gradients, such as FedSGDClassifier.",
        )
