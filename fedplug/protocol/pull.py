"""One blob on its way to its receiver: where its chunks go, which are here, and whether the whole is right.

The digest of the whole decides whether the bytes are right. The crc32 of a chunk only tells which one is wrong, so
neither side computes it before there is something to find: then the holder is asked for the crc32 of all chunks, and
each one that comes from then on is checked. A holder that is older sends it along with each chunk.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable
from typing import Any

from fedplug.core.params import ParamsSpec
from fedplug.wire import BlobRef, start_digest
from fedplug.wire.headers import MOST_SUMS, UNTOLD

Token = Any
"""What the one who asked for a blob wants to get back with it."""

Settle = Callable[[], None]


class Pull:
    """One blob on its way.

    Args:
        owner: From whom: a node's id; empty at a node.
        ref: Its name and size.
        spec: Layout of its arrays; None if it holds none.
        dest: Writable bytes, at least ``ref.nbytes``.
        chunk: Size of a chunk.
        settle: As for `NodePool.fetch`.
    """

    def __init__(
        self, owner: str, ref: BlobRef, spec: ParamsSpec | None, dest: Any, chunk: int, settle: Settle | None = None
    ) -> None:
        self.owner = owner
        self.settle = settle
        self.ref = ref
        self.chunk = chunk
        self.waiting: list[tuple[Token, Any]] = []
        self.asked: set[int] = set()
        self.bad = 0
        self.doubted = False  # whether a chunk was damaged on the way: then each that comes is checked
        self.rounds = 0
        self.spec = spec
        self._dest = dest
        self._view = memoryview(dest).cast("B")[: ref.nbytes]
        self.restart()

    def restart(self) -> None:
        """Begin anew, because the whole was not what it should be."""
        self.count = -(-self.ref.nbytes // self.chunk)
        self._have = bytearray(self.count)
        self._fresh = 0  # first chunk that was never asked for
        self._todo: deque[int] = deque()  # before that: what is to be asked for again
        self._crcs: dict[int, int] = {}  # what the holder says of its chunks
        self.wants_sums = False  # whether it is to say so of all
        self._sums_asked: tuple[int, int] | None = None
        self._begin_digest()
        self.missing = self.count

    def spread(self) -> list[tuple[Token, Any]]:
        """Each who waits, with its own memory, cut to size. The one whose memory was filled may have left."""
        size = self.ref.nbytes
        for _, dest in self.waiting:
            if dest is not self._dest:
                memoryview(dest).cast("B")[:size] = self._view
        return [(token, dest[:size]) for token, dest in self.waiting]

    def next_index(self) -> int | None:
        """A chunk to ask for; None if all that are missing have been asked for."""
        while self._todo:
            index = self._todo.popleft()
            if not self._have[index] and index not in self.asked:
                self.asked.add(index)
                return index
        if self._fresh == self.count:
            return None
        self.asked.add(self._fresh)
        self._fresh += 1
        return self._fresh - 1

    @property
    def idle(self) -> bool:
        """Whether there is nothing left to ask for."""
        return not self._todo and self._fresh == self.count and self._span() is None

    @property
    def due(self) -> int:
        """How many answers are under way."""
        return len(self.asked) + (self._sums_asked is not None)

    def next_sums(self) -> tuple[int, int] | None:
        """The chunks, as (first, count), whose crc32 is to be asked for; None if there are none, or they were asked."""
        span = self._span()
        self._sums_asked = span or self._sums_asked
        return span

    def take_sums(self, first: int, crcs: tuple[int, ...]) -> bool:
        """What the holder says of its chunks; whether it was asked."""
        if self._sums_asked != (first, len(crcs)):
            return False
        self._sums_asked = None
        self._crcs.update(enumerate(crcs, first))
        self.wants_sums = self.lacks_sums
        return True

    @property
    def lacks_sums(self) -> bool:
        """Whether the holder has not said of each chunk what its crc32 is."""
        return len(self._crcs) < self.count

    def forget_asked(self) -> None:
        """The connection is gone, and with it what was under way."""
        self._sums_asked = None
        self._todo.extendleft(sorted(self.asked, reverse=True))
        self.asked.clear()

    def again(self, index: int) -> None:
        """Ask for a chunk again."""
        self.asked.discard(index)
        self._todo.append(index)

    def has(self, index: int) -> bool:
        """Whether a chunk is here."""
        return bool(self._have[index])

    def length(self, index: int) -> int:
        """Size of a chunk."""
        return min(self.chunk, self.ref.nbytes - index * self.chunk)

    def fits(self, index: int, crc: int, body: memoryview) -> bool:
        """Whether a chunk has its size, and, where that is checked, its crc32."""
        if len(body) != self.length(index):
            return False
        crc = self._crcs.get(index, UNTOLD) if crc == UNTOLD else crc
        return not self.doubted or crc == UNTOLD or zlib.crc32(body) == crc

    def store(self, index: int, crc: int, body: memoryview) -> None:
        """Write a chunk and hash as far as there is no hole."""
        start = index * self.chunk
        self._view[start : start + len(body)] = body
        self.asked.discard(index)
        self._have[index] = 1
        if crc != UNTOLD:
            self._crcs[index] = crc
        self.missing -= 1
        while self._hashed < self.count and self._have[self._hashed]:
            self._digest.update(self._bytes(self._hashed))
            self._hashed += 1

    def intact(self) -> bool:
        """Whether the bytes have the digest that was promised. Call it when nothing is missing."""
        return self._digest.hexdigest() == self.ref.id

    def discard_damaged(self) -> int:
        """Ask again for the chunks that are not what their crc32 says; how many these are. All is hashed anew then.

        Call it when nothing is missing, the digest is wrong, and `lacks_sums` is false.
        """
        damaged = [index for index, crc in sorted(self._crcs.items()) if zlib.crc32(self._bytes(index)) != crc]
        for index in damaged:
            self._have[index] = 0
            self._todo.append(index)
        self.missing += len(damaged)
        if damaged:
            self._begin_digest()
        return len(damaged)

    def _span(self) -> tuple[int, int] | None:
        if not self.wants_sums or self._sums_asked is not None:
            return None
        first = next(index for index in range(self.count) if index not in self._crcs)
        return first, min(MOST_SUMS, self.count - first)

    def _begin_digest(self) -> None:
        self._digest = start_digest(self.spec)
        self._hashed = 0

    def _bytes(self, index: int) -> memoryview:
        return self._view[index * self.chunk : (index + 1) * self.chunk]
