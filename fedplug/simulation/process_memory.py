"""The memory that a simulation and its worker processes share: the data once, and results in slots that are used again.

It has no name in any file system, so nothing is left behind, however a process ends.
"""

from __future__ import annotations

import ast
import math
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fedplug.core.errors import EngineError, UsageError
from fedplug.core.messages import DatasetCard
from fedplug.core.node_dataset import NodeDataset
from fedplug.core.params import ALIGNMENT, Array, Params
from fedplug.core.params_spec import ParamsSpec
from fedplug.node.datasets.memory import MemoryDataset
from fedplug.node.shared import SharedBuffer
from fedplug.simulation.process_messages import ArrayPlace, DataPlace, Own, Place, Rows, Segment
from fedplug.simulation.virtual_data import SharedData, SharedRows, SharedSamples, VirtualData

_PAGE = 4096

_INLINE = 16 * 1024
"""Arrays of so many bytes travel in the message: memory of their own would cost more."""

_FIRST_SLOTS = 4
"""Of the first segment; each further one doubles the slots. Those that were never used take no memory."""


_Results = tuple[int, SharedBuffer, int]
"""Number of a segment, its memory, and how many slots it has: a flag for each, which is not 0 as long as it is taken,
and then the slots.
"""

_Slot = tuple[_Results, int, tuple[Segment, SharedBuffer] | None]


class SharedArrays:
    """The data of all nodes in one block of shared memory; the researcher's side.

    Args:
        data: The data. It is looked through at once, and copied when `block` is first asked for.

    Raises:
        UsageError: It holds something that is not bytes in memory.
    """

    def __init__(self, data: VirtualData) -> None:
        self._data = data
        self._contents: list[tuple[ArrayPlace, Array]] = []
        self._own: dict[str, Own] = {}
        self._block: SharedBuffer | None = None
        self.nbytes = 0
        if isinstance(data, SharedData):
            arrays = {name: self._put(array, f"Array {name!r}") for name, array in data.arrays.items()}
            order = self._put(data.parts.order, "The partition")
            self.place = DataPlace(arrays, order, data.target, data.tags)
            return
        self.place = DataPlace()
        for node in data.ids:
            dataset = data.dataset(node)
            if type(dataset) is not MemoryDataset:
                raise UsageError(
                    f"The data of node {node!r} are a {type(dataset).__name__}, which processes cannot share.",
                    cure="Give a pair of arrays, a mapping, a DataFrame or a MemoryDataset; or use engine='serial'.",
                )
            own = {
                name: self._put(array, f"Array {name!r} of node {node!r}") for name, array in dataset.arrays().items()
            }
            self._own[node] = Own(dataset.name, own, dataset.target, dataset.tags, dataset.description)

    def of(self, node_id: str) -> Rows | Own:
        """What a node has."""
        if isinstance(self._data, SharedData):
            return Rows(*self._data.bounds(node_id))
        return self._own[node_id]

    @property
    def block(self) -> SharedBuffer:
        """The memory.

        Raises:
            EngineError: There is not so much.
        """
        if self._block is None:
            try:
                block = SharedBuffer.create(self.nbytes)
                for place, array in self._contents:
                    _view(block, place)[...] = array
                block.make_read_only()
                block.close()  # only the descriptor is needed: this process has the arrays already
            except OSError as error:
                raise EngineError(
                    f"The nodes' data, {self.nbytes:,} bytes, cannot be put into shared memory: {error.strerror}.",
                    cure="Give the machine more memory, or use engine='serial', which needs no second copy.",
                ) from None
            self._block = block
        return self._block

    def _put(self, array: Array, called: str) -> ArrayPlace:
        described = repr(np.lib.format.dtype_to_descr(array.dtype)) if array.dtype.kind in "biufcSUmMV" else ""
        if not described or array.dtype.hasobject or _dtype(described) != array.dtype:
            raise UsageError(
                f"{called} holds {array.dtype}, which processes cannot share.",
                cure="Give numbers, texts or times; or use engine='serial'.",
            )
        fortran = array.flags.f_contiguous and not array.flags.c_contiguous
        place = ArrayPlace(described, array.shape, self.nbytes, fortran)
        self._contents.append((place, array))
        self.nbytes += _aligned(array.nbytes)
        return place


class TaskData(VirtualData):
    """The data of those nodes that a worker has tasks of, read-only in shared memory; the worker's side.

    Args:
        place: What lies there.
        fd: Descriptor of the memory; taken over.
        nbytes: Its size.
    """

    def __init__(self, place: DataPlace, fd: int, nbytes: int) -> None:
        self._block = SharedBuffer.attach(fd, nbytes)
        self._arrays = {name: _view(self._block, each) for name, each in place.arrays.items()}
        self._order = None if place.order is None else _view(self._block, place.order)
        self._target, self._tags = place.target, place.tags
        self._nodes: dict[str, Rows | Own] = {}

    def put(self, node_id: str, data: Rows | Own) -> None:
        """There is a task of this node."""
        self._nodes[node_id] = data

    def clear(self) -> None:
        """There is no task any more."""
        self._nodes.clear()

    @property
    def ids(self) -> Sequence[str]:
        """As `VirtualData.ids`."""
        return sorted(self._nodes)

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._nodes

    def dataset(self, node_id: str) -> NodeDataset:
        """As `VirtualData.dataset`."""
        data = self._nodes[node_id]
        if isinstance(data, Own):
            arrays = {name: _view(self._block, each) for name, each in data.arrays.items()}
            return MemoryDataset(
                data.name, arrays, tags=data.tags, target=data.target, description=data.description
            )  # fmt: skip
        return SharedSamples(node_id, self._arrays, self._rows(data), self._target)

    def shared(self, node_id: str) -> SharedRows | None:
        """As `VirtualData.shared`."""
        data = self._nodes[node_id]
        return None if isinstance(data, Own) else SharedRows(self._arrays, self._rows(data), self._target)

    def _rows(self, data: Rows) -> Array:
        assert self._order is not None
        return self._order[data.low : data.high]

    def card(self, node_id: str) -> DatasetCard:
        """As `VirtualData.card`."""
        dataset = self.dataset(node_id)
        if isinstance(dataset, MemoryDataset):
            return dataset.card()
        return MemoryDataset(node_id, dataset.arrays(), tags=self._tags, target=self._target).card()


