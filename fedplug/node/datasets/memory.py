"""Data that lies in memory: for simulations, and for nodes that run inside a script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from fedplug.core.errors import DatasetError
from fedplug.core.messages import DatasetCard
from fedplug.core.node_dataset import NodeDataset
from fedplug.core.params import Array


class MemoryDataset(NodeDataset):
    """Named arrays with one row per sample. They are not copied, and plans get them read-only.

    Args:
        name: Its name; also its id.
        arrays: Arrays, or what NumPy can make arrays of, by name.
        tags: Words under which researchers find it.
        target: Name of the array that is to be predicted; empty for none.
        description: Free text for researchers.

    Raises:
        DatasetError: The arrays are empty or of different lengths, or there is no array named ``target``.

    Example:
        >>> MemoryDataset("toy", {"x": [[0.0], [1.0]], "y": [0, 1]}, tags=["demo"], target="y").card().shape
        (2, 1)
    """

    type = "memory"

    def __init__(
        self,
        name: str,
        arrays: Mapping[str, Any],
        *,
        tags: Sequence[str] = (),
        target: str = "",
        description: str = "",
    ) -> None:
        if isinstance(tags, str):
            raise DatasetError(f"Data set {name!r}: tags must be a list of words.", cure=f"E.g. tags=[{tags!r}].")
        views = {key: np.asarray(value).view() for key, value in arrays.items()}
        for view in views.values():
            view.flags.writeable = False
        _check_lengths(name, views)
        if target and target not in views:
            raise DatasetError(f"Data set {name!r} has no array {target!r}.", cure=f"It has: {', '.join(views)}.")
        self.name = name
        self.path = Path(f"<memory:{name}>")
        self.target = target
        self.tags = tuple(tags)
        self.description = description
        self._arrays = MappingProxyType(views)
        # Asked for by every task: NumPy takes long to name a dtype.
        self._dtypes = tuple(view.dtype.name for view in views.values())

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_arrays": dict(self._arrays)}  # what is read-only cannot be pickled

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        for array in self._arrays.values():
            array.flags.writeable = False
        self._arrays = MappingProxyType(self._arrays)

    def arrays(self) -> Mapping[str, Array]:
        """All arrays by name, read-only."""
        return self._arrays

    def card(self) -> DatasetCard:
        """What a researcher may know about it."""
        largest = max(self._arrays.values(), key=lambda array: array.size)
        return DatasetCard(
            dataset_id=self.name,
            name=self.name,
            type=self.type,
            tags=self.tags,
            shape=largest.shape,
            description=self.description,
            columns=tuple(self._arrays),
            dtypes=self._dtypes,
            target=self.target,
        )


def _check_lengths(name: str, arrays: Mapping[str, Array]) -> None:
    for key, array in arrays.items():
        if not array.ndim:
            raise DatasetError(
                f"Array {key!r} of data set {name!r} is a single value.", cure="Pass arrays with samples in rows."
            )
    lengths = {key: array.shape[0] for key, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{key!r} {length}" for key, length in lengths.items())
        raise DatasetError(
            f"The arrays of data set {name!r} have different numbers of rows: {listed}.",
            cure="All need one row per sample.",
        )
    if not any(lengths.values()):
        raise DatasetError(f"Data set {name!r} holds no samples.")
