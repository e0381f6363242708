"""Data sets of type ``parquet``: a table in Apache Parquet, of which only the columns that are wanted are read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from fedplug.core.dataset_type import DatasetRecord, DatasetType, FileDataset, Inspection, check_columns
from fedplug.core.errors import DatasetError
from fedplug.core.params import Array
from fedplug.node.datasets.extras import library
from fedplug.node.datasets.paths import open_regular
from fedplug.node.datasets.table_reader import WIDE_TEXT, missing_in

MAX_CELLS = 2**28
"""Cells of the columns that are read, at most: 2 GiB of numbers, as all of them are held in memory."""


class ParquetDataset(FileDataset):
    """A table; ``column(name)`` is one of its columns, ``table()`` the numeric ones side by side."""

    def _read(self) -> dict[str, Array]:
        found, _ = _read(self.path, self.label, self.record.sources)
        dtypes = {name: _dtype(values) for name, values in found.items()}
        self._check_dtypes(dtypes, dict.fromkeys(found, 1))
        return found


class ParquetType(DatasetType):
    """Parquet files whose columns are numbers, truth values or text; others (dates, lists) are left out."""

    name = "parquet"
    title = "A table in Apache Parquet"
    suffixes = (".parquet", ".pq")

    def inspect(self, path: Path, label: str, columns: Sequence[str] | None, options: Mapping[str, str]) -> Inspection:
        """As `DatasetType.inspect`."""
        found, left_out = _read(path, label, columns)
        names = tuple(found)
        notes = tuple(f"Column {name!r} is left out: plans cannot use {kind}." for name, kind in left_out.items())
        missing = {name: missing_in(values) for name, values in found.items()}
        rows = len(next(iter(found.values())))
        return Inspection((rows, len(names)), names, tuple(map(_dtype, found.values())), notes, missing)

    def open(self, record: DatasetRecord) -> ParquetDataset:
        """As `DatasetType.open`."""
        return ParquetDataset(record)

    def example(self, folder: Path) -> Path:
        """As `DatasetType.example`."""
        arrow, parquet = library("pyarrow", "parquet"), library("pyarrow.parquet", "parquet")
        path = folder / "wards.parquet"
        parquet.write_table(
            arrow.table({"age": [61, 47, None], "size": [1.5, 2.0, 2.25], "sex": ["f", "m", "f"]}), path
        )
        return path


def _read(path: Path, label: str, wanted: Sequence[str] | None) -> tuple[dict[str, Array], dict[str, str]]:
    """Columns by name, and the kinds of those that are left out because plans cannot use them.

    Raises:
        DatasetError: It is no Parquet file, broken, too large, or lacks a column.
    """
    arrow, parquet = library("pyarrow", "parquet"), library("pyarrow.parquet", "parquet")
    try:
        with os.fdopen(open_regular(path.resolve()), "rb") as file:
            return _columns(arrow, parquet, file, label, wanted)
    except (arrow.ArrowException, ValueError, OverflowError, MemoryError, EOFError) as error:
        reason = " ".join(str(error).split())[:200].replace(str(path), "the file")
        raise DatasetError(f"{label} cannot be read as Parquet: {reason}.", cure="Export it again.") from None
    except OSError as error:
        reason = error.strerror or "the file is damaged"
        raise DatasetError(f"{label} cannot be read: {reason}.") from None


def _columns(
    arrow: Any, parquet: Any, file: IO[bytes], label: str, wanted: Sequence[str] | None
) -> tuple[dict[str, Array], dict[str, str]]:
    table = parquet.ParquetFile(file)
    schema, rows = table.schema_arrow, int(table.metadata.num_rows)
    names = list(schema.names)
    check_columns(label, "column", names, names if wanted is None else wanted)
    kinds = {name: schema.field(name).type for name in (names if wanted is None else wanted)}
    useless = {name: str(kind) for name, kind in kinds.items() if not _usable(arrow.types, kind)}
    if wanted is not None and useless:
        name, kind = next(iter(useless.items()))
        raise DatasetError(f"{label}: column {name!r} holds {kind}, which plans cannot use.", cure="Leave it out.")
    picked = [name for name in kinds if name not in useless]
    if not picked:
        raise DatasetError(f"{label} has no column that plans can use.", cure="Numbers, truth values and text are.")
    if not rows:
        raise DatasetError(f"{label} has columns but no rows.")
    if rows * len(picked) > MAX_CELLS:
        raise DatasetError(
            f"{label} has {rows:,} rows of {len(picked):,} columns, which is more than {MAX_CELLS:,} cells.",
            cure="Choose fewer columns (--columns), or split it.",
        )
    # Dots in names would select columns inside of others, so columns are taken by their names one by one.
    read = table.read(columns=picked)
    return {name: _array(arrow, read.column(name)) for name in picked}, useless


def _usable(types: Any, kind: Any) -> bool:
    if types.is_dictionary(kind):
        kind = kind.value_type
    tests = ("boolean", "integer", "floating", "decimal", "string", "large_string")
    return any(getattr(types, f"is_{test}")(kind) for test in tests)


def _array(arrow: Any, column: Any) -> Array:
    types, kind = arrow.types, column.type
    if types.is_dictionary(kind):
        kind = kind.value_type
        column = column.cast(kind)
    if types.is_string(kind) or types.is_large_string(kind):
        cells = ["" if cell is None else cell for cell in column.to_pylist()]
        return np.array(cells, dtype=str if max(map(len, cells), default=0) <= WIDE_TEXT else object)
    if types.is_boolean(kind) and not column.null_count:
        return np.array(column.to_numpy())
    if types.is_integer(kind) and not column.null_count:
        return np.array(column.cast(arrow.int64()).to_numpy())
    if types.is_boolean(kind) or types.is_integer(kind):
        column = column.cast(arrow.int64()).cast(arrow.float64(), safe=False)
    return np.array(column.cast(arrow.float64(), safe=False).to_numpy(), dtype=np.float64)


def _dtype(values: Array) -> str:
    return "str" if values.dtype.kind in "UO" else values.dtype.name
