"""Bringing the store of an older version up to date, with a copy of what it was."""

from __future__ import annotations

import contextlib
import logging
import shutil
import sqlite3
from pathlib import Path

from fedplug.core.errors import StoreError
from fedplug.core.whole_file import whole_file
from fedplug.node.commands import node_command
from fedplug.node.lock import is_locked

_log = logging.getLogger("fedplug.node")

_SPARE = 4 * 2**20
"""Bytes that a migration may write beside the copy and a second version of every page."""


def backup_path(store: Path, version: int) -> Path:
    """Where the copy of a store lies that was made before it was upgraded from ``version``."""
    return store.with_name(f"{store.name}.v{version}.backup")


def require_upgradable(store: Path, version: int) -> None:
    """Check that a store can be upgraded now.

    Args:
        store: The file.
        version: The version that it has.

    Raises:
        StoreError: A node works with it, or the disk is too full for a copy.
    """
    if is_locked(store.parent):
        raise StoreError(
            f"{store} has version {version}, and a node of that version is running.",
            cure=f"Stop it, so that its store can be upgraded: {node_command(store.parent, 'stop')}",
        )
    # Pages that were written last may lie in the write-ahead log.
    written = sum(path.stat().st_size for path in (store, Path(f"{store}-wal")) if path.exists())
    needed, free = 2 * written + _SPARE, shutil.disk_usage(store.parent).free
    if free < needed:
        raise StoreError(
            f"{store} cannot be upgraded: that takes {needed / 2**20:,.0f} MiB, and the disk has {free / 2**20:,.0f} "
            "left. Nothing was changed.",
            cure="Make room on that disk, and try again.",
        )


def back_up(store: Path, version: int) -> Path:
    """Copy a store. The caller holds its write lock, so that nothing comes between the copy and the upgrade.

    Args:
        store: The file.
        version: The version that it has.

    Returns:
        The copy: a whole store that only its owner may read. One that is there is replaced.

    Raises:
        StoreError: It cannot be written.
    """
    copy = backup_path(store, version)
    try:
        with whole_file(copy) as draft:
            draft.touch(mode=0o600)
            with (
                contextlib.closing(sqlite3.connect(store)) as source,
                contextlib.closing(sqlite3.connect(draft)) as target,
            ):
                source.backup(target)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            f"{store} cannot be upgraded, since no copy of it can be made: {error}. Nothing was changed.",
            cure="Check that the disk is not full and that this user may write the node's folder.",
        ) from error
    return copy


def announce(before: int, now: int, copy: Path) -> None:
    """Tell of an upgrade, on a terminal as well as in the log of a node."""
    _log.warning("The store was upgraded from version %d to %d. As it was before it is kept in %s.", before, now, copy)


def failed(store: Path, version: int, copy: Path, error: sqlite3.Error) -> StoreError:
    """What to say of an upgrade that did not succeed."""
    return StoreError(
        f"{store} cannot be upgraded from version {version}: {error}. It is as it was; a copy is in {copy.name}.",
        cure="Report this, and go on with the version of FedPlug that you had before.",
    )
