"""Files of the node's folder that are written once and flushed, and what is said when the disk does not take them."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fedplug.core.errors import DiskFullError, StoreError
from fedplug.core.whole_file import sync

_log = logging.getLogger("fedplug.node")
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn what the system says of a folder's files into errors of ours.

    Raises:
        DiskFullError: There is no room.
        StoreError: They cannot be used for another reason.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFullError(
                f"The disk is full: {folder} cannot be written.", cure="Free some disk space; nothing is lost."
            ) from error
        raise StoreError(
            f"{folder} cannot be used: {error.strerror}.", cure="Check that this user may write the node's folder."
        ) from error


def write_new(path: Path, parts: Iterable[Any]) -> None:
    """Write a new file, readable by its owner only, and wait until the disk has it. It is not left there half.

    Args:
        path: Where; nothing may be there.
        parts: Its content, as buffers.

    Raises:
        OSError: The disk does not take it.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(descriptor)
        sync(path.parent)  # the name, too
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise


def delete(folder: Path, names: Iterable[str]) -> None:
    """Delete files; one that cannot be deleted is named in the log."""
    for name in names:
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError as error:
            _log.warning("%s cannot be deleted: %s.", folder / name, error.strerror)
