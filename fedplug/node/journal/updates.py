"""Finished updates, on the node's disk until their researchers have committed them.

An update is a header (the reply, and name, layout and fingerprint of its arrays) and the bytes of its arrays. The
header lies in the node's store, and so do small arrays; large ones have a file of the folder ``updates``. Beside the
header lies its digest, in it the fingerprints of the arrays: what is read back is what was written, or it is not used.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from fedplug.core.errors import CodecError, StoreError
from fedplug.core.link import FinishedTask
from fedplug.core.messages import TaskKey, TrainReply
from fedplug.core.params import Params
from fedplug.node.disk import delete, disk_errors, write_new
from fedplug.node.store import NodeStore
from fedplug.wire import decode_table

FOLDER = "updates"
SMALL = 256 * 1024
"""Arrays up to this size lie in the store: a file of their own would cost two more flushes."""

_WHERE = "researcher = ? AND task = ?"


class _Array(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One block of arrays: name (empty for the parameters), layout, fingerprint."""

    name: str
    table: msgspec.Raw
    fingerprint: str


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    reply: TrainReply
    arrays: tuple[_Array, ...]


class Updates:
    """The updates that a node keeps. Methods may be called from any thread.

    Args:
        store: The store of a node that has a folder.
        now: Seconds since 1970; for tests.
    """

    def __init__(self, store: NodeStore, now: Callable[[], float] = time.time) -> None:
        if store.folder is None:
            raise StoreError("A node without a folder keeps its updates in memory.")
        self._store = store
        self._now = now
        self._folder: Path = store.folder / FOLDER
        with disk_errors(self._folder):
            self._folder.mkdir(mode=0o700, exist_ok=True)

    def put(
        self,
        researcher: str,
        reply: TrainReply,
        params: Params,
        aux: Mapping[str, Params],
        beside: Callable[[], object] = lambda: None,
    ) -> bool:
        """Keep an update. It is on the disk when this returns.

        Args:
            researcher: Whose it is.
            reply: The reply.
            params: Its parameters.
            aux: Its extra arrays.
            beside: Called once; what it writes to the store is on the disk together with the update, or not at all.

        Returns:
            Whether it is `SMALL`.

        Raises:
            DiskFullError: There is no room.
            StoreError: It cannot be written.
        """
        blocks = {"": params, **aux}
        arrays = [_Array(name, msgspec.Raw(each.spec.table), each.fingerprint()) for name, each in blocks.items()]
        header = msgspec.msgpack.encode(_Header(reply, tuple(arrays)))
        buffers = [each.buffer for each in blocks.values()]
        nbytes = sum(each.nbytes for each in blocks.values())
        data, file = b"".join(buffers) if nbytes <= SMALL else None, None
        if data is None:
            file = f"{secrets.token_hex(16)}.update"
            with disk_errors(self._folder):
                write_new(self._folder / file, buffers)
        digest = hashlib.sha256(header).hexdigest()
        row = (researcher, _bytes(reply.key), digest, header, data, file, nbytes, self._now())
        try:
            with self._store.transaction() as db:
                db.execute("INSERT OR REPLACE INTO updates VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
                beside()
        except BaseException:
            delete(self._folder, [file] if file else [])
            raise
        return file is None

    def get(self, researcher: str, key: TaskKey) -> FinishedTask:
        """Read an update back. A large one is mapped, so it takes no memory before it is sent.

        Args:
            researcher: Whose it is.
            key: Its task.

        Raises:
            StoreError: It is not there.
            CodecError: It is not what was written.
            ParamsError: Likewise.
        """
        query = f"SELECT digest, header, data, file FROM updates WHERE {_WHERE}"  # noqa: S608 - our own text
        rows = self._store.read(query, (researcher, _bytes(key)))
        if not rows:
            raise StoreError("It is not in the store.")
        digest, header, data, file = rows[0]
        if hashlib.sha256(header).hexdigest() != digest:
            raise CodecError("Its header was changed.")
        try:
            said = msgspec.msgpack.decode(header, type=_Header)
        except msgspec.MsgspecError as error:
            raise CodecError(f"Its header cannot be read: {error}.") from None
        if said.reply.key != key:
            raise CodecError(f"It is the update of {said.reply.key}.")
        blocks = _blocks(said.arrays, memoryview(data) if file is None else self._mapped(file))
        return FinishedTask(said.reply, blocks.pop(""), blocks)

    def remove(self, *which: tuple[str, TaskKey]) -> None:
        """Forget the updates of these researchers and tasks, where they are there.

        Raises:
            StoreError: The store cannot be used.
        """
        with self._store.transaction(flush=False) as db:
            query = f"DELETE FROM updates WHERE {_WHERE} RETURNING file"  # noqa: S608 - our own text
            rows = [row for researcher, key in which for row in db.execute(query, (researcher, _bytes(key)))]
        delete(self._folder, [file for (file,) in rows if file])

    def kept(self) -> dict[tuple[str, TaskKey], bool]:
        """Whose updates there are, by researcher and task, and whether each is `SMALL`."""
        rows = self._store.read("SELECT researcher, task, file IS NULL FROM updates")
        found = {}
        for researcher, task, small in rows:
            with contextlib.suppress(msgspec.MsgspecError):  # nobody can ask for one whose key was damaged
                found[researcher, _key(task)] = bool(small)
        return found

    def tidy(self, wanted: Iterable[tuple[str, TaskKey]]) -> None:
        """Forget all but these, and delete files that a crash has left.

        Raises:
            StoreError: The store cannot be used.
        """
        keep = {(researcher, _bytes(key)) for researcher, key in wanted}
        with self._store.transaction(flush=False) as db:
            for which in db.execute("SELECT researcher, task FROM updates").fetchall():
                if which not in keep:
                    db.execute(f"DELETE FROM updates WHERE {_WHERE}", which)  # noqa: S608
            named = {file for (file,) in db.execute("SELECT file FROM updates")}
        with disk_errors(self._folder):
            delete(self._folder, [path.name for path in self._folder.iterdir() if path.name not in named])

    def older_than(self, seconds: float) -> list[tuple[str, TaskKey]]:
        """The updates that nobody has taken for so long."""
        query = "SELECT researcher, task FROM updates WHERE written < ?"
        rows = self._store.read(query, (self._now() - seconds,))
        return [(researcher, _key(task)) for researcher, task in rows]

    def size(self, researcher: str) -> tuple[int, float]:
        """Bytes of the arrays that wait for a researcher, and how many seconds the oldest of all updates has waited."""
        query = "SELECT COALESCE(SUM(nbytes) FILTER (WHERE researcher = ?), 0), MIN(written) FROM updates"
        nbytes, oldest = self._store.read(query, (researcher,))[0]
        return int(nbytes), 0.0 if oldest is None else self._now() - oldest

    def _mapped(self, file: str) -> memoryview:
        """The bytes of a file. Only the node writes its folder, so nobody cuts it short while it is mapped."""
        try:
            with (self._folder / file).open("rb") as opened:
                return memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:  # ValueError: it is empty
            raise StoreError(f"Its file cannot be read: {error}.") from None


def _blocks(arrays: Iterable[_Array], data: memoryview) -> dict[str, Params]:
    """The arrays, each held against its fingerprint."""
    blocks: dict[str, Params] = {}
    start = 0
    for array in arrays:
        spec = decode_table(array.table)
        params = Params(spec, data[start : start + spec.nbytes])
        if params.fingerprint() != array.fingerprint:
            raise CodecError("Its arrays were changed.")
        blocks[array.name] = params
        start += spec.nbytes
    if start != len(data):
        raise CodecError("It has another size than it says.")
    return blocks


def _bytes(key: TaskKey) -> Any:
    """A key as the store knows it: texts of its parts could be taken for those of another key."""
    return msgspec.msgpack.encode(key)


def _key(data: bytes) -> TaskKey:
    return msgspec.msgpack.decode(data, type=TaskKey)
