"""The table of a set of parameters: which arrays, of which shape and dtype, at which offset of one buffer.

Layout: arrays in the order given; each starts at a multiple of its item size; a gap (which only mixed
dtypes can make) is zero. Arrays of one dtype therefore form one flat vector without holes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import msgspec
import numpy as np

from fedplug.core.errors import ParamsError

_DTYPES = (
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
    "float16", "float32", "float64",
)  # fmt: skip


def dtype_named(name: str) -> np.dtype[Any]:
    """The NumPy dtype called ``name``; bfloat16 where ml_dtypes is installed."""
    if name == "bfloat16":
        try:
            import ml_dtypes
        except ImportError:
            raise ParamsError("bfloat16 parameters need the package ml_dtypes.", cure="pip install ml_dtypes") from None
        wide: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return wide
    if name not in _DTYPES:
        raise ParamsError(
            f"dtype {name!r} cannot be held in Params.", cure=f"Use one of {', '.join(_DTYPES)}, bfloat16."
        )
    return np.dtype(name)


class TensorSpec(msgspec.Struct, frozen=True, array_like=True):
    """Name, shape, dtype and place of one array."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    offset: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def is_exact(self) -> bool:
        """Whether it holds whole numbers or truth values, which have no gradient and are not to be rounded."""
        return self.dtype.startswith(("bool", "int", "uint"))


class ParamsSpec(msgspec.Struct, frozen=True, dict=True):
    """The table of a `Params`: which arrays, of which shape and dtype, at which offset of the buffer."""

    tensors: tuple[TensorSpec, ...]
    nbytes: int

    @classmethod
    def build(cls, entries: Sequence[tuple[str, tuple[int, ...], str]]) -> ParamsSpec:
        """Lay out ``(name, shape, dtype)`` entries in the order given.

        Raises:
            ParamsError: A name occurs twice or is empty, or a dtype cannot be held.
        """
        seen: set[str] = set()
        tensors: list[TensorSpec] = []
        end = 0
        for name, shape, dtype in entries:
            if not name or name in seen:
                raise ParamsError(f"Parameter name {name!r} is empty or occurs twice.")
            seen.add(name)
            itemsize = dtype_named(dtype).itemsize
            offset = -(-end // itemsize) * itemsize
            tensors.append(TensorSpec(name, tuple(int(n) for n in shape), dtype, offset))
            end = offset + math.prod(shape) * itemsize
        return cls(tuple(tensors), end)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the arrays, in order."""
        return tuple(tensor.name for tensor in self.tensors)

    @cached_property
    def by_name(self) -> dict[str, TensorSpec]:
        """The entries of the table by name."""
        return {tensor.name: tensor for tensor in self.tensors}

    @cached_property
    def runs(self) -> tuple[tuple[str, int, int], ...]:
        """The buffer as maximal stretches of one dtype: ``(dtype, byte offset, number of elements)``."""
        runs: list[tuple[str, int, int]] = []
        for tensor in self.tensors:
            if runs:
                dtype, start, count = runs[-1]
                if dtype == tensor.dtype and start + count * dtype_named(dtype).itemsize == tensor.offset:
                    runs[-1] = (dtype, start, count + tensor.size)
                    continue
            runs.append((tensor.dtype, tensor.offset, tensor.size))
        return tuple(runs)

    @cached_property
    def table(self) -> bytes:
        """The table as canonical bytes (msgpack); two specs are equal exactly if these are."""
        return msgspec.msgpack.encode(self)

    def difference(self, other: ParamsSpec) -> str:
        """The first thing in which ``other`` differs from this spec, as a sentence; empty if nothing does."""
        if self.tensors == other.tensors:
            return ""
        missing = [name for name in self.names if name not in other.by_name]
        extra = [name for name in other.names if name not in self.by_name]
        if missing:
            return f"{missing[0]!r} is missing" + (f" (and {len(missing) - 1} more)" if missing[1:] else "")
        if extra:
            return f"{extra[0]!r} is not part of the model" + (f" (and {len(extra) - 1} more)" if extra[1:] else "")
        for mine in self.tensors:
            theirs = other.by_name[mine.name]
            if theirs.shape != mine.shape:
                return f"{mine.name!r} has shape {theirs.shape}, expected {mine.shape}"
            if theirs.dtype != mine.dtype:
                return f"{mine.name!r} has dtype {theirs.dtype}, expected {mine.dtype}"
        return "the order of the arrays differs"
