"""Named arrays over one contiguous buffer: what travels, what is averaged, what is saved.

A model's parameters are one aligned block of bytes plus a table that says where each array lies.
So they are hashed once, sent without a copy, folded as one long vector, and mapped from a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from fedplug.core.errors import ParamsError
from fedplug.core.params_spec import ParamsSpec, TensorSpec, dtype_named

__all__ = ["ALIGNMENT", "BLOCK", "Array", "Params", "ParamsSpec", "TensorSpec", "allocate", "large_block", "widened"]

Array = npt.NDArray[Any]


ALIGNMENT = 64
"""The buffer starts at a multiple of this many bytes (a cache line)."""

LARGE = 4 * 1024 * 1024
"""Bytes from which on a buffer is not taken from the heap."""

BLOCK = 65_536
"""Elements per block of column-wise arithmetic: a block of float64 stays in the second-level cache."""


def allocate(nbytes: int) -> Array:
    """A writable byte array of ``nbytes`` whose first byte is aligned to `ALIGNMENT`. Not zeroed.

    Large blocks come straight from the system and go straight back to it. From the heap they would leave holes
    behind, and a researcher would hold more models after each round.
    """
    if nbytes >= LARGE:
        return np.frombuffer(large_block(nbytes), np.uint8)
    raw = np.empty(nbytes + ALIGNMENT, dtype=np.uint8)
    start = -raw.__array_interface__["data"][0] % ALIGNMENT
    return raw[start : start + nbytes]


def large_block(nbytes: int) -> mmap.mmap:
    """Memory of ``nbytes``, zeroed, straight from the system."""
    # private: by default Python makes anonymous memory shared, whose pages are small and slow to come
    block = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages
            block.madvise(mmap.MADV_HUGEPAGE)
    return block


class Params(Mapping[str, Array]):
    """Immutable, ordered mapping of name to array over one contiguous buffer.

    The arrays are read-only views. Arithmetic (``+ - *``) makes new `Params` of the same spec, array by
    array in its own dtype; exact means over many are the business of `fedplug.core.mean`.

    Args:
        spec: The table.
        buffer: ``spec.nbytes`` bytes. It is not copied, and nobody may write to it afterwards.

    Raises:
        ParamsError: The buffer is of another size than the table says.
    """

    def __init__(self, spec: ParamsSpec, buffer: Any) -> None:
        raw = np.frombuffer(buffer, dtype=np.uint8) if spec.nbytes else np.empty(0, np.uint8)
        if raw.nbytes != spec.nbytes:
            raise ParamsError(f"The table describes {spec.nbytes} bytes, the buffer holds {raw.nbytes}.")
        raw.flags.writeable = False
        self.spec = spec
        self._buffer = raw
        self._views: dict[str, Array] = {}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Params:
        """Copy named arrays (or scalars) into one new buffer, in the mapping's order.

        Raises:
            ParamsError: A dtype cannot be held, or a name is empty.
        """
        dense = {name: np.asarray(value) for name, value in arrays.items()}
        spec = ParamsSpec.build([(name, a.shape, a.dtype.name) for name, a in dense.items()])
        return cls.build(spec, lambda name, out: np.copyto(out, dense[name]))

    @classmethod
    def build(cls, spec: ParamsSpec, fill: Callable[[str, Array], object], buffer: Any = None) -> Params:
        """Make `Params` of ``spec`` by calling ``fill(name, out)`` for each array.

        Args:
            spec: The table.
            fill: Writes the values of one array into ``out``, which is not zeroed.
            buffer: Writable memory to build in, e.g. shared with another process; fresh memory by default.
        """
        raw = _prepare(spec, buffer)
        for tensor in spec.tensors:
            fill(tensor.name, _view(raw, tensor))
        return cls(spec, raw)

    @classmethod
    def build_runs(cls, spec: ParamsSpec, fill: Callable[[int, Array], object]) -> Params:
        """Make `Params` of ``spec`` by calling ``fill(index, out)`` for each of ``spec.runs``."""
        raw = _prepare(spec, None)
        for index, run in enumerate(spec.runs):
            fill(index, _run(raw, run))
        return cls(spec, raw)

    def __getitem__(self, name: str) -> Array:
        view = self._views.get(name)
        if view is None:
            view = self._views[name] = _view(self._buffer, self.spec.by_name[name])
        return view

    def __iter__(self) -> Iterator[str]:
        return iter(self.spec.names)

    def __len__(self) -> int:
        return len(self.spec.tensors)

    def __repr__(self) -> str:
        values = sum(tensor.size for tensor in self.spec.tensors)
        return f"Params({len(self)} arrays, {values:,} values, {self.nbytes:,} bytes)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Params):
            return NotImplemented
        return self.spec.tensors == other.spec.tensors and self.fingerprint() == other.fingerprint()

    def __hash__(self) -> int:
        return hash(self.fingerprint())

    def __deepcopy__(self, memo: dict[int, Any]) -> Params:
        return self  # nobody can change it

    def __reduce__(self) -> tuple[Any, ...]:
        return (_restore, (self.spec.table, self._buffer.tobytes()))

    @property
    def nbytes(self) -> int:
        """Size of the buffer in bytes."""
        return self.spec.nbytes

    @property
    def buffer(self) -> memoryview:
        """The bytes, read-only, without a copy."""
        return self._buffer.data

    @property
    def flat(self) -> Array:
        """All values as one read-only vector, without a copy.

        Raises:
            ParamsError: The arrays are of several dtypes; use `runs`.
        """
        runs = self.runs()
        if len(runs) != 1:
            raise ParamsError("Params of several dtypes have no single flat vector.", cure="Use runs().")
        return runs[0]

    def runs(self) -> list[Array]:
        """The values as read-only vectors, one for each stretch of one dtype, without a copy."""
        return list(self._runs)

    @cached_property
    def _runs(self) -> tuple[Array, ...]:
        return tuple(_run(self._buffer, run) for run in self.spec.runs)

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(len(self.spec.table).to_bytes(8, "little"))
        digest.update(self.spec.table)
        digest.update(self.buffer)
        return digest.hexdigest()

    def fingerprint(self) -> str:
        """SHA-256 (hex) over the table and the bytes; equal exactly if the parameters are equal to the bit."""
        return self._fingerprint

    def require(self, spec: ParamsSpec) -> None:
        """Check that these parameters are laid out as ``spec``.

        Raises:
            ParamsError: They are not; the first difference is named.
        """
        difference = spec.difference(self.spec)
        if difference:
            raise ParamsError(f"Parameters do not match the model: {difference}.")

    def map(self, function: Callable[..., Any], *others: Params) -> Params:
        """New `Params` of this spec: ``function`` applied to each array of this and of ``others`` together."""
        for other in others:
            other.require(self.spec)

        def fill(name: str, out: Array) -> None:
            value = function(self[name], *(other[name] for other in others))
            np.copyto(out, value, casting="unsafe" if out.dtype.kind in "biu" else "same_kind")

        return Params.build(self.spec, fill)

    def __add__(self, other: object) -> Params:
        return self.map(np.add, other) if isinstance(other, Params) else NotImplemented

    def __sub__(self, other: object) -> Params:
        return self.map(_difference, other) if isinstance(other, Params) else NotImplemented

    def __mul__(self, factor: object) -> Params:
        if not isinstance(factor, int | float | np.number):
            return NotImplemented
        return self.map(lambda array: _scaled(array, float(factor)))

    __rmul__ = __mul__

    def allclose(self, other: Params, *, rtol: float = 0.0, atol: float = 0.0) -> bool:
        """Whether the specs are equal and all values agree within ``atol + rtol * |other|``."""
        if self.spec.difference(other.spec):
            return False
        return all(
            np.allclose(np.asarray(self[n], np.float64), np.asarray(other[n], np.float64), rtol=rtol, atol=atol)
            for n in self
        )

    def first_non_finite(self, settle: Callable[[], None] | None = None) -> str:
        """Name of the first array with a NaN or an infinity; empty if all values are finite.

        Args:
            settle: Called after every few MiB: what was looked at is not needed any more for now.
        """
        return self._first(lambda array: bool(np.isfinite(array).all()), settle)

    def first_without_norm(self, settle: Callable[[], None] | None = None) -> str:
        """Name of the first array that is not finite, or whose sum of squares is not, in its dtype; empty if none.

        Args:
            settle: As for `first_non_finite`.
        """
        return self._first(_has_norm, settle)

    def _first(self, good: Callable[[Array], bool], settle: Callable[[], None] | None) -> str:
        """Name of the first array that is not ``good``; arrays whose norm is finite are."""
        for array, run in zip(self.runs(), self.spec.runs, strict=True):
            if array.dtype.kind in "biu" or _has_norm(array, settle):
                continue
            for tensor in self.spec.tensors:
                if tensor.dtype == run[0] and not good(self[tensor.name].reshape(-1)):
                    return tensor.name
        return ""

    @staticmethod
    def stack_reduce(many: Sequence[Params], reduce: Callable[[Array], Any]) -> Params:
        """Reduce equal-shaped `Params` column by column, in blocks, so that memory stays bounded.

        Args:
            many: At least one, all of one spec.
            reduce: Takes an array of shape ``(len(many), k)`` and returns ``k`` values. It is called once
                per block of columns; integer columns come as float64 and are rounded afterwards.

        Raises:
            ParamsError: ``many`` is empty or the specs differ.
        """
        if not many:
            raise ParamsError("There is nothing to reduce: stack_reduce got no Params.")
        spec = many[0].spec
        for params in many[1:]:
            params.require(spec)
        block = max(1024, BLOCK // len(many))

        def fill(index: int, out: Array) -> None:
            columns = [params.runs()[index] for params in many]
            exact = out.dtype.kind in "biu"
            for low in range(0, out.size, block):
                stack = np.stack([column[low : low + block] for column in columns])
                values = reduce(stack.astype(np.float64) if exact else stack)
                out[low : low + block] = np.rint(values) if exact else values

        return Params.build_runs(spec, fill)


def widened(array: Array) -> Array:
    """A copy to compute with: half precision in float32, float32 and float64 as they are."""
    narrow = array.dtype.kind != "f" or array.dtype.itemsize < 4  # bfloat16 is of no kind that NumPy knows
    return np.array(array, np.float32 if narrow else array.dtype)


def _prepare(spec: ParamsSpec, buffer: Any) -> Array:
    """Writable bytes for ``spec`` whose gaps between arrays are zero."""
    raw = allocate(spec.nbytes) if buffer is None else np.frombuffer(buffer, dtype=np.uint8)[: spec.nbytes]
    end = 0
    for run in spec.runs:
        raw[end : run[1]] = 0
        end = run[1] + _run(raw, run).nbytes
    return raw


def _restore(table: bytes, data: bytes) -> Params:
    return Params(msgspec.msgpack.decode(table, type=ParamsSpec), data)


def _view(raw: Array, tensor: TensorSpec) -> Array:
    dtype = dtype_named(tensor.dtype)
    end = tensor.offset + tensor.size * dtype.itemsize
    return raw[tensor.offset : end].view(dtype).reshape(tensor.shape)


def _run(raw: Array, run: tuple[str, int, int]) -> Array:
    name, offset, count = run
    dtype = dtype_named(name)
    return raw[offset : offset + count * dtype.itemsize].view(dtype)


def _difference(a: Array, b: Array) -> Array:
    return np.logical_xor(a, b) if a.dtype.kind == "b" else np.subtract(a, b)


def _scaled(array: Array, factor: float) -> Array:
    if array.dtype.kind in "biu":
        return np.rint(array.astype(np.float64) * factor)
    scaled: Array = array * array.dtype.type(factor)
    return scaled


def _has_norm(array: Array, settle: Callable[[], None] | None = None) -> bool:
    """One pass over a vector: NaN and infinities survive a dot product, as do values whose squares overflow."""
    widen = array.dtype.kind != "f" or array.dtype.itemsize < 4
    with np.errstate(over="ignore", invalid="ignore"):
        for low in range(0, array.size, BLOCK):
            part = array[low : low + BLOCK]
            if widen:
                part = part.astype(np.float32)
            if not math.isfinite(np.dot(part, part)):
                return False
            if settle is not None and low % (64 * BLOCK) == 63 * BLOCK:
                settle()
    return True
