"""Who may see the page: one-time links, and the sessions that they open.

Everything here lives in memory: when the command ends, everybody is logged out. Of links and sessions only digests
are kept, so that a look-up takes the same time however much of a guess is right.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

LINK_SECONDS = 300.0
"""How long a link can be used."""

IDLE_SECONDS = 3600.0
"""How long a session lasts without a request."""

SESSION_SECONDS = 12 * 3600.0
"""How long a session lasts at most."""


@dataclass
class Session:
    """One browser that is logged in.

    Attributes:
        csrf: What every form of this session carries, and no other site can know.
        notes: What the next page should say: ``(kind, text)``, the kind being ``"done"`` or ``"problem"``. Pages of one
            session may be made in several threads, so they are put in and taken out one by one.
    """

    csrf: str
    began: float
    seen: float
    notes: deque[tuple[str, str]] = field(default_factory=deque)
    over: bool = False

    def owns(self, csrf: str) -> bool:
        """Whether a form came from a page of this session."""
        return hmac.compare_digest(csrf.encode(), self.csrf.encode())

    def take_notes(self) -> list[tuple[str, str]]:
        """The notes, which are gone then."""
        notes: list[tuple[str, str]] = []
        with contextlib.suppress(IndexError):
            while True:
                notes.append(self.notes.popleft())
        return notes


class Door:
    """Hands out links, and opens a session for each that is used in time.

    Args:
        clock: Seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._links: dict[str, float] = {}
        self._sessions: dict[str, Session] = {}

    def new_link(self) -> str:
        """A token that opens one session, within `LINK_SECONDS`."""
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._forget_the_old()
            self._links[_digest(token)] = self._clock()
        return token

    def open(self, token: str) -> str | None:
        """Use a link up.

        Returns:
            The key of the new session, for a cookie; None if the link was used before, is too old or never was one.
        """
        with self._lock:
            self._forget_the_old()
            if self._links.pop(_digest(token), None) is None:
                return None
            key, now = secrets.token_urlsafe(32), self._clock()
            self._sessions[_digest(key)] = Session(secrets.token_urlsafe(32), began=now, seen=now)
            return key

    def session(self, key: str, *, look: bool = False) -> Session | None:
        """The session of a cookie.

        Args:
            key: What the cookie says.
            look: Whether this request was made by the page and not by a person: it does not keep the session alive.
        """
        with self._lock:
            self._forget_the_old()
            session = self._sessions.get(_digest(key))
            if session is not None and not look:
                session.seen = self._clock()
            return session

    def close(self, key: str) -> None:
        """Log out."""
        with self._lock:
            session = self._sessions.pop(_digest(key), None)
            if session is not None:
                session.over = True

    def _forget_the_old(self) -> None:
        now = self._clock()
        self._links = {name: made for name, made in self._links.items() if now - made <= LINK_SECONDS}
        for name, session in list(self._sessions.items()):
            if now - session.seen > IDLE_SECONDS or now - session.began > SESSION_SECONDS:
                session.over = True
                del self._sessions[name]


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
