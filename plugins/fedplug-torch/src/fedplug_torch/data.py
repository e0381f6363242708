"""What a `DataManager` may hold for a PyTorch plan, and batches of tensors from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, default_collate

from fedplug.core.data import BatchSource, DataManager, LoaderArgs, sample_count
from fedplug.core.datasets.base import PlanDataset
from fedplug.core.errors import DatasetError
from fedplug.core.params import Array
from fedplug.core.rng import SeedTree

_LOADER_NAMES = frozenset(
    {"num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context",
     "prefetch_factor", "persistent_workers"}
)  # fmt: skip


def wrap(manager: DataManager) -> BatchSource:
    """Batches of tensors from what a plan's ``training_data`` returned.

    Arrays become tensors: float64 turns into float32, the dtype of PyTorch's layers; a target of whole
    numbers turns into int64, as PyTorch's losses want it; a table (DataFrame) becomes float32 altogether.

    Raises:
        DatasetError: The data cannot be turned into tensors, or data and target do not fit each other.
    """
    dataset, target = manager.dataset, manager.target
    if isinstance(dataset, PlanDataset):
        return SampleTensors(_Samples(dataset))
    if isinstance(dataset, Dataset):
        if target is not None:
            raise DatasetError(
                "A torch Dataset brings its targets along, so DataManager takes no target beside it.",
                cure="Let __getitem__ return (data, target).",
            )
        return _from_dataset(dataset)
    data = _tensors(dataset, is_target=False)
    return TensorData(data, None if target is None else _tensors(target, is_target=True))


class TensorData(BatchSource):
    """Tensors in memory, or nested dicts, lists and tuples of them.

    Args:
        data: The inputs, samples in rows.
        target: The labels; None if there are none, and then batches carry None.

    Raises:
        DatasetError: Data and target have different numbers of samples.
    """

    # torch's DataLoader is not used; its arguments change nothing here, but plans may well carry them.
    extra_names: ClassVar[frozenset[str]] = _LOADER_NAMES - {"collate_fn"}

    @classmethod
    def conformance_cases(cls) -> list[Self]:
        """What ``fedplug plugins check`` tests."""
        rows = torch.arange(14.0).reshape(7, 2)
        return [cls(rows, torch.arange(7) % 2), cls(rows), cls({"a": rows, "b": (rows + 1, rows[:, 0])}, rows[:, 1])]

    def __init__(self, data: Any, target: Any = None) -> None:
        self.data = data
        self.target = target
        self._count = sample_count(data)
        if target is not None and sample_count(target) != self._count:
            raise DatasetError(
                f"The data has {self._count} samples, the target {sample_count(target)}.",
                cure="Data and target must be in the same order, one target per sample.",
            )

    def __len__(self) -> int:
        return self._count

    def labels(self) -> Array | None:
        """The target, if it is a single tensor."""
        return self.target.numpy() if isinstance(self.target, torch.Tensor) else None

    def subset(self, indices: Array) -> TensorData:
        """The samples at ``indices``."""
        if not len(indices):  # what is held out where nothing is to be tested
            return TensorData(
                _slice(self.data, slice(0)), None if self.target is None else _slice(self.target, slice(0))
            )
        rows = torch.as_tensor(np.asarray(indices, np.int64))
        return TensorData(_rows(self.data, rows), None if self.target is None else _rows(self.target, rows))

    def batches(self, args: LoaderArgs, order: Array | None) -> Iterator[tuple[Any, Any]]:
        """Slices, without a copy where the order is the samples' own."""
        size, data, target = args.batch_size, self.data, self.target
        count = args.batches_per_epoch(self._count)
        if order is None:
            for low in range(0, count * size, size):
                rows = slice(low, low + size)
                yield _slice(data, rows), None if target is None else _slice(target, rows)
            return
        drawn = torch.from_numpy(order).split(size)[:count]
        if isinstance(data, torch.Tensor) and isinstance(target, torch.Tensor):  # the common case, kept lean
            for picked in drawn:
                yield data.index_select(0, picked), target.index_select(0, picked)
            return
        for picked in drawn:
            yield _rows(data, picked), None if target is None else _rows(target, picked)


