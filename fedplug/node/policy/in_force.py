"""The rules that are in force now: those of the file, taken over again when it changes."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

from fedplug.core.errors import FedplugError
from fedplug.node.policy.file import POLICY_FILE, read_policy
from fedplug.node.policy.schema import Policy

_log = logging.getLogger("fedplug.node")

_Stamp = tuple[int, int, int] | None


class PolicyInForce:
    """Gives the rules of a node whenever it is called; from any thread.

    A file that has become wrong, or is gone, changes nothing: the rules before it stay in force, and the log says so.

    Args:
        policy: The rules.
        folder: The node's folder, if they are those of its file.
    """

    def __init__(self, policy: Policy, folder: Path | None = None, stamp: _Stamp = None) -> None:
        self._policy = policy
        self._folder = folder
        self._stamp = stamp
        self._lock = threading.Lock()

    @classmethod
    def of(cls, folder: Path) -> PolicyInForce:
        """The rules of the node in ``folder``.

        Raises:
            PolicyError: Its file is wrong.
            StoreError: It cannot be read.
        """
        stamp = _stamp(folder)
        return cls(read_policy(folder), folder, stamp)

    def __call__(self) -> Policy:
        """The rules that are in force now."""
        if self._folder is None:
            return self._policy
        with self._lock:
            stamp = _stamp(self._folder)
            if stamp != self._stamp:
                self._stamp = stamp
                self._take(self._folder, gone=stamp is None)
            return self._policy

    def _take(self, folder: Path, *, gone: bool) -> None:
        if gone:
            _log.error("%s is gone; the rules that it held stay in force until the node is restarted.", POLICY_FILE)
            return
        try:
            self._policy = read_policy(folder)
        except FedplugError as error:
            _log.error("%s was changed, but the rules before that stay in force: %s", POLICY_FILE, error)
        else:
            _log.info("The rules in %s were changed, and are in force.", POLICY_FILE)


def _stamp(folder: Path) -> _Stamp:
    try:
        status = os.stat(f"{folder}{os.sep}{POLICY_FILE}")  # noqa: PTH116 - several times a task; a `Path` takes longer
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
