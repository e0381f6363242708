"""Files of the node's folder that are written once and flushed, and what is said when the disk does not take them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fedplug.core.errors import DiskFullError, StoreError
from fedplug.core.whole_file import sync

_log = logging.getLogger("fedplug.node")
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))
_NOT_DIRECT = frozenset((errno.EINVAL, errno.EOPNOTSUPP))

_O_DIRECT = getattr(os, "O_DIRECT", 0)
_PAGE = 4096
_PIECE = 16 * 2**20
_WORTH_DIRECT = 2**20
"""Smaller parts of a file go by the cache: the disk takes them faster together."""


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
                rest = memoryview(part).cast("B") if len(part) else memoryview(b"")
                if len(rest) >= _WORTH_DIRECT:
                    file.flush()
                    rest = rest[_write_direct(descriptor, rest) :]
                file.write(rest)
            file.flush()
            os.fsync(descriptor)
        sync(path.parent)  # the name, too
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise


def _write_direct(descriptor: int, data: memoryview) -> int:
    """Write as much of ``data`` as can go to the disk straight from its memory; returns how many bytes these are.

    The way by the system's cache costs a copy and fresh pages, some ten times what everything else about the file
    does; and nobody reads it again before the node is restarted, if at all. Where system, file system or the place of
    the data do not allow it, it is less, or nothing.
    """
    if not _O_DIRECT or os.lseek(descriptor, 0, os.SEEK_CUR) % _PAGE:
        return 0
    if np.frombuffer(data, np.uint8).ctypes.data % _PAGE:
        return 0
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    done, end = 0, len(data) // _PAGE * _PAGE
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | _O_DIRECT)
        while done < end and not done % _PAGE:
            done += os.write(descriptor, data[done : min(end, done + _PIECE)])
    except OSError as error:
        if error.errno not in _NOT_DIRECT:
            raise
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
    return done


def delete(folder: Path, names: Iterable[str]) -> None:
    """Delete files; one that cannot be deleted is named in the log."""
    for name in names:
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError as error:
            _log.warning("%s cannot be deleted: %s.", folder / name, error.strerror)
