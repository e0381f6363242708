"""Data on the node: what a plan receives, and what the training loop draws batches from.

A plan's ``training_data`` returns a `DataManager`, which only holds what the user gave. The plugin of the
plan's framework turns it into a `BatchSource` (hook ``fedplug_wrap_data``), which the loop works with.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from fedplug.core.datasets.base import PlanDataset
from fedplug.core.errors import DatasetError, UnknownNameError, UsageError
from fedplug.core.node_dataset import NodeDataset, columns
from fedplug.core.numbers import is_whole
from fedplug.core.params import Array
from fedplug.core.rng import SeedTree


class DataManager:
    """What a training plan's ``training_data`` returns.

    Args:
        dataset: NumPy array, pandas DataFrame, torch tensor or torch ``Dataset``, or a nested dict, list or
            tuple of arrays. What is possible depends on the plan's framework. Or the node's data set itself
            (``self.dataset``): all its columns but the target, which must be numbers. Or a ready class, such as
            ``ImageFolderDataset``, which reads samples one by one and brings their targets along.
        target: The labels, in the same order; or the name of their column in a DataFrame or in the node's data set,
            which is by default the one that its owner named. None where ``dataset`` yields ``(data, target)`` pairs.
        **loader_args: ``batch_size``, ``shuffle``, ``drop_last`` and what the framework's loader knows. They win over
            ``training_args["loader_args"]``.
    """

    def __init__(self, dataset: Any, target: Any = None, **loader_args: Any) -> None:
        if dataset is None:
            raise UsageError("DataManager needs a dataset.", cure="E.g. DataManager(features, labels, batch_size=32).")
        if isinstance(dataset, PlanDataset) and target is not None:
            raise UsageError(
                f"A {type(dataset).__name__} brings its targets along, so DataManager takes no target beside it.",
                cure=f"Say what is to be predicted in {type(dataset).__name__}(...).",
            )
        if isinstance(dataset, NodeDataset) or isinstance(target, str):
            dataset, target = columns(dataset, target)
        self.dataset = dataset
        self.target = target
        self.loader_args = loader_args


@dataclass(frozen=True)
class LoaderArgs:
    """How batches are drawn.

    Attributes:
        batch_size: Samples per batch.
        shuffle: Draw a new order each epoch.
        drop_last: Leave out a last batch that is not full.
        extra: Further arguments for the framework's own loader.
    """

    batch_size: int = 32
    shuffle: bool = True
    drop_last: bool = False
    extra: Mapping[str, Any] | None = None

    @classmethod
    def merge(cls, *layers: Mapping[str, Any]) -> LoaderArgs:
        """The arguments of all layers, later ones winning.

        Raises:
            UsageError: ``batch_size`` is not a positive integer, or ``shuffle`` or ``drop_last`` not a bool.
        """
        merged = {key: value for layer in layers for key, value in layer.items()}
        size = merged.pop("batch_size", cls.batch_size)
        if not is_whole(size, 1):
            raise UsageError(f"batch_size must be a positive whole number, got {size!r}.")
        shuffle, drop = merged.pop("shuffle", cls.shuffle), merged.pop("drop_last", cls.drop_last)
        for name, value in (("shuffle", shuffle), ("drop_last", drop)):
            if not isinstance(value, bool):
                raise UsageError(f"{name} must be True or False, got {value!r}.")
        return cls(size, shuffle, drop, merged)

    def as_dict(self) -> dict[str, Any]:
        """The arguments as they were given, for `merge`."""
        return {
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
            **(self.extra or {}),
        }

    def batches_per_epoch(self, samples: int) -> int:
        """Number of batches that ``samples`` make."""
        return samples // self.batch_size if self.drop_last else math.ceil(samples / self.batch_size)


class BatchSource(ABC):
    """Samples of one framework, ready to be drawn in batches."""

    extra_names: ClassVar[frozenset[str]] = frozenset()
    """Loader arguments that this source takes, beyond ``batch_size``, ``shuffle`` and ``drop_last``."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def subset(self, indices: Array) -> BatchSource:
        """The samples at ``indices`` (integers, shape ``(k,)``), in that order."""

    @abstractmethod
    def batches(self, args: LoaderArgs, order: Array | None) -> Iterator[tuple[Any, Any]]:
        """One pass over the samples as ``(data, target)`` pairs.

        Args:
            args: How to batch; ``args.shuffle`` has already been turned into ``order``.
            order: Indices of the samples in the order to draw them; None for their own order.
        """

    def labels(self) -> Array | None:
        """The targets as one array, where that is cheap to have; for stratified splits."""
        return None

    def check_args(self, args: LoaderArgs) -> None:
        """Check that this source knows every loader argument.

        Raises:
            UnknownNameError: It does not know one; the nearest names are given.
        """
        known = {"batch_size", "shuffle", "drop_last", *self.extra_names}
        for name in args.extra or ():
            if name not in known:
                raise UnknownNameError("loader argument", name, known)

    def epoch(self, args: LoaderArgs, seed: SeedTree) -> Iterator[tuple[Any, Any]]:
        """One pass, shuffled from ``seed`` if ``args.shuffle``."""
        order = seed.generator().permutation(len(self)) if args.shuffle else None
        return self.batches(args, order)

    def split(self, test_ratio: float, seed: SeedTree, *, stratify: bool = False) -> tuple[BatchSource, BatchSource]:
        """Train and test part: ``floor(n * test_ratio)`` random samples are held out for testing.

        Args:
            test_ratio: The part to hold out, in [0, 1).
            seed: What decides which samples these are.
            stratify: Hold out the same share of every class, up to rounding: each class gives the whole part of its
                share, and those with the largest remainders one more, until the number is reached.

        Raises:
            DatasetError: ``stratify`` is set, but the labels are not known, or are no whole numbers.
        """
        held_out = int(len(self) * test_ratio)
        if held_out == 0:
            return self, self.subset(np.empty(0, np.int64))
        order = seed.generator().permutation(len(self))
        if stratify:
            order = _stratified(order, _class_labels(self), held_out)
        return self.subset(np.sort(order[held_out:])), self.subset(np.sort(order[:held_out]))


