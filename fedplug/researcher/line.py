"""The tasks of a round in the order of folding: whose update is fetched next, and which can be folded.

An event costs the same for ten nodes and for a thousand: the line knows where to look.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator

from fedplug.core.messages import TaskKey
from fedplug.core.pool import NodePool, UpdateOffered
from fedplug.researcher.fold import Fold, RoundTask
from fedplug.researcher.roll import Roll
from fedplug.researcher.spool import Spool

PATIENCE = 1.0
"""Seconds that updates wait at their nodes while the one whose turn it is crosses, and nothing is folded."""

EARLY = 1.0
"""Seconds that an update for which there is no memory waits at its node for somebody before it who still trains."""


class Line:
    """See the module.

    Args:
        pool: The nodes.
        spool: Where updates wait.
        roll: Knows which nodes are out.
        fold: Where updates go when it is their turn.
    """

    def __init__(self, pool: NodePool, spool: Spool, roll: Roll, fold: Fold) -> None:
        self._pool = pool
        self._spool = spool
        self._roll = roll
        self._fold = fold
        self._tasks: dict[str, RoundTask] = {}
        self._line: list[RoundTask] = []
        self._turn = 0  # first place that is neither folded nor given up
        self._silent = 0  # first place from which an offer is still to come
        self._waiting: list[int] = []  # a heap: the places whose update waits at its node
        self._early: dict[int, float] = {}  # places that wait for somebody before them, and since when; oldest first

    def __iter__(self) -> Iterator[RoundTask]:
        return iter(self._line)

    def get(self, node_id: str) -> RoundTask | None:
        """The task of a node; None if it has none."""
        return self._tasks.get(node_id)

    def put(self, key: TaskKey) -> RoundTask:
        """A node gets a task, at the end of the line; or another attempt at the one that it has, in its place."""
        task = self._tasks.get(key.node_id)
        if task is None:
            task = self._tasks[key.node_id] = RoundTask(key, len(self._line))
            self._line.append(task)
        else:
            task.key, task.offer = key, None
            self._waiting = sorted(place for place in self._waiting if place != task.place)
            self._early.pop(task.place, None)
            self._silent = min(self._silent, task.place)
        return task

    def offered(self, task: RoundTask, offer: UpdateOffered) -> None:
        """The update of a task waits at its node."""
        task.offer, task.offered_at = offer, time.monotonic()
        heapq.heappush(self._waiting, task.place)

    def fold_ready(self) -> None:
        """Fold every update that has no unfinished node before it.

        Raises:
            RoundError: The aggregator or the optimizer fails.
        """
        while self._turn < len(self._line):
            task = self._line[self._turn]
            if task.update is None and not self._roll.is_given_up(task.key.node_id):
                return
            self._fold.add(task)
            self._turn += 1

    def due_in(self, timeout: float) -> float:
        """Seconds until an update has waited long enough for those before it; ``timeout`` if that is sooner."""
        oldest = next(iter(self._early.values()), None)
        return timeout if oldest is None else min(timeout, max(0.0, oldest + EARLY - time.monotonic()))

    def fetch_next(self) -> None:
        """Ask for the updates whose turn it is, or that fit, or that would wait long for somebody else.

        Raises:
            DiskFullError: There is no room for one of them, which stays at its node.
        """
        if not (self._waiting or self._early):
            return
        now = time.monotonic()
        in_order = self._fold.streaming is not None and not self._spool.durable
        head = self._line[self._turn].offered_at if self._turn < len(self._line) else 0.0
        patient = in_order and now - max(self._fold.latest, head) < PATIENCE
        self._end_waits(now)
        while self._waiting:
            place = self._waiting[0]
            task = self._line[place]
            if task.offer is not None and not self._roll.is_given_up(task.key.node_id):
                nbytes = task.offer.spec.nbytes + sum(spec.nbytes for spec in task.offer.aux.values())
                # the next in line always gets memory: it is folded, and gone, as soon as it is here
                in_memory = (in_order and place == self._turn) or self._spool.fits(nbytes)
                if not in_memory and patient and place < self._silent:
                    return  # its turn comes in a moment; until then its node keeps it
                if not in_memory and in_order and place > self._silent and now - task.offered_at < EARLY:
                    self._early[heapq.heappop(self._waiting)] = task.offered_at
                    continue  # nodes end in any order; most of those before it are about to offer, too
                task.room = self._spool.room(nbytes, in_file=not in_memory)
                self._pool.fetch(task.key, task.room.allocate, None if in_memory else task.room.rest)
            heapq.heappop(self._waiting)

    def _end_waits(self, now: float) -> None:
        """Look again at the updates that waited for those before them: all have offered, or it has taken too long."""
        while self._silent < len(self._line) and not self._may_offer(self._line[self._silent]):
            if self._early.pop(self._silent, None) is not None:
                heapq.heappush(self._waiting, self._silent)
            self._silent += 1
        while self._early:
            place, since = next(iter(self._early.items()))
            if now - since < EARLY:
                break
            del self._early[place]
            heapq.heappush(self._waiting, place)

    def _may_offer(self, task: RoundTask) -> bool:
        """Whether an offer is still to come."""
        return task.offer is None and not task.has_come and not self._roll.is_given_up(task.key.node_id)
