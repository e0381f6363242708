"""Data sets as training plans write them down: which part of the node's data, and what to do with each sample.

``training_data`` returns ``DataManager(ImageFolderDataset(transform=...))``. The plan says what it wants; the node's
data set, to which it is bound before the first batch is drawn, reads it. Samples are read one at a time, so that memory
does not grow with the data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from fedplug.core.errors import DatasetError, UsageError
from fedplug.core.node_dataset import NodeDataset
from fedplug.core.params import Array

Transform = Callable[[Any], Any] | Mapping[str, Callable[[Any], Any]] | None
"""A function of a sample's data or target; or, where these are dicts, a function for each of some keys."""


class PlanDataset(ABC):
    """Base of the data sets that plans use. Like a list of pairs: ``len(it)``, and ``it[i]`` is ``(data, target)``.

    Args:
        transform: What is applied to the data of each sample when it is read.
        target_transform: What is applied to its target.
    """

    needs: ClassVar[str] = ""
    """The type of the node's data set, where only one will do."""

    def __init__(self, transform: Transform = None, target_transform: Transform = None) -> None:
        for name, given in (("transform", transform), ("target_transform", target_transform)):
            functions = given.values() if isinstance(given, Mapping) else (given,)
            if given is not None and not all(map(callable, functions)):
                raise UsageError(
                    f"{name} must be a function, or a dict of functions, but is a {type(given).__name__}.",
                    cure=f"E.g. {type(self).__name__}({name}=my_function).",
                )
        self.transform = transform
        self.target_transform = target_transform
        self._node: Any = None

    def bind(self, dataset: NodeDataset) -> None:
        """Connect it with the node's data set. The node does this with what ``training_data`` returns.

        Raises:
            DatasetError: The data set is of another type, or lacks what the plan asks for.
        """
        if self.needs and dataset.type != self.needs:
            raise DatasetError(
                f"{type(self).__name__} wants a data set of type {self.needs!r}, but {dataset.name!r} is of type "
                f"{dataset.type!r}.",
                cure=f"Use {dataset.ready}, or choose another data set.",
            )
        self._node = dataset
        self.connect()

    @property
    def node(self) -> Any:
        """The node's data set.

        Raises:
            UsageError: It is not bound to one yet.
        """
        if self._node is None:
            raise UsageError(
                f"{type(self).__name__} is not connected with the data of a node yet.",
                cure=f"Return DataManager({type(self).__name__}(...)) from training_data; or call bind(self.dataset).",
            )
        return self._node

    def connect(self) -> None:
        """Look at the node's data set when it is bound; for subclasses.

        Raises:
            DatasetError: It lacks what the plan asks for.
        """

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def sample(self, index: int) -> tuple[Any, Any]:
        """Data and target of one sample, before the transforms.

        Args:
            index: Its number, from 0.
        """

    def targets(self) -> Array | None:
        """The targets of all samples before the transform, where they are known without reading the samples."""
        return None

    def arrays(self) -> tuple[Any, Any] | None:
        """Data and target of all samples as whole arrays, where they lie in memory and no transform must see each.

        They then are drawn as any other arrays are; None if samples must be read one by one.
        """
        return None

    def labels(self) -> Array | None:
        """The targets of all samples after the transform, one number each, where they are cheap to have."""
        found = self.targets()
        if found is None or self.target_transform is None:
            return found
        changed = np.asarray([np.asarray(self._apply(self.target_transform, value)) for value in found])
        return changed if changed.ndim == 1 else None

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        data, target = self.sample(index)
        return self._apply(self.transform, data), self._apply(self.target_transform, target)

    @staticmethod
    def _apply(transform: Transform, value: Any) -> Any:
        if transform is None or value is None:
            return value
        if not isinstance(transform, Mapping):
            return transform(value)
        unknown = next((name for name in transform if not isinstance(value, Mapping) or name not in value), None)
        if unknown is not None:
            raise DatasetError(f"There is a transform for {unknown!r}, but the sample has nothing of that name.")
        return {name: transform[name](part) if name in transform else part for name, part in value.items()}


def stacked(parts: list[Any]) -> Any:
    """Samples as one batch: arrays of one shape, or dicts, lists and tuples of such, along a new first axis.

    Raises:
        DatasetError: They differ in shape or in their keys.
    """
    first = parts[0]
    if first is None:
        return None
    if isinstance(first, Mapping):
        if any(part.keys() != first.keys() for part in parts):
            raise DatasetError("The samples of a batch differ in what they hold.", cure="Return the same keys for all.")
        return {name: stacked([part[name] for part in parts]) for name in first}
    if isinstance(first, list | tuple):
        return type(first)(stacked(list(group)) for group in zip(*parts, strict=True))
    arrays = [np.asarray(part) for part in parts]
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        listed = " and ".join(str(shape) for shape in shapes[:3])
        raise DatasetError(
            f"The samples of a batch have different shapes: {listed}.",
            cure="Bring them to one shape by a transform (cut, pad or resize), or use batch_size=1.",
        )
    return np.stack(arrays)
