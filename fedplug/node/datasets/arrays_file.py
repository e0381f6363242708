"""Data sets of type ``arrays``: NumPy arrays in an ``.npz`` file, samples along the first axis."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fedplug.core.dataset_type import DatasetRecord, DatasetType, FileDataset, Inspection, check_columns
from fedplug.core.errors import DatasetError
from fedplug.core.params import Array


class ArraysDataset(FileDataset):
    """Named arrays; ``column(name)`` is one of them."""

    def _read(self) -> dict[str, Array]:
        return _load(self.path, self.label, self.record.sources)


class ArraysType(DatasetType):
    """Arrays saved by ``numpy.savez`` that have one length along their first axis."""

    name = "arrays"
    title = "Arrays of NumPy"
    suffixes = (".npz",)

    def inspect(self, path: Path, label: str, columns: Sequence[str] | None, options: Mapping[str, str]) -> Inspection:
        """As `DatasetType.inspect`."""
        arrays = _load(path, label, columns)
        largest = max(arrays.values(), key=lambda array: array.size)
        missing = {name: int(np.isnan(array).sum()) for name, array in arrays.items() if array.dtype.kind in "fc"}
        dtypes = tuple(_dtype_text(array) for array in arrays.values())
        return Inspection(largest.shape, tuple(arrays), dtypes, missing=missing)

    def open(self, record: DatasetRecord) -> ArraysDataset:
        """As `DatasetType.open`."""
        return ArraysDataset(record)

    def example(self, folder: Path) -> Path:
        """As `DatasetType.example`."""
        path = folder / "scans.npz"
        np.savez(path, x=np.arange(12.0, dtype=np.float32).reshape(3, 2, 2), y=np.array([0, 1, 0]))
        return path


def _load(path: Path, label: str, wanted: Sequence[str] | None) -> dict[str, Array]:
    """Load arrays from an ``.npz`` file without ever unpickling.

    Raises:
        DatasetError: It is not such a file, holds Python objects, or its arrays have different lengths.
    """
    cure = "Save it with numpy.savez(path, x=features, y=labels)."
    try:
        if not zipfile.is_zipfile(path):
            raise DatasetError(f"{label} is not a NumPy .npz file.", cure=cure)
        with np.load(path, allow_pickle=False) as file:
            check_columns(label, "array", file.files, wanted or ())
            arrays = {name: _checked(label, name, file[name]) for name in (wanted or file.files)}
    except OSError as error:
        raise DatasetError(f"{label} cannot be read: {error.strerror or error}.") from None
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError, MemoryError) as error:
        reason = str(error)
        if "allow_pickle" in reason or "Object arrays" in reason:
            reason = "it holds Python objects, which are never loaded"
        raise DatasetError(f"{label} cannot be read as .npz: {reason}.", cure=cure) from None
    if not arrays:
        raise DatasetError(f"{label} holds no arrays.", cure=cure)
    lengths = {name: array.shape[0] for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DatasetError(
            f"{label}: its arrays differ in their number of samples ({listed}).",
            cure="All arrays must have one row per sample, in the same order.",
        )
    if not next(iter(lengths.values())):
        raise DatasetError(f"{label} has arrays but no samples.")
    return arrays


def _checked(label: str, name: str, array: object) -> Array:
    if not isinstance(array, np.ndarray):
        raise DatasetError(f"{label}: {name!r} is not a NumPy array.")
    if array.ndim == 0:
        raise DatasetError(f"{label}: array {name!r} is a single value.", cure="Samples must lie along the first axis.")
    if array.dtype.kind not in "biufcUS":
        raise DatasetError(f"{label}: array {name!r} has dtype {array.dtype}, which plans cannot use.")
    return array


def _dtype_text(array: Array) -> str:
    """E.g. ``float32`` for a vector, ``float32[8,8]`` for samples of 8 by 8."""
    base = "str" if array.dtype.kind in "US" else array.dtype.name
    inner = ",".join(map(str, array.shape[1:]))
    return f"{base}[{inner}]" if inner and math.prod(array.shape) else base
