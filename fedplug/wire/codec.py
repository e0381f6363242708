"""Headers to bytes and back: a five-byte prelude (magic, version), then msgpack.

The body never passes through here: it travels as it lies in memory.
"""

from __future__ import annotations

import msgspec

from fedplug.core.errors import CodecError
from fedplug.core.transport import MAX_HEADER, Buffer
from fedplug.wire.checks import check_header
from fedplug.wire.headers import AnyHeader

MAGIC = b"FPWP"
VERSION = 1
"""The protocol version of this release, and the only one it speaks."""

_PRELUDE = MAGIC + bytes([VERSION])
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyHeader] = msgspec.msgpack.Decoder(AnyHeader)


class VersionError(CodecError):
    """The bytes are of another version of the protocol.

    Args:
        version: The version that they claim.
    """

    def __init__(self, version: int) -> None:
        super().__init__(
            f"The other side speaks version {version} of the protocol, this side version {VERSION}.",
            cure=f"Upgrade FedPlug {'here' if version > VERSION else 'on the other side'}.",
        )
        self.version = version


def encode_header(header: AnyHeader) -> bytes:
    """The bytes of a header.

    Raises:
        CodecError: It is larger than `MAX_HEADER`, or holds values that cannot travel.
    """
    try:
        data = _PRELUDE + _encoder.encode(header)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise CodecError(f"{_tag(header)} cannot be encoded: {error}.") from None
    if len(data) > MAX_HEADER:
        raise CodecError(
            f"{_tag(header)} takes {len(data):,} bytes; a message may have {MAX_HEADER:,} beside its arrays.",
            cure="Fewer arrays, shorter names, or smaller arguments.",
        )
    return data


def decode_header(data: Buffer) -> AnyHeader:
    """The header that ``data`` encodes, checked.

    Raises:
        VersionError: The prelude names another version.
        CodecError: The bytes are not a header. No other exception leaves this function.
    """
    view = memoryview(data)
    if view.nbytes > MAX_HEADER:
        raise CodecError(f"A header of {view.nbytes:,} bytes is longer than the {MAX_HEADER:,} that are allowed.")
    if bytes(view[:4]) != MAGIC or view.nbytes < len(_PRELUDE):
        raise CodecError("These bytes are not a FedPlug message.", cure="Does another program use this address?")
    if view[4] != VERSION:
        raise VersionError(view[4])
    try:
        header = _decoder.decode(view[5:])
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise CodecError(f"A header cannot be read: {str(error)[:300]}.") from None
    check_header(header)
    return header


def _tag(header: AnyHeader) -> str:
    return str(header.__struct_config__.tag)
