"""Types of data sets: how files or folders of one kind are checked, described and opened at a node.

A plugin adds types with the hook ``fedplug_register_dataset_types``. A type sees the names that stand in the files;
names that plans use instead (the owner's mapping) are put in their place around it.

- Data that fit into memory, such as a table, derive from `FileDataset`: one method reads all of it, once.
- Data that are read sample by sample, such as a folder of images, derive from `StoredDataset` and say how many samples
  there are and how one is read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Literal

import msgspec

from fedplug.core.dataset_option import DatasetOption
from fedplug.core.errors import DatasetError
from fedplug.core.messages import DatasetCard
from fedplug.core.node_dataset import NodeDataset
from fedplug.core.params import Array

TABLES = frozenset({"csv", "parquet", "arrays"})
"""Types of data sets in which a row is a sample. Of a folder, a plan may make several samples a file."""


def most_samples(type: str, shape: tuple[int, ...]) -> int | None:
    """How many samples a training can have seen of a data set; None if only its plan knows."""
    return shape[0] if type in TABLES and shape else None


class DatasetRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A registered data set, as it stands in the node's store.

    Attributes:
        dataset_id: Unique; made when the data set is added, and anew when its owner accepts changed files.
        name: Unique on the node.
        type: Name of the type that reads it, e.g. ``"csv"``.
        path: Absolute path of the file or folder. It never leaves the node.
        tags: Words under which researchers find it.
        target: Column or array that is to be predicted, as plans call it; empty if its owner named none.
        description: Free text for researchers.
        shape: Of the whole table or the largest array; the number of samples comes first.
        columns: What plans may see, by the names that they use: columns, arrays, modalities.
        dtypes: Their types, in the same order.
        missing: Number of missing values by column, for those that have any. It never leaves the node.
        mapping: Names that plans use → names in the files, where they differ.
        options: What the owner told the type, as its `DatasetType.options` allow.
        more_paths: Absolute paths of files beside ``path`` that belong to it, e.g. a table of patients.
        size: Size in bytes when it was checked; of a folder, that of all its files.
        mtime_ns: Time of its last change then, in nanoseconds; of a folder, that of its newest file.
        stamp: What the file system said of it then: cheap to look at again. See `fedplug.node.datasets.fingerprint`.
        fingerprint: SHA-256 of its content, as ``"sha256:..."``; empty for one added before there were fingerprints.
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
    missing: dict[str, int] = {}
    mapping: dict[str, str] = {}
    options: dict[str, str] = {}
    more_paths: tuple[str, ...] = ()
    size: int = 0
    mtime_ns: int = 0
    stamp: str = ""
    fingerprint: str = ""
    added: str = ""

    def card(self) -> DatasetCard:
        """What a researcher may know: no path, no row, no name that only the files have."""
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

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"Data set {self.name!r}"

    @property
    def paths(self) -> tuple[Path, ...]:
        """Everything that it consists of: files, and folders with all that is in them."""
        return (Path(self.path), *map(Path, self.more_paths))

    def source(self, name: str) -> str:
        """The name in the files of what plans call ``name``."""
        return self.mapping.get(name, name)

    @property
    def sources(self) -> tuple[str, ...]:
        """The names in the files of `columns`, in the same order."""
        return tuple(map(self.source, self.columns))


@dataclass(frozen=True)
class Inspection:
    """What a type found out about files that are to be added. All names are those of the files.

    Attributes:
        shape: Of the whole table or the largest array; the number of samples comes first.
        columns: Names of the columns, arrays or modalities.
        dtypes: Their types, in the same order, e.g. ``"float64"``, or ``"float32[8,8]"`` for samples of 8 by 8.
        notes: Sentences for the owner, e.g. why a column is text.
        missing: Number of missing values by column; those that have none may be left out.
        target: What is to be predicted unless the owner says otherwise; empty if the files do not tell.
        more_paths: Files beside the path that belong to the data set, absolute, e.g. a table named in the options.
    """

    shape: tuple[int, ...]
    columns: tuple[str, ...]
    dtypes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    missing: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    target: str = ""
    more_paths: tuple[Path, ...] = ()


class DatasetType(ABC):
    """A kind of file or folder that a node can hold. Made without arguments; it keeps nothing between calls.

    Messages of its errors name the data set by the label that it is given, never a path: some travel to researchers.
    """

    name: ClassVar[str]
    """As owners write it, e.g. ``"csv"``; also the name of its `Component`."""

    title: ClassVar[str] = ""
    """What it is, in a few words, for lists to choose from."""

    takes: ClassVar[Literal["file", "folder", "both"]] = "file"
    """What its path must lead to."""

    suffixes: ClassVar[tuple[str, ...]] = ()
    """Endings of names, in lower case with the dot, by which its files are known."""

    options: ClassVar[Mapping[str, DatasetOption]] = MappingProxyType({})
    """What owners may tell it, by name (``--option name=value``)."""

    def fits(self, path: Path) -> bool:
        """Whether a path looks like one of this type; asked if the owner names no type. Cheap: no file is read."""
        if self.takes == "folder" or not self.suffixes or path.is_dir():
            return False
        return path.name.lower().endswith(self.suffixes)

    @abstractmethod
    def inspect(self, path: Path, label: str, columns: Sequence[str] | None, options: Mapping[str, str]) -> Inspection:
        """Read and check files that are to be added.

        Args:
            path: A regular file or a folder, as `takes` says, without links in it; readable.
            label: What to call the data set in messages, e.g. ``"Data set 'wards'"``.
            columns: The columns, arrays or modalities to use; all by default.
            options: Values by name, of those in `options`.

        Raises:
            DatasetError: It is not of this type, broken, or lacks a column.
            UsageError: An option cannot be used.
        """

    def names_here(self, path: Path, label: str, option: str) -> Sequence[str]:
        """The names in the files that a loading plan may give other names; cheap: no sample is read.

        Args:
            path: As for `inspect`.
            label: As for `inspect`.
            option: One of `options`, with `DatasetOption.renames`.

        Raises:
            DatasetError: The files are not of this type.
        """
        return ()

    @abstractmethod
    def open(self, record: DatasetRecord) -> StoredDataset:
        """The data set of a record. Nothing is read yet."""

    def example(self, folder: Path) -> Path:
        """Write a small data set of this type, for ``fedplug plugins check``.

        Args:
            folder: An empty folder to write into.

        Returns:
            The path that an owner would add.
        """
        raise NotImplementedError(f"{type(self).__name__} lacks example(folder), so that it cannot be tested.")


class StoredDataset(NodeDataset):
    """A data set in files of the node: what those that fit into memory and those that do not have in common.

    Derive from it to read sample by sample: implement ``__len__`` and ``read``.

    Args:
        record: As it stands in the node's store.
    """

    def __init__(self, record: DatasetRecord) -> None:
        self.record = record
        self.path = Path(record.path)
        self.type = record.type
        self.name = record.name
        self.target = record.target

    @property
    def label(self) -> str:
        """How messages call this data set."""
        return self.record.label

    def prepare(self) -> None:
        """Read what every plan needs, all of a file, or of a folder the list of its samples: so mistakes show early.

        Raises:
            DatasetError: The files are gone, broken, or lack something that they had when they were added.
        """


class FileDataset(StoredDataset):
    """A data set that fits into memory: read on first use and then kept.

    What it returns cannot be written to: it serves all rounds, and a plan that changed it would change the
    outcome of later ones.
    """

    _arrays: Mapping[str, Array] | None = None

    def arrays(self) -> Mapping[str, Array]:
        """All columns or arrays by the names that plans use, read-only.

        Raises:
            DatasetError: The file is gone, broken, or has lost a column since it was added.
        """
        if self._arrays is None:
            found = self._read()
            named = {name: found[self.record.source(name)] for name in self.record.columns}
            for array in named.values():
                array.flags.writeable = False
            self._arrays = MappingProxyType(named)
        return self._arrays

    def prepare(self) -> None:
        """As `StoredDataset.prepare`."""
        self.arrays()

    @abstractmethod
    def _read(self) -> dict[str, Array]:
        """Read the file: at least `DatasetRecord.sources`, by the names in the file, or a `DatasetError`."""

    def _check_dtypes(self, found: Mapping[str, str], rows: Mapping[str, int]) -> None:
        """Refuse a column that was numbers when the data set was added and is not any more.

        Args:
            found: Types by the names in the file.
            rows: The row that makes a column text, by the same names.
        """
        for name, before in zip(self.record.columns, self.record.dtypes, strict=True):
            source = self.record.source(name)
            if before != "str" and found[source] == "str":
                raise DatasetError(
                    f"Column {name!r} of data set {self.name!r} held numbers when it was added; "
                    f"now row {rows[source]} holds text.",
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
