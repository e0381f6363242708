"""Named points at which a test makes a process die as if the power had gone: ``FEDPLUG_CRASH_AT=round-committed``.

So "killed between the journal and the acknowledgement" is a test like any other, and no race. ``NAME:3`` means the
third time that the point is reached. Without the variable a point costs one comparison.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping

from fedplug.core.errors import UsageError

VARIABLE = "FEDPLUG_CRASH_AT"

POINTS: Mapping[str, str] = {
    # the researcher
    "round-begun": "The round and its tasks are in the journal; nothing was sent.",
    "tasks-sent": "All tasks were handed to the pool; no event was read.",
    "update-fetched": "An update has arrived and is valid; neither its file nor the journal is flushed.",
    "update-in-file": "The file of an update is flushed; the journal does not know of it.",
    "reply-journalled": "The journal knows of an update; its node was not told.",
    "reply-acknowledged": "The node was told that its update is safe.",
    "aggregated": "The new global parameters are made; nothing of that is on disk.",
    "round-committed": "The journal says that the round is complete; there is no breakpoint of it.",
    "breakpoint-written": "The breakpoint of the round is whole.",
    # the node
    "task-begun": "The journal says that a training begins; it has not.",
    "task-trained": "The training has ended; nothing of its update is on the disk.",
    "update-kept": "The update is on the disk, and so the task is finished; it was not offered.",
    "update-offered": "The update was offered.",
    "chunk-sent": "A frame with a chunk, or with small arrays, was handed to the transport.",
    "task-ended": "The journal says how the task ended; its update is still on the disk.",
}
"""What is true, and what is not yet, at each point."""

Watcher = Callable[[str], None]


def crash_point(name: str) -> None:
    """End this process by SIGKILL if `VARIABLE` names this point, one of `POINTS`."""
    if _watcher is not None:
        assert name in POINTS, name
        _watcher(name)


@contextlib.contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Call ``watcher`` with the name of each point that this process reaches, for tests without processes.

    It may raise what stands for the crash: a `BaseException` that nothing catches.
    """
    global _watcher  # noqa: PLW0603 - a process dies as a whole
    before, _watcher = _watcher, watcher
    try:
        yield
    finally:
        _watcher = before


def watcher_of(wanted: str) -> Watcher | None:
    """What carries out ``wanted``, the content of `VARIABLE`; None if it is empty.

    Raises:
        UsageError: It names no point.
    """
    if not wanted:
        return None
    name, _, times = wanted.partition(":")
    left = int(times) if times.isascii() and times.isdigit() else 1
    if name not in POINTS or left < 1 or (":" in wanted and not times.isdigit()):
        raise UsageError(
            f"{VARIABLE}={wanted} is no point at which a process can crash.",
            cure=f"It is for tests only: unset it, or name one of {', '.join(POINTS)}.",
        )

    def die(reached: str) -> None:
        nonlocal left
        if reached == name:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return die


_watcher: Watcher | None = watcher_of(os.environ.get(VARIABLE, ""))
