"""Data sets of type ``signals``: a folder of recordings in EDF or WFDB, and a table that says something about each."""

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
from fedplug.node.datasets.recordings import channels_of, list_recordings, read_channels, recording_notes
from fedplug.node.datasets.side_table import SideTable, find_table, matched_rows, read_side_table
from fedplug.node.datasets.subjects import some

_TABLES = ("labels", "annotations")


class _Recordings:
    """The recordings of a folder, and the rows that its table has for them."""

    def __init__(self, folder: Folder, options: Mapping[str, str]) -> None:
        self.folder = folder
        plan = loading_plan(options.get("channels", ""), "channels", folder.label)
        self.entries = list_recordings(folder, plan)
        self.channels = channels_of(self.entries)
        self.table: SideTable | None = None
        self.rows: Array = np.full(len(self.entries), -1, np.int64)
        file = find_table(folder, folder.files(), options.get("labels", ""), _TABLES)
        if file is not None:
            self.table = read_side_table(folder, file, options.get("index", ""))
            self.rows = matched_rows(folder, self.table, [entry.name for entry in self.entries])
            clash = next((name for name in self.table.columns if name in self.channels), None)
            if clash is not None:
                raise DatasetError(f"{folder.label}: {clash!r} is both a channel and a column of its table.")

    @property
    def columns(self) -> tuple[str, ...]:
        """Channels, then columns of the table."""
        return (*self.channels, *(self.table.columns if self.table else ()))

    def has(self, number: int, name: str) -> bool:
        """Whether a recording has a channel, or a value in the table."""
        if name in self.channels:
            return name in self.entries[number].channels
        return self.table is not None and self.table.has(name, int(self.rows[number]))

    def notes(self) -> list[str]:
        """What the owner should know."""
        notes = recording_notes(self.entries)
        if self.table is not None:
            without = [e.name for e, row in zip(self.entries, self.rows.tolist(), strict=True) if row < 0]
            if without:
                count = f"{len(without)} of {len(self.entries)} recordings"
                notes.append(f"{count} have no row in the table of labels: {some(without)}.")
            extra = len(self.table.places) - int((self.rows >= 0).sum())
            if extra:
                notes.append(f"{extra} rows of the table of labels belong to no recording.")
        return notes


class SignalFolder(StoredDataset):
    """Recordings, read one by one, as a whole or in stretches."""

    ready = "SignalDataset"
    _found: _Recordings | None = None

    def __len__(self) -> int:
        return len(self._recordings.entries)

    def having(self, names: Sequence[str]) -> Array:
        """The numbers of the recordings that have all of some channels and columns, int64.

        Raises:
            DatasetError: There is no such channel or column.
        """
        check_columns(self.label, "channel or column", self.record.columns, names)
        sources = [self.record.source(name) for name in names]
        found = self._recordings
        return np.array([i for i in range(len(self)) if all(found.has(i, name) for name in sources)], np.int64)

    def seconds(self, index: int) -> float:
        """How long a recording is.

        Raises:
            IndexError: There is none of that number.
        """
        self.check_index(index)
        return self._recordings.entries[index].seconds

    def rate(self, index: int, name: str) -> float:
        """The samples per second of one channel of a recording, which has it.

        Raises:
            IndexError: There is no recording of that number.
        """
        self.check_index(index)
        return self._recordings.entries[index].channels[self.record.source(name)].rate

    def read(
        self, index: int, names: Sequence[str] | None = None, start: float = 0.0, stop: float | None = None
    ) -> Mapping[str, Any]:
        """One recording, or a stretch of it.

        Args:
            index: Its number.
            names: Channels and columns; all that it has by default.
            start: Where the stretch begins, in seconds.
            stop: Where it ends; by default at the end of the recording.

        Returns:
            Channels in physical units, float32 of shape ``(samples,)``, and values of the table by column.

        Raises:
            DatasetError: It does not have one of them, is not that long, or cannot be read.
            IndexError: There is none of that number.
        """
        self.check_index(index)
        found = self._recordings
        entry = found.entries[index]
        if names is None:
            names = [name for name in self.record.columns if found.has(index, self.record.source(name))]
        check_columns(self.label, "channel or column", self.record.columns, names)
        sources = {name: self.record.source(name) for name in names}
        lacking = next((name for name, source in sources.items() if not found.has(index, source)), None)
        if lacking is not None:
            raise DatasetError(f"{self.label}: recording {index + 1} has no {lacking!r}.")
        stop = entry.seconds if stop is None else stop
        if not 0 <= start < stop <= entry.seconds:
            raise DatasetError(
                f"{self.label}: recording {index + 1} lasts {entry.seconds:g} seconds: there is no stretch from "
                f"{start:g} to {stop:g}."
            )
        wanted = [source for source in sources.values() if source in found.channels]
        arrays = read_channels(found.folder, entry, wanted, start, stop, index + 1) if wanted else []
        values: dict[str, Any] = dict(zip(wanted, arrays, strict=True))
        if found.table is not None:
            row = found.rows[index]
            values |= {s: found.table.columns[s][row] for s in sources.values() if s not in found.channels}
        return {name: values[source] for name, source in sources.items()}

    def prepare(self) -> None:
        """Check the headers of all recordings, and read the table."""
        self._found = _Recordings(Folder(self.path, self.label, for_owner=False), self.record.options)

    @property
    def _recordings(self) -> _Recordings:
        if self._found is None:
            self.prepare()
        assert self._found is not None
        return self._found


