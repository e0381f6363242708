"""The tasks that a simulation has for its worker processes, and how they are told to them and their answers read."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import msgspec

from fedplug.core import errors
from fedplug.core.errors import EngineError, FedplugError, PlanRunError, UsageError
from fedplug.core.local_state import LocalState
from fedplug.core.messages import TaskKey, TrainRequest
from fedplug.core.params import Params
from fedplug.simulation.engines import Task, Trained
from fedplug.simulation.process_channel import Parcel
from fedplug.simulation.process_handle import WorkerHandle
from fedplug.simulation.process_memory import SharedArrays, copied, pack
from fedplug.simulation.process_messages import Common, Done, Failed, Forget, Job, Jobs, Plan, Share

_OWN = {"key", "dataset_id", "seed", "data_seed", "acked_round", "acked_state"}
"""What of a request is the node's, and stands in its `Job`; of the key, that is the node's id."""

_ARGS = ("model_args", "training_args")

_common_part = attrgetter(
    *(f"key.{name}" for name in TaskKey.__struct_fields__ if name != "node_id"),
    *(name for name in TrainRequest.__struct_fields__ if name not in _OWN and name not in _ARGS),
)
"""All of a request that is neither the node's nor arguments."""


@dataclass(eq=False, slots=True)
class Pending:
    """A task whose result nobody has taken yet.

    Attributes:
        number: Its name between the processes.
        task: The task.
        common: What it has in common with others; None if workers cannot have it.
        deaths: How many workers have died of it.
        wanted: Whether anybody still waits for it.
        result: What has come out, when it has.
    """

    number: int
    task: Task
    common: InCommon | None = None
    deaths: int = 0
    wanted: bool = True
    result: Trained | FedplugError | None = None


@dataclass(eq=False, slots=True)
class InCommon:
    """What tasks have in common.

    Attributes:
        number: Its name in this process.
        first: The first of them.
        message: Tells it to workers.
        arrays: Numbers of the parameters and extra arrays that they need.
        users: How many of them have no result yet.
    """

    number: int
    first: Task
    message: Common
    arrays: list[int]
    users: int = 0

    def fits(self, task: Task) -> bool:
        """Whether a task is one of them. Arguments and arrays are the same if they are the same objects."""
        first = self.first
        one, other = task.request, first.request
        return (
            task.plan is first.plan
            and task.params is first.params
            and _is_copy(task.aux, first.aux)
            and _is_copy(one.training_args, other.training_args)
            and _is_copy(one.model_args, other.model_args)
            and _common_part(one) == _common_part(other)
        )


@dataclass(eq=False, slots=True)
class _Arrays:
    """Parameters that workers have, or extra arrays.

    Attributes:
        params: They.
        parcel: Tells them to a worker.
        users: How many `InCommon` need them.
    """

    params: Params
    parcel: Parcel
    users: int = 0


