"""A lock file: one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

_GLANCE = 0.1
"""Seconds after which a second try tells one who holds a lock from one who only looks whether somebody does."""


class FileLock:
    """A lock that the kernel gives back when its process ends, however it ends: it cannot go stale.

    The process id in the file is for messages only. Use `take`.
    """

    def __init__(self, file: int) -> None:
        self._file: int | None = file

    @classmethod
    def take(cls, path: Path) -> FileLock | None:
        """Take the lock; None if another process, or another object of this one, holds it.

        Args:
            path: The lock file. It is made if it is missing, and stays when the lock is released.

        Raises:
            OSError: The file cannot be opened.
        """
        file = _open(path)
        try:
            if not _try_lock(file):
                time.sleep(_GLANCE)
                if not _try_lock(file):
                    os.close(file)
                    return None
            os.ftruncate(file, 0)
            with contextlib.suppress(OSError):  # on a full disk the lock holds all the same
                os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(file)
            raise
        return cls(file)

    def release(self) -> None:
        """Let somebody else have it. May be called twice."""
        if self._file is not None:
            os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = None


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock.

    Raises:
        OSError: The file is there and cannot be opened.
    """
    if not path.exists():
        return False
    file = _open(path)
    try:
        return not _try_lock(file, fcntl.LOCK_SH)  # shared: who only looks is not seen by others who look
    finally:
        os.close(file)


def holder(path: Path) -> str:
    """The process id that stands in a lock file, for messages; ``"unknown"`` if none does."""
    try:
        return path.read_text(encoding="ascii")[:20].strip() or "unknown"
    except (OSError, ValueError):
        return "unknown"


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(file: int, how: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
