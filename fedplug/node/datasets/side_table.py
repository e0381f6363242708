"""The table beside the samples of a folder: demographics of subjects, labels of recordings, what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np

from fedplug.core.errors import DatasetError
from fedplug.core.params import Array
from fedplug.node.datasets.folders import Folder
from fedplug.node.datasets.table_reader import MISSING, read_table

SUFFIXES = (".csv", ".tsv")

_INDEXES = ("participant_id", "subject_id", "subject", "sample_id", "sample", "record", "record_name", "id")
"""Columns that are taken for the names of samples, if their owner says nothing."""


@dataclass(frozen=True)
class SideTable:
    """What a table says about the samples of a folder.

    Attributes:
        index: The column with their names.
        columns: The others, each with one value per row.
        dtypes: ``"int64"``, ``"float64"`` or ``"str"`` of each.
        places: The row of each name.
        numbers: Whether the names have been read as numbers, so that 7 stands for 007.
    """

    index: str
    columns: Mapping[str, Array]
    dtypes: Mapping[str, str]
    places: Mapping[str, int]
    numbers: bool

    def has(self, column: str, row: int) -> bool:
        """Whether a row (-1: none) has a value in a column: a number, or text that is not empty."""
        if row < 0:
            return False
        value = self.columns[column][row]
        return bool(value == value) if self.columns[column].dtype.kind == "f" else str(value).strip() not in MISSING  # noqa: PLR0124 - NaN

    def rows_of(self, samples: Sequence[str]) -> Array:
        """The row of each sample, int64; -1 for those that the table does not have."""
        return np.array([self.places.get(_key(name) if self.numbers else name, -1) for name in samples], np.int64)


def find_table(folder: Folder, files: Sequence[PurePath], asked: str, usual: Sequence[str]) -> PurePath | None:
    """The table in a folder.

    Args:
        folder: The folder of the data set.
        files: The files in it.
        asked: Its name, if the owner said it.
        usual: Names that it is looked for under, without ending.

    Returns:
        The file; None if there is none and nobody asked for one.

    Raises:
        DatasetError: The one that was asked for is not there, or there are several.
    """
    if asked:
        if PurePath(asked) not in files:
            raise DatasetError(f"{folder.label} has no table {asked!r} in its folder.")
        return PurePath(asked)
    tables = [file for file in files if len(file.parts) == 1 and file.suffix.lower() in SUFFIXES]
    known = [file for file in tables if file.stem.lower() in usual]
    chosen = known or tables
    if len(chosen) > 1:
        names = ", ".join(repr(file.name) for file in chosen[:5]) if folder.for_owner else f"{len(chosen)} of them"
        raise DatasetError(f"{folder.label} has several tables in its folder: {names}.", cure="Say which one it is.")
    return chosen[0] if chosen else None


def read_side_table(folder: Folder, file: PurePath, index: str) -> SideTable:
    """Read a table that says something about the samples of a folder.

    Args:
        folder: The folder of the data set.
        file: The table.
        index: The column with the names of the samples; empty: a usual one, or the first.

    Raises:
        DatasetError: The table is broken, has no such column, or has two rows for one sample.
    """
    what = f"{folder.label}: its table {file.name!r}" if folder.for_owner else f"{folder.label}: its table"
    table = read_table(folder.root / file, what)
    names = list(table.columns)
    if index and index not in names:
        raise DatasetError(f"{what} has no column {index!r}.", cure=f"It has: {', '.join(names[:40])}.")
    index = index or next((name for name in names if name.lower() in _INDEXES), names[0])
    places: dict[str, int] = {}
    for row, key in enumerate(_keys(table.columns[index])):
        if key in places:
            said = f" for {key[:100]!r}" if folder.for_owner else ""
            raise DatasetError(
                f"{what} has two rows{said} (rows {places[key] + 2} and {row + 2}).", cure="Leave one row per sample."
            )
        places[key] = row
    rest = {name: values for name, values in table.columns.items() if name != index}
    dtypes = {name: table.dtypes[name] for name in rest}
    return SideTable(index, rest, dtypes, places, table.columns[index].dtype.kind in "if")


def matched_rows(folder: Folder, table: SideTable, samples: Sequence[str]) -> Array:
    """`SideTable.rows_of`, of which one at least must be there.

    Raises:
        DatasetError: The table has a row for none of the samples.
    """
    rows = table.rows_of(samples)
    if (rows < 0).all():
        raise DatasetError(
            f"{folder.label}: its table has no row for any sample: none of the values in column {table.index!r} is the "
            "name of one.",
            cure="Say which column holds the names, by the option 'index'.",
        )
    return rows


def _keys(values: Array) -> list[str]:
    return [_key(str(value)) if values.dtype.kind in "if" else str(value).strip() for value in values.tolist()]


def _key(name: str) -> str:
    """A name as a number where it is one: a table reader has made 7 of 007."""
    text = name.strip()
    return f"{float(text):.15g}" if text.replace(".", "", 1).isdecimal() and text.isascii() else text
