"""Damaged headers: what comes from a bad line, or from somebody who means harm."""

from __future__ import annotations

import copy
import importlib.util
import random
from pathlib import Path
from typing import Any

import msgspec

from fedplug.wire import encode_header
from fedplug.wire.codec import MAGIC

_path = Path(__file__).parents[1] / "golden" / "wire_headers.py"
_spec = importlib.util.spec_from_file_location("wire_headers_for_fuzzing", _path)
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)

START = MAGIC + b"\x01"
ODD: list[Any] = [
    None, True, -1, 0, 2**31, 2**62, 2**63 - 1, 2**64 - 1, -(2**63), 0.5, float("nan"), float("inf"), -1e308, "", "x",
    "a" * 70_000, "\u0661" * 64, "../../etc/passwd", "\x1b[2J\n", b"", b"\xff" * 40, [], [[]], [0] * 2000, {},
    {"a": {}}, {1: 2}, msgspec.msgpack.Ext(1, b"x"), msgspec.msgpack.Ext(-1, bytes(4)),
]  # fmt: skip


class Mutator:
    """Damages headers, as bytes (which mostly breaks their syntax) or as values (which keeps it)."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.good = [encode_header(header) for header in golden.HEADERS.values()]
        self.values = [msgspec.msgpack.decode(data[len(START) :]) for data in self.good]

    def of(self, data: bytes) -> bytes:
        """A mutant of an encoded header."""
        if self.rng.random() < 0.5:
            return self._of_bytes(bytearray(data))
        try:
            value = msgspec.msgpack.decode(data[len(START) :])
        except (msgspec.MsgspecError, ValueError):
            return self._of_bytes(bytearray(data))
        for _ in range(self.rng.choice([1, 1, 1, 2, 5])):
            self._change(value)
        return START + msgspec.msgpack.encode(value)

    def _of_bytes(self, data: bytearray) -> bytes:
        rng = self.rng
        for _ in range(rng.choice([1, 1, 2, 8])):
            place = rng.randrange(len(data) + 1)
            match rng.randrange(5):
                case 0 if place < len(data):
                    data[place] = rng.randrange(256)
                case 1:
                    del data[place : place + rng.randrange(1, 9)]
                case 2:
                    data[place:place] = rng.randbytes(rng.randrange(1, 9))
                case 3:
                    data[place:place] = rng.choice(self.good)[5:40]
                case _:
                    data[place:place] = rng.choice([b"\xdd\x7f\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\x91" * 2000])
        return bytes(data)

    def _change(self, value: Any) -> None:
        """Change something inside a decoded header: a value, a name of a field, a length."""
        rng = self.rng
        while True:
            keys = list(value) if isinstance(value, dict) else list(range(len(value)))
            if not keys:
                return
            key = rng.choice(keys)
            inner = value[key]
            if isinstance(inner, dict | list) and inner and rng.random() < 0.8:
                value = inner
                continue
            match rng.randrange(6):
                case 0 if isinstance(value, dict):
                    value[rng.choice(["extra", "type", "session", "key", str(key)[::-1]])] = value.pop(key)
                case 1:
                    del value[key]
                case 2:
                    value[key] = copy.deepcopy(rng.choice(list(rng.choice(self.values).values())))
                case 3 if isinstance(inner, list):
                    value[key] = inner * 100
                case 4 if isinstance(inner, int):
                    value[key] = min(max(inner + rng.choice([-1, 1, 2**31, -(2**40)]), -(2**63)), 2**64 - 1)
                case _:
                    value[key] = copy.deepcopy(rng.choice(ODD))
            return
