"""One running node per folder."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from fedplug.core.errors import StoreError
from fedplug.node.commands import node_command

LOCK_FILE = "node.lock"


class FolderLock:
    """A lock that the kernel gives back when its process ends, however it ends: it cannot go stale.

    The process id in the file is for messages only.

    Args:
        folder: The node's folder.

    Raises:
        StoreError: A node is running in this folder.
    """

    def __init__(self, folder: Path) -> None:
        self._file: int | None = _open(folder)
        try:
            if not _try_lock(self._file):
                # `is_locked` holds the lock for an instant; a node holds it for good.
                time.sleep(0.1)
                if not _try_lock(self._file):
                    pid = os.pread(self._file, 20, 0).decode("ascii", "replace").strip()
                    raise StoreError(
                        f"A node is running in {folder} (process {pid or 'unknown'}).",
                        cure=f"Stop it first, or look at it with: {node_command(folder, 'status')}",
                    )
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)
        except BaseException:
            os.close(self._file)
            raise

    def release(self) -> None:
        """Let another node run here. May be called twice."""
        if self._file is not None:
            os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = None


def is_locked(folder: Path) -> bool:
    """Whether a node is running in ``folder``."""
    if not (folder / LOCK_FILE).exists():
        return False
    file = _open(folder)
    try:
        return not _try_lock(file)
    finally:
        os.close(file)


def locked_by(folder: Path) -> int:
    """The process id of the node that is running in ``folder``; 0 if none is, or its id is not known."""
    if not is_locked(folder):
        return 0
    try:
        return int((folder / LOCK_FILE).read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        return 0


def _open(folder: Path) -> int:
    try:
        return os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(
            f"{folder / LOCK_FILE} cannot be opened: {error.strerror}.",
            cure="Check that this user may write the node's folder.",
        ) from None


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
