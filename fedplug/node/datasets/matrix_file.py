"""Reading a matrix of numbers with names on both sides: an expression table, samples by genes or genes by samples."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np

from fedplug.core.errors import DatasetError
from fedplug.core.params import Array
from fedplug.node.datasets.folders import Folder
from fedplug.node.datasets.table_reader import MISSING
from fedplug.node.datasets.unpacked import Unpacked

MAX_LINE = 2**26
"""Longest line in bytes."""

MAX_CELLS = 2**31
"""Most numbers of a table."""

_CHUNK = 2**20


@dataclass(frozen=True)
class Matrix:
    """A table of numbers.

    Attributes:
        rows: The names in the first column.
        columns: The names in the header.
        values: float32 of shape ``(rows, columns)``; NaN where a cell says that there is no value.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: Array

    def turned(self) -> Matrix:
        """With rows and columns exchanged."""
        return Matrix(self.columns, self.rows, np.ascontiguousarray(self.values.T))


def read_matrix(folder: Folder, path: PurePath, what: str) -> Matrix:
    """Read a table of numbers, which gzip may have packed.

    The first row names the columns, the first cell of each row names it. As R writes it, the header may lack the name
    of the first column. Cells are separated by tabs, commas or semicolons.

    Args:
        folder: The folder of the data set.
        path: The file, one in it; UTF-8.
        what: How messages call it.

    Raises:
        DatasetError: It cannot be read, a row has too few or too many cells, a cell is no number, or a name occurs
            twice.
    """
    lines = _lines(folder, path, what)
    first = next(lines, "")
    delimiter = max("\t,;", key=first.count)
    rows = csv.reader(_chain(first, lines), delimiter=delimiter, strict=True)
    try:
        header, names, values = _read(rows, what)
    except csv.Error as error:
        raise DatasetError(f"{what} is broken near line {rows.line_num}: {error}.") from None
    for kind, found in (("row", names), ("column", header)):
        if len(set(found)) < len(found):
            seen: set[str] = set()
            twice = next(name for name in found if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise DatasetError(f"{what} has two {kind}s called {twice[:100]!r}.", cure="Give each a name of its own.")
    return Matrix(tuple(names), tuple(header), np.array(values, np.float32))


def _read(rows: Iterator[list[str]], what: str) -> tuple[list[str], list[str], list[Array]]:
    header = next(rows, [])
    names: list[str] = []
    values: list[Array] = []
    for number, cells in enumerate(rows, 2):
        if not cells:
            continue
        if not values and len(cells) == len(header) + 1:
            header = ["", *header]
        if len(cells) != len(header) or len(cells) < 2:
            raise DatasetError(
                f"{what}: row {number} has {len(cells)} cells, but the header names {len(header)} columns."
            )
        if (len(names) + 1) * len(header) > MAX_CELLS:
            raise DatasetError(f"{what} holds more than {MAX_CELLS:,} numbers.")
        names.append(cells[0].strip())
        values.append(_numbers(cells[1:], f"{what}: row {number}"))
    if not values:
        raise DatasetError(f"{what} has no rows of numbers.")
    return [name.strip() for name in header[1:]], names, values


def _numbers(cells: list[str], what: str) -> Array:
    if "_" not in "".join(cells):  # 1_0 is ten to Python, and to nobody else
        with suppress(ValueError):
            return np.array(cells, np.float32)
    found = np.empty(len(cells), np.float32)
    for place, cell in enumerate(cells):
        text = cell.strip()
        try:
            found[place] = np.nan if text in MISSING else float(text.replace("_", "x"))
        except ValueError:
            raise DatasetError(f"{what} holds text in its cell {place + 2}, but must hold numbers.") from None
    return found


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _lines(folder: Folder, path: PurePath, what: str) -> Iterator[str]:
    """The lines of a text, none of which is longer than it may be."""
    with folder.open(path, what) as file:
        stream = Unpacked(file, what)
        rest, number = b"", 0
        while chunk := stream.read(_CHUNK):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                number += 1
                yield _text(line, number, what) + "\n"
            if len(rest) > MAX_LINE:
                raise DatasetError(f"{what}: line {number + 1} is longer than {MAX_LINE:,} bytes.")
        if rest:
            yield _text(rest, number + 1, what)


def _text(line: bytes, number: int, what: str) -> str:
    if b"\0" in line:
        raise DatasetError(f"{what} is no text: line {number} holds a zero byte.")
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        raise DatasetError(f"{what}: line {number} is not UTF-8.", cure="Save it as UTF-8.") from None