class ResultWriter:
    """Puts results into slots of shared memory; the worker's side.

    A slot is free again when the other side has written a zero into its flag, as its `ResultReader` does when nobody
    holds the arrays any more.
    """

    def __init__(self) -> None:
        self._segments: list[_Results] = []
        self._stride = 0
        self._count = 0

    def write(self, arrays: Sequence[Params]) -> tuple[Place | None, tuple[Segment, SharedBuffer] | None]:
        """Copy arrays into one slot, one after the other.

        Returns:
            Where they lie; None if they have no bytes. And the segment, if it is new to the other side.

        Raises:
            OSError: There is no memory.
        """
        total = sum(_aligned(each.nbytes) for each in arrays)
        if not total:
            return None, None
        if total > self._stride:
            self._segments.clear()
            self._stride = -(-total // _PAGE) * _PAGE
        (number, block, slots), slot, new = self._free() or self._grow()
        block[slot] = 1
        low = _begin(slots) + slot * self._stride
        for each in arrays:
            block[low : low + each.nbytes] = each.buffer
            low += _aligned(each.nbytes)
        return Place(number, slot), new

    def _free(self) -> _Slot | None:
        for segment in self._segments:
            _, block, slots = segment
            slot = block.find(b"\0", 0, slots)  # the first that is free: its pages are there already
            if slot >= 0:
                return segment, slot, None
        return None

    def _grow(self) -> _Slot:
        slots = max(_FIRST_SLOTS, sum(slots for _, _, slots in self._segments))
        block = SharedBuffer.create(_begin(slots) + slots * self._stride)
        segment = self._count, block, slots
        self._count += 1
        self._segments.append(segment)
        return segment, 0, (Segment(segment[0], slots, self._stride), block)


class ResultReader:
    """Reads the slots of one worker without a copy; the researcher's side."""

    def __init__(self) -> None:
        self._segments: dict[int, tuple[SharedBuffer, int, int]] = {}
        self._leases: dict[Place, weakref.ref[Array]] = {}

    def add(self, segment: Segment, fd: int) -> None:
        """There is a new segment. Takes ``fd`` over.

        Raises:
            CodecError: It is not what it is said to be.
        """
        begin = _begin(segment.slots)
        block = SharedBuffer.attach(fd, begin + segment.slots * segment.stride, writable=True, populate=False)
        if any(stride != segment.stride for _, stride, _ in self._segments.values()):
            self._segments.clear()  # the worker writes into none of them any more
            self._leases.clear()
        self._segments[segment.number] = block, segment.stride, begin

    def read(self, place: Place | None, specs: Iterable[ParamsSpec]) -> list[Params]:
        """The arrays of a slot, which is free again when all of them are gone."""
        if place is None:
            return [Params(spec, b"") for spec in specs]
        block, stride, begin = self._segments[place.segment]
        root = np.frombuffer(block, np.uint8, stride, begin + place.slot * stride)
        self._leases[place] = weakref.ref(root, lambda _: block.__setitem__(place.slot, 0))
        low, found = 0, []
        for spec in specs:
            found.append(Params(spec, root[low : low + spec.nbytes]))
            low += _aligned(spec.nbytes)
        return found


def pack(params: Params) -> tuple[bytes, tuple[SharedBuffer, ...]]:
    """The bytes of ``params`` for a message, or, if they are many, empty and memory that holds them.

    Raises:
        EngineError: There is no memory.
    """
    if params.nbytes <= _INLINE:
        return bytes(params.buffer), ()
    try:
        block = SharedBuffer.create(params.nbytes)
    except OSError as error:
        raise EngineError(
            f"Arrays of {params.nbytes:,} bytes cannot be put into shared memory: {error.strerror}.",
            cure="Give the machine more memory, or ask for fewer nodes at once.",
        ) from None
    block[: params.nbytes] = params.buffer
    block.make_read_only()
    block.close()  # only the descriptor is needed
    return b"", (block,)


def unpack(spec: ParamsSpec, data: bytes, fds: list[int]) -> Params:
    """What `pack` packed. Takes ``fds`` over."""
    return Params(spec, SharedBuffer.attach(fds.pop(), spec.nbytes) if fds else data)


def copied(params: Params) -> Params:
    """The same in memory of its own: for what is kept long, which would hold its slot."""
    return Params.build_runs(params.spec, lambda index, out: np.copyto(out, params.runs()[index]))


def _view(block: SharedBuffer, place: ArrayPlace) -> Array:
    order: Any = "F" if place.fortran else "C"
    dtype = _dtype(place.dtype)
    if not math.prod(place.shape) * dtype.itemsize:
        return np.empty(place.shape, dtype)
    return np.ndarray(place.shape, dtype, buffer=block, offset=place.offset, order=order)


def _dtype(described: str) -> np.dtype[Any]:
    return np.lib.format.descr_to_dtype(ast.literal_eval(described))


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def _begin(slots: int) -> int:
    """Where the first slot begins, behind the flags."""
    return -(-slots // _PAGE) * _PAGE
