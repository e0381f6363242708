"""Whether a data set is still what its owner registered.

What is said here travels to researchers, so it names no path.
"""

from __future__ import annotations

import threading
from typing import Literal

from fedplug.core.dataset_type import DatasetRecord
from fedplug.core.errors import DatasetError, FedplugError, RefusedError
from fedplug.node.datasets.fingerprint import fingerprint_of, stamp_of
from fedplug.node.datasets.paths import is_below
from fedplug.node.policy.schema import Policy

_MOST_KEPT = 1000

_verified: dict[tuple[str, str], str] = {}
"""Stamps other than those of the store under which the content was found to be the same, by id and fingerprint."""

_lock = threading.Lock()


def check_unchanged(record: DatasetRecord, policy: Policy) -> None:
    """Check that the files of a data set lie where they may and are those that were registered.

    Called for every request. It costs one look at each file, and reading them only if they were touched since.

    Raises:
        RefusedError: They were changed or are gone (code ``"dataset-changed"``), or lie outside the folders that the
            owner allows (``"policy"``).
    """
    check_places(record, policy)
    try:
        verify(record)
    except DatasetError as error:
        raise RefusedError(error.message, code="dataset-changed", cure=error.cure) from None


def check_places(record: DatasetRecord, policy: Policy) -> None:
    """Check that the files of a data set lie below the folders that the owner allows, whatever links lead there.

    Raises:
        RefusedError: They do not.
    """
    for path in record.paths:
        try:
            real = path.resolve()
        except (OSError, RuntimeError):
            raise RefusedError(
                _changed(record, "cannot be found any more"), code="dataset-changed", cure=_cure(record)
            ) from None
        if not is_below(real, policy.data.roots):
            where = policy.where("data.roots")
            raise RefusedError(
                f"{record.label} does not lie in a folder that this node may use" + (f" ({where})." if where else "."),
                code="policy",
                cure="Its owner can allow it: roots, under [data] in node.toml. Then try again.",
            )


def verify(record: DatasetRecord) -> None:
    """Check that the files of a data set are those that were registered.

    Raises:
        DatasetError: They were changed, or cannot be read.
    """
    try:
        stamp = stamp_of(record.paths)
    except FedplugError:
        raise DatasetError(_changed(record, "cannot be opened any more"), cure=_cure(record)) from None
    if not record.stamp:  # added before there were stamps
        same = (stamp.size, stamp.mtime_ns) == (record.size, record.mtime_ns)
    elif stamp.text == record.stamp:
        return
    else:
        same = _same_content(record, stamp.text)
    if not same:
        raise DatasetError(_changed(record, "have changed since it was added"), cure=_cure(record))


def state_of(record: DatasetRecord) -> tuple[Literal["unchanged", "changed", "gone"], str]:
    """What became of the files of a data set, for its owner: one of three words, and what to say."""
    for path in record.paths:
        try:
            path.stat()
        except OSError as error:
            return "gone", f"cannot be opened: {error.strerror}"
    try:
        verify(record)
    except DatasetError:
        return "changed", "changed since it was added"
    return "unchanged", "unchanged"


def _same_content(record: DatasetRecord, stamp: str) -> bool:
    key = (record.dataset_id, record.fingerprint)
    with _lock:
        if _verified.get(key) == stamp:
            return True
    try:
        same = fingerprint_of(record.paths) == record.fingerprint and stamp_of(record.paths).text == stamp
    except FedplugError:
        return False
    if same:
        with _lock:
            if len(_verified) >= _MOST_KEPT:
                _verified.clear()
            _verified[key] = stamp
    return same


def _changed(record: DatasetRecord, what: str) -> str:
    return f"The files of data set {record.name!r} {what}."


def _cure(record: DatasetRecord) -> str:
    return (
        f"Its owner looks with `fedplug node dataset check {record.name}` and accepts the new content with "
        f"`fedplug node dataset edit {record.name} --accept-changes`; then search for data sets again."
    )
