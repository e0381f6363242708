"""Data sets of type ``csv``: a table with a header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from fedplug.core.dataset_option import DatasetOption
from fedplug.core.dataset_type import DatasetRecord, DatasetType, FileDataset, Inspection
from fedplug.core.errors import DatasetError, UsageError
from fedplug.core.params import Array
from fedplug.node.datasets.table_reader import MAX_BYTES, missing_in, read_table


class CsvDataset(FileDataset):
    """A table; ``column(name)`` is one of its columns, ``table()`` the numeric ones side by side."""

    _text_rows: dict[str, int]

    def table(self, columns: Sequence[str] | None = None, *, without: Sequence[str] = ()) -> Array:
        """As `NodeDataset.table`; the refusal of a text column names the row that makes it one.

        Raises:
            DatasetError: A column does not exist or is not numeric.
        """
        arrays = self.arrays()
        for name in arrays if columns is None else columns:
            row = self._text_rows.get(self.record.source(name))
            if row is not None and name not in without:
                raise DatasetError(
                    f"Column {name!r} of data set {self.name!r} is not numeric: row {row} holds text.",
                    cure="Leave it out (without=...), or turn it into numbers in training_data.",
                )
        return super().table(columns, without=without)

    def _read(self) -> dict[str, Array]:
        table = read_table(self.path, self.label, self.record.sources, _max_bytes(self.record.options))
        self._text_rows = table.text_rows
        self._check_dtypes(table.dtypes, table.text_rows)
        return table.columns


class CsvType(DatasetType):
    """Comma-separated values (also semicolons or tabs) in UTF-8, the first row naming the columns."""

    name = "csv"
    title = "A table in a text file"
    suffixes = (".csv", ".tsv", ".txt")
    options = MappingProxyType(
        {"max_mib": DatasetOption("Largest file that is read, in MiB", "2048 without it.", rare=True)}
    )

    def inspect(self, path: Path, label: str, columns: Sequence[str] | None, options: Mapping[str, str]) -> Inspection:
        """As `DatasetType.inspect`."""
        table = read_table(path, label, columns, _max_bytes(options))
        names = tuple(table.columns) if columns is None else tuple(columns)
        notes = tuple(
            f"Column {name!r} is text: row {table.text_rows[name]} is not a number."
            for name in names
            if name in table.text_rows
        )
        dtypes = tuple(table.dtypes[name] for name in names)
        missing = {name: missing_in(table.columns[name]) for name in names}
        return Inspection((table.rows, len(names)), names, dtypes, notes, missing)

    def open(self, record: DatasetRecord) -> CsvDataset:
        """As `DatasetType.open`."""
        return CsvDataset(record)

    def example(self, folder: Path) -> Path:
        """As `DatasetType.example`."""
        path = folder / "wards.csv"
        path.write_text("age,sex,size\n61,f,1.5\n47,m,\n35,f,2.25\n", encoding="utf-8")
        return path


def _max_bytes(options: Mapping[str, str]) -> int:
    given = options.get("max_mib")
    if given is None:
        return MAX_BYTES
    if not (given.isascii() and given.isdigit() and 0 < int(given) < 2**30):
        raise UsageError(f"max_mib must be a whole number of MiB, got {given!r}.", cure="E.g. --option max_mib=8192")
    return int(given) << 20
