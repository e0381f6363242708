"""A list of public keys in a file that people can read, and edit: one line for each, with whose it is and since when.

It is read again whenever the file has changed, so that a program which runs obeys at once.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from fedplug.core.errors import KeysError, UsageError
from fedplug.core.key_folder import one_at_a_time, read_checked
from fedplug.core.keys import check_public
from fedplug.core.whole_file import whole_file

_MOST_NAME = 128
_MOST_BYTES = 4 * 2**20
_WRITABLE_BY_OTHERS = 0o022
_YOUNG = 0.1
"""A file that changed less than so many seconds before it was read is read again: its time may be too coarse to tell
another change from that one."""

_log = logging.getLogger("fedplug.keys")


class KeyEntry(NamedTuple):
    """One line of the list.

    Attributes:
        name: Whose key it is.
        key: The public key.
        since: The day on which it was added, e.g. ``"2026-11-26"``; empty if the line does not say.
    """

    name: str
    key: str
    since: str = ""


class KeyList:
    """A list of public keys. Other processes may change its file at any time; any thread may ask.

    Args:
        path: The file. As long as it is not there, the list is empty.
        head: What stands at the top of a new file, line by line.
    """

    def __init__(self, path: Path, head: Sequence[str]) -> None:
        self.path = path
        self._head = tuple(f"# {line}" for line in head)
        self._lock = threading.Lock()  # of what was read: the threads of several connections ask at the same time
        self._state: tuple[int, ...] | None = None
        self._settled = False
        self._entries: tuple[KeyEntry, ...] = ()
        self._names: dict[str, str] = {}

    def entries(self) -> tuple[KeyEntry, ...]:
        """All keys, in the order of the file. Lines that cannot be read are left out, and logged.

        Raises:
            KeysError: The file cannot be read, or others could have written it.
        """
        with self._lock:
            self._refresh()
            return self._entries

    def name_of(self, key: str) -> str:
        """Whose key this is; empty if the list does not have it.

        Args:
            key: As `check_public` returns it.

        Raises:
            KeysError: The file cannot be read, or others could have written it.
        """
        with self._lock:
            self._refresh()
            return self._names.get(key, "")

    def add(self, name: str, key: str, *, only: bool = False) -> tuple[KeyEntry, ...]:
        """Add a key, if it does not stand there under this name.

        Args:
            name: Whose it is.
            key: As `check_public` returns it.
            only: Remove the other keys of that name.

        Returns:
            All keys of that name now.

        Raises:
            UsageError: The name cannot stand in the list.
            KeysError: The file cannot be read or written.
        """
        if not _is_name(name):
            raise UsageError(
                f"{name!r} cannot stand in a list of keys.",
                cure=f"Use 1 to {_MOST_NAME} printable characters without blanks or #.",
            )
        line = f"{name}  {key}  {datetime.now(UTC).date().isoformat()}"

        def add(lines: list[str]) -> list[str]:
            kept = [each for each in lines if not only or not _is_of(each, name) or _is_of(each, name, key)]
            return kept if any(_is_of(each, name, key) for each in kept) else [*kept, line]

        self._rewrite(add)
        return tuple(entry for entry in self.entries() if entry.name == name)

    def remove(self, name_or_key: str) -> tuple[KeyEntry, ...]:
        """Remove all keys of a name, or one key wherever it stands.

        Returns:
            What was removed.

        Raises:
            KeysError: The file cannot be read or written.
        """
        gone = []

        def remove(lines: list[str]) -> list[str]:
            kept = []
            for line in lines:
                entry = _parsed(line)
                if entry is not None and name_or_key in (entry.name, entry.key):
                    gone.append(entry)
                else:
                    kept.append(line)
            return kept

        self._rewrite(remove)
        return tuple(gone)

    def _rewrite(self, change: Callable[[list[str]], list[str]]) -> None:
        """Change the lines of the file, of which the others stay as a person has written them."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with one_at_a_time(self.path.parent):
                before = self._read()
                lines = list(self._head) if before is None else before
                after = change(lines)
                if after == lines:
                    return
                with whole_file(self.path) as draft:
                    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                    with open(file, "w", encoding="utf-8") as text:
                        text.writelines(f"{line}\n" for line in after)
        except OSError as error:
            raise KeysError(
                f"{self.path} cannot be written: {error.strerror}.",
                cure="Check that the disk is not full and that this user may write the folder.",
            ) from None

    def _refresh(self) -> None:
        """Read the file if it has changed since it was last read."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            self._state, self._entries, self._names = None, (), {}
            return
        except OSError as error:
            raise self._unreadable(error) from None
        state = (status.st_ino, status.st_ctime_ns, status.st_size)
        if self._settled and state == self._state:
            return
        known = state == self._state  # then its bad lines were told before
        self._state = None
        self._settled = time.time() - status.st_ctime > _YOUNG
        lines = self._read() or []
        entries = []
        for number, line in enumerate(lines, 1):
            entry = _parsed(line)
            if entry is not None:
                entries.append(entry)
            elif _bare(line) and not known:
                _log.warning(
                    "%s, line %d: %r is not a name and a public key. It is left out.", self.path, number, line[:100]
                )
        self._entries = tuple(entries)
        self._names = {entry.key: entry.name for entry in reversed(entries)}
        self._state = state

    def _read(self) -> list[str] | None:
        """The lines of the file; None if it is not there.

        Raises:
            KeysError: It cannot be read, or others could have written it.
        """
        try:
            data = read_checked(self.path, self._check, _MOST_BYTES + 1)
        except OSError as error:
            raise self._unreadable(error) from None
        if data is None:
            return None
        if len(data) > _MOST_BYTES:
            raise KeysError(f"{self.path} is too large to be a list of keys.", cure="Bring it back from a copy.")
        return data.decode("utf-8", "replace").splitlines()

    def _check(self, status: os.stat_result) -> None:
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & _WRITABLE_BY_OTHERS:
            raise KeysError(
                f"Others can write {self.path}, and so add keys of their own.",
                cure=f"Look at what it says, and then: chmod 600 '{self.path}'",
            )

    def _unreadable(self, error: OSError) -> KeysError:
        return KeysError(
            f"{self.path} cannot be read: {error.strerror}.", cure="Run this as the user to whom it belongs."
        )


def _bare(line: str) -> str:
    """A line without its comment."""
    return line.partition("#")[0].strip()


def _parsed(line: str) -> KeyEntry | None:
    """What a line says; None if it does not say whose key is what."""
    words = _bare(line).split()
    if not 2 <= len(words) <= 3 or not _is_name(words[0]):
        return None
    try:
        return KeyEntry(words[0], check_public(words[1]), *words[2:])
    except KeysError:
        return None


def _is_of(line: str, name: str, key: str | None = None) -> bool:
    entry = _parsed(line)
    return entry is not None and entry.name == name and key in (None, entry.key)


def _is_name(name: str) -> bool:
    return 0 < len(name) <= _MOST_NAME and name.isprintable() and not set(name) & set(" \t#")
