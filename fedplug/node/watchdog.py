"""Ends a training that makes no progress, or takes more than its share."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

_LOOKS = 0.25
"""Seconds between two looks at the scratch folder, which is empty for nearly every training."""


class Watchdog:
    """Watches one training from a thread of its own.

    Only progress counts, not time: a training may last as long as it likes.

    Args:
        end: Told why the training must end, as a code and in words, once; from the watchdog's thread.
        silence: Seconds without any progress after which it must; 0 for any time.
        scratch: Its scratch folder; None if it has none.
        most: Most bytes that may lie there.
        excess: Says what else it takes too much of; empty if nothing. Asked now and then.
        clock: Gives monotonic seconds; for tests.
    """

    def __init__(
        self,
        end: Callable[[str, str], None],
        *,
        silence: float = 0.0,
        scratch: Path | None = None,
        most: int = 0,
        excess: Callable[[], str] = str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._end = end
        self._silence = silence
        self._scratch = scratch
        self._most = most
        self._excess = excess
        self._clock = clock
        self._last = clock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fedplug-watchdog", daemon=True)
        if silence or scratch:
            self._thread.start()

    def beat(self) -> None:
        """There is progress."""
        self._last = self._clock()

    def stop(self) -> None:
        """The training is over. From now on nothing is ended for its sake: the next one may have its process."""
        self._over.set()
        if self._thread.ident is not None:  # it was started
            self._thread.join()

    def look(self) -> bool:
        """Look once. Returns whether all is well."""
        quiet = self._clock() - self._last
        if self._silence and quiet > self._silence:
            text = f"it has made no progress for {quiet:.0f} s, and the node allows {self._silence:g} s"
            self._end("stalled", text)
            return False
        text = self._excess()
        if not text and self._scratch and (used := folder_size(self._scratch, self._most)) > self._most:
            text = f"it has written {used:,} bytes into its scratch folder, and the node allows {self._most:,}"
        if text:
            self._end("policy", text)
        return not text

    def _run(self) -> None:
        wait = min(_LOOKS, self._silence / 4) if self._silence else _LOOKS
        while not self._over.wait(wait):
            if not self.look():
                return


def folder_size(folder: Path, enough: int) -> int:
    """Bytes on the disk of all files below a folder; counting ends when there are more than ``enough``."""
    total = 0
    waiting = [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    found = entry.stat(follow_symlinks=False)
                    total += found.st_blocks * 512 + _ENTRY
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    if total > enough:
                        return total
        except OSError:
            continue  # it has been removed meanwhile
    return total


_ENTRY = 256
"""Bytes that a name takes, however small its file: empty files fill a disk too."""
