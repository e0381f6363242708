"""Adding and opening data sets: the table of types, the checks when one is added, the cache of open ones."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from fedplug.core.errors import DatasetError, UnknownNameError, UsageError
from fedplug.node.datasets.base import DatasetRecord, DatasetType, FileDataset

TYPES: dict[str, str] = {
    "csv": "fedplug.node.datasets.csv_file:CsvType",
    "arrays": "fedplug.node.datasets.arrays_file:ArraysType",
}
"""Types by name, each as ``module:class``, imported on use."""

_TO_CSV = "Convert it to .csv, e.g. with pandas: {}(path).to_csv(...)."
_NOT_YET = {
    ".parquet": _TO_CSV.format("read_parquet"),
    ".feather": _TO_CSV.format("read_feather"),
    ".xlsx": _TO_CSV.format("read_excel"),
    ".xls": _TO_CSV.format("read_excel"),
    ".json": _TO_CSV.format("read_json"),
    ".npy": 'Convert it to .npz, e.g. with NumPy: savez("data.npz", x=load(path)).',
}


def dataset_type(name: str) -> DatasetType:
    """The type called ``name``.

    Raises:
        UnknownNameError: There is none.
    """
    if name not in TYPES:
        raise UnknownNameError("type of data set", name, TYPES)
    module, _, attribute = TYPES[name].partition(":")
    kind: DatasetType = getattr(import_module(module), attribute)()
    return kind


def guess_type(path: Path) -> str:
    """The type that a file's ending stands for.

    Raises:
        UsageError: It stands for none, or for one that cannot be read yet.
    """
    ending = path.suffix.lower()
    for name in TYPES:
        if ending in dataset_type(name).suffixes:
            return name
    if ending in _NOT_YET:
        raise UsageError(f"{ending} files ({path.name}) are not supported yet.", cure=_NOT_YET[ending])
    raise UsageError(
        f"The type of {path.name!r} cannot be told from its ending.", cure=f"Say it with --type: {', '.join(TYPES)}."
    )


def inspect_file(
    path: str | Path,
    *,
    name: str = "",
    type: str = "",
    tags: Sequence[str] = (),
    columns: Sequence[str] | None = None,
    target: str = "",
    description: str = "",
) -> tuple[DatasetRecord, tuple[str, ...]]:
    """Check a file that is to become a data set of this node.

    Args:
        path: The file.
        name: Its name on this node; by default that of the file, without ending.
        type: One of `TYPES`; by default what the file's ending says.
        tags: Words under which researchers find it; at least one.
        columns: Columns or arrays that plans may see; all by default. The target is always among them.
        target: Column or array that is to be predicted.
        description: Free text for researchers.

    Returns:
        The record, and notes for the owner.

    Raises:
        UsageError: The file does not exist, the name or a tag cannot be used, or the type is not known.
        DatasetError: The file is not what it should be.
    """
    path = Path(path).expanduser().absolute()
    size, mtime_ns = _check_file(path)
    kind = dataset_type(type or guess_type(path))
    name = (name or path.stem).strip()
    if not name or not name.isprintable() or len(name) > 100:
        raise UsageError(f"{name!r} cannot be the name of a data set.", cure="Use 1 to 100 printable characters.")
    words = tuple(dict.fromkeys(tag.strip() for tag in tags if tag.strip()))
    if not words:
        raise UsageError(
            f"Data set {name!r} needs at least one tag: researchers search by tags.", cure="E.g. --tags breast,demo"
        )
    if any(not word.isprintable() or len(word) > 100 for word in words):
        raise UsageError("A tag must be a word of at most 100 printable characters.", cure="E.g. --tags breast,demo")
    picked = list(columns) if columns else None
    if picked is not None and target and target not in picked:
        picked.append(target)
    label = f"Data set {name!r}"
    found = kind.inspect(path, label, picked)
    if target and target not in found.columns:
        raise DatasetError(
            f"{label} has no column {target!r} to be its target.", cure=f"It has: {', '.join(found.columns)}."
        )
    record = DatasetRecord(
        dataset_id=f"ds-{secrets.token_hex(6)}",
        name=name,
        type=kind.name,
        path=str(path),
        tags=words,
        target=target,
        description=description,
        shape=found.shape,
        columns=found.columns,
        dtypes=found.dtypes,
        size=size,
        mtime_ns=mtime_ns,
        added=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return record, found.notes


def tag_notes(record: DatasetRecord, others: Iterable[DatasetRecord]) -> list[str]:
    """Warnings for the owner of a new data set whose tags do not tell it apart from another one of this node.

    A search finds every data set that carries all its tags, and an experiment refuses to choose between two. So a
    data set can be asked for alone only if none of the others carries all its tags. Owners may mean it nevertheless
    (they may be about to remove the other one), so it is told and not refused.

    Args:
        record: The new data set.
        others: Those that the node has already.

    Returns:
        One sentence or two for each data set in conflict.
    """
    notes = []
    for other in others:
        if set(record.tags) <= set(other.tags):
            found = f"A search for {','.join(record.tags)} finds data set {other.name!r} too"
        elif set(other.tags) <= set(record.tags):
            found = f"A search for {','.join(other.tags)}, the tags of data set {other.name!r}, finds this one too"
        else:
            continue
        notes.append(
            f"{found}, and is refused as ambiguous: an experiment uses one data set per node. "
            "Give each a tag that the other does not carry."
        )
    return notes


class DatasetCache:
    """Data sets that have been read, kept between tasks as long as their files do not change."""

    def __init__(self) -> None:
        self._open: dict[str, FileDataset] = {}

    def get(self, record: DatasetRecord) -> FileDataset:
        """The data set of ``record``; read again if its file has changed.

        Raises:
            DatasetError: The file is gone or broken, or has lost a column.
        """
        known = self._open.pop(record.dataset_id, None)
        if known is None or known.record != record or not known.is_fresh():
            known = dataset_type(record.type).open(record)
            known.arrays()
        self._open[record.dataset_id] = known
        return known


def _check_file(path: Path) -> tuple[int, int]:
    """Size and time of change of a regular file that can be read."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise UsageError(f"There is no file {path}.", cure="Check the path.") from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be looked at: {error.strerror}.") from None
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise DatasetError(f"{path} is {what}.", cure="Name a .csv or .npz file.")
    if not os.access(path, os.R_OK):
        raise DatasetError(
            f"{path} may not be read by this user.", cure="Allow it (chmod, chgrp), or run the node as its owner."
        )
    if not status.st_size:
        raise DatasetError(f"{path} is empty.")
    return status.st_size, status.st_mtime_ns
