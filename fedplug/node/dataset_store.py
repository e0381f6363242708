"""The part of a node's store that is about data sets: those that are offered, and what became of former ones."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from fedplug.core.dataset_type import DatasetRecord
from fedplug.core.errors import UnknownNameError, UsageError
from fedplug.node.commands import node_command


@dataclass(frozen=True)
class FormerDataset:
    """What is remembered of a data set that is not offered any more under this id.

    Attributes:
        dataset_id: The id that it had.
        name: What it was called.
        reason: ``"changed"``: its owner accepted other content, or shows other columns. ``"removed"``: it is gone.
        when: Since when (UTC, ISO 8601).
    """

    dataset_id: str
    name: str
    reason: Literal["changed", "removed"]
    when: str


class DatasetStore(ABC):
    """The data sets of a node, in its store."""

    folder: Path | None

    @abstractmethod
    def read(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of one query."""

    @abstractmethod
    def transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        """One transaction, which takes the write lock at once."""

    def add_dataset(self, record: DatasetRecord) -> None:
        """Register a data set.

        Raises:
            UsageError: The node has one of that name.
        """
        with self.transaction() as db:
            if db.execute("SELECT 1 FROM datasets WHERE name = ?", (record.name,)).fetchone():
                remove = node_command(self.folder, "dataset", "remove", record.name)
                raise UsageError(
                    f"This node has a data set named {record.name!r} already.",
                    cure=f"Choose another --name, or remove it first: {remove}",
                )
            db.execute("INSERT INTO datasets VALUES (?, ?, ?)", (record.dataset_id, record.name, _text(record)))

    def datasets(self, tags: Sequence[str] = ()) -> list[DatasetRecord]:
        """The data sets that carry all of ``tags``, by name."""
        rows = self.read("SELECT record FROM datasets ORDER BY name")
        records = [msgspec.json.decode(text, type=DatasetRecord) for (text,) in rows]
        return [record for record in records if set(tags) <= set(record.tags)]

    def dataset(self, name: str) -> DatasetRecord:
        """The data set with this name or id.

        Raises:
            UnknownNameError: There is none.
        """
        rows = self.read("SELECT record FROM datasets WHERE dataset_id = ?", (name,))
        if rows:
            return msgspec.json.decode(rows[0][0], type=DatasetRecord)
        records = self.datasets()
        for record in records:
            if name in {record.name, record.dataset_id}:
                return record
        raise UnknownNameError("data set", name, [record.name for record in records])

    def replace_dataset(self, old: DatasetRecord, record: DatasetRecord) -> None:
        """Put a record in the place of another one of the same data set.

        If it has an id of its own, the old id becomes a former one, so that a request for it can be answered.

        Args:
            old: What it is now, as far as the caller knows.
            record: What it is from now on.

        Raises:
            UnknownNameError: There is no data set of that id; somebody else may have removed or changed it.
            UsageError: Somebody else has changed what is said of it, or another data set has the new name.
        """
        old_id = old.dataset_id
        with self.transaction() as db:
            found = {each.dataset_id: each for each in self.datasets()}
            if old_id not in found:
                raise UnknownNameError("data set", old_id, [each.name for each in found.values()])
            if found[old_id] != old:
                raise UsageError(
                    f"Data set {old.name!r} was changed by somebody else meanwhile. Nothing was saved.",
                    cure="Look at it again, and make your change once more.",
                )
            if any(each.name == record.name and each.dataset_id != old_id for each in found.values()):
                raise UsageError(
                    f"This node has a data set named {record.name!r} already.", cure="Choose another --name."
                )
            db.execute("DELETE FROM datasets WHERE dataset_id = ?", (old_id,))
            db.execute("INSERT INTO datasets VALUES (?, ?, ?)", (record.dataset_id, record.name, _text(record)))
            if record.dataset_id != old_id:
                _remember(db, old_id, old.name, "changed")

    def remove_dataset(self, name: str) -> DatasetRecord:
        """Forget a data set, but for its id; its file stays.

        Raises:
            UnknownNameError: There is none of this name or id.
        """
        with self.transaction() as db:
            record = self.dataset(name)  # in here: somebody else may give it another id meanwhile
            db.execute("DELETE FROM datasets WHERE dataset_id = ?", (record.dataset_id,))
            _remember(db, record.dataset_id, record.name, "removed")
        return record

    def former_dataset(self, dataset_id: str) -> FormerDataset | None:
        """What became of a data set that had this id; None if none ever had, or it is still offered."""
        rows = self.read(
            "SELECT dataset_id, name, reason, since FROM former_datasets WHERE dataset_id = ?", (dataset_id,)
        )
        return FormerDataset(*rows[0]) if rows else None


def _text(record: DatasetRecord) -> str:
    return msgspec.json.encode(record).decode()


def _remember(db: sqlite3.Connection, dataset_id: str, name: str, reason: str) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    db.execute("INSERT OR REPLACE INTO former_datasets VALUES (?, ?, ?, ?)", (dataset_id, name, reason, now))
