"""Memory for stacked parameters, taken again when nobody looks at it any more.

Fresh pages cost more than the copies into them; and what a cohort of nodes came to is forgotten after every round.
"""

from __future__ import annotations

import weakref

import numpy as np

from fedplug.core.params import ALIGNMENT, Array, allocate


class RowPool:
    """Blocks of memory, each for the parameters of several nodes."""

    def __init__(self) -> None:
        self._blocks: list[tuple[Array, weakref.ref[Array]]] = []

    def take(self, rows: int, nbytes: int) -> Array:
        """Writable bytes of shape ``(rows, k)`` with ``k >= nbytes``; each row is aligned. Not zeroed.

        The block is taken again when no view of any row is left.
        """
        width = -(-max(nbytes, 1) // ALIGNMENT) * ALIGNMENT
        wanted = rows * width
        free = [(block, lease) for block, lease in self._blocks if lease() is None]
        fitting = [block for block, _ in free if block.nbytes >= wanted]
        if fitting:
            block = min(fitting, key=lambda each: each.nbytes)
        else:
            self._blocks = [(block, lease) for block, lease in self._blocks if lease() is not None]
            block = allocate(wanted)
            block[:] = 0
        # Views of an array over a memoryview refer to that array, and not to what it was made of.
        leased = np.frombuffer(block.data, np.uint8, count=wanted)
        self._blocks = [(each, lease) for each, lease in self._blocks if each is not block]
        self._blocks.append((block, weakref.ref(leased)))
        return leased.reshape(rows, width)
