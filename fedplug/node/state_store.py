"""Where a node keeps the state of its trainings between rounds: in memory, or in files of the node's folder.

A state is stored under (experiment, data set, round, lineage) before its update is offered. It is the base of a
later round only if the researcher's request says so (``acked_round`` and ``acked_state``), so a reply that is lost,
refused or too late never advances a node: the state that was acknowledged stays until another one is. Of one
experiment and data set there are therefore at most two states: the one that the last training began with and the one it
ended with.

The lineage tells the ways of an experiment apart: one that was taken back to an earlier breakpoint, or that goes on
twice from one breakpoint, comes to the same round again. A training of one way makes the node forget what the others
left, but for a state from which both went on; so a state may be gone, but it is never that of another way.

States are forgotten when they are older than `MAX_AGE_DAYS` (an experiment that goes on renews them each
round), and, oldest first, when all of them together outgrow the store's limit; those of the experiment that
is being stored stay.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import sqlite3
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import msgspec

from fedplug.core.errors import CodecError, FedplugError, StoreError
from fedplug.core.local_state import LocalState
from fedplug.core.messages import LogLine, TrainRequest
from fedplug.core.params import Params, ParamsSpec, allocate
from fedplug.node.disk import delete, disk_errors, write_new
from fedplug.node.store import NodeStore

STATE_FOLDER = "state"
MAX_AGE_DAYS = 30.0
"""States that were not renewed for so long are forgotten when the node starts or stores another one."""

MAX_MEMORY = 2 * 2**30
MAX_DISK = 16 * 2**30
"""Most bytes that all states of a node may take together."""

_MAGIC = b"FPLGST1\n"
_HEADER = struct.Struct("<8sI")
_DAY = 86_400.0
_ROUND = "experiment_id = ? AND dataset_id = ? AND round = ?"
_log = logging.getLogger("fedplug.node")


class StateStore(ABC):
    """The states of one node. Methods may be called from any thread.

    Args:
        limit: Most bytes that all states may take together.
        now: Seconds since 1970; for tests.
    """

    def __init__(self, limit: int, now: Callable[[], float] = time.time) -> None:
        self._limit = limit
        self._now = now

    def base_of(self, request: TrainRequest, tell: Callable[[LogLine], None]) -> LocalState | None:
        """The state that a request goes on from; None if it names none, or that one is not there.

        Args:
            request: The request.
            tell: Takes a warning where the node has a state of that round, but of another way of the experiment.
        """
        key, number, lineage = request.key, request.acked_round, request.acked_state
        if number < 0 or not lineage:
            return None
        state = self.load(key.experiment_id, request.dataset_id, number, lineage)
        if state is None:
            others = self._lineages(key.experiment_id, request.dataset_id, number)
            if others and lineage not in others:
                text = (
                    f"What this node keeps of round {number + 1} comes from another way of the experiment, which went "
                    "on twice from one breakpoint or was taken back to an earlier one: it is not used."
                )
                tell(LogLine(level="warning", text=text, key=key))
        return state

    @abstractmethod
    def load(self, experiment_id: str, dataset_id: str, number: int, lineage: str) -> LocalState | None:
        """The state of this lineage that round ``number`` left; None if it is not there, or is damaged."""

    @abstractmethod
    def save(
        self, experiment_id: str, dataset_id: str, number: int, lineage: str, base: str, state: LocalState
    ) -> None:
        """Store what round ``number`` left, durably, in place of what an earlier attempt at it has left.

        Args:
            experiment_id: The experiment.
            dataset_id: The data set.
            number: The round.
            lineage: How the state came about; see `fedplug.core.local_state.lineage`.
            base: The lineage of the state that the round went on from; all other states are forgotten.
            state: What the round left.

        Raises:
            StoreError: It is too large, or cannot be written. What was stored stays.
        """

    @abstractmethod
    def forget(self, experiment_id: str) -> None:
        """Forget all states of an experiment."""

    @abstractmethod
    def _lineages(self, experiment_id: str, dataset_id: str, number: int) -> set[str]:
        """Of the states of a round."""

    def _check_size(self, state: LocalState) -> None:
        # The state that it replaces must be kept beside it.
        if 2 * state.nbytes > self._limit:
            raise StoreError(
                f"A state between rounds of {state.nbytes:,} bytes is too large: this node keeps "
                f"{self._limit:,} bytes, in which two such states must have room."
            )


class MemoryStateStore(StateStore):
    """States that are gone with the object: for virtual nodes and nodes without a folder."""

    def __init__(self, limit: int = MAX_MEMORY, now: Callable[[], float] = time.time) -> None:
        super().__init__(limit, now)
        self._lock = threading.Lock()
        self._states: dict[tuple[str, str, int, str], LocalState] = {}  # oldest first

    def load(self, experiment_id: str, dataset_id: str, number: int, lineage: str) -> LocalState | None:
        """As `StateStore.load`."""
        with self._lock:
            return self._states.get((experiment_id, dataset_id, number, lineage))

    def save(
        self, experiment_id: str, dataset_id: str, number: int, lineage: str, base: str, state: LocalState
    ) -> None:
        """As `StateStore.save`."""
        self._check_size(state)
        mine = (experiment_id, dataset_id)
        with self._lock:
            for key in [key for key in self._states if key[:2] == mine and key[3] != base]:
                del self._states[key]
            self._states[*mine, number, lineage] = state
            total = sum(each.nbytes for each in self._states.values())
            for key in [key for key in self._states if key[:2] != mine]:
                if total <= self._limit:
                    break
                total -= self._states.pop(key).nbytes

    def forget(self, experiment_id: str) -> None:
        """As `StateStore.forget`."""
        with self._lock:
            self._states = {key: state for key, state in self._states.items() if key[0] != experiment_id}

    def _lineages(self, experiment_id: str, dataset_id: str, number: int) -> set[str]:
        with self._lock:
            return {key[3] for key in self._states if key[:3] == (experiment_id, dataset_id, number)}


class FileStateStore(StateStore):
    """States as files in the node's folder, readable by its owner only; the node's store says which is which.

    A file is written and flushed to the disk before the store names it, and deleted after the store has
    forgotten it. So a crash leaves at most a file that nobody names, which the next start deletes.

    Args:
        store: The store of a node that has a folder.
        limit: Most bytes that all states may take together.
        now: Seconds since 1970; for tests.
    """

    def __init__(self, store: NodeStore, limit: int = MAX_DISK, now: Callable[[], float] = time.time) -> None:
        super().__init__(limit, now)
        if store.folder is None:
            raise StoreError("A node without a folder keeps its states in memory.")
        self._store = store
        self._folder = store.folder / STATE_FOLDER
        with disk_errors(self._folder):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._tidy()

    def load(self, experiment_id: str, dataset_id: str, number: int, lineage: str) -> LocalState | None:
        """As `StateStore.load`."""
        query = f"SELECT file, digest FROM states WHERE {_ROUND} AND lineage = ?"  # noqa: S608 - ours
        with self._store.transaction() as db:
            row = db.execute(query, (experiment_id, dataset_id, number, lineage)).fetchone()
        if row is None:
            return None
        try:
            return _read(self._folder / row[0], row[1])
        except (OSError, FedplugError) as error:
            _log.error("The state of round %d of experiment %s cannot be used: %s", number + 1, experiment_id, error)
            return None

    def save(
        self, experiment_id: str, dataset_id: str, number: int, lineage: str, base: str, state: LocalState
    ) -> None:
        """As `StateStore.save`."""
        self._check_size(state)
        file = f"{secrets.token_hex(16)}.state"
        mine = (experiment_id, dataset_id)
        with disk_errors(self._folder):
            try:
                digest, nbytes = _write(self._folder / file, state)
                with self._store.transaction() as db:
                    dropped = _drop(db, "experiment_id = ? AND dataset_id = ? AND lineage != ?", (*mine, base))
                    now = self._now()
                    db.execute("UPDATE states SET written = ? WHERE experiment_id = ? AND dataset_id = ?", (now, *mine))
                    row = (*mine, number, lineage, file, digest, nbytes, now)
                    db.execute("INSERT INTO states VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
                    dropped += _drop(db, "written < ?", (now - MAX_AGE_DAYS * _DAY,))
                    dropped += self._make_room(db, mine)
            except BaseException:
                with contextlib.suppress(OSError):
                    (self._folder / file).unlink(missing_ok=True)
                raise
        delete(self._folder, dropped)

    def forget(self, experiment_id: str) -> None:
        """As `StateStore.forget`."""
        with self._store.transaction() as db:
            dropped = _drop(db, "experiment_id = ?", (experiment_id,))
        delete(self._folder, dropped)

    def _lineages(self, experiment_id: str, dataset_id: str, number: int) -> set[str]:
        query = f"SELECT lineage FROM states WHERE {_ROUND}"  # noqa: S608 - ours
        with self._store.transaction() as db:
            return {lineage for (lineage,) in db.execute(query, (experiment_id, dataset_id, number))}

    def _make_room(self, db: sqlite3.Connection, mine: tuple[str, str]) -> list[str]:
        """Forget the oldest states of others until the rest fits."""
        (total,) = db.execute("SELECT COALESCE(SUM(nbytes), 0) FROM states").fetchone()
        others = "SELECT file, nbytes FROM states WHERE NOT (experiment_id = ? AND dataset_id = ?) ORDER BY written"
        dropped: list[str] = []
        for file, nbytes in db.execute(others, mine).fetchall():
            if total <= self._limit:
                break
            total -= nbytes
            dropped += _drop(db, "file = ?", (file,))
        return dropped

    def _tidy(self) -> None:
        """Forget what is too old, and delete files that a crash has left."""
        with self._store.transaction() as db:
            _drop(db, "written < ?", (self._now() - MAX_AGE_DAYS * _DAY,))
            named = {file for (file,) in db.execute("SELECT file FROM states")}
        delete(self._folder, [path.name for path in self._folder.iterdir() if path.name not in named])


def open_states(store: NodeStore) -> StateStore:
    """The states of a node: beside its store if that lies in a folder, else in memory."""
    return FileStateStore(store) if store.folder else MemoryStateStore()


def _drop(db: sqlite3.Connection, where: str, values: tuple[object, ...]) -> list[str]:
    """Delete rows; returns the files that they named."""
    found = db.execute(f"DELETE FROM states WHERE {where} RETURNING file", values)  # noqa: S608 - ``where`` is ours
    return [file for (file,) in found.fetchall()]


def _write(path: Path, state: LocalState) -> tuple[str, int]:
    """Write a state and wait until the disk has it. Returns its digest and size."""
    header = msgspec.msgpack.encode((msgspec.Raw(state.arrays.spec.table), state.values))
    parts = (_HEADER.pack(_MAGIC, len(header)), header, state.arrays.buffer)
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    write_new(path, parts)
    return digest.hexdigest(), sum(len(part) for part in parts)


def _read(path: Path, digest: str) -> LocalState:
    """Read what `_write` wrote.

    Raises:
        CodecError: It was changed.
        ParamsError: Its table is impossible.
    """
    found = hashlib.sha256()
    with path.open("rb") as file:
        start = file.read(_HEADER.size)
        found.update(start)
        if len(start) != _HEADER.size or start[: len(_MAGIC)] != _MAGIC:
            raise CodecError(f"{path.name} is not a state.")
        header = file.read(_HEADER.unpack(start)[1])
        found.update(header)
        size = os.fstat(file.fileno()).st_size - len(start) - len(header)
        raw = allocate(size)
        if file.readinto(raw.data) != size:
            raise CodecError(f"{path.name} is cut short.")
        found.update(raw.data)
    if found.hexdigest() != digest:
        raise CodecError(f"{path.name} is damaged.")
    spec, values = msgspec.msgpack.decode(header, type=tuple[ParamsSpec, bytes])
    return LocalState(Params(spec, raw), values)
