"""Reading a CSV file into one array per column: checked row by row, types inferred, without pandas.

A column is int64 if all its cells are whole numbers, float64 if they are numbers or missing (which become
NaN), and text otherwise. The file is read in chunks; should a column turn out to be text after numbers of it
have been read, the file is read once more, so that no cell is changed by being parsed.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from fedplug.core.dataset_type import check_columns
from fedplug.core.errors import DatasetError
from fedplug.core.params import Array
from fedplug.node.datasets.paths import open_regular

CHUNK = 16_384
"""Most rows that are parsed at a time."""

CHUNK_CHARACTERS = 1 << 24
"""Characters after which no more rows are read before those at hand are parsed, so that memory stays bounded."""

MAX_LINE = 1 << 22
"""Characters of one line, at most."""

MAX_COLUMNS = 100_000
"""Columns of a table, at most."""

MAX_BYTES = 2 * 2**30
"""Size of a file, at most, unless its owner says otherwise: all of its columns are held in memory."""

MISSING = frozenset({"", "NA", "N/A", "na", "n/a", "NaN", "nan", "NULL", "null", "None"})
"""Cells that mean "no value" in a column of numbers."""

WIDE_TEXT = 256
"""Longest cell, in characters, that a fixed-width text array holds; longer ones make an object array."""

_DELIMITERS = ",;\t|"


@dataclass
class Table:
    """A table by columns.

    Attributes:
        columns: Arrays by name, in the order of the file.
        dtypes: ``"int64"``, ``"float64"`` or ``"str"`` by name.
        rows: Number of rows, without the header.
        text_rows: For each text column the first row that made it one; the header is row 1.
    """

    columns: dict[str, Array]
    dtypes: dict[str, str]
    rows: int
    text_rows: dict[str, int]


def read_table(path: Path, label: str, wanted: Sequence[str] | None = None, max_bytes: int = MAX_BYTES) -> Table:
    """Read a CSV file.

    Args:
        path: The file; UTF-8, with a header; separated by commas, semicolons, tabs or bars.
        label: What to call the data set in messages. Messages never name the path.
        wanted: Columns to parse; all by default. All rows are checked in any case.
        max_bytes: Largest file that is read.

    Raises:
        DatasetError: The file cannot be read, is too large, has no header or no rows, a row has too few or too many
            cells, or a wanted column does not exist.
    """
    as_text: dict[str, int] = {}
    while True:
        columns, rows = _read_once(path, label, wanted, as_text, max_bytes)
        late = {c.name: c.text_row for c in columns if c.late}
        if not late:
            break
        as_text.update(late)
    if not rows:
        raise DatasetError(f"{label} has a header but no rows.")
    return Table(
        {c.name: c.array() for c in columns},
        {c.name: {"int": "int64", "float": "float64", "text": "str"}[c.kind] for c in columns},
        rows,
        {c.name: c.text_row for c in columns if c.kind == "text"},
    )


@dataclass
class _Column:
    name: str
    index: int
    kind: str = "int"
    text_row: int = 0
    late: bool = False
    parts: list[Any] = field(default_factory=list)

    def add(self, cells: list[str], numbers: Sequence[int]) -> None:
        if self.kind != "text":
            parsed = _numbers(cells, whole=self.kind == "int")
            if parsed is not None:
                self.kind = self.kind if parsed.dtype.kind == "i" else "float"
                self.parts.append(parsed)
                return
            self.late = bool(self.parts)
            self.kind = "text"
            self.text_row = numbers[_first_text(cells)]
        if not self.late:
            self.parts.append(cells)

    def array(self) -> Array:
        if self.kind == "text":
            cells = [cell for part in self.parts for cell in part]
            return np.array(cells, dtype=str if max(map(len, cells), default=0) <= WIDE_TEXT else object)
        joined: Array = np.concatenate(self.parts)
        return joined.astype(np.float64, copy=False) if self.kind == "float" else joined


def missing_in(values: Array) -> int:
    """How many cells of a column hold no value: NaN among numbers, the words of `MISSING` among text."""
    if values.dtype.kind == "f":
        return int(np.isnan(values).sum())
    if values.dtype.kind in "biu":
        return 0
    return sum(str(cell).strip() in MISSING for cell in values)


def _read_once(
    path: Path, label: str, wanted: Sequence[str] | None, as_text: dict[str, int], max_bytes: int
) -> tuple[list[_Column], int]:
    rows = 0
    number = 1
    try:
        with open(open_regular(path.resolve()), newline="", encoding="utf-8-sig") as file:
            _check_size(os.fstat(file.fileno()).st_size, label, max_bytes)
            lines = _Lines(file, label)
            reader = csv.reader(lines, delimiter=_delimiter(file), strict=True)
            header = _header(next(reader, []), label)
            names = header if wanted is None else [name for name in header if name in wanted]
            check_columns(label, "column", header, wanted or ())
            columns = [_Column(n, header.index(n), "text" if n in as_text else "int", as_text.get(n, 0)) for n in names]
            for chunk, numbers in _chunks(reader, lines, len(header), label):
                for column in columns:
                    column.add([row[column.index] for row in chunk], numbers)
                rows += len(chunk)
                number = numbers[-1]
    except UnicodeDecodeError:
        raise DatasetError(
            f"{label} is not a text file in UTF-8.", cure="Export the table as CSV with encoding UTF-8."
        ) from None
    except csv.Error as error:
        raise DatasetError(f"{label} is not valid CSV after row {number}: {error}.") from None
    except OSError as error:
        raise DatasetError(f"{label} cannot be read: {error.strerror}.") from None
    return columns, rows


class _Lines:
    """The lines of a file, each bounded, and how many characters were taken since `taken` was last set to 0."""

    def __init__(self, file: IO[str], label: str) -> None:
        self._file, self._label = file, label
        self._number = 0
        self.taken = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(MAX_LINE + 1)
        if not line:
            raise StopIteration
        self._number += 1
        if len(line) > MAX_LINE:
            raise DatasetError(
                f"{self._label}: line {self._number} is longer than {MAX_LINE:,} characters.",
                cure="This is hardly a table: check how it was exported, and that rows end with a line end.",
            )
        self.taken += len(line)
        return line


def _check_size(size: int, label: str, max_bytes: int) -> None:
    if size > max_bytes:
        raise DatasetError(
            f"{label} is {size / 2**20:,.0f} MiB large; tables of more than {max_bytes / 2**20:,.0f} MiB are not read, "
            "as all columns are held in memory.",
            cure="Split it, choose fewer rows, or allow more: --option max_mib=8192.",
        )


def _delimiter(file: IO[str]) -> str:
    """The separator that is most frequent in the first line; the comma if there is none."""
    first = file.readline(1 << 20)
    file.seek(0)
    return max(_DELIMITERS, key=lambda mark: (first.count(mark), mark == ","))


def _header(cells: list[str], label: str) -> list[str]:
    header = [cell.strip() for cell in cells]
    if not any(header):
        raise DatasetError(f"{label} is empty.", cure="The first row must name the columns.")
    if len(header) > MAX_COLUMNS:
        raise DatasetError(
            f"{label} has {len(header):,} columns; there may be {MAX_COLUMNS:,}.",
            cure="Is it transposed? Samples must be in rows.",
        )
    if "" in header:
        raise DatasetError(f"{label}: column {header.index('') + 1} has no name.", cure="Name it in the first row.")
    seen = set()
    for name in header:
        if name in seen:
            raise DatasetError(f"{label} has two columns named {name!r}.", cure="Give each column its own name.")
        seen.add(name)
    if _numbers(header, whole=False) is not None:
        raise DatasetError(
            f"{label} has no header: its first row holds only numbers.",
            cure="Insert a first row that names the columns.",
        )
    return header


def _chunks(
    reader: Iterator[list[str]], lines: _Lines, width: int, label: str
) -> Iterator[tuple[list[list[str]], Sequence[int]]]:
    """Rows of the right width with their numbers (the header is row 1); empty lines are left out."""
    first = 2
    while chunk := _some_rows(reader, lines):
        numbers: Sequence[int] = range(first, first + len(chunk))
        first += len(chunk)
        if set(map(len, chunk)) != {width}:
            full = [(row, number) for row, number in zip(chunk, numbers, strict=True) if row]
            for row, number in full:
                if len(row) != width:
                    raise DatasetError(
                        f"{label}: row {number} has {len(row)} cells, but the header has {width}.",
                        cure="Correct the row; a cell that contains the separator must stand in quotes.",
                    )
            chunk, numbers = [row for row, _ in full], [number for _, number in full]
        if chunk:
            yield chunk, numbers


def _some_rows(reader: Iterator[list[str]], lines: _Lines) -> list[list[str]]:
    """The next rows: as many as are parsed at a time, or fewer long ones."""
    lines.taken = 0
    rows: list[list[str]] = []
    for row in reader:
        rows.append(row)
        if len(rows) >= CHUNK or lines.taken >= CHUNK_CHARACTERS:
            break
    return rows


def _numbers(cells: list[str], *, whole: bool) -> Array | None:
    """Cells as int64 (if ``whole`` and possible) or float64; None if they are not all numbers or missing."""
    joined = "".join(cells)
    if "_" in joined or not joined.isascii():
        return None  # Python takes 1_000 and digits of other scripts for numbers; other programs do not
    if whole:
        try:
            return np.array(list(map(int, cells)), dtype=np.int64)
        except ValueError:
            pass
        except OverflowError:
            return None  # longer than 64 bits: an identifier, which float64 would change
    try:
        return np.array(list(map(float, cells)), dtype=np.float64)
    except ValueError:
        pass
    try:
        values = [float("nan") if cell.strip() in MISSING else float(cell) for cell in cells]
    except ValueError:
        return None
    return np.array(values, dtype=np.float64)


def _first_text(cells: list[str]) -> int:
    return next((i for i, cell in enumerate(cells) if _numbers([cell], whole=True) is None), 0)
