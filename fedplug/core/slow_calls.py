"""A word about code of others that does not come back: it cannot be stopped, but whoever waits is told for whom."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

SLOW = 30.0
"""Seconds after which something counts as slow."""

_log = logging.getLogger("fedplug.plugins")


@contextlib.contextmanager
def named_if_slow(who: str, what: str) -> Iterator[None]:
    """Say in the log that something is waited for when it takes long, and once more when it has come back.

    Args:
        who: Whose code runs, for the beginning of a sentence.
        what: What it is asked to do, e.g. the name of a hook.
    """
    told = threading.Event()

    def tell() -> None:
        told.set()
        _log.warning(
            "%s has not come back from %s for %g s, and is still waited for. If it never does, stop this process, and "
            "leave the plugin out with FEDPLUG_PLUGINS or by uninstalling it.",
            who, what, SLOW,
        )  # fmt: skip

    timer = threading.Timer(SLOW, tell)
    timer.daemon = True
    with contextlib.suppress(RuntimeError):  # there may be no more threads; then nothing is said
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if told.is_set():
            _log.warning("%s has come back from %s.", who, what)
