"""The rules that are in force now: those of the file, taken over again when it changes."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

from fedplug.core.errors import FedplugError
from fedplug.node.policy.file import POLICY_FILE, read_policy
from fedplug.node.policy.schema import Policy

_log = logging.getLogger("fedplug.node")

_Stamp = tuple[int, int, int] | None

_YOUNG = 0.1
"""A file that changed less than so many seconds before it was read is read again: its time may be too coarse to tell
another change from that one, and whoever writes it may not be through."""


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
        self._settled = _is_settled(stamp)
        self._said = ""  # what is wrong with the file
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
            if stamp != self._stamp or not self._settled:
                news = stamp != self._stamp
                self._stamp, self._settled = stamp, _is_settled(stamp)
                self._take(self._folder, gone=stamp is None, news=news)
            return self._policy

    def _take(self, folder: Path, *, gone: bool, news: bool) -> None:
        if gone:
            _log.error("%s is gone; the rules that it held stay in force until the node is restarted.", POLICY_FILE)
            return
        try:
            policy = read_policy(folder)
        except FedplugError as error:
            if news or str(error) != self._said:
                _log.error("%s was changed, but the rules before that stay in force: %s", POLICY_FILE, error)
            self._said = str(error)
        else:
            if news or self._said or policy != self._policy:
                _log.info("The rules in %s were changed, and are in force.", POLICY_FILE)
            self._policy, self._said = policy, ""


def _stamp(folder: Path) -> _Stamp:
    try:
        status = os.stat(f"{folder}{os.sep}{POLICY_FILE}")  # noqa: PTH116 - several times a task; a `Path` takes longer
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _is_settled(stamp: _Stamp) -> bool:
    """Whether a file with this stamp, read from now on, is as it will be for as long as it has this stamp."""
    return (
        stamp is None or abs(time.time() - stamp[2] / 1e9) > _YOUNG
    )  # times to come are no reason to read it for ever
