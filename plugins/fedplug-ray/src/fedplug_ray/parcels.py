"""What goes to the workers and comes back, as plain data and flat arrays.

Parameters are a table and one vector of bytes. A vector of some size goes through Ray's object store, once, whoever
needs it; workers on the machine where it lies read it there without a copy. A plan goes as its source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec
import numpy as np

from fedplug.core.errors import EngineError, FedplugError, PlanRunError
from fedplug.core.local_state import LocalState
from fedplug.core.messages import LogLine, Progress, TrainReply, TrainRequest
from fedplug.core.params import Array, Params, ParamsSpec, allocate
from fedplug.core.plan_source import PlanBundle
from fedplug.simulation.engines import Task, Trained

LARGE = 64 * 1024
"""Bytes from which on a vector goes through the object store by itself."""


class Block(NamedTuple):
    """Named arrays on their way.

    Attributes:
        table: The table of a `ParamsSpec`; empty in a result that is laid out as the parameters that were sent.
        raw: The bytes as a vector, what stands for it in the object store, or None: it comes by itself.
    """

    table: bytes
    raw: Any


class TaskParcel(NamedTuple):
    """One task of a chunk. Plans and arrays are told by their place in the chunk.

    Attributes:
        number: The name of the task between driver and worker.
        request: What is asked for.
        plan: The plan.
        params: The global parameters.
        aux: Extra arrays by name.
        base: The state that the node goes on from: its arrays, and its values.
    """

    number: int
    request: TrainRequest
    plan: int
    params: int
    aux: dict[str, int]
    base: tuple[int, bytes] | None


class Chunk(NamedTuple):
    """Tasks for one worker, with what they need, each thing once."""

    plans: tuple[bytes, ...]
    blocks: tuple[Block, ...]
    tasks: tuple[TaskParcel, ...]


class Failure(NamedTuple):
    """An error of `fedplug` in words; nothing of it is pickled.

    Attributes:
        kind: ``"plan"``, ``"engine"``, or ``"other"``.
        message: As `FedplugError.message`.
        cure: As `FedplugError.cure`.
        details: As `PlanRunError.details`.
    """

    kind: str
    message: str
    cure: str = ""
    details: str = ""

    @classmethod
    def of(cls, error: FedplugError) -> Failure:
        """An error in words."""
        kind = "engine" if isinstance(error, EngineError) else "plan" if isinstance(error, PlanRunError) else "other"
        return cls(kind, error.message, error.cure, getattr(error, "details", ""))

    def error(self) -> FedplugError:
        """The error again."""
        if self.kind == "plan":
            return PlanRunError(self.message, cure=self.cure, details=self.details)
        return (EngineError if self.kind == "engine" else FedplugError)(self.message, cure=self.cure)


class Result(NamedTuple):
    """What came out of a task, but for arrays that come by themselves.

    Attributes:
        number: Of the task.
        failure: Why there is nothing else.
        reply: The reply of the node.
        blocks: The parameters, extra arrays in the order of ``aux``, and the arrays of the state, if there is one.
        aux: Names of the extra arrays.
        kept: The values of the state that the node is to keep; None if there is no state.
    """

    number: int
    failure: Failure | None = None
    reply: TrainReply | None = None
    blocks: tuple[Block, ...] = ()
    aux: tuple[str, ...] = ()
    kept: bytes | None = None

    @property
    def apart(self) -> int:
        """How many vectors come by themselves."""
        return sum(block.raw is None for block in self.blocks)


class Line(NamedTuple):
    """A line of a worker's log."""

    logger: str
    level: int
    text: str


Sign = Progress | LogLine


class News(NamedTuple):
    """What a worker tells; vectors that come by themselves follow it in one list, in the order of the results."""

    signs: tuple[tuple[int, Sign], ...] = ()
    lines: tuple[Line, ...] = ()
    results: tuple[Result, ...] = ()


# at the driver -------------------------------------------------------------------------------------------------


