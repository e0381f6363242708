"""What a `DataManager` may hold for a scikit-learn plan, and batches of rows from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, Self

import numpy as np

from fedplug.core.data import BatchSource, DataManager, LoaderArgs
from fedplug.core.datasets.base import PlanDataset
from fedplug.core.errors import DatasetError
from fedplug.core.params import Array

_NAMED = 5  # columns that an error names
_TARGET_CURE = "Number the classes from 0, the same at all nodes: a dict {name: number} in training_data."


class Weighted(NamedTuple):
    """The data of a batch whose rows have weights.

    Attributes:
        x: The rows.
        weight: A weight for each.
    """

    x: Any
    weight: Array


class SkLearnDataManager(DataManager):
    """What ``training_data`` of a scikit-learn plan may return; a plain `DataManager` does where rows have no weights.

    Where they have some, the data of a batch (in ``testing_step``, ``forward`` and what is given to
    ``add_preprocess``) is a `Weighted`: ``data.x`` are the rows, ``data.weight`` their weights.

    Args:
        dataset: A NumPy array, a pandas DataFrame or a SciPy sparse matrix, samples in rows; or the node's data set
            (``self.dataset``). Arrays of more than two axes are flattened to rows.
        target: The labels, or the name of their column.
        sample_weight: A weight from zero up for each sample. A weighted loss is still divided by the number of rows.
        **loader_args: ``batch_size``, ``shuffle`` and ``drop_last``.
    """

    def __init__(self, dataset: Any, target: Any = None, *, sample_weight: Any = None, **loader_args: Any) -> None:
        super().__init__(dataset, target, **loader_args)
        self.sample_weight = sample_weight


class Rows(BatchSource):
    """Rows in memory, with their targets and weights. Use `wrap`, which checks them.

    Args:
        data: An array of shape ``(samples, features)``, or a sparse matrix (CSR) of that shape.
        target: One per sample; None if there are none.
        weight: One per sample; None: all count the same.
    """

    @classmethod
    def conformance_cases(cls) -> list[Self]:
        """What ``fedplug plugins check`` tests."""
        rows, labels = np.arange(14.0).reshape(7, 2), np.arange(7) % 2
        return [cls(rows, labels), cls(rows), cls(rows, labels, np.arange(7.0))]

    def __init__(self, data: Any, target: Array | None = None, weight: Array | None = None) -> None:
        self.data = data
        self.target = target
        self.weight = weight

    def __len__(self) -> int:
        return int(self.data.shape[0])

    def labels(self) -> Array | None:
        """The target."""
        return self.target

    def subset(self, indices: Array) -> Rows:
        """The rows at ``indices``."""
        return Rows(self.data[indices], _at(self.target, indices), _at(self.weight, indices))

    def batches(self, args: LoaderArgs, order: Array | None) -> Iterator[tuple[Any, Any]]:
        """Rows and targets; ``(Weighted(rows, weights), targets)`` where there are weights."""
        count = len(self)
        for index in range(args.batches_per_epoch(count)):
            rows: Any = slice(index * args.batch_size, min((index + 1) * args.batch_size, count))
            rows = rows if order is None else order[rows]
            data = self.data[rows]
            yield data if self.weight is None else Weighted(data, self.weight[rows]), _at(self.target, rows)


class SampleRows(Rows):
    """Samples of a ready class such as `fedplug.ImageFolderDataset`, each flattened to a row when it is drawn."""

    data: _DrawnRows

    def subset(self, indices: Array) -> SampleRows:
        """The rows at ``indices``, still not read."""
        drawn = _DrawnRows(self.data.dataset, self.data.indices[indices], self.data.shape[1])
        return SampleRows(drawn, _at(self.target, indices))


class _DrawnRows:
    """A matrix whose rows are read when they are asked for.

    Args:
        dataset: Yields the samples.
        indices: Those that are the rows.
        width: Numbers in each row.
    """

    def __init__(self, dataset: PlanDataset, indices: Array, width: int) -> None:
        self.dataset = dataset
        self.indices = indices
        self.shape = (len(indices), width)

    def __getitem__(self, rows: Any) -> Array:
        found = [_flat(self.dataset[int(index)][0]) for index in self.indices[rows]]
        wrong = next((row.size for row in found if row.size != self.shape[1]), None)
        if wrong is not None:
            raise DatasetError(
                f"The samples have different sizes: {self.shape[1]} and {wrong} numbers.",
                cure="Bring them to one shape by a transform (cut, pad or resize).",
            )
        matrix = np.stack(found) if found else np.empty((0, self.shape[1]))
        bad = int((~np.isfinite(matrix)).any(axis=1).sum())
        if bad:
            raise DatasetError(
                f"Values are missing or not finite in {bad} samples of a batch.",
                cure="Fill them by a transform, e.g. with numpy.nan_to_num.",
            )
        return matrix


def parts_of(data: Any) -> tuple[Any, Array | None]:
    """Rows of a batch, and their weights if they have any."""
    return (data.x, data.weight) if isinstance(data, Weighted) else (data, None)


def wrap(manager: DataManager) -> Rows:
    """Rows from what a plan's ``training_data`` returned.

    Raises:
        DatasetError: The data cannot be rows of numbers, has missing values, or data, target and weights do not fit
            each other.
    """
    if isinstance(manager.dataset, Rows):
        return manager.dataset
    if isinstance(manager.dataset, PlanDataset):
        return _sample_rows(manager.dataset)
    data = _rows(manager.dataset)
    count = data.shape[0]
    target = None if manager.target is None else _column(manager.target, "target", _TARGET_CURE)
    if target is not None and len(target) != count:
        raise DatasetError(
            f"The data has {count} samples, the target {len(target)}.",
            cure="Data and target must be in the same order, one target per sample.",
        )
    given = getattr(manager, "sample_weight", None)
    return Rows(data, target, None if given is None else _weights(given, count))


def _sample_rows(dataset: PlanDataset) -> SampleRows:
    """Rows that are read when they are drawn; the first is read at once, to know how long they are."""
    target = dataset.labels()
    data, answer = dataset[0]
    if target is None and answer is not None:
        if np.ndim(answer):
            raise DatasetError(
                f"A scikit-learn plan learns one number per sample; {type(dataset).__name__} has others as targets.",
                cure="Choose a column as target, or a target_transform that gives one number.",
            )
        # Known only by reading every sample: once now, since the classes must be known before the first batch.
        target = np.asarray([dataset[index][1] for index in range(len(dataset))])
    column = None if target is None else _column(target, "target", _TARGET_CURE)
    return SampleRows(_DrawnRows(dataset, np.arange(len(dataset)), _flat(data).size), column)


def _flat(data: Any) -> Array:
    """All numbers of a sample in a row; the parts of a dict, list or tuple one after the other."""
    if isinstance(data, Mapping):
        data = tuple(data.values())
    if isinstance(data, list | tuple):
        return np.concatenate([_flat(part) for part in data])
    array = np.asarray(data)
    _require_numbers(array, data)
    return array.reshape(-1)


# features ----------------------------------------------------------------------------------------------------


def _rows(dataset: Any) -> Any:
    """``dataset`` as a matrix of finite numbers, of the dtype that it has; sparse ones become CSR."""
    if hasattr(dataset, "tocsr"):
        return _sparse(dataset)
    is_frame = hasattr(dataset, "columns") and hasattr(dataset, "iloc")
    names = [str(name) for name in dataset.columns] if is_frame else None
    array = _from_frame(dataset) if is_frame else dataset
    array = array.to_numpy() if hasattr(array, "to_numpy") else array
    if not isinstance(array, np.ndarray):
        raise DatasetError(
            f"A scikit-learn plan cannot train on a {type(dataset).__name__}.",
            cure="Give DataManager a NumPy array, a pandas DataFrame or a SciPy sparse matrix, samples in rows.",
        )
    _require_numbers(array, dataset)
    if array.ndim < 2:
        raise DatasetError(
            f"The data has shape {array.shape}, but must have samples in rows and features in columns.",
            cure="A single feature is a column: values.reshape(-1, 1).",
        )
    rows = array.reshape(len(array), int(np.prod(array.shape[1:])))
    wrong = ~np.isfinite(rows) if rows.dtype.kind == "f" else np.zeros((), bool)
    if isinstance(rows, np.ma.MaskedArray):
        wrong = np.ma.getdata(wrong) | np.ma.getmaskarray(rows)
    if wrong.any():
        raise _missing(wrong.sum(axis=0), names)
    return np.asarray(rows)


def _sparse(dataset: Any) -> Any:
    """A sparse matrix as CSR."""
    if dataset.ndim != 2:
        raise DatasetError(
            f"The data has shape {dataset.shape}, but must have samples in rows and features in columns.",
            cure="Give a sparse matrix of two axes.",
        )
    matrix = dataset.tocsr()
    _require_numbers(matrix.data, dataset)
    wrong = ~np.isfinite(matrix.data)
    if wrong.any():
        raise _missing(np.bincount(matrix.indices[wrong], minlength=matrix.shape[1]), None)
    return matrix


def _from_frame(frame: Any) -> Array:
    """A DataFrame as numbers; what cannot be one is named."""
    dtypes = list(frame.dtypes)
    if not dtypes:
        raise DatasetError("The table has no columns to learn from.", cure="Keep some in training_data.")
    wrong = [str(name) for name, dtype in zip(frame.columns, dtypes, strict=True) if not _is_numeric(dtype)]
    if wrong:
        raise DatasetError(
            f"Not all columns are numeric: {_some(wrong)}.",
            cure="Drop them, or turn them into numbers in training_data (pandas.get_dummies, OneHotEncoder).",
        )
    if len({str(dtype) for dtype in dtypes}) == 1 and isinstance(dtypes[0], np.dtype):
        return np.asarray(frame.to_numpy())
    # by place, as names may occur twice
    return np.column_stack([_floats(frame.iloc[:, place]) for place in range(len(dtypes))])


def _is_numeric(dtype: Any) -> bool:
    return str(getattr(dtype, "kind", "O")) in "biuf"


def _floats(series: Any) -> Array:
    """A pandas column as float64, whatever pandas keeps it in; what is missing becomes NaN."""
    return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))


def _require_numbers(array: Array, dataset: Any) -> None:
    if array.dtype.kind not in "biuf":
        raise DatasetError(
            f"The {type(dataset).__name__} holds {_content(array)}, not numbers.",
            cure="Turn it into numbers in training_data.",
        )


def _content(array: Array) -> str:
    """What an array holds that is no numbers. None of the values: an error leaves the node."""
    is_text = array.dtype.kind in "UST" or any(isinstance(value, str) for value in array.flat)
    return "text" if is_text else str(array.dtype)


def _missing(counts: Any, names: list[str] | None) -> DatasetError:
    """The error about values that are NaN or infinite; ``counts`` is how many each column has."""
    bad = np.flatnonzero(np.asarray(counts))
    told = [f"{names[i] if names else i} ({int(counts[i])})" for i in bad.tolist()]
    return DatasetError(
        f"Values are missing or not finite in {len(bad)} column{'s' if len(bad) > 1 else ''}: {_some(told)}.",
        cure="Drop these rows, or fill them in training_data with values that are the same at all nodes.",
    )


def _some(names: list[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f", and {rest} more" if rest > 0 else "")


# targets and weights -----------------------------------------------------------------------------------------


def _column(values: Any, what: str, cure: str) -> Array:
    """One finite number per sample, of shape ``(samples,)``; ``cure`` is for what is no numbers."""
    if hasattr(values, "iloc") and getattr(values, "ndim", 1) == 2 and values.shape[1] == 1:
        values = values.iloc[:, 0]
    if isinstance(values, np.ma.MaskedArray) and _is_numeric(values.dtype):
        values = np.ma.filled(values.astype(np.float64), np.nan)
    if _is_numeric(getattr(values, "dtype", None)) and hasattr(values, "iloc"):
        array = values.to_numpy() if isinstance(values.dtype, np.dtype) else _floats(values)
    else:
        array = np.asarray(values.to_numpy() if hasattr(values, "to_numpy") else values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        hint = "One-hot labels become class numbers by target.argmax(1)." if array.ndim == 2 else "Give an array."
        raise DatasetError(f"The {what} has shape {array.shape}, but there must be one per sample.", cure=hint)
    if array.dtype.kind == "O":
        with suppress(TypeError, ValueError):  # numbers in a column that could hold anything
            array = array.astype(np.float64)
    if array.dtype.kind not in "biuf":
        raise DatasetError(f"The {what} holds {_content(array)}, not numbers.", cure=cure)
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise DatasetError(
            f"The {what} is missing or not finite in {bad.size} of {len(array)} samples (first: row {bad[0]}).",
            cure="Drop these rows in training_data.",
        )
    return array


def _weights(values: Any, count: int) -> Array:
    weights = _column(values, "sample_weight", "Give an array with a number for each sample.").astype(np.float64)
    if len(weights) != count:
        raise DatasetError(
            f"The data has {count} samples, sample_weight {len(weights)}.", cure="Give one weight per sample."
        )
    if (weights < 0).any():
        raise DatasetError(f"sample_weight has the negative value {weights.min():g}.", cure="Weights are 0 or more.")
    return weights


def _at(values: Array | None, rows: Any) -> Array | None:
    return None if values is None else values[rows]
