"""Memory that two processes share, passed between them as a file descriptor.

It has no name in any file system, so nothing is left behind, however a process ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from fedplug.core.block_stock import BlockStock
from fedplug.core.errors import CodecError
from fedplug.core.params import Params

_POPULATE = getattr(mmap, "MAP_POPULATE", 0)
"""Map all pages that exist at once, not one by one as they are touched; only Linux can."""

_SEAL_FUTURE_WRITE = 0x10
"""Linux 5.1: no new writable mapping; `fcntl` does not name it."""


class SharedBuffer(mmap.mmap):
    """A block of shared memory; `fd` may be sent to another process.

    Use `create` or `attach`. The memory is given back when the last array over it, in any process, is gone.
    """

    fd: int = -1

    @classmethod
    def create(cls, nbytes: int) -> SharedBuffer:
        """A new block of at least ``nbytes`` writable, zeroed bytes."""
        size = max(nbytes, 1)
        fd = _new_file()
        try:
            os.ftruncate(fd, size)
            block = cls(fd, size)
        except BaseException:
            os.close(fd)
            raise
        block.fd = fd
        return block

    @classmethod
    def attach(cls, fd: int, nbytes: int, *, writable: bool = False, populate: bool = True) -> SharedBuffer:
        """The first ``nbytes`` of a block that another process made. Takes ``fd`` over, also if it fails.

        Args:
            fd: Its descriptor.
            nbytes: How much of it is needed.
            writable: Whether to write to it.
            populate: Whether to map all pages at once; a writable block then takes memory for all of them.

        Raises:
            CodecError: It is not a block of shared memory, or shorter than ``nbytes``.
        """
        try:
            _freeze_size(fd)
            size = os.fstat(fd).st_size
            if size < max(nbytes, 1):
                raise CodecError(f"A shared block should hold {nbytes} bytes, but holds {size}.")
            access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
            block = cls(fd, max(nbytes, 1), flags=mmap.MAP_SHARED | (_POPULATE if populate else 0), prot=access)
        except BaseException as error:
            os.close(fd)
            if isinstance(error, OSError):
                raise CodecError(f"This is not a block of shared memory: {error.strerror}.") from None
            raise
        block.fd = fd
        return block

    def make_read_only(self) -> None:
        """Let nobody else map it writable from now on, where the system can do that."""
        if hasattr(fcntl, "F_ADD_SEALS"):
            with contextlib.suppress(OSError):
                fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _SEAL_FUTURE_WRITE)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def shared_stock(keep: int = 2) -> BlockStock[SharedBuffer]:
    """A stock of blocks for `Params` that will go to, or come from, a worker.

    Args:
        keep: Most blocks that are kept.
    """
    return BlockStock(SharedBuffer.create, keep)


def share(params: Params) -> tuple[SharedBuffer, int]:
    """The shared block in which ``params`` lie, and at which byte; copied into a new one if they lie elsewhere."""
    if params.nbytes:
        array = np.frombuffer(params.buffer, dtype=np.uint8)
        block = _backing(array)
        if block is not None:
            start = np.frombuffer(block, dtype=np.uint8).ctypes.data
            return block, array.ctypes.data - start
    block = SharedBuffer.create(params.nbytes)
    np.frombuffer(block, dtype=np.uint8)[: params.nbytes] = np.frombuffer(params.buffer, dtype=np.uint8)
    return block, 0


def _backing(array: Any) -> SharedBuffer | None:
    """Walk from an array to the memory below it."""
    owner = array
    while owner is not None and not isinstance(owner, SharedBuffer):
        owner = owner.obj if isinstance(owner, memoryview) else getattr(owner, "base", None)
    return owner


def _new_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("fedplug", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    fd, path = tempfile.mkstemp(prefix="fedplug-")
    Path(path).unlink()
    return fd


def _freeze_size(fd: int) -> None:
    """A block that its maker cut short while we read it would kill this process (SIGBUS): forbid that."""
    if hasattr(fcntl, "F_ADD_SEALS") and hasattr(os, "memfd_create"):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
