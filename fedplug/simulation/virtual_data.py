"""The data of virtual nodes: either arrays of their own, or samples of arrays that they share.

What can be worked out is not stored: with thousands of nodes, of which a few train in a round, a node is its id and the
numbers of its samples. Its data set, its card and what is known about it are made when somebody asks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedplug import __version__
from fedplug.core.errors import DatasetError, UsageError
from fedplug.core.messages import DatasetCard, NodeInfo
from fedplug.core.node_dataset import NodeDataset
from fedplug.core.params import Array
from fedplug.core.rng import SeedTree
from fedplug.node.datasets.memory import MemoryDataset
from fedplug.simulation.partitions import Partition, check_parts


class VirtualData(ABC):
    """The data sets of all nodes, by node id."""

    @property
    @abstractmethod
    def ids(self) -> Sequence[str]:
        """The ids of all nodes, sorted."""

    @abstractmethod
    def __contains__(self, node_id: object) -> bool:
        """Whether there is such a node."""

    @abstractmethod
    def dataset(self, node_id: str) -> NodeDataset:
        """What a plan sees; made for one training."""

    @abstractmethod
    def card(self, node_id: str) -> DatasetCard:
        """What a researcher sees."""

    def shared(self, node_id: str) -> SharedRows | None:
        """Where the samples of a node lie in arrays that nodes share; None if it has arrays of its own."""
        return None


class SharedRows(NamedTuple):
    """Samples of arrays that nodes share.

    Attributes:
        arrays: The arrays by name, which nobody may write to; one object for all nodes.
        rows: The numbers of the node's samples, int64.
        target: Name of the array that is to be predicted; empty for none.
    """

    arrays: Mapping[str, Array]
    rows: Array
    target: str


class OwnData(VirtualData):
    """Every node has arrays of its own.

    Args:
        nodes: Node id → data; see `fedplug.simulation.Federation`.
        tags: Tags that all data sets carry.
        target: Name of the array that is to be predicted.
    """

    def __init__(self, nodes: Mapping[str, Any], tags: tuple[str, ...], target: str | None) -> None:
        self._datasets = {node: _dataset(node, data, tags, target) for node, data in sorted(nodes.items())}
        self._ids = tuple(self._datasets)

    @property
    def ids(self) -> Sequence[str]:
        """As `VirtualData.ids`."""
        return self._ids

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._datasets

    def dataset(self, node_id: str) -> MemoryDataset:
        """As `VirtualData.dataset`."""
        return self._datasets[node_id]

    def card(self, node_id: str) -> DatasetCard:
        """As `VirtualData.card`."""
        return self._datasets[node_id].card()


class SharedData(VirtualData):
    """The nodes have samples of arrays that they share; these are copied for the time of a training only.

    Args:
        arrays: Named arrays with one row per sample.
        partition: Which node has which.
        seed: Root of all that the partition draws.
        tags: Tags that all data sets carry.
        target: Name of the array that is to be predicted; empty for none.

    Attributes:
        parts: Which node has which.

    Raises:
        DatasetError: The arrays do not fit each other, or there is none of a name.
        UsageError: The partition cannot divide them.
    """

    def __init__(
        self, arrays: Mapping[str, Any], partition: Partition, seed: SeedTree, tags: tuple[str, ...], target: str
    ) -> None:
        if not isinstance(partition, Partition):
            raise UsageError(
                f"partition must say how the samples are divided among nodes, but is {kind_of(partition)}.",
                cure="E.g. partition=IID(nodes=10) or Dirichlet(nodes=10, alpha=0.3), from fedplug.simulation.",
            )
        whole = MemoryDataset("the data to divide", arrays, tags=tags, target=target)
        self.arrays = whole.arrays()
        self.tags, self.target = tags, target
        self._columns = tuple(self.arrays)
        self._dtypes = tuple(array.dtype.name for array in self.arrays.values())
        self._row = max(self.arrays.values(), key=lambda array: array.size).shape[1:]
        samples = len(whole)
        self.parts = check_parts(partition.divide(samples, self._column, seed), samples, partition)
        width = len(str(len(self.parts) - 1))
        names = self.parts.names or [f"node-{number:0{width}}" for number in range(len(self.parts))]
        self._places = dict(sorted(zip(names, range(len(self.parts)), strict=True)))
        self._ids = tuple(self._places)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "arrays": dict(self.arrays)}  # what is read-only cannot be pickled

    @property
    def ids(self) -> Sequence[str]:
        """As `VirtualData.ids`."""
        return self._ids

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._places

    def dataset(self, node_id: str) -> NodeDataset:
        """As `VirtualData.dataset`."""
        return SharedSamples(node_id, *self.shared(node_id))

    def shared(self, node_id: str) -> SharedRows:
        """As `VirtualData.shared`."""
        return SharedRows(self.arrays, self.parts[self._places[node_id]], self.target)

    def bounds(self, node_id: str) -> tuple[int, int]:
        """Where the numbers of a node's samples begin and end in ``parts.order``."""
        place = self._places[node_id]
        return int(self.parts.bounds[place]), int(self.parts.bounds[place + 1])

    def card(self, node_id: str) -> DatasetCard:
        """As `VirtualData.card`."""
        return DatasetCard(
            dataset_id=node_id, name=node_id, type=MemoryDataset.type, tags=self.tags, columns=self._columns,
            shape=(len(self.parts[self._places[node_id]]), *self._row), dtypes=self._dtypes, target=self.target,
        )  # fmt: skip

    def _column(self, by: Any) -> Array:
        """One value per sample, for a partition."""
        if by is None and not self.target:
            raise DatasetError(
                "The samples are to be divided by class, but it is not said which array holds the classes.",
                cure="Give y, or name the array: target=..., or by=... in the partition.",
            )
        name = self.target if by is None else by
        if isinstance(name, str):
            if name not in self.arrays:
                raise DatasetError(
                    f"The samples are to be divided by {name!r}, but there is no such array.",
                    cure=f"There are: {', '.join(self.arrays)}.",
                )
            values, called = self.arrays[name], f"Array {name!r}"
        else:
            values, called = _texts(np.asarray(name)), "What the samples are to be divided by"
        samples = len(self.arrays[self._columns[0]])
        if values.size != samples or len(values) != samples or values.dtype.kind not in "biufU":
            raise DatasetError(
                f"{called} must have one number or text per sample, but has shape {values.shape} and dtype "
                f"{values.dtype} for {samples} samples.",
                cure="Divide by an array with one value per sample.",
            )
        return values.reshape(-1)


