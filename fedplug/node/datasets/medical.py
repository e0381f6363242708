"""Data sets of type ``medical``: a folder per subject with a NIfTI volume per modality, and a table of demographics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from fedplug.core.dataset_option import DatasetOption
from fedplug.core.dataset_type import DatasetRecord, DatasetType, Inspection, StoredDataset, check_columns
from fedplug.core.errors import DatasetError
from fedplug.core.params import Array
from fedplug.node.datasets.extras import library
from fedplug.node.datasets.folders import Folder
from fedplug.node.datasets.loading_plan import loading_plan
from fedplug.node.datasets.nifti import Volume
from fedplug.node.datasets.side_table import SideTable, find_table, matched_rows, read_side_table
from fedplug.node.datasets.subjects import (
    Subject,
    check_subjects,
    list_subjects,
    missing_notes,
    modalities_of,
    read_modality,
    some,
    volume_notes,
)

_TABLES = ("demographics", "participants")


class _Subjects:
    """The subjects of a folder, and the rows that its table has for them."""

    def __init__(self, folder: Folder, options: Mapping[str, str]) -> None:
        plan = loading_plan(options.get("modalities", ""), "modalities", folder.label)
        self.folder = folder
        self.subjects: list[Subject] = list_subjects(folder, plan)
        self.modalities = modalities_of(self.subjects)
        self.table: SideTable | None = None
        self.rows: Array = np.full(len(self.subjects), -1, np.int64)
        file = find_table(folder, folder.files(), options.get("demographics", ""), _TABLES)
        if file is not None:
            self.table = read_side_table(folder, file, options.get("index", ""))
            self.rows = matched_rows(folder, self.table, [subject.name for subject in self.subjects])
            clash = next((name for name in self.table.columns if name in self.modalities), None)
            if clash is not None:
                raise DatasetError(f"{folder.label}: {clash!r} is both a modality and a column of its table.")

    @property
    def columns(self) -> tuple[str, ...]:
        """Modalities, then columns of the table."""
        return (*self.modalities, *(self.table.columns if self.table else ()))

    def has(self, number: int, name: str) -> bool:
        """Whether a subject has a modality, or a value in the table."""
        if name in self.modalities:
            return name in self.subjects[number].volumes
        return self.table is not None and self.table.has(name, int(self.rows[number]))

    def notes(self) -> list[str]:
        """What is missing, and rows that belong to nobody."""
        notes = missing_notes(self.subjects, self.modalities)
        if self.table is not None:
            without = [s.name for s, row in zip(self.subjects, self.rows.tolist(), strict=True) if row < 0]
            if without:
                count = f"{len(without)} of {len(self.subjects)} subjects"
                notes.append(f"{count} have no row in the table of demographics: {some(without)}.")
            extra = len(self.table.places) - int((self.rows >= 0).sum())
            if extra:
                notes.append(f"{extra} rows of the table of demographics belong to no subject.")
        return notes


class MedicalFolder(StoredDataset):
    """Subjects, read one by one: volumes of the modalities that are asked for, and what the table says of them."""

    ready = "MedicalFolderDataset"
    _found: _Subjects | None = None

    def __len__(self) -> int:
        return len(self._subjects.subjects)

    def having(self, names: Sequence[str]) -> Array:
        """The numbers of the subjects that have all of some modalities and columns, int64.

        Raises:
            DatasetError: There is no such modality or column.
        """
        check_columns(self.label, "modality or column", self.record.columns, names)
        sources = [self.record.source(name) for name in names]
        found = self._subjects
        return np.array([i for i in range(len(self)) if all(found.has(i, name) for name in sources)], np.int64)

    def read(self, index: int, names: Sequence[str] | None = None) -> Mapping[str, Any]:
        """One subject.

        Args:
            index: Its number.
            names: Modalities and columns; all that it has by default.

        Returns:
            Volumes by modality, as `read_volume` gives them, and values of the table by column.

        Raises:
            DatasetError: It does not have one of them, or a volume cannot be read.
            IndexError: There is none of that number.
        """
        self.check_index(index)
        found = self._subjects
        if names is None:
            names = [name for name in self.record.columns if found.has(index, self.record.source(name))]
        check_columns(self.label, "modality or column", self.record.columns, names)
        return {name: self._value(found, index, name) for name in names}

    def prepare(self) -> None:
        """List the subjects, and read the table."""
        self._found = _Subjects(Folder(self.path, self.label, for_owner=False), self.record.options)

    @property
    def _subjects(self) -> _Subjects:
        if self._found is None:
            self.prepare()
        assert self._found is not None
        return self._found

    def _value(self, found: _Subjects, index: int, name: str) -> Any:
        source = self.record.source(name)
        if not found.has(index, source):
            raise DatasetError(f"{self.label}: subject {index + 1} has no {name!r}.")
        if source in found.modalities:
            return read_modality(found.folder, found.subjects[index], source, index + 1)
        assert found.table is not None  # else it would have no such column
        return found.table.columns[source][found.rows[index]]


class MedicalType(DatasetType):
    """A folder per subject, and in it a folder or a file (.nii, .nii.gz) per modality."""

    name = "medical"
    title = "Medical images: a folder per subject, NIfTI per modality, demographics"
    takes = "folder"
    options = MappingProxyType(
        {
            "modalities": DatasetOption(
                "Modalities", "Where a subject has several of one name, the first counts.", renames="modality"
            ),
            "demographics": DatasetOption(
                "Table of demographics",
                "Its file in the folder. Without it: demographics.csv, participants.tsv, or the only table.",
            ),
            "index": DatasetOption(
                "Column with the names of the subjects' folders",
                "A column of that table. Without it: a usual one, such as subject or participant_id, or the first.",
            ),
        }
    )

    def inspect(self, path: Path, label: str, columns: Sequence[str] | None, options: Mapping[str, str]) -> Inspection:
        """As `DatasetType.inspect`: every volume is checked, packed ones to their end."""
        folder = Folder(path, label)
        found = _Subjects(folder, options)
        names = tuple(columns or found.columns)
        check_columns(label, "modality or column", found.columns, names)
        volumes = check_subjects(folder, found.subjects)
        dtypes = {name: volume_type(each) for name, each in volumes.items()}
        dtypes |= found.table.dtypes if found.table else {}
        count = len(found.subjects)
        missing = {name: sum(not found.has(number, name) for number in range(count)) for name in names}
        return Inspection(
            (count, len(names)),
            names,
            tuple(dtypes[name] for name in names),
            (*found.notes(), *volume_notes({name: volumes[name] for name in names if name in volumes})),
            missing,
        )

    def names_here(self, path: Path, label: str, option: str) -> Sequence[str]:
        """As `DatasetType.names_here`: the modalities."""
        return modalities_of(list_subjects(Folder(path, label), {}))

    def open(self, record: DatasetRecord) -> MedicalFolder:
        """As `DatasetType.open`."""
        return MedicalFolder(record)

    def example(self, folder: Path) -> Path:
        """As `DatasetType.example`: four subjects with one modality."""
        nifti = library("nibabel", "medical")
        lines = ["subject,age"]
        for number in range(4):
            (folder / f"s{number}").mkdir()
            voxels = np.full((3, 3, 2), number, np.int16)
            nifti.save(nifti.Nifti1Image(voxels, np.eye(4)), folder / f"s{number}" / "T1.nii.gz")
            lines.append(f"s{number},{40 + number}")
        (folder / "demographics.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return folder


def volume_type(volumes: Sequence[Volume]) -> str:
    """The dtype of the values of a modality, with the shape where all have one: ``float32[64,64,32]``."""
    types, shapes = {volume.value_type for volume in volumes}, {volume.shape for volume in volumes}
    dtype = types.pop() if len(types) == 1 else "float32"
    return f"{dtype}[{','.join(map(str, shapes.pop()))}]" if len(shapes) == 1 else dtype