class TaskTable:
    """Tasks without a result by number, and what workers must have for them.

    What the tasks of a round have in common, with the global parameters, is told to each worker once.

    Args:
        data: The data of the nodes.

    Attributes:
        pending: The tasks.
    """

    def __init__(self, data: SharedArrays) -> None:
        self.pending: dict[int, Pending] = {}
        self._data = data
        self._count = 0  # numbers that were given out, to tasks, plans, arrays, and what tasks have in common
        self._last: InCommon | None = None  # what the task before had in common with others
        self._plans: dict[str, tuple[int, bytes]] = {}
        self._arrays: dict[int, _Arrays] = {}
        self._by_id: dict[int, int] = {}  # id of the `Params` → number
        self._idle: dict[int, None] = {}  # arrays that no task needs

    def add(self, task: Task) -> Pending:
        """Take in a task; one that workers cannot have has a result at once, which says why."""
        pending = Pending(self._next(), task)
        try:
            common = self._last
            if common is None or not common.fits(task):
                common = self._last = self._common_of(task)
        except FedplugError as error:
            pending.result = error
            return pending
        common.users += 1
        pending.common = common
        self.pending[pending.number] = pending
        return pending

    def finish(self, pending: Pending) -> None:
        """A task has a result, or needs none."""
        common = pending.common
        if self.pending.pop(pending.number, None) is None or common is None:
            return
        common.users -= 1
        if common.users:
            return
        if self._last is common:
            self._last = None
        self._release(common.arrays)

    def parcels(self, handle: WorkerHandle, groups: Iterable[Sequence[int]]) -> list[Parcel]:
        """Tasks, and before them what the worker does not have yet, which it is then said to have.

        Args:
            handle: The worker.
            groups: Numbers of the tasks, by who is trained together.

        Raises:
            EngineError: There is no memory for it.
        """
        parcels, jobs = self._forgotten(handle), list[Job]()
        for group in groups:
            for number in group:
                pending = self.pending[number]
                common = pending.common
                assert common is not None
                if handle.common != common.number:
                    if jobs:
                        parcels.append((Jobs(tuple(jobs)), ()))
                        jobs = []
                    parcels += self._told(handle, common)
                state = None
                if pending.task.base is not None:
                    parcel, state = self._state(pending.task.base)
                    parcels.append(parcel)
                request = pending.task.request
                node = request.key.node_id
                jobs.append(
                    Job(number, node, request.dataset_id, request.seed, request.data_seed, request.acked_round,
                        request.acked_state, self._data.of(node), state, number == group[-1])
                )  # fmt: skip
        parcels.append((Jobs(tuple(jobs)), ()))
        return parcels

    def _forgotten(self, handle: WorkerHandle) -> list[Parcel]:
        """Tells a worker which of its arrays no task will need any more."""
        forgotten = handle.arrays - self._arrays.keys()
        handle.arrays -= forgotten
        return [(Forget(tuple(forgotten)), ())] if forgotten else []

    def _told(self, handle: WorkerHandle, common: InCommon) -> list[Parcel]:
        """Tells a worker what the next tasks have in common."""
        parcels: list[Parcel] = []
        plan, bundle = self._plan(common.first)
        if plan not in handle.plans:
            handle.plans.add(plan)
            parcels.append((Plan(plan, bundle), ()))
        for each in common.arrays:
            if each not in handle.arrays:
                handle.arrays.add(each)
                parcels.append(self._arrays[each].parcel)
        handle.common = common.number
        return [*parcels, (common.message, ())]

    def _state(self, base: LocalState) -> tuple[Parcel, tuple[bytes, int]]:
        number = self._next()
        data, blocks = pack(base.arrays)
        return (Share(number, base.arrays.spec, data), blocks), (base.values, number)

    def _common_of(self, task: Task) -> InCommon:
        """What a task may have in common with those that follow.

        Raises:
            FedplugError: Workers cannot have it.
        """
        request = task.request
        args = _pickled(request)
        if args:
            request = msgspec.structs.replace(request, model_args={}, training_args={})
        arrays: list[int] = []
        try:
            arrays.extend(map(self._share, (task.params, *task.aux.values())))
        except EngineError:
            self._release(arrays)
            raise
        params, *aux = arrays
        names = dict(zip(task.aux, aux, strict=True))
        message = Common(request, args, self._plan(task)[0], params, names)
        return InCommon(self._next(), task, message, arrays)

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _plan(self, task: Task) -> tuple[int, bytes]:
        known = self._plans.get(task.plan.hash)
        if known is None:
            known = self._plans[task.plan.hash] = self._next(), task.plan.encode()
        return known

    def _share(self, params: Params) -> int:
        """The number of ``params``, which one more `InCommon` needs."""
        number = self._by_id.get(id(params))
        if number is None:
            for idle in self._idle:  # those of an earlier round
                del self._by_id[id(self._arrays.pop(idle).params)]
            self._idle.clear()
            data, blocks = pack(params)
            number = self._by_id[id(params)] = self._next()
            self._arrays[number] = _Arrays(params, (Share(number, params.spec, data), blocks))
        self._arrays[number].users += 1
        self._idle.pop(number, None)
        return number

    def _release(self, numbers: Iterable[int]) -> None:
        """Arrays that one `InCommon` less needs; workers have them until there are others."""
        for number in numbers:
            arrays = self._arrays[number]
            arrays.users -= 1
            if not arrays.users:
                self._idle[number] = None


def trained(handle: WorkerHandle, task: Task, done: Done) -> Trained:
    """The result of a task, in the memory that its worker has written it into."""
    specs = [done.spec or task.params.spec, *(spec for _, spec in done.aux)]
    if done.state is not None:
        specs.append(done.state[1])
    arrays = handle.results.read(done.place, specs)
    kept = None if done.state is None else LocalState(copied(arrays.pop()), done.state[0])
    params, *aux = arrays
    return Trained(done.reply, params, dict(zip((name for name, _ in done.aux), aux, strict=True)), kept)


def error_of(failed: Failed) -> FedplugError:
    """The error that the inner engine has raised."""
    kind = getattr(errors, failed.kind, FedplugError)
    if kind is PlanRunError:
        return PlanRunError(failed.message, cure=failed.cure, details=failed.details)
    is_plain = isinstance(kind, type) and issubclass(kind, FedplugError) and kind.__init__ is FedplugError.__init__
    return (kind if is_plain else FedplugError)(failed.message, cure=failed.cure)


def death_of(task: Task, how: str, *, began: bool) -> FedplugError:
    """The error of a task that was given up, as two processes have died of it."""
    node = task.request.key.node_id
    if not began:
        text = f"Two worker processes ended before they could train node {node!r}: {how}."
        return EngineError(text, cure="What they have printed says why.")
    text = f"Two worker processes died while they trained node {node!r} by {task.plan.class_name!r}: {how}."
    return FedplugError(text, cure="If memory is short, use fewer workers or smaller batches.", node=node)


def _pickled(request: TrainRequest) -> bytes:
    """The arguments of a request, pickled, if msgpack would not give them back as they are; else empty.

    Raises:
        UsageError: They cannot be pickled.
    """
    args = request.model_args, request.training_args
    if all(map(_is_plain, args)):
        return b""
    try:
        return pickle.dumps(args)
    except Exception as error:
        raise UsageError(
            f"model_args hold something that cannot be given to worker processes: {error}.",
            cure="Give numbers, texts, arrays, and lists and dicts of them; or use engine='serial'.",
        ) from error


def _is_copy(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two mappings hold the same objects under the same names."""
    if one is other:
        return True
    return len(one) == len(other) and all(name in other and other[name] is value for name, value in one.items())


def _is_plain(value: object) -> bool:
    if type(value) is dict:
        return all(type(key) is str and _is_plain(each) for key, each in value.items())
    if type(value) is list:
        return all(map(_is_plain, value))
    if type(value) is int:
        return -(2**63) <= value < 2**64
    return value is None or type(value) in (bool, float, str, bytes)
