"""Changing what is said of a data set, and looking whether it is still fit for use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from fedplug.core.dataset_type import DatasetRecord
from fedplug.core.errors import DatasetError, FedplugError
from fedplug.node.datasets.fingerprint import fingerprint_of
from fedplug.node.datasets.freshness import check_places
from fedplug.node.datasets.registry import checked_name, checked_tags, dataset_type, inspect_file
from fedplug.node.policy.schema import Policy

ALL = "*"
"""Stands for all columns of a file."""

_SEEN = ("fingerprint", "columns", "dtypes", "shape", "target", "mapping", "options", "type")
"""What a training depends on: if one of these is another, the data set gets a new id."""


def edited(
    record: DatasetRecord,
    policy: Policy,
    *,
    name: str | None = None,
    tags: Sequence[str] | None = None,
    description: str | None = None,
    target: str | None = None,
    columns: Sequence[str] | None = None,
    mapping: Mapping[str, str] | None = None,
    accept_changes: bool = False,
) -> tuple[DatasetRecord, tuple[str, ...]]:
    """A data set with something changed. None leaves each as it is.

    Args:
        record: What it is now.
        policy: Says where data may lie.
        name: Its name.
        tags: Its tags.
        description: Its description.
        target: Its target; empty for none.
        columns: The columns that plans may see; ``["*"]`` for all.
        mapping: Names that plans use → names in the files, instead of those so far.
        accept_changes: Take the files as they are now.

    Returns:
        The new record, with a new id if trainings would see other data, and notes for the owner.

    Raises:
        UsageError: Something of it cannot be used.
        DatasetError: The files are not what they should be, or have changed and ``accept_changes`` is not set.
    """
    said = msgspec.structs.replace(
        record,
        name=record.name if name is None else checked_name(name),
        tags=record.tags if tags is None else checked_tags(tags),
        description=record.description if description is None else description,
    )
    if target is None and columns is None and mapping is None and not accept_changes:
        return said, ()
    everything = columns is not None and list(columns) == [ALL]
    kept = [record.source(column) for column in record.columns] if columns is None else list(columns)
    names = dict(record.mapping if mapping is None else mapping)
    old_target = record.target
    if target is None and old_target and old_target not in names:
        old_target = record.source(old_target)
    found, notes = inspect_file(
        record.path,
        name=said.name,
        type=record.type,
        tags=said.tags,
        columns=None if everything else kept,
        target=old_target if target is None else target,
        description=said.description,
        mapping=names,
        options=record.options,
        roots=policy.data.roots,
    )
    if record.fingerprint != found.fingerprint and not accept_changes:
        raise DatasetError(
            f"The files of data set {record.name!r} have changed since it was added.",
            cure="Look at them; then accept the change: --accept-changes.",
        )
    changed = any(getattr(found, field) != getattr(record, field) for field in _SEEN)
    same: dict[str, Any] = {} if changed else {"dataset_id": record.dataset_id}
    return msgspec.structs.replace(found, added=record.added, **same), notes


def problems_of(record: DatasetRecord, policy: Policy) -> list[str]:
    """What is wrong with a data set: all files are read again, so this takes as long as adding it.

    Args:
        record: The data set.
        policy: Says where data may lie.

    Returns:
        A sentence for each problem; none if it can be trained on.
    """
    problems: list[str] = []
    try:
        check_places(record, policy)
    except FedplugError as error:
        problems.append(error.message)
    try:
        for path in record.paths:
            path.stat()
        if record.fingerprint and fingerprint_of(record.paths) != record.fingerprint:
            problems.append(
                f"The content has changed since it was added on {record.added[:10]}. "
                "Nothing is trained on it before you accept the change."
            )
        kind = dataset_type(record.type)
        found = kind.inspect(record.paths[0], record.label, list(record.sources), record.options)
        if found.shape != record.shape:
            problems.append(f"Its shape was {_words(record.shape)}, and is {_words(found.shape)} now.")
    except OSError as error:
        problems.append(f"Its files cannot be opened: {error.strerror}.")
    except FedplugError as error:
        problems.append(error.message)
    return problems


def _words(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{length:,}" for length in shape)
