"""When what a round has taken goes to the disk, who is told then, and what happens when the disk is full."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from fedplug.core.crash_points import crash_point
from fedplug.core.errors import DiskFullError
from fedplug.core.messages import TaskKey
from fedplug.core.monitor import Monitor
from fedplug.core.pool import NodePool, UpdateFetched
from fedplug.researcher.spool import Spool

SETTLE_AFTER = 0.05
"""Seconds after which an update is put on the disk: those that come meanwhile share the flush, and no node waits."""

MOST_UNSETTLED = 64
"""So many updates share a flush at most."""

TRY_AGAIN = 1.0
"""Seconds between two looks whether a full disk has room again."""

FULL_PATIENCE = 3600.0
"""Seconds that a round waits for a disk that is full."""


class Settling:
    """See the module.

    Args:
        pool: The nodes that are told.
        spool: Puts things on the disk.
        monitor: Told of a disk that is full, once.
    """

    def __init__(self, pool: NodePool, spool: Spool, monitor: Monitor) -> None:
        self._pool = pool
        self._spool = spool
        self._monitor = monitor
        self._taken_at = 0.0  # when the first update arrived that is not settled
        self._full: float | None = None  # since when the disk is full

    def take(self, event: UpdateFetched) -> None:
        """A valid update has arrived."""
        self._begin()
        self._spool.take(event)
        crash_point("update-fetched")

    def refuse(self, key: TaskKey, reason: str) -> None:
        """An update is not taken, for good."""
        self._begin()
        self._spool.refuse(key, reason)

    def due_in(self, timeout: float) -> float:
        """Seconds until something is to be settled; ``timeout`` if that is sooner."""
        if not self._spool.unsettled:
            return timeout
        return min(timeout, max(0.0, self._taken_at + SETTLE_AFTER - time.monotonic()))

    def settle_if_due(self, then: Callable[[], None], pause: float) -> None:
        """Settle what is due, and then do something that may need room on the disk too.

        Args:
            then: What to do.
            pause: Seconds to wait if the disk is full.

        Raises:
            DiskFullError: The disk has been full for too long.
        """
        try:
            if self._spool.unsettled >= MOST_UNSETTLED or self.due_in(1.0) == 0:
                self.settle()
            then()
            self._full = None
        except DiskFullError as error:
            self._wait(error, pause)

    def settle(self) -> None:
        """Put everything on the disk, and tell the nodes.

        Raises:
            DiskFullError: There is no room. Nothing is lost.
        """
        self._acknowledge(self._spool.settle())

    def patiently(self, write: Callable[[], list[TaskKey]]) -> None:
        """Put something on the disk as soon as there is room for it, and tell the nodes of the tasks that come back.

        Raises:
            DiskFullError: The disk has been full for too long.
        """
        keys: list[TaskKey] | None = None
        while keys is None:
            try:
                keys = write()
            except DiskFullError as error:
                self._wait(error, TRY_AGAIN)
        self._acknowledge(keys)

    def _begin(self) -> None:
        if not self._spool.unsettled:
            self._taken_at = time.monotonic()

    def _acknowledge(self, keys: Iterable[TaskKey]) -> None:
        for key in keys:
            self._pool.commit(key)
            crash_point("reply-acknowledged")

    def _wait(self, error: DiskFullError, seconds: float) -> None:
        """Nothing is taken, and nobody is told that an update is safe, until there is room: the nodes keep theirs."""
        now = time.monotonic()
        if self._full is None:
            self._full = now
            self._monitor.message(f"{error.message} The round goes on when there is room.")
        elif now - self._full > FULL_PATIENCE:
            raise error
        time.sleep(seconds)