class DatasetData(BatchSource):
    """A map-style torch ``Dataset``, drawn through torch's ``DataLoader``.

    Args:
        dataset: Has ``__len__`` and ``__getitem__``. An item is ``(data, target)``; anything that is not a
            pair is data without a target.

    Raises:
        DatasetError: The data set has no length.
    """

    extra_names: ClassVar[frozenset[str]] = _LOADER_NAMES

    @classmethod
    def conformance_cases(cls) -> list[Self]:
        """What ``fedplug plugins check`` tests."""
        rows = torch.arange(14.0).reshape(7, 2)
        return [cls(TensorDataset(rows, torch.arange(7) % 2))]

    def __init__(self, dataset: Dataset[Any]) -> None:
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            raise DatasetError(
                f"The data set {type(dataset).__name__} has no length, so epochs and splits are not defined.",
                cure="Use a torch Dataset with __len__ and __getitem__.",
            )
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def subset(self, indices: Array) -> BatchSource:
        """The samples at ``indices``, still drawn one by one."""
        return DatasetData(Subset(self.dataset, np.asarray(indices).tolist()))

    def batches(self, args: LoaderArgs, order: Array | None) -> Iterator[tuple[Any, Any]]:
        """Batches as the loader's ``collate_fn`` makes them."""
        return self._load(args, order, SeedTree.root(0))

    def epoch(self, args: LoaderArgs, seed: SeedTree) -> Iterator[tuple[Any, Any]]:
        """One pass, shuffled from ``seed``; the loader's workers get their seeds from it too."""
        order = seed.generator().permutation(len(self)) if args.shuffle else None
        return self._load(args, order, seed.child("workers"))

    def _load(self, args: LoaderArgs, order: Array | None, seed: SeedTree) -> Iterator[tuple[Any, Any]]:
        loader: DataLoader[Any] = DataLoader(
            self.dataset,
            batch_size=args.batch_size,
            sampler=None if order is None else order.tolist(),
            drop_last=args.drop_last,
            generator=torch.Generator().manual_seed(seed.seed63()),
            **(args.extra or {}),
        )
        for batch in loader:
            pair = isinstance(batch, list | tuple) and len(batch) == 2 and not hasattr(batch, "_fields")
            yield (batch[0], batch[1]) if pair else (batch, None)


class _Samples(Dataset[Any]):
    """The samples of a ready class, as tensors."""

    def __init__(self, samples: PlanDataset) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        data, target = self.samples[index]
        tensors = _tensors(_arrays(data), is_target=False)
        return tensors if target is None else (tensors, _tensors(_arrays(target), is_target=True))


class SampleTensors(DatasetData):
    """Samples that are read when they are drawn, such as those of `fedplug.ImageFolderDataset`.

    Args:
        dataset: Yields tensors.
        indices: The samples, in this order; all by default.
    """

    @classmethod
    def conformance_cases(cls) -> list[Self]:
        """None: only `wrap` makes it, of a plan's data set."""
        return []

    def __init__(self, dataset: _Samples, indices: Array | None = None) -> None:
        self._samples = dataset
        self._indices = np.arange(len(dataset)) if indices is None else np.asarray(indices, np.int64)
        super().__init__(dataset if indices is None else Subset(dataset, self._indices.tolist()))

    def labels(self) -> Array | None:
        """The targets, where they are known without reading the samples."""
        labels = self._samples.samples.labels()
        return None if labels is None else labels[self._indices]

    def subset(self, indices: Array) -> SampleTensors:
        """The samples at ``indices``, still not read."""
        return SampleTensors(self._samples, self._indices[np.asarray(indices, np.int64)])

    def _load(self, args: LoaderArgs, order: Array | None, seed: SeedTree) -> Iterator[tuple[Any, Any]]:
        extra = {"collate_fn": _collate, **(args.extra or {})}
        return super()._load(replace(args, extra=extra), order, seed)


def _collate(samples: list[Any]) -> Any:
    """As torch does it; but samples of different shapes are a mistake in the plan's transforms, and told as such."""
    try:
        return default_collate(samples)
    except RuntimeError as error:
        raise DatasetError(
            f"The samples of a batch do not fit together: {error}.",
            cure="Bring them to one shape by a transform (cut, pad or resize), or use batch_size=1.",
        ) from None