class SignalsType(DatasetType):
    """EDF or EDF+ files, WFDB records, or both."""

    name = "signals"
    title = "Recordings of signals: EDF files or WFDB records, with a table of labels"
    takes = "folder"
    options = MappingProxyType(
        {
            "channels": DatasetOption(
                "Channels", "Where a recording has several of one name, the first counts.", renames="channel"
            ),
            "labels": DatasetOption(
                "Table of labels", "Its file in the folder. Without it: labels.csv, annotations.csv, or the only table."
            ),
            "index": DatasetOption(
                "Column with the names of the recordings",
                "A column of that table. Without it: a usual one, such as record or id, or the first.",
            ),
        }
    )

    def inspect(self, path: Path, label: str, columns: Sequence[str] | None, options: Mapping[str, str]) -> Inspection:
        """As `DatasetType.inspect`: the headers of all recordings are held against their files."""
        found = _Recordings(Folder(path, label), options)
        names = tuple(columns or found.columns)
        check_columns(label, "channel or column", found.columns, names)
        count = len(found.entries)
        dtypes = {name: _channel_type(found, name) for name in found.channels}
        dtypes |= found.table.dtypes if found.table else {}
        missing = {name: sum(not found.has(number, name) for number in range(count)) for name in names}
        return Inspection(
            (count, len(names)), names, tuple(dtypes[name] for name in names), tuple(found.notes()), missing
        )

    def names_here(self, path: Path, label: str, option: str) -> Sequence[str]:
        """As `DatasetType.names_here`: the channels."""
        return channels_of(list_recordings(Folder(path, label), {}))

    def open(self, record: DatasetRecord) -> SignalFolder:
        """As `DatasetType.open`."""
        return SignalFolder(record)

    def example(self, folder: Path) -> Path:
        """As `DatasetType.example`: four EDF files with one channel."""
        edfio = library("edfio", "signals")
        lines = ["record,rhythm"]
        for number in range(4):
            wave = np.sin(np.arange(100) / (2 + number))
            edfio.Edf([edfio.EdfSignal(wave, 50, label="ECG", physical_dimension="mV")]).write(
                folder / f"r{number}.edf"
            )
            lines.append(f"r{number},{number % 2}")
        (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return folder


def _channel_type(found: _Recordings, name: str) -> str:
    """E.g. ``float32 at 250 Hz``; without the rate where recordings differ in it."""
    rates = {entry.channels[name].rate for entry in found.entries if name in entry.channels}
    return f"float32 at {rates.pop():g} Hz" if len(rates) == 1 else "float32"
