"""The node's memory: one SQLite file in the node's folder.

The command line opens it while the node runs, so every method is one short transaction.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedplug.core.closing import Closing
from fedplug.core.errors import DiskFullError, StoreError, UsageError
from fedplug.node import store_upgrade
from fedplug.node.commands import node_command
from fedplug.node.dataset_store import DatasetStore
from fedplug.node.migrations import APPLICATION_ID, MIGRATIONS

STORE_FILE = "node.sqlite"
DEFAULT_URL = "zmq://127.0.0.1:7400"
_NODE_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}[a-z0-9]")
_MAY_WRITE = "Check that this user may write the node's folder."


@dataclass(frozen=True)
class NodeIdentity:
    """Who this node is.

    Attributes:
        node_id: Unique and stable.
        name: What people call it.
        researcher: Addresses that it connects to unless told otherwise, separated by blanks.
        created: When it was made (UTC, ISO 8601).
    """

    node_id: str
    name: str
    researcher: str
    created: str

    @property
    def researchers(self) -> tuple[str, ...]:
        """The addresses, one by one."""
        return tuple(self.researcher.split())


def check_no_node(folder: Path) -> None:
    """Make sure that a node can be made in ``folder``, which need not exist.

    Raises:
        UsageError: It is a node already.
        StoreError: It cannot be read.
    """
    path = folder / STORE_FILE
    try:
        there = path.exists() and path.stat().st_size > 0
    except OSError as error:
        raise _cannot_be_made(folder, error) from None
    if there:
        raise UsageError(
            f"{folder} is a node already.",
            cure=f"Choose another folder, or go on with: {node_command(folder, 'start')}\n"
            "With --researcher URL it connects to another address.",
        )


class NodeStore(DatasetStore, Closing):
    """The store of one node. Methods may be called from any thread, and while another process has it open.

    Use `create`, `open` or `in_memory`.
    """

    def __init__(self, connection: sqlite3.Connection, folder: Path | None) -> None:
        self.folder = folder
        self._db = connection
        self._lock = threading.RLock()
        self._within = self._flushes = False  # of the transaction that is open

    @classmethod
    def create(
        cls, folder: str | Path, *, name: str = "", node_id: str = "", researcher: str = DEFAULT_URL
    ) -> NodeStore:
        """Make a node in ``folder``, which is created if need be.

        Args:
            folder: Where the node keeps its store.
            name: What people call it; the folder's name by default.
            node_id: Its id; made from the name by default.
            researcher: Address that it connects to unless told otherwise.

        Raises:
            UsageError: The folder is a node already, or name or id cannot be used.
            StoreError: The folder cannot be written.
        """
        folder = Path(folder).expanduser().absolute()
        name, node_id = _check_names(name or folder.name, node_id)
        path = folder / STORE_FILE
        check_no_node(folder)
        try:
            # The store says where the data lie, which is nobody else's business.
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)
        except OSError as error:
            raise _cannot_be_made(folder, error) from None
        store = cls(_connect(path), folder)
        store._migrate(fresh=True)
        if not store._set_identity(node_id, name, researcher):
            store.close()
            raise UsageError(f"{folder} is a node already: another command has made it just now.")
        return store

    @classmethod
    def open(cls, folder: str | Path) -> NodeStore:
        """Open the store of an existing node.

        Raises:
            UsageError: The folder holds no node.
            StoreError: Its store is foreign, corrupt or too new.
        """
        folder = Path(folder).expanduser().absolute()
        path = folder / STORE_FILE
        if not path.is_file() or not path.stat().st_size:
            raise UsageError(
                f"{folder} is not a node.",
                cure=f"Make one with: fedplug node init {folder}\nOr name the right folder: fedplug node --folder ...",
            )
        store = cls(_connect(path), folder)
        try:
            store._check()
            store._migrate(fresh=False)
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def in_memory(cls, name: str = "node", *, node_id: str = "", researcher: str = DEFAULT_URL) -> NodeStore:
        """A store that is gone when it is closed: for nodes inside a script.

        Raises:
            UsageError: Name or id cannot be used.
        """
        name, node_id = _check_names(name, node_id)
        store = cls(_connect(":memory:"), None)
        store._migrate(fresh=True)
        store._set_identity(node_id, name, researcher)
        return store

    @property
    def identity(self) -> NodeIdentity:
        """Who this node is.

        Raises:
            StoreError: The store has lost its identity.
        """
        rows = self.read("SELECT node_id, name, researcher, created FROM node")
        if not rows:
            raise StoreError(
                f"The store in {self.folder} is not complete: `fedplug node init` was interrupted.",
                cure=f"Delete {STORE_FILE} in that folder and run fedplug node init again.",
            )
        return NodeIdentity(*rows[0])

    def next_incarnation(self) -> int:
        """The number of the run that begins now: larger than that of any run before, wherever the clock was set to."""
        with self.transaction() as db:
            (last,) = db.execute("SELECT max(incarnation) FROM run").fetchone()
            number = max(time.time_ns(), (last or 0) + 1)
            db.execute("INSERT OR REPLACE INTO run VALUES (1, ?)", (number,))
        return number

    # life cycle --------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """How many migrations the file has had."""
        return int(self.read("PRAGMA user_version")[0][0])

    def close(self) -> None:
        """Close the file. May be called twice."""
        with self._lock:
            self._db.close()

    def _check(self) -> None:
        """Refuse a file that is not ours, or not whole."""
        (application,) = self.read("PRAGMA application_id")[0]
        if application != APPLICATION_ID:
            raise StoreError(
                f"{self._path} was not made by FedPlug.",
                cure="Choose another folder for the node: fedplug node init ...",
            )
        if self.read("PRAGMA quick_check(1)") != [("ok",)]:
            raise self._corrupt()

    def _migrate(self, *, fresh: bool) -> None:
        (version,) = self.read("PRAGMA user_version")[0]
        if version > len(MIGRATIONS):
            raise StoreError(
                f"{self._path} was made by a newer FedPlug (version {version}, known: {len(MIGRATIONS)}).",
                cure="Upgrade: pip install --upgrade fedplug",
            )
        if version == len(MIGRATIONS):
            return
        old = None if fresh or self.folder is None else self.folder / STORE_FILE
        if old is not None:
            store_upgrade.require_upgradable(old, version)
        with self.transaction() as db:
            # Somebody else may have migrated between the look above and this transaction.
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version == len(MIGRATIONS):
                return
            if fresh:
                db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            copy = store_upgrade.back_up(old, version) if old is not None else None
            try:
                for statements in MIGRATIONS[version:]:
                    for statement in statements:
                        db.execute(statement)
                db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
            except sqlite3.Error as error:
                if old is None or copy is None:
                    raise
                raise store_upgrade.failed(old, version, copy, error) from error
        if copy is not None:
            store_upgrade.announce(version, len(MIGRATIONS), copy)

    def _set_identity(self, node_id: str, name: str, researcher: str) -> bool:
        """Say who this node is; whether nobody has done so before."""
        row = (node_id, name, researcher, datetime.now(UTC).isoformat(timespec="seconds"))
        with self.transaction() as db:
            return db.execute("INSERT OR IGNORE INTO node VALUES (1, ?, ?, ?, ?)", row).rowcount == 1

    def read(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of one query."""
        try:
            with self._lock:
                return self._db.execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise self._error_of(error) from error

    @contextlib.contextmanager
    def transaction(self, *, flush: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction, which takes the write lock at once.

        Inside another one it is part of that: what both write is on the disk together, or none of it is.

        Args:
            flush: Whether it is on the disk when it ends. Without, it outlives this process but not a power cut, until
                the next transaction is flushed: that takes along all before it.

        Raises:
            RuntimeError: It is to be flushed, and part of one that is not: a mistake of ours.
        """
        try:
            with self._lock:
                if self._within:  # of this thread: any other waits for the lock
                    if flush and not self._flushes:
                        raise RuntimeError("A transaction that is to be flushed is part of one that is not.")
                    yield self._db
                    return
                if not flush:
                    self._db.execute("PRAGMA synchronous = NORMAL")
                self._within, self._flushes = True, flush
                try:
                    self._db.execute("BEGIN IMMEDIATE")
                    try:
                        yield self._db
                    except BaseException:
                        if self._db.in_transaction:  # a full disk has rolled it back already
                            self._db.execute("ROLLBACK")
                        raise
                    self._db.execute("COMMIT")
                finally:
                    self._within = False
                    if not flush:
                        self._db.execute("PRAGMA synchronous = FULL")
        except sqlite3.DatabaseError as error:
            raise self._error_of(error) from error

    def _error_of(self, error: sqlite3.DatabaseError) -> StoreError:
        """What an error of SQLite means for who uses the store."""
        if isinstance(error, sqlite3.OperationalError):
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                text = f"The disk is full: {self._path} cannot be written."
                return DiskFullError(text, cure="Free some disk space; nothing is lost.")
            return StoreError(f"{self._path} cannot be used: {error}.", cure=_MAY_WRITE)
        if isinstance(error, sqlite3.ProgrammingError):
            return StoreError(f"{self._path} has been closed: {error}")
        return self._corrupt()

    def _corrupt(self) -> StoreError:
        return StoreError(
            f"{self._path} is damaged, or not a store of FedPlug.",
            cure="Restore it from a backup, or move it away, run fedplug node init and add the data sets again.",
        )

    @property
    def _path(self) -> str:
        return str(self.folder / STORE_FILE) if self.folder else "The store in memory"


def _connect(path: str | Path) -> sqlite3.Connection:
    try:
        db = sqlite3.connect(path, timeout=10.0, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
        except sqlite3.Error:
            db.close()
            raise
    except sqlite3.OperationalError as error:
        raise StoreError(f"{path} cannot be opened: {error}.", cure=_MAY_WRITE) from error
    except sqlite3.DatabaseError as error:
        raise StoreError(
            f"{path} is not a store of FedPlug: {error}.",
            cure="Restore it from a backup, or move it away, run fedplug node init and add the data sets again.",
        ) from error
    return db


def _check_names(name: str, node_id: str) -> tuple[str, str]:
    name = name.strip()
    if not name or not name.isprintable() or len(name) > 64:
        raise UsageError(f"{name!r} cannot be the name of a node.", cure="Use 1 to 64 printable characters.")
    if not node_id:
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "node"
        node_id = f"{slug}-{secrets.token_hex(4)}"
    if not _NODE_ID.fullmatch(node_id):
        raise UsageError(
            f"{node_id!r} cannot be the id of a node.",
            cure="Use 2 to 64 of a-z, 0-9, dot, dash and underscore, beginning and ending with a letter or digit.",
        )
    return name, node_id


def _cannot_be_made(folder: Path, error: OSError) -> StoreError:
    return StoreError(
        f"The folder {folder} cannot be made: {error.strerror}.", cure="Choose another place for the node."
    )
