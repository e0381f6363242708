"""Blocks of memory that are used again: a fresh page costs several times what writing to it does."""

from __future__ import annotations

import contextlib
import mmap
import weakref
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np

from fedplug.core.params import Array

_WORTH_KEEPING = 2**20
"""Smaller blocks, in bytes, are made anew: their pages cost nothing."""

Block = TypeVar("Block", bound=mmap.mmap)


class BlockStock(Generic[Block]):
    """Blocks whose arrays are gone, kept for the next ones of the same size.

    Arrays that are needed in turn have the same few sizes: the model that a node is sent round after round, the
    updates that a researcher folds one after the other. All methods may be called from any thread, and by the garbage
    collector.

    Args:
        make: Makes a block of at least so many bytes.
        keep: Most blocks that are kept.
    """

    def __init__(self, make: Callable[[int], Block], keep: int = 2) -> None:
        self._make = make
        self._keep = keep
        self._free: deque[Block] = deque(maxlen=keep)

    def allocate(self, nbytes: int) -> Array:
        """Writable bytes, not zeroed."""
        return self.lend(self.take(nbytes) or self._make(nbytes))[:nbytes]

    def lend(self, block: Block) -> Array:
        """The bytes of a block, which comes (back) into the stock when the last array over it is gone."""
        root = np.frombuffer(block, dtype=np.uint8)
        if len(block) >= _WORTH_KEEPING:
            weakref.finalize(root, self._free.append, block).atexit = False
        return root

    def take(self, nbytes: int) -> Block | None:
        """A block of exactly this size out of the stock, if there is one."""
        # A deque's single operations are atomic; a lock could be wanted by a finalizer in the same thread.
        free = self._free
        for _ in range(len(free)):
            with contextlib.suppress(IndexError):
                block = free.popleft()
                if len(block) == nbytes:
                    return block
                free.append(block)
        return None

    def empty(self) -> None:
        """Give back what is kept now, and what is lent out as soon as the last array over it is gone."""
        self._free = deque(maxlen=self._keep)  # a block that comes back into the old one goes with it