class SharedSamples(NodeDataset):
    """Samples of shared arrays. What a plan asks for is copied once, and is then the plan's own to change.

    Args:
        name: Its name.
        whole: The shared arrays.
        rows: The numbers of the samples, shape ``(k,)``.
        target: Name of the array that is to be predicted; empty for none.
    """

    type = MemoryDataset.type

    def __init__(self, name: str, whole: Mapping[str, Array], rows: Array, target: str) -> None:
        self.name = name
        self.target = target
        self._picked = _Picked(whole, rows)

    def arrays(self) -> Mapping[str, Array]:
        """All arrays by name."""
        return self._picked

    @cached_property
    def path(self) -> Path:  # type: ignore[override] # making one takes longer than reading the samples
        """There is no file; a text for messages."""
        return Path(f"<memory:{self.name}>")

    @property
    def rows(self) -> Array:
        """The numbers of its samples in the shared arrays."""
        return self._picked.rows

    def __len__(self) -> int:
        return len(self._picked.rows)


class _Picked(Mapping[str, Array]):
    """Rows of arrays, copied when they are asked for."""

    def __init__(self, whole: Mapping[str, Array], rows: Array) -> None:
        self.rows = rows
        self._whole = whole
        self._copies: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        copy = self._copies.get(name)
        if copy is None:
            copy = self._copies[name] = self._whole[name].take(self.rows, axis=0)
        return copy

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole)

    def __len__(self) -> int:
        return len(self._whole)


class NodeInfos(Mapping[str, NodeInfo]):
    """What is known about virtual nodes, made when it is asked for."""

    def __init__(self, data: VirtualData) -> None:
        self._data = data

    def __getitem__(self, node_id: str) -> NodeInfo:
        if node_id not in self._data:
            raise KeyError(node_id)
        return NodeInfo(node_id=node_id, name=node_id, version=__version__)

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._data

    def __iter__(self) -> Iterator[str]:
        return iter(self._data.ids)

    def __len__(self) -> int:
        return len(self._data.ids)


def named_arrays(data: Any, target: Any = None) -> dict[str, Any] | None:
    """Arrays by name of a pair, a mapping or a table; None if it is none of these.

    Args:
        data: A mapping, a table, or an array, which is then called ``"x"``.
        target: An array, which is then called ``"y"``; None: ``data`` has all.
    """
    if hasattr(data, "columns") and hasattr(data, "items"):  # pandas, which the core does not import
        found = {str(name): _texts(column.to_numpy()) for name, column in data.items()}
    elif isinstance(data, Mapping):
        found = dict(data)
    elif target is not None:
        found = {"x": data}
    else:
        return None
    return found if target is None else {**found, "y": target}


def kind_of(value: object) -> str:
    """What a value is, in words."""
    return "nothing" if value is None else f"a {type(value).__name__}"


def _dataset(node: str, data: Any, tags: tuple[str, ...], target: str | None) -> MemoryDataset:
    if isinstance(data, MemoryDataset):
        return data
    arrays = named_arrays(*data) if isinstance(data, tuple) and len(data) == 2 else named_arrays(data)
    if arrays is None:
        raise UsageError(
            f"The data of node {node!r} is {kind_of(data)}.",
            cure="Give a pair (data, target), a mapping of named arrays, a DataFrame, or a MemoryDataset.",
        )
    return MemoryDataset(node, arrays, tags=tags, target=usual_target(arrays, target))


def usual_target(arrays: Mapping[str, Any], target: str | None) -> str:
    """``target``, or ``"y"`` if there is such an array and nothing was said."""
    return target if target is not None else "y" if "y" in arrays else ""


def _texts(column: Any) -> Any:
    """A column of a table; pandas keeps texts as objects."""
    return column.astype(str) if column.dtype == object and all(isinstance(v, str) for v in column) else column
