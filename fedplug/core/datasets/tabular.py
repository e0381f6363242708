"""Columns of a table, or named arrays, for training plans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedplug.core.datasets.base import PlanDataset, Transform
from fedplug.core.errors import DatasetError
from fedplug.core.params import Array


class TabularDataset(PlanDataset):
    """Columns of the node's table, by the names that plans use.

    A sample's data is a float64 vector, one value per input column, or, of an array of several axes, one row of it; its
    target is one value, or a vector if several columns are listed. Without transforms all samples go to the training
    loop as whole arrays, exactly as ``DataManager(self.dataset)`` hands them over.

    Args:
        input_columns: One or several columns; by default all but those of the target.
        target_columns: What is to be predicted: one column, or a list of them; by default the one that the owner of
            the data named.
        transform: Applied to the data of each sample.
        target_transform: Applied to its target. Text needs one, such as ``{"benign": 0, "malignant": 1}.get``.

    Example:
        >>> dataset = TabularDataset(["age", "size"], "diagnosis")
    """

    def __init__(
        self,
        input_columns: str | Sequence[str] | None = None,
        target_columns: str | Sequence[str] | None = None,
        transform: Transform = None,
        target_transform: Transform = None,
    ) -> None:
        super().__init__(transform, target_transform)
        self.input_columns = _names(input_columns)
        self.target_columns = _names(target_columns)
        self._single_target = target_columns is None or isinstance(target_columns, str)
        self._data: Array = np.empty((0, 0))
        self._target: Array | None = None

    def connect(self) -> None:
        """As `PlanDataset.connect`: every column must be there, and the inputs must be numbers."""
        node = self.node
        targets = self.target_columns
        if targets is None:
            targets = (node.target,) if node.target else ()
        inputs = self.input_columns
        if inputs is None:
            inputs = tuple(name for name in node.arrays() if name not in {*targets, node.target})
        if not inputs:
            raise DatasetError(
                f"Data set {node.name!r} has no column beside {', '.join(map(repr, targets))}, so there is nothing to "
                "learn from."
            )
        wide = len(inputs) == 1 and node.column(inputs[0]).ndim > 1
        self._data = node.column(inputs[0]) if wide else node.table(list(inputs))
        if not targets:
            self._target = None
        elif self._single_target:
            self._target = node.column(targets[0])
        else:
            self._target = node.table(list(targets))
        if self.target_transform is None and self._target is not None and self._target.dtype.kind not in "biufc":
            raise DatasetError(
                f"Column {targets[0]!r} of data set {node.name!r}, the target, is text.",
                cure='Number it: TabularDataset(..., target_transform={"no": 0, "yes": 1}.get).',
            )

    def __len__(self) -> int:
        return len(self._data)

    def sample(self, index: int) -> tuple[Any, Any]:
        """As `PlanDataset.sample`."""
        return self._data[index], None if self._target is None else self._target[index]

    def targets(self) -> Array | None:
        """As `PlanDataset.targets`."""
        return self._target

    def arrays(self) -> tuple[Any, Any] | None:
        """As `PlanDataset.arrays`: the columns, unless a transform must see each sample."""
        untouched = self.transform is None and self.target_transform is None
        return (self._data, self._target) if untouched else None


def _names(given: str | Sequence[str] | None) -> tuple[str, ...] | None:
    return None if given is None else (given,) if isinstance(given, str) else tuple(given)
