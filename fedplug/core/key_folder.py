"""The folder in which a node, or a researcher, keeps its keys. Only its owner may look into it.

``own.key`` holds the pair that is in use, ``next.key`` one that will take its place when the others know it. Whoever
can read one of them can pass for its owner; so a file that others can read is refused, and so is a folder that they can
look into.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

from fedplug.core.errors import KeysError, UsageError
from fedplug.core.keys import KeyPair
from fedplug.core.whole_file import sync, whole_file

OWN_FILE = "own.key"
NEXT_FILE = "next.key"

_MOST_BYTES = 4096
_OTHERS = 0o077
_TEXT = """\
# Keys of FedPlug. Whoever has the secret one can pass for its owner: it leaves this machine as a backup only.
public = "{public}"
secret = "{secret}"
"""


class KeyFolder:
    """The keys of one side.

    Args:
        path: The folder; it is made with the first keys.
        renew: The command that makes new keys, for messages.
    """

    def __init__(self, path: Path, *, renew: str) -> None:
        self.path = path
        self._renew = renew

    def pair(self) -> KeyPair | None:
        """The keys that are in use; None if there are none.

        Raises:
            KeysError: Others can read them, or they are damaged.
        """
        return self._read(self.path / OWN_FILE)

    def next_pair(self) -> KeyPair | None:
        """The keys that will be in use; None if there are none.

        Raises:
            KeysError: Others can read them, or they are damaged.
        """
        return self._read(self.path / NEXT_FILE)

    def add(self, pair: KeyPair) -> None:
        """Keep the first keys.

        Raises:
            UsageError: There are keys already.
            KeysError: They cannot be written, or others can look into the folder.
        """
        self._write(OWN_FILE, pair, f"There are keys in {self.path} already.")

    def add_next(self, pair: KeyPair) -> None:
        """Keep keys that `take_next` will put to use.

        Raises:
            UsageError: Others wait already.
            KeysError: They cannot be written, or others can look into the folder.
        """
        self._write(NEXT_FILE, pair, f"New keys wait in {self.path} already.")

    def take_next(self) -> KeyPair:
        """Put the keys that wait to use. Those before them are gone.

        Returns:
            The keys that are in use now.

        Raises:
            UsageError: None wait.
            KeysError: Others can read them, or they are damaged.
        """
        with self._writing():
            pair = self.next_pair()
            if pair is None:
                raise UsageError(f"No new keys wait in {self.path}.", cure=f"Make them first: {self._renew}")
            (self.path / NEXT_FILE).replace(self.path / OWN_FILE)
            sync(self.path)
        return pair

    def _write(self, name: str, pair: KeyPair, taken: str) -> None:
        with self._writing():
            if (self.path / name).exists():
                raise UsageError(taken)
            with whole_file(self.path / name) as draft:
                file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                with open(file, "w", encoding="ascii") as text:
                    text.write(_TEXT.format(public=pair.public, secret=pair.secret))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """The folder is there, is private, and no other command changes it."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with one_at_a_time(self.path):
                self._check_folder()
                yield
        except OSError as error:
            raise KeysError(
                f"Keys cannot be written into {self.path}: {error.strerror}.",
                cure="Check that the disk is not full and that this user may write the folder.",
            ) from None

    def _read(self, path: Path) -> KeyPair | None:
        def check(status: os.stat_result) -> None:
            self._check_folder()
            self._check(path, status, "600", "read")

        try:
            data = read_checked(path, check, _MOST_BYTES)
        except OSError as error:
            raise KeysError(
                f"The keys in {path} cannot be read: {error.strerror}.", cure="Run this as the user who made them."
            ) from None
        return None if data is None else self._parsed(path, data)

    def _parsed(self, path: Path, data: bytes) -> KeyPair:
        try:
            found = tomllib.loads(data.decode("ascii"))
        except (ValueError, RecursionError):
            found = {}
        if set(found) != {"public", "secret"} or not all(isinstance(value, str) for value in found.values()):
            raise KeysError(
                f"The file {path} is damaged: it does not hold a pair of keys.",
                cure="Bring it back from a copy. If there is none, remove it and make new keys.",
            )
        return KeyPair(**found)

    def _check_folder(self) -> None:
        self._check(self.path, self.path.stat(), "700", "look into")

    def _check(self, path: Path, status: os.stat_result, mode: str, verb: str) -> None:
        """Refuse what is not private.

        Raises:
            KeysError: Others can read it, or it belongs to somebody else.
        """
        if status.st_uid not in (0, os.geteuid()):
            raise KeysError(
                f"{path} belongs to another user, who can {verb} it.",
                cure=f"Run this as that user, or make keys of your own in a folder of your own: {self._renew}",
            )
        if status.st_mode & _OTHERS:
            raise KeysError(
                f"Others can {verb} {path}, where secret keys are kept.",
                cure=f"chmod {mode} '{path}'\nIf somebody may have done so, make new keys then: {self._renew}",
            )


def read_checked(path: Path, check: Callable[[os.stat_result], None], most: int) -> bytes | None:
    """What stands in a file, after a look at whose it is.

    Args:
        path: The file.
        check: Given what the system knows of the very file that is read; raises to refuse it.
        most: How many bytes to read at most.

    Returns:
        The bytes; None if there is no such file.

    Raises:
        OSError: It cannot be read.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a plain file")
        check(status)
        with open(file, "rb", closefd=False) as opened:
            return opened.read(most)
    finally:
        os.close(file)


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Let no other command change the files in a folder meanwhile; waits for one that does.

    Raises:
        OSError: The folder cannot be written.
    """
    file = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
