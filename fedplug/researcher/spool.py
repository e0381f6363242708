"""Where updates wait: in memory up to a budget, in files of the experiment's folder beyond it.

This is the spool of a round without a journal: what it holds is gone with the process, and the nodes keep their updates
until the round is complete. With a journal it is `fedplug.researcher.durable_spool.DurableSpool`.
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedplug.core.block_stock import BlockStock
from fedplug.core.errors import DiskFullError, StoreError
from fedplug.core.messages import TaskKey, TrainReply
from fedplug.core.params import LARGE, Array, Params, allocate, large_block
from fedplug.core.pool import UpdateFetched


class Room:
    """The room of one update, in memory; `allocate` is handed to whoever receives its arrays.

    Args:
        spool: What it counts against.
        nbytes: Size of the update.
    """

    def __init__(self, spool: Spool, nbytes: int) -> None:
        self._spool = spool
        self._reserved = nbytes
        spool.in_memory += nbytes

    def allocate(self, nbytes: int) -> Array:
        """Writable bytes.

        Raises:
            FedplugError: The disk has no room.
        """
        return self._spool.stock.allocate(nbytes) if nbytes >= LARGE else allocate(nbytes)

    def rest(self) -> None:
        """Nobody will look at the update for a while: its memory may be given back where a file stands behind it."""

    def release(self) -> None:
        """The update is not needed any more."""
        self._spool.in_memory -= self._reserved
        self._reserved = 0


class MappedRoom(Room):
    """Room in a file, of which memory shows what is being looked at."""

    def __init__(self, spool: Spool) -> None:
        super().__init__(spool, 0)
        self._maps: list[mmap.mmap] = []

    def allocate(self, nbytes: int) -> Array:
        """As `Room.allocate`."""
        if nbytes == 0:
            return allocate(0)
        self._maps.append(self._map(nbytes))
        return np.frombuffer(self._maps[-1], dtype=np.uint8)

    def rest(self) -> None:
        """As `Room.rest`."""
        for pages in self._maps:
            pages.madvise(mmap.MADV_DONTNEED)

    def release(self) -> None:
        """As `Room.release`."""
        super().release()
        self._maps.clear()

    @abstractmethod
    def _map(self, nbytes: int) -> mmap.mmap: ...


class NamelessRoom(MappedRoom):
    """Room in files without a name, so that nothing is left behind however the process ends."""

    def _map(self, nbytes: int) -> mmap.mmap:
        try:
            with tempfile.TemporaryFile(dir=self._spool.folder, prefix="update-") as handle:
                reserve(handle.fileno(), 0, nbytes)
                return mmap.mmap(handle.fileno(), nbytes)
        except OSError as error:
            raise disk_error(self._spool.folder, error) from None


@dataclass(frozen=True)
class Recalled:
    """An update that an earlier run of this round has taken, with its room."""

    event: UpdateFetched
    room: Room


class Spool:
    """Room for updates that have arrived, and what is kept of them.

    Args:
        folder: Where files go, if any are needed.
        budget: Bytes of memory that waiting updates may take together.

    Attributes:
        in_memory: Bytes of memory that they take now.
        stock: Where large ones lie: one that was folded leaves its memory to the next.
    """

    durable = False
    """Whether every update goes to the disk, and its node is told at once that it is safe there."""

    complete: bool = False
    """Whether an earlier run has completed this round: it is only to be folded again, of the same updates."""

    added: Sequence[TaskKey] = ()
    """The tasks of nodes that an earlier run has asked besides those that were selected, in that order."""

    refused: Mapping[str, str] = {}
    """Nodes whose updates an earlier run has not taken, and why."""

    def __init__(self, folder: Path, budget: int) -> None:
        self.folder = folder
        self.budget = budget
        self.in_memory = 0
        self.stock = BlockStock(large_block, keep=1)
        self._refused: list[TaskKey] = []

    def fits(self, nbytes: int) -> bool:
        """Whether ``nbytes`` more can be held in memory now."""
        return self.in_memory + nbytes <= self.budget

    def room(self, nbytes: int, *, in_file: bool) -> Room:
        """Room for an update of that size."""
        return NamelessRoom(self) if in_file else Room(self, nbytes)

    def recall(self, key: TaskKey) -> Recalled | None:
        """The update of a task that an earlier run has taken; None if there is none, or it is damaged."""
        return None

    def ask(self, key: TaskKey) -> None:
        """Decide, durably, that a node gets a task besides those with which the round has begun.

        Raises:
            StoreError: It cannot be written down.
        """

    def take(self, event: UpdateFetched) -> None:
        """An update has arrived, and is valid."""

    def refuse(self, key: TaskKey, reason: str) -> None:
        """An update is not taken, for good."""
        self._refused.append(key)

    def late(self, key: TaskKey) -> None:
        """An update has come when its round was over."""

    @property
    def unsettled(self) -> int:
        """How many updates were taken or refused, and their nodes are still to be told."""
        return len(self._refused)

    def settle(self) -> list[TaskKey]:
        """Put what was taken or refused on the disk; the tasks whose nodes may forget their updates now.

        Raises:
            DiskFullError: There is no room yet. Nothing is lost: call it again later.
            StoreError: The disk failed.
        """
        refused, self._refused = self._refused, []
        return refused

    def conclude(self, replies: Mapping[str, TrainReply], params: Params) -> list[TaskKey]:
        """The round is complete; the tasks whose nodes may forget their updates now.

        Args:
            replies: What is in the result, by node id.
            params: The new global parameters.

        Raises:
            StoreError: It cannot be written down.
        """
        return [*self.settle(), *(reply.key for reply in replies.values())]

    def stop(self, reason: str) -> None:
        """The round ends without a result; tasks that are open are given up."""
        self.stock.empty()


def reserve(file: int, start: int, nbytes: int) -> None:
    """Give a file blocks for a part of it: a write into a hole of a full disk would kill the process (SIGBUS).

    Raises:
        OSError: There is no room.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file, start, nbytes)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # a file system that cannot do it
                raise
    os.ftruncate(file, max(os.fstat(file).st_size, start + nbytes))


def disk_error(path: Path, error: OSError) -> StoreError:
    """What to raise in the place of an error of the disk: `DiskFullError` where it is full."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(
            f"The disk is full: there is no room for an update in {path}.",
            cure="Free some disk space; nothing is lost.",
        )
    return StoreError(
        f"{path} cannot be used: {error.strerror or error}.", cure="Check the disk, and that this user may write there."
    )
