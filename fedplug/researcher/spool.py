"""Where updates wait: in memory up to a budget, in files of the experiment's folder beyond it."""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from pathlib import Path

import numpy as np

from fedplug.core.errors import RoundError
from fedplug.core.params import Array, allocate


class Spool:
    """Room for updates that have arrived and cannot be folded yet.

    Args:
        folder: Where files go, if any are needed.
        budget: Bytes of memory that waiting updates may take together.
    """

    def __init__(self, folder: Path, budget: int) -> None:
        self.folder = folder
        self.budget = budget
        self.in_memory = 0

    def fits(self, nbytes: int) -> bool:
        """Whether ``nbytes`` more can be held in memory now."""
        return self.in_memory + nbytes <= self.budget


class Room:
    """The room of one update; `allocate` is handed to whoever receives its arrays.

    Args:
        spool: What it counts against.
        nbytes: Size of the update.
        in_file: Whether it goes to a file. A file has no name from the moment it is made, so that nothing
            is left behind however the process ends.
    """

    def __init__(self, spool: Spool, nbytes: int, *, in_file: bool) -> None:
        self._spool = spool
        self._maps: list[mmap.mmap] = []
        self._in_file = in_file
        self._reserved = 0 if in_file else nbytes
        spool.in_memory += self._reserved

    def allocate(self, nbytes: int) -> Array:
        """Writable bytes, in memory or mapped from a file.

        Raises:
            RoundError: The disk has no room.
        """
        if not self._in_file or nbytes == 0:
            return allocate(nbytes)
        try:
            with tempfile.TemporaryFile(dir=self._spool.folder, prefix="update-") as handle:
                _reserve(handle.fileno(), nbytes)
                pages = mmap.mmap(handle.fileno(), nbytes)
        except OSError as error:
            raise RoundError(
                f"There is no room for an update of {nbytes:,} bytes in {self._spool.folder}: {error}.",
                cure="Free some disk space and run the round again; nothing is lost.",
            ) from None
        self._maps.append(pages)
        return np.frombuffer(pages, dtype=np.uint8)

    def rest(self) -> None:
        """Nobody will look at the update for a while: give its pages of memory back to the system."""
        for pages in self._maps:
            pages.madvise(mmap.MADV_DONTNEED)

    def release(self) -> None:
        """The update is not needed any more."""
        self._spool.in_memory -= self._reserved
        self._reserved = 0
        self._maps.clear()


def _reserve(file: int, nbytes: int) -> None:
    """Make a file that long, with its blocks: a write into a hole of a full disk would kill the process (SIGBUS)."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file, 0, nbytes)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # a file system that cannot do it
                raise
    os.ftruncate(file, nbytes)
