"""The updates of one round in one file: it is flushed once for all that came together.

Each array begins on a page of its own, so that large updates are received into the file and read from it without being
in memory as a whole. What an update consists of is described by an `UpdateHead` behind its arrays, whose place and
digest stand in the journal.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import msgspec
import numpy as np

from fedplug.core.errors import CodecError
from fedplug.core.messages import TrainReply
from fedplug.core.params import Array, Params, allocate
from fedplug.core.pool import UpdateFetched
from fedplug.core.whole_file import sync
from fedplug.researcher.round_records import Place
from fedplug.researcher.spool import MappedRoom, Recalled, Room, Spool, disk_error, reserve
from fedplug.wire import decode_table

PARAMS = ""
"""The name of the parameters among the arrays of an update; others have the names of extra arrays."""

_flush = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


class ArraysHead(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Some arrays of an update: where they lie, their table, and their fingerprint."""

    name: str
    start: int
    table: bytes
    fingerprint: str


class UpdateHead(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What an update consists of."""

    reply: TrainReply
    arrays: tuple[ArraysHead, ...]


class UpdateFile:
    """The file of a round.

    Args:
        path: Where it lies.
        fresh: Whether to begin it anew. One that is there loses its name only: who still looks at its arrays may go on.
        end: Where what is of use ends.

    Raises:
        StoreError: It cannot be used.
        DiskFullError: There is no room for it.
    """

    def __init__(self, path: Path, *, fresh: bool, end: int = 0) -> None:
        self.path = path
        self._end = end
        self._regions: WeakValueDictionary[int, _Region] = WeakValueDictionary()  # by their address in memory
        try:
            if fresh:
                path.unlink(missing_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if fresh else 0), 0o600)
            if fresh:
                sync(path.parent)
        except OSError as error:
            raise disk_error(path, error) from None

    def map(self, nbytes: int) -> mmap.mmap:
        """Room in the file, as writable memory.

        Raises:
            DiskFullError: There is none.
            StoreError: The disk failed.
        """
        start = self._next()
        try:
            reserve(self._file, start, nbytes)
            region = _Region(self._file, nbytes, offset=start)
        except OSError as error:
            raise disk_error(self.path, error) from None
        region.start = start
        self._end = start + nbytes
        self._regions[_address(region)] = region
        return region

    def write(self, reply: TrainReply, params: Params, aux: Mapping[str, Params]) -> Place:
        """Write an update; arrays that lie in memory which `map` gave are there already.

        Raises:
            DiskFullError: There is no room.
            StoreError: The disk failed.
        """
        arrays = tuple(
            ArraysHead(name, self._start_of(each), each.spec.table, each.fingerprint())
            for name, each in ((PARAMS, params), *sorted(aux.items()))
        )
        head = msgspec.msgpack.encode(UpdateHead(reply, arrays))
        return Place(self._append(head), len(head), hashlib.sha256(head).hexdigest())

    def sync(self) -> None:
        """Wait until the disk has everything that was written, through maps too.

        Raises:
            DiskFullError: There is no room after all.
            StoreError: The disk failed.
        """
        try:
            _flush(self._file)
        except OSError as error:
            raise disk_error(self.path, error) from None

    def read(self, place: Place, spool: Spool) -> Recalled:
        """An update, verified; large ones stay in the file.

        Raises:
            CodecError: It is damaged, or cannot be read.
        """
        try:
            raw = os.pread(self._file, place.nbytes, place.start)
            if hashlib.sha256(raw).hexdigest() != place.sha256:
                raise CodecError("its description has changed")
            try:
                head = msgspec.msgpack.decode(raw, type=UpdateHead)
            except msgspec.MsgspecError as error:
                raise CodecError(f"its description cannot be read: {error}") from None
            specs = [(arrays, decode_table(arrays.table)) for arrays in head.arrays]
            nbytes = sum(spec.nbytes for _, spec in specs)
            room = Room(spool, nbytes) if spool.fits(nbytes) else RegionRoom(spool, self)
            found: dict[str, Params] = {}
            for arrays, spec in specs:
                found[arrays.name] = Params(spec, self._load(arrays.start, spec.nbytes, room))
                if found[arrays.name].fingerprint() != arrays.fingerprint:
                    raise CodecError(f"its arrays {arrays.name!r} have changed" if arrays.name else "it has changed")
                room.rest()
        except (OSError, ValueError) as error:  # a file that was cut off cannot be mapped: ValueError
            raise CodecError(f"it cannot be read: {error}") from None
        return Recalled(UpdateFetched(head.reply, found.pop(PARAMS), found), room)

    def close(self) -> None:
        """Give the file back; maps of it stay. May be called twice."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def _load(self, start: int, nbytes: int, room: Room) -> Array:
        if isinstance(room, RegionRoom):
            return room.show(start, nbytes)
        raw = allocate(nbytes)
        if os.preadv(self._file, [raw.data], start) != nbytes:
            raise CodecError("the file is too short")
        return raw

    def view(self, start: int, nbytes: int) -> mmap.mmap:
        """A part of the file, to read."""
        return mmap.mmap(self._file, nbytes, offset=start, prot=mmap.PROT_READ)

    def _start_of(self, params: Params) -> int:
        """Where arrays lie in the file; they are written if they are not there yet."""
        if params.nbytes == 0:
            return 0
        region = self._regions.get(_address(params.buffer))
        return self._append(params.buffer) if region is None else region.start

    def _append(self, data: Any) -> int:
        start, view = self._next(), memoryview(data).cast("B")
        written = 0
        try:
            while written < len(view):
                written += os.pwrite(self._file, view[written:], start + written)
        except OSError as error:
            raise disk_error(self.path, error) from None
        self._end = start + len(view)
        return start

    def _next(self) -> int:
        page = mmap.ALLOCATIONGRANULARITY
        return -(-self._end // page) * page


class RegionRoom(MappedRoom):
    """Room in the file of a round."""

    def __init__(self, spool: Spool, file: UpdateFile) -> None:
        super().__init__(spool)
        self._file = file

    def show(self, start: int, nbytes: int) -> Array:
        """What lies in the file already."""
        if nbytes == 0:
            return allocate(0)
        self._maps.append(self._file.view(start, nbytes))
        return np.frombuffer(self._maps[-1], dtype=np.uint8)

    def _map(self, nbytes: int) -> mmap.mmap:
        return self._file.map(nbytes)


class _Region(mmap.mmap):
    """A part of the file in memory that knows where it begins in the file."""

    start: int


def _address(buffer: Any) -> int:
    return int(np.frombuffer(buffer, np.uint8).__array_interface__["data"][0])
