"""What a plan does to batches before training, and to parameters after it.

Registered in ``training_data`` with ``self.add_preprocess(method, ProcessTypes....)``; ``postprocess`` is found by
its name. The training loop knows nothing of this: it draws from a `ProcessedSource`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from typing import Any

import numpy as np

from fedplug.core.data import BatchSource, LoaderArgs
from fedplug.core.errors import PlanError
from fedplug.core.params import Array, Params
from fedplug.core.rng import SeedTree

Batches = Iterable[tuple[Any, Any]]


class ProcessTypes(Enum):
    """What a method given to ``add_preprocess`` works on."""

    DATA_LOADER = "data_loader"
    """The batches of an epoch of training: it gets an iterable of ``(data, target)`` and returns one."""

    PARAMS = "params"
    """The shared parameters after local training: it gets a dict by name and returns one."""


class PlanProcesses:
    """The part of `fedplug.TrainingPlan` that is about processing.

    Attributes:
        pre_processes: What was registered: pairs of type and method, in order.
    """

    pre_processes: tuple[tuple[ProcessTypes, Callable[[Any], Any]], ...] = ()

    def add_preprocess(
        self, method: Callable[[Any], Any], process_type: ProcessTypes = ProcessTypes.DATA_LOADER
    ) -> None:
        """Register a method; to be called in ``training_data``. Methods run in the order of their registration.

        With ``DATA_LOADER``, ``method(batches)`` gets an iterable over the ``(data, target)`` batches of one epoch,
        on the processor, and returns such an iterable; it is called once an epoch, for training data only. It gives
        one batch for each that it takes. A batch may come out larger or smaller: what counts as samples, in
        progress, means and weights, are those that were drawn from the data set.

        With ``PARAMS``, ``method(params)`` gets a dict of copies of the shared parameters (tensors or arrays) after
        local training, and returns one with the same names, shapes and dtypes, as ``postprocess`` does.

        Args:
            method: A method of the plan, or a function.
            process_type: What it works on.

        Raises:
            PlanError: It cannot be called, or the type is none.
        """
        if not isinstance(process_type, ProcessTypes):
            raise PlanError(
                f"{process_type!r} is no type of process.",
                cure=f"Use one of: {', '.join(f'ProcessTypes.{each.name}' for each in ProcessTypes)}.",
            )
        if not callable(method):
            raise PlanError(
                f"add_preprocess needs a method, but got a {type(method).__name__}.",
                cure="Give the method itself, without calling it: self.add_preprocess(self.augment).",
            )
        self.pre_processes = (*self.pre_processes, (process_type, method))

    def processed(self, source: BatchSource) -> BatchSource:
        """``source`` with the registered methods around the batches of its epochs."""
        methods = [method for kind, method in self.pre_processes if kind is ProcessTypes.DATA_LOADER]
        return ProcessedSource(source, methods) if methods else source

    def process_params(self) -> None:
        """Let the registered methods, and then ``postprocess``, change the shared parameters of the model.

        Raises:
            PlanError: One returned something that does not fit the model.
        """
        methods = [method for kind, method in self.pre_processes if kind is ProcessTypes.PARAMS]
        last = getattr(self, "postprocess", None)
        methods += [] if last is None else [last]
        if not methods:
            return
        values = self._unpacked(self.get_params())
        layout = {name: _layout(value) for name, value in values.items()}
        for method in methods:
            returned = method(dict(values))
            _check(getattr(method, "__name__", type(method).__name__), returned, layout)
            values = {name: returned[name] for name in layout}
        self.set_params(self._packed(values))

    def get_params(self) -> Params:
        """The shared parameters; see `fedplug.TrainingPlan`."""
        raise NotImplementedError

    def set_params(self, params: Params) -> None:
        """Set the shared parameters; see `fedplug.TrainingPlan`."""
        raise NotImplementedError

    def _unpacked(self, params: Params) -> dict[str, Any]:
        """Copies of ``params`` as the framework's own arrays."""
        return {name: np.array(array) for name, array in params.items()}

    def _packed(self, values: Mapping[str, Any]) -> Params:
        """What `_unpacked` gave as `Params`."""
        return Params.from_arrays(values)


