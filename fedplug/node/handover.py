"""Updates that researchers were offered and have not taken yet: what a node that drains still waits for."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedplug.core.messages import TaskKey
    from fedplug.node.contact import Contact

_log = logging.getLogger("fedplug.node")
_LOOK = 1.0


class Handover:
    """Knows the last update that each researcher was offered. Its methods may be called from any thread.

    Args:
        patience: Seconds that `wait` leaves a researcher to take its update.
        absence: Seconds of them for researchers that are not connected.
        lasting: Whether an update that is not taken stays on the node's disk.
    """

    def __init__(self, patience: float = 600.0, absence: float = 60.0, *, lasting: bool = False) -> None:
        self._patience = patience
        self._absence = absence
        self._lasting = lasting
        self._changed = threading.Condition()
        self._offered: dict[Contact, TaskKey] = {}
        self._given_up = False

    def offered(self, contact: Contact, key: TaskKey) -> None:
        """A researcher is offered an update."""
        with self._changed:
            self._offered[contact] = key

    def settled(self, contact: Contact, key: TaskKey) -> None:
        """A researcher has an update for good, or does not want it."""
        with self._changed:
            if self._offered.get(contact) == key:
                del self._offered[contact]
                self._changed.notify_all()

    def give_up(self) -> None:
        """Make `wait` return."""
        with self._changed:
            self._given_up = True
            self._changed.notify_all()

    def wait(self) -> bool:
        """Wait until all updates are taken, or patience ends.

        Returns:
            Whether all were taken.
        """
        began = time.monotonic()
        with self._changed:
            while self._offered and not self._given_up:
                here = any(contact.connected.is_set() for contact in self._offered)
                if time.monotonic() - began > (self._patience if here else self._absence):
                    urls = ", ".join(contact.url for contact in self._offered)
                    fate = "stays on the disk, and is offered at the next start" if self._lasting else "is given up"
                    _log.warning("The last update %s: the researcher at %s does not take it.", fate, urls)
                    break
                self._changed.wait(_LOOK)  # nothing announces the end of a connection here
            return not self._offered
