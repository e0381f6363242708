"""One running node per folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from fedplug.core import file_lock
from fedplug.core.errors import StoreError
from fedplug.node.commands import node_command

LOCK_FILE = "node.lock"


class FolderLock:
    """The right to run the node in a folder; see `fedplug.core.file_lock.FileLock`.

    Args:
        folder: The node's folder.

    Raises:
        StoreError: A node is running in this folder.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / LOCK_FILE
        with _errors(path):
            taken = file_lock.FileLock.take(path)
        if taken is None:
            raise StoreError(
                f"A node is running in {folder} (process {file_lock.holder(path)}).",
                cure=f"Stop it first, or look at it with: {node_command(folder, 'status')}",
            )
        self._lock = taken

    def release(self) -> None:
        """Let another node run here. May be called twice."""
        self._lock.release()


def is_locked(folder: Path) -> bool:
    """Whether a node is running in ``folder``."""
    with _errors(folder / LOCK_FILE):
        return file_lock.is_locked(folder / LOCK_FILE)


def locked_by(folder: Path) -> int:
    """The process id of the node that is running in ``folder``; 0 if none is, or its id is not known."""
    if not is_locked(folder):
        return 0
    try:
        return int(file_lock.holder(folder / LOCK_FILE))
    except ValueError:
        return 0


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{path} cannot be opened: {error.strerror}.", cure="Check that this user may write the node's folder."
        ) from None
