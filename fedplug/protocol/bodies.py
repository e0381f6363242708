"""The blobs of one message: which ride in its body, which are pulled in chunks, and when all are there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedplug.core.errors import CodecError
from fedplug.core.params import Params, ParamsSpec
from fedplug.core.transport import MAX_BODY, Buffer
from fedplug.protocol.limits import Limits
from fedplug.wire import Blob, BlobRef, Tables, decode_table, encode_header, params_of, start_digest
from fedplug.wire.headers import MOST_SUMS, UNTOLD, Chunk, Get, Offer, Session, Sums, Task

PLAN = "plan"
PARAMS = "params"
AUX = "aux:"


@dataclass(frozen=True, slots=True)
class Packed:
    """Blobs made ready for a message."""

    refs: dict[str, BlobRef]
    tables: Tables
    body: bytes


def pack(blobs: Mapping[str, Blob], inline: int, known: frozenset[str] = frozenset()) -> Packed:
    """Refer to ``blobs`` and put the small ones that the other side does not know into a body."""
    tables = Tables()
    refs: dict[str, BlobRef] = {}
    parts: list[memoryview] = []
    room = MAX_BODY
    for slot, blob in blobs.items():
        rides = blob.nbytes <= min(inline, room) and blob.id not in known
        refs[slot] = tables.ref(blob, inline=rides)
        if rides:
            parts.append(blob.buffer)
            room -= blob.nbytes
    return Packed(refs, tables, b"".join(parts))


@dataclass(frozen=True, slots=True)
class Slot:
    """One blob of a message that arrived."""

    ref: BlobRef
    spec: ParamsSpec | None


def unpack(header: Task | Offer, body: memoryview) -> tuple[dict[str, Slot], dict[str, memoryview]]:
    """The blobs that a message names, and the bytes of those that ride in its body, not yet verified.

    Raises:
        CodecError: A table is unusable, sizes do not agree with it, or the body is longer or shorter.
    """
    refs: dict[str, BlobRef] = {PLAN: header.plan} if isinstance(header, Task) else {}
    refs[PARAMS] = header.params
    refs.update({AUX + name: ref for name, ref in header.aux.items()})
    specs = [decode_table(table) for table in header.tables]
    slots: dict[str, Slot] = {}
    parts: dict[str, memoryview] = {}
    start = 0
    for slot, ref in refs.items():
        spec = specs[ref.table] if ref.table >= 0 else None
        if spec is not None and spec.nbytes != ref.nbytes:
            raise CodecError(f"Blob {slot!r} claims {ref.nbytes} bytes, its table {spec.nbytes}.")
        slots[slot] = Slot(ref, spec)
        if ref.inline or not ref.nbytes:
            parts[slot] = body[start : start + ref.nbytes]
            start += ref.nbytes
    if start != len(body):
        raise CodecError(f"The body holds {len(body)} bytes, the header announces {start}.")
    return slots, parts


def verified(slot: Slot, data: Any) -> bool:
    """Whether ``data`` has the digest that is the slot's id."""
    digest = start_digest(slot.spec)
    digest.update(data)
    return digest.hexdigest() == slot.ref.id


class Assembly:
    """Collects the blobs of one message until all are there."""

    def __init__(self, slots: Mapping[str, Slot]) -> None:
        self.slots = dict(slots)
        self.params: dict[str, Params] = {}
        self.raw: dict[str, Any] = {}

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return len(self.params) + len(self.raw) == len(self.slots)

    def has(self, slot: str) -> bool:
        """Whether a blob is here."""
        return slot in self.params or slot in self.raw

    def put(self, slot: str, data: Any) -> None:
        """A blob is here, and has been verified."""
        spec = self.slots[slot].spec
        if spec is None:
            self.raw[slot] = data
        else:
            self.params[slot] = params_of(spec, data, self.slots[slot].ref.id)

    @property
    def aux(self) -> dict[str, Params]:
        """The extra arrays by name."""
        return {slot[len(AUX) :]: params for slot, params in self.params.items() if slot.startswith(AUX)}


def place(data: memoryview, dest: Any) -> Any:
    """Copy a small blob to where its receiver wants it."""
    if data.nbytes:
        memoryview(dest).cast("B")[: data.nbytes] = data
    return dest[: data.nbytes]


def chunks(blob: Blob, header: Get, session: Session, limits: Limits, *, bare: bool) -> Iterator[tuple[bytes, Buffer]]:
    """The frames that answer a GET: CHUNK, or SUMS.

    Args:
        blob: What is asked for.
        header: The question.
        session: Goes into the answer.
        limits: Figures.
        bare: Whether the other side does without a crc32 in each chunk.

    Raises:
        CodecError: It asks for more than the credit allows, or for chunks that do not exist.
    """
    count = -(-blob.nbytes // limits.chunk)
    asked = sum(number for _, number in header.ranges)
    most = MOST_SUMS if header.sums else limits.peer_credit
    if asked > most or any(first + number > count for first, number in header.ranges):
        raise CodecError(f"GET asks for {asked} chunks of a blob of {count}; {most} are the most.")
    for first, number in header.ranges:
        indices = range(first, first + number)
        if header.sums:
            crcs = tuple(blob.crc(index, limits.chunk) for index in indices)
            yield encode_header(Sums(session=session, blob=blob.id, first=first, crcs=crcs)), b""
            continue
        for index in indices:
            crc = UNTOLD if bare else blob.crc(index, limits.chunk)
            frame = encode_header(Chunk(session=session, blob=blob.id, index=index, crc=crc))
            yield frame, blob.chunk(index, limits.chunk)