class ProcessedSource(BatchSource):
    """Batches that go through methods of a plan when they are drawn for training; a test sees them as they are.

    Args:
        source: The samples.
        methods: Each takes an iterable of batches and returns one.
    """

    def __init__(self, source: BatchSource, methods: Iterable[Callable[[Batches], Batches]]) -> None:
        self._source = source
        self._methods = tuple(methods)
        self.extra_names = source.extra_names  # type: ignore[misc] # of this source alone

    def __len__(self) -> int:
        return len(self._source)

    def labels(self) -> Array | None:
        """The targets before any processing."""
        return self._source.labels()

    def subset(self, indices: Array) -> BatchSource:
        """The samples at ``indices``, with the same methods."""
        return ProcessedSource(self._source.subset(indices), self._methods)

    def batches(self, args: LoaderArgs, order: Array | None) -> Iterator[tuple[Any, Any]]:
        """Batches as they are."""
        return self._source.batches(args, order)

    def epoch(self, args: LoaderArgs, seed: SeedTree) -> Iterator[tuple[Any, Any]]:
        """One pass through all methods.

        Raises:
            PlanError: A method returned no iterable of pairs, or fewer batches than it got.
        """
        stream: Any = self._source.epoch(args, seed)
        for method in self._methods:
            name = getattr(method, "__name__", type(method).__name__)
            stream = method(stream)
            if stream is None or not hasattr(stream, "__iter__"):
                kind = "nothing (is a return or yield missing?)" if stream is None else f"a {type(stream).__name__}"
                raise PlanError(
                    f"{name}, registered with add_preprocess, must return an iterable of batches, but returned {kind}.",
                    cure="E.g. for data, target in batches: yield change(data), target.",
                )
        return self._checked(stream, args.batches_per_epoch(len(self)))

    def _checked(self, stream: Iterable[Any], wanted: int) -> Iterator[tuple[Any, Any]]:
        names = ", ".join(getattr(method, "__name__", type(method).__name__) for method in self._methods)
        given = 0
        for batch in stream:
            if not isinstance(batch, tuple | list) or len(batch) != 2:
                raise PlanError(
                    f"{names}, registered with add_preprocess, must give (data, target) pairs, but gave a "
                    f"{type(batch).__name__}.",
                    cure="E.g. yield data, target.",
                )
            given += 1
            yield batch[0], batch[1]
        if given < wanted:
            raise PlanError(
                f"{names}, registered with add_preprocess, gave {given} batches of an epoch that has {wanted}.",
                cure="Give one batch for each that is taken; leave samples out in training_data instead.",
            )


def _layout(value: Any) -> tuple[str, tuple[int, ...], str]:
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    return type(value).__name__, tuple(shape) if shape is not None else (), str(dtype)


def _check(name: str, returned: object, layout: Mapping[str, tuple[str, tuple[int, ...], str]]) -> None:
    if not isinstance(returned, Mapping):
        kind = "nothing (is a return missing?)" if returned is None else f"a {type(returned).__name__}"
        raise PlanError(f"{name} must return a dict of parameters by name, but returned {kind}.", cure="return params")
    if returned.keys() != layout.keys():
        wrong = min(map(str, returned.keys() ^ layout.keys()))
        state = "left out" if wrong in layout else "returned, without the model having it,"
        raise PlanError(f"{name} {state} {wrong!r}.", cure="Return exactly the names that it was given.")
    for key, (_, shape, dtype) in layout.items():
        _, own_shape, own_dtype = found = _layout(returned[key])
        if (own_shape, own_dtype) != (shape, dtype):
            raise PlanError(
                f"{name} returned {key!r} as {found[0]} of shape {own_shape} and dtype {own_dtype}; the model has "
                f"shape {shape} and dtype {dtype}.",
                cure="Keep shapes and dtypes.",
            )
