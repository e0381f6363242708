"""Pulling blobs: the receiver asks for chunks, and so never gets more than it has room for.

A `Pull` (in `fedplug.protocol.pull`) is one blob on its way: destination, bitmap, running digest. `Puller` shares
the credit between all pulls of a receiver, round robin. Chunks are written to where they belong as they come; when
the connection is lost, the bitmap stays and only what is missing is asked for again.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fedplug.core.errors import CodecError
from fedplug.core.params import ParamsSpec
from fedplug.protocol.limits import Limits
from fedplug.protocol.pull import Pull, Settle, Token
from fedplug.wire import BlobRef

_SETTLE_BYTES = 16 * 1024 * 1024  # most that arrives, over all pulls, before the memory behind it may be given back


@dataclass(slots=True)
class Arrived:
    """A pull came to its end: ``problem`` is empty, or says why it failed."""

    pull: Pull
    problem: str = ""


class Request(NamedTuple):
    """From whom, which blob, which chunks as (first, count); and whether their crc32 is asked for, or they."""

    owner: str
    blob: str
    ranges: tuple[tuple[int, int], ...]
    sums: bool = False


@dataclass(slots=True)
class _Owner:
    active: bool = False
    asked: int = 0
    moved: bool = False  # whether a chunk has come since `look`
    since: float = 0.0
    pulls: dict[str, Pull] = field(default_factory=dict)


class Puller:
    """All pulls of one receiver, and the credit that they share.

    Args:
        limits: Chunk size and credit.
        stats: Counters of what was refused.
    """

    def __init__(self, limits: Limits, stats: Counter[str]) -> None:
        self._limits = limits
        self._stats = stats
        self._owners: dict[str, _Owner] = {}
        self._turn: deque[Pull] = deque()
        self._free = limits.pool_credit
        self._unsettled = 0

    def add(
        self,
        owner: str,
        ref: BlobRef,
        spec: ParamsSpec | None,
        dest: Any,
        token: Token,
        settle: Settle | None = None,
    ) -> None:
        """Want a blob; ``token`` comes back in `Pull.waiting` when it is here. It may be under way already.

        Raises:
            CodecError: It is under way with another size or layout: one of the two messages lies.
        """
        pulls = self._owners.setdefault(owner, _Owner()).pulls
        pull = pulls.get(ref.id)
        if pull is None:
            pull = pulls[ref.id] = Pull(owner, ref, spec, dest, self._limits.chunk, settle)
            pull.waiting.append((token, dest))
            self._turn.append(pull)
            return
        if pull.ref.nbytes != ref.nbytes or pull.spec != spec:
            raise CodecError("A blob is announced with two sizes or layouts.")
        pull.waiting.append((token, dest))

    def adopt(self, limits: Limits) -> None:
        """Use other figures from now on. Call it while all owners are paused."""
        if limits.chunk != self._limits.chunk:
            for pull in self._turn:
                pull.chunk = limits.chunk
                pull.restart()
        self._free += limits.pool_credit - self._limits.pool_credit
        self._limits = limits

    def busy(self, owner: str) -> bool:
        """Whether ``owner`` owes us chunks."""
        state = self._owners.get(owner)
        return state is not None and state.asked > 0

    @property
    def under_way(self) -> int:
        """Chunks that were asked for and have not come."""
        return self._limits.pool_credit - self._free

    def pause(self, owner: str) -> None:
        """The connection to ``owner`` is gone."""
        state = self._owners.get(owner)
        if state is None:
            return
        state.active = False
        self._free += state.asked
        state.asked = 0
        for pull in state.pulls.values():
            pull.forget_asked()

    def resume(self, owner: str) -> None:
        """A new session with ``owner`` stands: whatever was asked for before is not coming."""
        self.pause(owner)
        self._owners.setdefault(owner, _Owner()).active = True

    def look(self, now: float) -> None:
        """Time has passed: who was asked long ago and has not sent one chunk since is asked again."""
        for name, owner in self._owners.items():
            if owner.moved or not (owner.asked and owner.since):
                owner.moved, owner.since = False, now
            elif owner.active and now - owner.since > self._limits.repeat_longest:
                self._stats["gets_repeated"] += 1
                self.resume(name)

    def drop(self, owner: str, unwanted: Callable[[Token], bool]) -> None:
        """Forget the waits for which ``unwanted`` is true, and pulls that nobody waits for any more."""
        state = self._owners.get(owner)
        for pull in list(state.pulls.values()) if state else ():
            pull.waiting = [(token, dest) for token, dest in pull.waiting if not unwanted(token)]
            if not pull.waiting:
                self._remove(pull)

    def on_chunk(self, owner: str, blob: str, index: int, crc: int, body: memoryview) -> Arrived | None:
        """Take a chunk in. Returns the pull if that was its end."""
        state = self._owners.get(owner)
        pull = state.pulls.get(blob) if state else None
        if state is None or pull is None or index >= pull.count:
            self._stats["chunks_unasked"] += 1
            return None
        if pull.has(index):
            self._stats["chunks_duplicate"] += 1
            return None
        if index not in pull.asked:
            self._stats["chunks_unasked"] += 1
            return None
        state.asked -= 1
        state.moved = True
        self._free += 1
        if not pull.fits(index, crc, body):
            pull.again(index)
            return self._damaged(pull, 1)
        pull.store(index, crc, body)
        self._unsettled += len(body)
        if self._unsettled >= _SETTLE_BYTES:
            self._settle()
        return self._completed(pull) if pull.missing == 0 else None

    def on_sums(self, owner: str, blob: str, first: int, crcs: tuple[int, ...]) -> Arrived | None:
        """Take in what the holder says of its chunks. Returns the pull if that was its end."""
        state = self._owners.get(owner)
        pull = state.pulls.get(blob) if state else None
        if state is None or pull is None or not pull.take_sums(first, crcs):
            self._stats["chunks_unasked"] += 1
            return None
        state.asked -= 1
        state.moved = True
        self._free += 1
        return self._completed(pull) if not pull.wants_sums else None

    def fail(self, owner: str, blob: str, problem: str) -> Arrived | None:
        """The holder does not have it."""
        state = self._owners.get(owner)
        pull = state.pulls.get(blob) if state else None
        return None if pull is None else self._remove(pull, problem)

    def grant(self) -> Iterable[Request]:
        """What to ask for now: as much as the credit allows, in turn, a few chunks a request."""
        if not self._turn or self._free <= 0:
            return ()
        waiting = sum(1 for pull in self._turn if not pull.idle and self._owners[pull.owner].active)
        if not waiting:
            return ()
        share = max(1, min(self._limits.peer_credit, self._limits.pool_credit // waiting))
        requests: list[Request] = []
        for _ in range(len(self._turn)):
            pull = self._turn[0]
            self._turn.rotate(-1)
            state = self._owners[pull.owner]
            # Asking at half-empty keeps the line full with a request per several chunks.
            if state.active and (span := pull.next_sums()) is not None:
                state.asked += 1
                self._free -= 1
                requests.append(Request(pull.owner, pull.ref.id, (span,), sums=True))
            elif state.active and not pull.idle and len(pull.asked) <= share // 2:
                room = min(share - len(pull.asked), self._limits.peer_credit - state.asked, self._free)
                indices = self._take(pull, room)
                if indices:
                    state.asked += len(indices)
                    self._free -= len(indices)
                    requests.append(Request(pull.owner, pull.ref.id, _ranges(indices)))
            if self._free <= 0:
                break
        return requests

    def _settle(self) -> None:
        self._unsettled = 0
        for pull in self._turn:
            if pull.settle is not None:
                pull.settle()

    def _take(self, pull: Pull, room: int) -> list[int]:
        indices: list[int] = []
        while len(indices) < room:
            index = pull.next_index()
            if index is None:
                break
            indices.append(index)
        return indices

    def _completed(self, pull: Pull) -> Arrived | None:
        if pull.intact():
            pull.waiting = pull.spread()
            return self._remove(pull)
        if pull.lacks_sums:
            pull.wants_sums = True
            return None
        if damaged := pull.discard_damaged():
            return self._damaged(pull, damaged)
        self._stats["blobs_damaged"] += 1
        pull.rounds += 1
        if pull.rounds > 1:
            return self._remove(pull, "its bytes do not have the digest that was promised, twice")
        pull.restart()
        return None

    def _damaged(self, pull: Pull, chunks: int) -> Arrived | None:
        """So many chunks, which are to be asked for again, came damaged. Returns the pull if these are too many."""
        self._stats["chunks_damaged"] += chunks
        pull.bad += chunks
        pull.doubted = True
        if pull.bad > self._limits.bad_chunks:
            return self._remove(pull, "too many of its chunks arrived damaged")
        return None

    def _remove(self, pull: Pull, problem: str = "") -> Arrived:
        state = self._owners[pull.owner]
        state.asked -= pull.due
        self._free += pull.due
        pull.forget_asked()
        del state.pulls[pull.ref.id]
        self._turn.remove(pull)
        return Arrived(pull, problem)


def _ranges(indices: list[int]) -> tuple[tuple[int, int], ...]:
    """Sorted indices as (first, count)."""
    ranges: list[tuple[int, int]] = []
    for index in sorted(indices):
        if ranges and sum(ranges[-1]) == index:
            ranges[-1] = (ranges[-1][0], ranges[-1][1] + 1)
        else:
            ranges.append((index, 1))
    return tuple(ranges)
