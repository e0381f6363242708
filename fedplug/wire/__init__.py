"""Bytes: headers with a versioned prelude, tables of arrays, blobs. No sockets, no state."""

from __future__ import annotations

from fedplug.wire.blobs import Blob, Tables, params_of, plan_of, start_digest
from fedplug.wire.checks import decode_table
from fedplug.wire.codec import MAGIC, VERSION, VersionError, decode_header, encode_header
from fedplug.wire.headers import AnyHeader, BlobRef

__all__ = [
    "MAGIC",
    "VERSION",
    "AnyHeader",
    "Blob",
    "BlobRef",
    "Tables",
    "VersionError",
    "decode_header",
    "decode_table",
    "encode_header",
    "params_of",
    "plan_of",
    "start_digest",
]
