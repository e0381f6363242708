"""Blobs: arrays and plan sources as bytes with a name that is their digest.

Arrays need no encoding: their bytes are `Params.buffer` and their table stands in the header. So sending
copies nothing, and receiving writes into the memory in which the arrays then lie.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import Any, Protocol

import msgspec

from fedplug.core.errors import CodecError, PlanSourceError
from fedplug.core.params import Params, ParamsSpec
from fedplug.core.plan_source import PlanBundle
from fedplug.wire.headers import RAW, BlobRef


class Hash(Protocol):
    """What `hashlib` gives."""

    def update(self, data: Any, /) -> None:
        """As in hashlib."""
        ...

    def hexdigest(self) -> str:
        """As in hashlib."""
        ...


class Blob:
    """A blob to send: bytes that nobody changes, and their id.

    Args:
        blob_id: See `BlobRef.id`.
        buffer: The bytes, not copied.
        table: `ParamsSpec.table` for arrays, else None.
    """

    __slots__ = ("__weakref__", "_crcs", "buffer", "id", "nbytes", "table")

    def __init__(self, blob_id: str, buffer: Any, table: bytes | None = None) -> None:
        self.id = blob_id
        self.buffer = memoryview(buffer)
        self.nbytes = self.buffer.nbytes
        self.table = table
        self._crcs: dict[int, int] = {}

    @classmethod
    def of_params(cls, params: Params) -> Blob:
        """The blob of some arrays. The digest is taken once per `Params` object."""
        return cls(params.fingerprint(), params.buffer, params.spec.table)

    @classmethod
    def of_plan(cls, plan: PlanBundle) -> Blob:
        """The blob of a training plan: the bytes that are hashed, approved and executed."""
        return cls(plan.hash, plan.encode())

    def chunk(self, index: int, size: int) -> memoryview:
        """Chunk ``index`` of ``size`` bytes each, without a copy."""
        return self.buffer[index * size : (index + 1) * size]

    def crc(self, index: int, size: int) -> int:
        """The crc32 of a chunk, computed once for all peers."""
        crc = self._crcs.get(index)
        if crc is None:
            crc = self._crcs[index] = zlib.crc32(self.chunk(index, size))
        return crc


class Tables:
    """Collects the tables of a message, each once."""

    def __init__(self) -> None:
        self._tables: dict[bytes, int] = {}

    def ref(self, blob: Blob, *, inline: bool) -> BlobRef:
        """Refer to ``blob``."""
        table = RAW if blob.table is None else self._tables.setdefault(blob.table, len(self._tables))
        return BlobRef(blob.id, blob.nbytes, table, inline)

    @property
    def raw(self) -> tuple[msgspec.Raw, ...]:
        """For the header."""
        return tuple(msgspec.Raw(table) for table in self._tables)


def start_digest(spec: ParamsSpec | None) -> Hash:
    """A running digest that, fed with all bytes of a blob, gives the blob's id."""
    if spec is None:
        return hashlib.sha256()
    digest = hashlib.sha256(len(spec.table).to_bytes(8, "little"))
    digest.update(spec.table)
    return digest


def params_of(spec: ParamsSpec, buffer: Any, blob_id: str) -> Params:
    """`Params` over received bytes whose digest was found to be ``blob_id``."""
    params = Params(spec, buffer)
    # The digest was just computed from these bytes; fill the cache of fingerprint() with it.
    params.__dict__["_fingerprint"] = blob_id
    return params


def plan_of(data: Any, blob_id: str) -> PlanBundle:
    """The plan that received bytes encode.

    Raises:
        CodecError: They are not a plan, or not in the canonical form that its hash stands for.
    """
    try:
        plan = PlanBundle.decode(data)
    except (PlanSourceError, RecursionError, ValueError) as error:
        raise CodecError(f"The training plan cannot be read: {error}.") from None
    if plan.hash != blob_id:
        raise CodecError("The training plan is not in its canonical form: its hash differs from its bytes.")
    return plan
