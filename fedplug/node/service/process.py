"""The process of a running node, seen from another one: told to stop, and waited for.

A signal goes to a process id, and ids are used again. So a process gets one only if it holds the lock of the folder,
says of itself that it obeys signals, and, where the system can tell, has the lock's file open. From then on it is held
by a descriptor (pidfd, Linux 5.3) that never means another process.
"""

from __future__ import annotations

import os
import select
import signal
import time
from pathlib import Path
from typing import Self

from fedplug.core.closing import Closing
from fedplug.core.errors import StoreError, UsageError
from fedplug.node.lock import LOCK_FILE, is_locked, locked_by
from fedplug.node.status import read_status

DRAIN = signal.SIGUSR1
"""Asks a node to take no new training, and to stop when the one under way has ended."""

_LOOK = 0.1
_STARTING = 10.0


class NodeProcess(Closing):
    """A running ``fedplug node start``. Use `find`.

    Args:
        folder: The node's folder.
        pid: Its process.
        handle: A descriptor of the process; None where the system has none.
    """

    def __init__(self, folder: Path, pid: int, handle: int | None) -> None:
        self.folder = folder
        self.pid = pid
        self._handle = handle

    @classmethod
    def find(cls, folder: Path) -> Self | None:
        """The process of the node in ``folder``; None if none runs.

        Raises:
            UsageError: It was started by a program, which does not obey signals; or from elsewhere.
            StoreError: Its lock cannot be looked at.
        """
        until = time.monotonic() + _STARTING
        while is_locked(folder):
            pid = locked_by(folder)
            status = read_status(folder)
            if pid and status.pid == pid:
                return cls._of(folder, pid, obeys=status.signals)
            if time.monotonic() > until:
                raise UsageError(
                    f"A node is running in {folder}, but it does not say as which process.",
                    cure="Stop it where it was started.",
                )
            time.sleep(_LOOK)  # it has just been started, or is about to end
        return None

    @classmethod
    def _of(cls, folder: Path, pid: int, *, obeys: bool) -> Self | None:
        if not obeys:
            raise UsageError(
                f"The node in {folder} was started by a program (process {pid}), and not by 'fedplug node start'.",
                cure="End that program, or call Node.stop() in it.",
            )
        try:
            handle = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
        except ProcessLookupError:
            handle = None
        except OSError:  # an older kernel
            handle = None
        found = cls(folder, pid, handle)
        if locked_by(folder) != pid:
            found.close()
            return None
        if _has_open(pid, folder / LOCK_FILE) is False:
            found.close()
            raise UsageError(
                f"The node in {folder} runs as process {pid} elsewhere, e.g. in a container: here that is another one.",
                cure="Stop it where it was started.",
            )
        return found

    def send(self, number: signal.Signals) -> None:
        """Send a signal; one that has ended already gets none.

        Raises:
            StoreError: The process belongs to another user.
        """
        try:
            if self._handle is not None:
                signal.pidfd_send_signal(self._handle, number)
            else:
                os.kill(self.pid, number)
        except ProcessLookupError:
            pass
        except PermissionError:
            raise StoreError(
                f"The node in {self.folder} belongs to another user (process {self.pid}).",
                cure="Stop it as that user, or as root.",
            ) from None

    def wait(self, timeout: float) -> bool:
        """Wait for its end.

        Args:
            timeout: Most seconds to wait.

        Returns:
            Whether it has ended.
        """
        if self._handle is not None:
            poll = select.poll()
            poll.register(self._handle, select.POLLIN)
            return bool(poll.poll(timeout * 1000))
        until = time.monotonic() + timeout
        while (runs := locked_by(self.folder) == self.pid) and time.monotonic() < until:
            time.sleep(_LOOK)
        return not runs

    def close(self) -> None:
        """Let go of the process, which goes on. May be called twice."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _has_open(pid: int, file: Path) -> bool | None:
    """Whether a process has a file open; None where the system does not tell."""
    try:
        wanted = file.stat()
        entries = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return None
    for entry in entries:
        try:
            found = entry.stat()
        except OSError:
            continue  # closed meanwhile
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            return True
    return False
