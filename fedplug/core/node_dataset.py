"""The node's data set as a training plan sees it: columns and arrays by name, and samples by number."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedplug.core.errors import DatasetError, UsageError
from fedplug.core.params import Array


class NodeDataset(ABC):
    """The node's data set as a plan sees it: ``self.dataset`` in a training plan.

    One that lies in memory implements `arrays`; one that is read sample by sample, ``__len__`` and `read`.

    Attributes:
        path: The file or folder.
        type: Its type, e.g. ``"csv"``.
        name: Its name.
        target: Name of the column or array that is to be predicted; empty if its owner named none.
        ready: Name of the class that plans use for it, e.g. ``"ImageFolderDataset"``.
    """

    path: Path
    type: str
    name: str
    target: str = ""
    ready: str = "TabularDataset"

    def arrays(self) -> Mapping[str, Array]:
        """All columns (of a table) or arrays by name.

        Raises:
            DatasetError: It is read sample by sample: there are too many to hold at once, or they differ in shape.
        """
        raise DatasetError(
            f"Data set {self.name!r} (type {self.type}) is read sample by sample; it is no table.",
            cure=f"In training_data: DataManager({self.ready}(...)). One sample is self.dataset.read(i).",
        )

    def __len__(self) -> int:
        """Number of samples."""
        return len(next(iter(self.arrays().values())))

    def read(self, index: int) -> Mapping[str, Any]:
        """One sample: what it holds by name, e.g. its cell in each column.

        Args:
            index: Its number, from 0.

        Raises:
            DatasetError: It cannot be read.
            IndexError: There is none of that number.
        """
        self.check_index(index)
        return {name: values[index] for name, values in self.arrays().items()}

    def check_index(self, index: int) -> None:
        """Refuse the number of a sample that there is not.

        Raises:
            IndexError: There is none of that number.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"Data set {self.name!r} has {len(self)} samples, so there is none of number {index}.")

    def column(self, name: str) -> Array:
        """One column or array.

        Raises:
            DatasetError: There is none of that name; the existing ones are listed.
        """
        arrays = self.arrays()
        if name not in arrays:
            raise DatasetError(f"Data set {self.name!r} has no column {name!r}.", cure=f"It has: {', '.join(arrays)}.")
        return arrays[name]

    def table(self, columns: Sequence[str] | None = None, *, without: Sequence[str] = ()) -> Array:
        """Numeric columns side by side, as float64 of shape ``(samples, columns)``.

        Nothing is left out unasked: the target is among all columns. The features alone are
        ``table(without=[self.dataset.target])``.

        Args:
            columns: The columns, in this order; all by default.
            without: Columns to leave out, such as the target.

        Raises:
            DatasetError: A column does not exist, is not numeric, or holds several values per row.
        """
        for name in without:
            self.column(name)
        names = [n for n in (self.arrays() if columns is None else columns) if n not in without]
        picked = [self.column(name) for name in names]
        for name, values in zip(names, picked, strict=True):
            if values.ndim != 1:
                shape = " x ".join(map(str, values.shape[1:]))
                raise DatasetError(
                    f"Column {name!r} of data set {self.name!r} holds {shape} values per row, so it does not fit a "
                    "table.",
                    cure=f"Use column({name!r}).",
                )
            if values.dtype.kind not in "biuf":
                raise DatasetError(
                    f"Column {name!r} of data set {self.name!r} is not numeric.",
                    cure="Leave it out (without=...), or turn it into numbers in training_data.",
                )
        return np.column_stack([np.asarray(values, np.float64) for values in picked])


def columns(dataset: Any, target: Any) -> tuple[Any, Any]:
    """Features and labels of a table whose target is named.

    Raises:
        DatasetError: There is no such column, or no other, or one of the features is not numeric.
        UsageError: It is no table, or the target is not named.
    """
    if isinstance(dataset, NodeDataset):
        name = dataset.target if target is None or not isinstance(target, str) else target
        if not name and target is None:
            raise UsageError(
                f"The owner of data set {dataset.name!r} named no target, so it must be named here.",
                cure='DataManager(self.dataset, "label"), or DataManager(self.dataset.table(columns), labels).',
            )
        labels = dataset.column(name) if target is None or isinstance(target, str) else target
        return _features(dataset, name), labels
    if not hasattr(dataset, "columns"):
        raise UsageError(
            f"The target is the name {target!r}, but a {type(dataset).__name__} has no columns.",
            cure="Give the labels themselves, or a DataFrame, or self.dataset.",
        )
    if target not in dataset.columns:
        raise DatasetError(
            f"The table has no column {target!r}.", cure=f"It has: {', '.join(map(str, dataset.columns))}."
        )
    return dataset.drop(columns=[target]), dataset[target]


def _features(dataset: NodeDataset, target: str) -> Array:
    """All columns but the target; it is no feature even where labels come from elsewhere."""
    rest = [name for name in dataset.arrays() if name != target]
    if not rest:
        raise DatasetError(
            f"Data set {dataset.name!r} has no column beside {target!r}, so there is nothing to learn from."
        )
    only = dataset.column(rest[0])
    if len(rest) == 1 and only.ndim > 1:  # of an .npz file: an image is no column of a table
        return only
    return dataset.table(rest)