def _class_labels(source: BatchSource) -> Array:
    """One class number per sample.

    Raises:
        DatasetError: The source cannot tell them, or they are no whole numbers.
    """
    labels = source.labels()
    if labels is None:
        raise DatasetError(
            "stratify_testing_dataset needs to know the labels, but the data has no single array of targets.",
            cure="Give DataManager the target as an array of its own, or leave stratify_testing_dataset out.",
        )
    if labels.size == len(source):
        labels = labels.reshape(-1)
        if labels.dtype.kind in "biu":
            return labels
        if labels.dtype.kind == "f" and np.isfinite(labels).all() and (labels == np.floor(labels)).all():
            return labels
    raise DatasetError(
        "stratify_testing_dataset needs one whole number per sample as target, its class; the target is an array of "
        f"{labels.dtype} of shape {labels.shape}.",
        cure="Number the classes, or leave stratify_testing_dataset out.",
    )


def _stratified(order: Array, labels: Array, held_out: int) -> Array:
    """``order`` with its first ``held_out`` samples replaced by the same number from every class in proportion."""
    _, classes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    quotas, remainders = np.divmod(sizes * held_out, len(order))  # whole numbers: no rounding
    behind = held_out - int(quotas.sum())
    quotas[np.argsort(-remainders, kind="stable")[:behind]] += 1
    in_order = classes.reshape(-1)[order]
    by_class = np.argsort(in_order, kind="stable")  # places in `order`, class after class
    starts = np.cumsum(sizes) - sizes
    rank = np.empty(len(order), np.int64)
    rank[by_class] = np.arange(len(order)) - np.repeat(starts, sizes)
    picked = rank < quotas[in_order]
    return np.concatenate([order[picked], order[~picked]])


def take(data: Any, indices: Any) -> Any:
    """Samples at ``indices`` of an array, or of each array in a nested dict, list or tuple."""
    if isinstance(data, np.ndarray):
        return data[indices]
    if isinstance(data, Mapping):
        return {key: take(value, indices) for key, value in data.items()}
    if isinstance(data, list | tuple):
        parts = (take(value, indices) for value in data)
        return type(data)(*parts) if hasattr(data, "_fields") else type(data)(parts)
    return data[indices]


def sample_count(data: Any) -> int:
    """Number of samples of an array, or of the nested arrays, which must agree.

    Raises:
        DatasetError: They do not agree, or there is no array.
    """
    if isinstance(data, Mapping):
        return _common_count(list(data.values()))
    if isinstance(data, list | tuple):
        return _common_count(list(data))
    shape = getattr(data, "shape", None)
    if not shape:
        raise DatasetError(
            f"{type(data).__name__} is not an array of samples.", cure="Pass arrays with samples in rows."
        )
    return int(shape[0])


def _common_count(parts: Sequence[Any]) -> int:
    counts = {sample_count(part) for part in parts}
    if len(counts) != 1:
        raise DatasetError(f"The arrays of a data set must have one length, but have {sorted(counts)}.")
    return counts.pop()


class ArrayData(BatchSource):
    """NumPy arrays, or nested dicts, lists and tuples of them, with or without a target.

    Args:
        data: The inputs, samples in rows.
        target: The labels; None if there are none, and then batches carry None.

    Raises:
        DatasetError: Data and target have different numbers of samples.
    """

    @classmethod
    def conformance_cases(cls) -> list[Self]:
        """What ``fedplug plugins check`` tests."""
        rows = np.arange(14.0).reshape(7, 2)
        return [cls(rows, np.arange(7) % 2), cls(rows), cls({"a": rows, "b": (rows + 1, rows[:, 0])}, np.arange(7.0))]

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
        """The target, if it is a single array."""
        return (
            None if self.target is None or isinstance(self.target, Mapping | list | tuple) else np.asarray(self.target)
        )

    def subset(self, indices: Array) -> ArrayData:
        """The samples at ``indices``."""
        return ArrayData(take(self.data, indices), None if self.target is None else take(self.target, indices))

    def batches(self, args: LoaderArgs, order: Array | None) -> Iterator[tuple[Any, Any]]:
        """Slices, without a copy where the order is the samples' own."""
        for index in range(args.batches_per_epoch(self._count)):
            rows: Any = slice(index * args.batch_size, min((index + 1) * args.batch_size, self._count))
            rows = rows if order is None else order[rows]
            yield take(self.data, rows), None if self.target is None else take(self.target, rows)