class Outgoing:
    """The parameters that tasks are waiting with, each put into the object store once.

    Args:
        put: Puts a vector into the object store, and returns what stands for it there.
    """

    def __init__(self, put: Callable[[Array], Any]) -> None:
        self._put = put
        self._held: dict[int, tuple[Params, int]] = {}  # by id(); holding them keeps the id theirs
        self._blocks: dict[int, Block] = {}

    def hold(self, task: Task) -> None:
        """A task will need its arrays."""
        for params in _arrays_of(task):
            _, users = self._held.get(id(params), (params, 0))
            self._held[id(params)] = params, users + 1

    def release(self, task: Task) -> None:
        """A task that was held does not need them any more."""
        for params in _arrays_of(task):
            _, users = self._held[id(params)]
            if users > 1:
                self._held[id(params)] = params, users - 1
            else:
                del self._held[id(params)]
                self._blocks.pop(id(params), None)

    def chunk(self, tasks: Iterable[tuple[int, Task]]) -> Chunk:
        """Pack tasks, which are held, under their numbers."""
        plans: dict[bytes, int] = {}
        places: dict[int, int] = {}
        blocks: list[Block] = []

        def place(params: Params) -> int:
            if id(params) not in places:
                places[id(params)] = len(blocks)
                blocks.append(self._block(params))
            return places[id(params)]

        parcels = [
            TaskParcel(
                number,
                task.request,
                plans.setdefault(task.plan.encode(), len(plans)),
                place(task.params),
                {name: place(params) for name, params in task.aux.items()},
                None if task.base is None else (place(task.base.arrays), task.base.values),
            )
            for number, task in tasks
        ]
        return Chunk(tuple(plans), tuple(blocks), tuple(parcels))

    def _block(self, params: Params) -> Block:
        block = self._blocks.get(id(params))
        if block is None:
            raw = np.frombuffer(params.buffer, np.uint8)
            large = params.nbytes >= LARGE
            block = self._blocks[id(params)] = Block(params.spec.table, self._put(raw) if large else raw)
        return block


def unpacked(result: Result, vectors: Iterable[Array], sent: ParamsSpec) -> Trained:
    """What came out of a task, in memory of this process.

    Args:
        result: It has no failure.
        vectors: Those that came by themselves.
        sent: The layout of the parameters that were sent.
    """
    apart = iter(vectors)
    arrays = []
    for table, raw in result.blocks:
        vector = next(apart) if raw is None else raw
        spec = _spec(table) if table else sent
        own = allocate(spec.nbytes)  # a copy: what lies in the object store is to be free again
        own[:] = vector
        arrays.append(Params(spec, own))
    count = len(result.aux)
    kept = None if result.kept is None else LocalState(arrays[1 + count], result.kept)
    assert result.reply is not None
    return Trained(result.reply, arrays[0], dict(zip(result.aux, arrays[1 : 1 + count], strict=True)), kept)


def _arrays_of(task: Task) -> list[Params]:
    return [task.params, *task.aux.values(), *([] if task.base is None else [task.base.arrays])]


# at a worker ---------------------------------------------------------------------------------------------------


class Incoming:
    """Makes tasks of parcels. What the last chunk held too is the same object again.

    Args:
        get: Reads vectors from the object store.
    """

    def __init__(self, get: Callable[[Any], Array]) -> None:
        self._get = get
        self._plans: dict[bytes, PlanBundle] = {}
        self._stored: dict[Any, Params] = {}

    def tasks(self, chunk: Chunk) -> list[tuple[int, Task]]:
        """The tasks of a chunk with their numbers."""
        self._plans = {source: self._plans.get(source) or PlanBundle.decode(source) for source in chunk.plans}
        stored: dict[Any, Params] = {}
        arrays = []
        for table, raw in chunk.blocks:
            if isinstance(raw, np.ndarray):
                arrays.append(Params(_spec(table), raw))
                continue
            if raw not in stored:
                stored[raw] = self._stored[raw] if raw in self._stored else Params(_spec(table), self._get(raw))
            arrays.append(stored[raw])
        self._stored = stored
        plans = list(self._plans.values())
        return [
            (
                parcel.number,
                Task(
                    parcel.request,
                    plans[parcel.plan],
                    arrays[parcel.params],
                    {name: arrays[place] for name, place in parcel.aux.items()},
                    None if parcel.base is None else LocalState(arrays[parcel.base[0]], parcel.base[1]),
                ),
            )
            for parcel in chunk.tasks
        ]


def packed(number: int, task: Task, trained: Trained) -> tuple[Result, list[Array]]:
    """What came out of a task, and the vectors that are to follow by themselves."""
    arrays: list[Params] = [trained.params, *trained.aux.values()]
    if trained.kept is not None:
        arrays.append(trained.kept.arrays)
    blocks, apart = [], []
    for params in arrays:
        raw = np.frombuffer(params.buffer, np.uint8)
        large = params.nbytes >= LARGE
        table = b"" if params.spec.tensors == task.params.spec.tensors else params.spec.table
        blocks.append(Block(table, None if large else raw))
        if large:
            apart.append(raw)
    kept = None if trained.kept is None else trained.kept.values
    return Result(number, None, trained.reply, tuple(blocks), tuple(trained.aux), kept), apart


def _spec(table: bytes) -> ParamsSpec:
    return msgspec.msgpack.decode(table, type=ParamsSpec)
