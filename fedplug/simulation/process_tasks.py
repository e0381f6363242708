"""The tasks that a simulation has for its worker processes, and how they are told to them and their answers read."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field

import msgspec

from fedplug.core import errors
from fedplug.core.errors import EngineError, FedplugError, PlanRunError, UsageError
from fedplug.core.local_state import LocalState
from fedplug.core.messages import TrainRequest
from fedplug.core.params import Params
from fedplug.simulation.engines import Task, Trained
from fedplug.simulation.process_channel import Parcel
from fedplug.simulation.process_handle import WorkerHandle
from fedplug.simulation.process_memory import SharedArrays, copied, pack
from fedplug.simulation.process_messages import Done, Failed, Forget, Job, Plan, Share


@dataclass(eq=False)
class Pending:
    """A task that has no result yet.

    Attributes:
        task: The task.
        args: Its arguments, pickled, if they must be; see `Job.args`.
        arrays: Numbers of the parameters and extra arrays that it needs.
        deaths: How many workers have died of it.
        wanted: Whether anybody still waits for it.
    """

    task: Task
    args: bytes = b""
    arrays: list[int] = field(default_factory=list)
    deaths: int = 0
    wanted: bool = True


@dataclass(eq=False)
class _Shared:
    """Arrays that tasks have in common."""

    params: Params
    parcel: Parcel
    users: int = 0


class TaskTable:
    """Tasks without a result by number, and what workers must have for them.

    The global parameters of a round are one object, which all its tasks name: it is shared once.

    Args:
        data: The data of the nodes.

    Attributes:
        pending: The tasks.
    """

    def __init__(self, data: SharedArrays) -> None:
        self.pending: dict[int, Pending] = {}
        self._data = data
        self._count = 0  # numbers that were given out, to tasks, plans and arrays
        self._plans: dict[str, tuple[int, bytes]] = {}
        self._shared: dict[int, _Shared] = {}
        self._by_id: dict[int, int] = {}  # id of the `Params` → number
        self._idle: dict[int, None] = {}  # shared arrays that no task needs
        self._plain: object = None  # the last training_args that need not be pickled

    def add(self, task: Task) -> int:
        """Take in a task; the number that it gets."""
        number = self._next()
        self.pending[number] = Pending(task)
        return number

    def prepare(self, number: int) -> None:
        """Look at what workers must have for a task.

        Raises:
            FedplugError: They cannot have it.
        """
        pending = self.pending[number]
        request = pending.task.request
        # the nodes of a round are asked with the same training_args
        if not (request.training_args is self._plain and _is_plain(request.model_args)):
            pending.args = _pickled(request)
            self._plain = None if pending.args else request.training_args
        for params in (pending.task.params, *pending.task.aux.values()):
            pending.arrays.append(self._share(params))

    def finish(self, number: int) -> None:
        """A task has a result, or needs none."""
        pending = self.pending.pop(number, None)
        if pending is None:
            return
        for each in pending.arrays:
            shared = self._shared[each]
            shared.users -= 1
            if not shared.users:
                self._idle[each] = None

    def forget(self, handle: WorkerHandle) -> list[Parcel]:
        """Tell a worker which of its arrays no task will need any more."""
        forgotten = handle.arrays - self._shared.keys()
        handle.arrays -= forgotten
        return [(Forget(tuple(forgotten)), ())] if forgotten else []

    def parcels(self, handle: WorkerHandle, number: int, *, ends_group: bool) -> list[Parcel]:
        """A task, and before it what the worker does not have yet, which it is then said to have.

        Raises:
            EngineError: There is no memory for it.
        """
        pending = self.pending[number]
        task, parcels, state = pending.task, list[Parcel](), None
        if task.base is not None:
            arrays, place = task.base.arrays, self._next()
            data, blocks = pack(arrays)
            parcels.append((Share(place, arrays.spec, data), blocks))
            state = task.base.values, place
        plan, bundle = self._plan(task)
        if plan not in handle.plans:
            handle.plans.add(plan)
            parcels.append((Plan(plan, bundle), ()))
        for each in pending.arrays:
            if each not in handle.arrays:
                handle.arrays.add(each)
                parcels.append(self._shared[each].parcel)
        request = task.request
        if pending.args:
            request = msgspec.structs.replace(request, model_args={}, training_args={})
        params, *aux = pending.arrays
        names = dict(zip(task.aux, aux, strict=True))
        mine = self._data.of(request.key.node_id)
        parcels.append((Job(number, request, pending.args, plan, params, names, state, mine, ends_group), ()))
        return parcels

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _plan(self, task: Task) -> tuple[int, bytes]:
        known = self._plans.get(task.plan.hash)
        if known is None:
            known = self._plans[task.plan.hash] = self._next(), task.plan.encode()
        return known

    def _share(self, params: Params) -> int:
        """The number of ``params``, which one more task needs."""
        number = self._by_id.get(id(params))
        if number is None:
            for idle in self._idle:  # those of an earlier round
                del self._by_id[id(self._shared.pop(idle).params)]
            self._idle.clear()
            data, blocks = pack(params)
            number = self._by_id[id(params)] = self._next()
            self._shared[number] = _Shared(params, (Share(number, params.spec, data), blocks))
        self._shared[number].users += 1
        self._idle.pop(number, None)
        return number


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


def _is_plain(value: object) -> bool:
    if type(value) is dict:
        return all(type(key) is str and _is_plain(each) for key, each in value.items())
    if type(value) is list:
        return all(map(_is_plain, value))
    if type(value) is int:
        return -(2**63) <= value < 2**64
    return value is None or type(value) in (bool, float, str, bytes)