def _arrays(data: Any) -> Any:
    """Single numbers, as samples have them, as arrays."""
    if isinstance(data, Mapping):
        return {key: _arrays(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return type(data)(_arrays(value) for value in data)
    return np.asarray(data) if isinstance(data, bool | int | float | np.generic) else data


def _from_dataset(dataset: Dataset[Any]) -> BatchSource:
    """The fast path where the data set is tensors under the hood."""
    if isinstance(dataset, Subset) and isinstance(dataset.dataset, TensorDataset):
        return _from_dataset(dataset.dataset).subset(np.asarray(dataset.indices))
    if type(dataset) is TensorDataset:
        *data, last = dataset.tensors
        if not data:
            return TensorData(last)
        return TensorData(data[0] if len(data) == 1 else tuple(data), last)
    return DatasetData(dataset)


def _rows(data: Any, picked: torch.Tensor) -> Any:
    return _each(data, lambda tensor: tensor.index_select(0, picked))


def _slice(data: Any, rows: slice) -> Any:
    return _each(data, lambda tensor: tensor[rows])


def _each(data: Any, function: Any) -> Any:
    if isinstance(data, torch.Tensor):
        return function(data)
    if isinstance(data, Mapping):
        return {key: _each(value, function) for key, value in data.items()}
    parts = (_each(value, function) for value in data)
    return type(data)(*parts) if hasattr(data, "_fields") else type(data)(parts)


def _tensors(data: Any, *, is_target: bool) -> Any:
    """``data`` with everything in it turned into tensors."""
    if isinstance(data, torch.Tensor):
        return data.detach()
    if isinstance(data, Mapping):
        return {key: _tensors(value, is_target=is_target) for key, value in data.items()}
    if isinstance(data, list | tuple):
        parts = [_tensors(value, is_target=is_target) for value in data]
        return type(data)(*parts) if hasattr(data, "_fields") else type(data)(parts)
    if hasattr(data, "to_numpy"):
        return _from_table(data, is_target=is_target)
    if isinstance(data, np.ndarray):
        return _from_array(data, is_target=is_target)
    raise DatasetError(
        f"A {type(data).__name__} cannot be turned into tensors.",
        cure="Give DataManager a torch Dataset, tensors, NumPy arrays, pandas objects, or nested dicts, lists and "
        "tuples of them. A list of numbers needs np.array(...) around it.",
    )


def _from_table(table: Any, *, is_target: bool) -> torch.Tensor:
    """A pandas DataFrame or Series, or whatever else has ``to_numpy``."""
    array = np.asarray(table.to_numpy())
    if array.dtype.kind == "O" and hasattr(table, "columns"):
        wrong = [str(name) for name in table.columns if np.asarray(table[name].to_numpy()).dtype.kind not in "biuf"]
        if not wrong:  # columns of different kinds of numbers
            array = np.column_stack([np.asarray(table[name].to_numpy(), np.float64) for name in table.columns])
        else:
            raise DatasetError(
                f"Column {wrong[0]!r} is not numeric.", cure="Drop it, or turn it into numbers in training_data."
            )
    tensor = _from_array(array, is_target=is_target)
    return tensor if is_target else tensor.to(torch.float32)


def _from_array(array: Array, *, is_target: bool) -> torch.Tensor:
    kind = array.dtype.kind
    if kind not in "biuf" or array.dtype.itemsize > 8:
        raise DatasetError(
            f"An array of dtype {array.dtype} cannot be turned into a tensor.",
            cure="Turn it into numbers (float32 or int64) in training_data.",
        )
    wanted: np.dtype[Any]
    if is_target and kind in "biu":
        wanted = np.dtype(np.int64)
    elif kind == "f" and array.dtype.itemsize == 8:
        wanted = np.dtype(np.float32)
    elif kind == "u" and array.dtype.itemsize > 1:
        wanted = np.dtype(np.int64)  # torch knows wide unsigned numbers only in part
    else:
        wanted = array.dtype.newbyteorder("=")
    ready = np.ascontiguousarray(array, wanted)
    # A tensor over memory that must not be written to would be a trap (and torch warns of it).
    return torch.from_numpy(ready if ready.flags.writeable else ready.copy()).reshape(array.shape)
