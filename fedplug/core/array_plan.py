"""Training plans whose model is arrays of NumPy, changed in place: what they share, whatever holds the arrays."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedplug.core import model_files, plan_optimizer
from fedplug.core.errors import ParamsError, PlanError
from fedplug.core.params import Array, Params, ParamsSpec
from fedplug.core.plan_optimizer import PlanOptimizer
from fedplug.core.training_plan import Allocate, TrainingPlan


class ArrayTrainingPlan(TrainingPlan):
    """Base of plans whose model is a handful of named arrays; frameworks derive from it, researchers do not."""

    @abstractmethod
    def arrays(self) -> Mapping[str, Array]:
        """The model's arrays by name, live: they are changed in place from step to step."""

    def get_params(self, allocate: Allocate | None = None) -> Params:
        """The shared arrays, copied."""
        return self._read(self._shared, allocate)

    def set_params(self, params: Params) -> None:
        """Copy ``params`` into the shared arrays."""
        self._write(self._shared, params)

    def read_persistent(self) -> Params:
        """The arrays with the tag ``persistent``, copied."""
        return self._read(self.parameter_tags().persistent)

    def write_persistent(self, params: Params) -> None:
        """Copy what `read_persistent` gave into the arrays."""
        self._write(self.parameter_tags().persistent, params)

    def read_optimizer(self) -> tuple[Params, dict[str, Any]]:
        """What the optimizer has learnt: its ``state_dict()``, or ``state()`` of one that is written by hand."""
        own = self.optimizer()
        if isinstance(own, PlanOptimizer):
            return plan_optimizer.read_state(own)
        if not (callable(getattr(own, "state", None)) and callable(getattr(own, "set_state", None))):
            raise PlanError(
                f"keep_optimizer_state is set, but {type(own).__name__} has no methods state and set_state.",
                cure="Define state() -> dict of arrays and numbers by name, and set_state(state); or leave it out.",
            )
        return Params.from_arrays(own.state()), {"class": type(own).__name__}

    def write_optimizer(self, arrays: Params, values: Mapping[str, Any]) -> None:
        """Let the optimizer go on from what `read_optimizer` gave."""
        own = self.optimizer()
        if isinstance(own, PlanOptimizer):
            plan_optimizer.write_state(own, arrays, values)
            return
        if values.get("class") != type(own).__name__ or not callable(getattr(own, "set_state", None)):
            raise ParamsError(f"it belongs to another optimizer ({values.get('class')})")
        own.set_state({name: np.array(array) for name, array in arrays.items()})

    def _names(self) -> Mapping[str, bool]:
        return dict.fromkeys(self.arrays(), False)

    @property
    def _shared(self) -> tuple[str, ...]:
        return self._tags.shared if self._tags else tuple(self.arrays())

    def _take_arrays(self, found: Mapping[str, Any], path: str | Path) -> None:
        """Copy the arrays that were read from a file into the model, if they fit and are finite.

        Raises:
            ParamsError: They do not, or are not.
        """
        model = self.arrays()
        given = {str(name): np.asarray(value) for name, value in found.items()}
        model_files.require_layout(path, _layout(model), _layout(given))
        params = Params.from_arrays({name: given[name] for name in model})
        model_files.require_finite(path, list(filter(None, [params.first_non_finite()])))
        self._write(tuple(model), params)

    def _read(self, names: tuple[str, ...], allocate: Allocate | None = None) -> Params:
        model = self.arrays()
        spec = self._spec(names)
        buffer = None if allocate is None else allocate(spec.nbytes)
        return Params.build(spec, lambda name, out: np.copyto(out, model[name]), buffer)

    def _write(self, names: tuple[str, ...], params: Params) -> None:
        model = self.arrays()
        params.require(self._spec(names))
        for name in names:
            np.copyto(model[name], params[name])

    def _spec(self, names: tuple[str, ...]) -> ParamsSpec:
        model = self.arrays()
        return ParamsSpec.build([(name, model[name].shape, model[name].dtype.name) for name in names])


def _layout(arrays: Mapping[str, Array]) -> model_files.Layout:
    return {name: (array.shape, array.dtype.name) for name, array in arrays.items()}
