"""What all data sets of a node have in common: the record in the store, and reading on first use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import msgspec

from fedplug.core.errors import DatasetError
from fedplug.core.messages import DatasetCard
from fedplug.core.node_dataset import NodeDataset
from fedplug.core.params import Array


class DatasetRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A registered data set, as it stands in the node's store.

    Attributes:
        dataset_id: Unique; made when the data set is added.
        name: Unique on the node.
        type: Name of the type that reads it, e.g. ``"csv"``.
        path: Absolute path of the file. It never leaves the node.
        tags: Words under which researchers find it.
        target: Column or array that is to be predicted; empty if its owner named none.
        description: Free text for researchers.
        shape: Of the whole table or the largest array.
        columns: Columns or arrays that plans may see.
        dtypes: Their types, in the same order.
        size: Size of the file in bytes when it was checked.
        mtime_ns: Time of its last change then, in nanoseconds.
        added: When it was added (UTC, ISO 8601).
    """

    dataset_id: str
    name: str
    type: str
    path: str
    tags: tuple[str, ...]
    target: str = ""
    description: str = ""
    shape: tuple[int, ...] = ()
    columns: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    size: int = 0
    mtime_ns: int = 0
    added: str = ""

    def card(self) -> DatasetCard:
        """What a researcher may know: no path, no row."""
        return DatasetCard(
            dataset_id=self.dataset_id,
            name=self.name,
            type=self.type,
            tags=self.tags,
            shape=self.shape,
            description=self.description,
            columns=self.columns,
            dtypes=self.dtypes,
            target=self.target,
        )


@dataclass(frozen=True)
class Inspection:
    """What a type found out about a file that is to be added.

    Attributes:
        shape: Of the whole table or the largest array.
        columns: Names of the columns or arrays.
        dtypes: Their types, in the same order.
        notes: Sentences for the owner, e.g. why a column is text.
    """

    shape: tuple[int, ...]
    columns: tuple[str, ...]
    dtypes: tuple[str, ...]
    notes: tuple[str, ...] = ()


class DatasetType(ABC):
    """A kind of file that a node can hold."""

    name: str
    suffixes: tuple[str, ...]

    @abstractmethod
    def inspect(self, path: Path, label: str, columns: Sequence[str] | None) -> Inspection:
        """Read and check a file that is to be added.

        Args:
            path: A regular, readable file.
            label: What to call the data set in messages, e.g. ``"Data set 'wards'"``.
            columns: The columns or arrays to use; all by default.

        Raises:
            DatasetError: The file is not of this type, broken, or lacks a column.
        """

    @abstractmethod
    def open(self, record: DatasetRecord) -> FileDataset:
        """The data set of a record. Nothing is read yet."""


class FileDataset(NodeDataset):
    """A data set in a file, read on first use and then kept.

    What it returns cannot be written to: it serves all rounds, and a plan that changed it would change the
    outcome of later ones.
    """

    def __init__(self, record: DatasetRecord) -> None:
        self.record = record
        self.path = Path(record.path)
        self.type = record.type
        self.name = record.name
        self.target = record.target
        self._stamp = self._file_stamp()
        self._arrays: Mapping[str, Array] | None = None

    def arrays(self) -> Mapping[str, Array]:
        """All columns or arrays by name, read-only.

        Raises:
            DatasetError: The file is gone, broken, or has lost a column since it was added.
        """
        if self._arrays is None:
            found = self._read()
            for name in self.record.columns:
                found[name].flags.writeable = False
            self._arrays = MappingProxyType({name: found[name] for name in self.record.columns})
        return self._arrays

    @property
    def label(self) -> str:
        """How messages call this data set."""
        return f"Data set {self.name!r}"

    def is_fresh(self) -> bool:
        """Whether the file is still the one that was opened.

        Raises:
            DatasetError: The file is gone or cannot be looked at.
        """
        return self._file_stamp() == self._stamp

    @abstractmethod
    def _read(self) -> dict[str, Array]:
        """Read the file; at least the columns of the record, or a `DatasetError`."""

    def _file_stamp(self) -> tuple[int, int]:
        try:
            status = self.path.stat()
        except OSError as error:
            # This text travels to the researcher, so it must not name the path.
            raise DatasetError(
                f"The file of data set {self.name!r} cannot be opened: {error.strerror}.",
                cure="The node's owner sees where it should lie with: fedplug node dataset show " + repr(self.name),
            ) from None
        return status.st_size, status.st_mtime_ns

    def _check_dtypes(self, found: Mapping[str, str], rows: Mapping[str, int]) -> None:
        """Refuse a column that was numbers when the data set was added and is not any more."""
        for name, before in zip(self.record.columns, self.record.dtypes, strict=True):
            if before != "str" and found[name] == "str":
                raise DatasetError(
                    f"Column {name!r} of data set {self.name!r} held numbers when it was added; "
                    f"now row {rows[name]} holds text.",
                    cure="The node's owner should correct the file, or remove the data set and add it again.",
                )


def check_columns(label: str, kind: str, existing: Sequence[str], asked: Sequence[str]) -> None:
    """Check that all columns (or arrays) that are asked for exist, each asked for once.

    Raises:
        DatasetError: One does not; the existing ones are listed.
    """
    missing = [name for name in asked if name not in existing]
    if missing:
        listed = ", ".join(existing[:40]) + (f" and {len(existing) - 40} more" if len(existing) > 40 else "")
        raise DatasetError(f"{label} has no {kind} {missing[0]!r}.", cure=f"It has: {listed}.")
    twice = [name for name in asked if list(asked).count(name) > 1]
    if twice:
        raise DatasetError(f"{label}: {kind} {twice[0]!r} is asked for twice.", cure="Name each column once.")
