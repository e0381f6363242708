"""What a simulation and its worker processes say to each other. Numbers stand for what was said before."""

from __future__ import annotations

import msgspec

from fedplug.core.messages import LogLine, Progress, TaskKey, TrainReply, TrainRequest
from fedplug.core.params_spec import ParamsSpec
from fedplug.simulation.process_engines import InnerEngine


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Base of all messages."""


# what data a task is about ------------------------------------------------------------------------------------


class ArrayPlace(msgspec.Struct, frozen=True, array_like=True):
    """An array in the block of memory with the data.

    Attributes:
        dtype: As NumPy's file format writes it.
        shape: Its shape.
        offset: Its first byte.
        fortran: Whether columns lie together, not rows.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int
    fortran: bool = False


class DataPlace(msgspec.Struct, frozen=True, array_like=True):
    """Arrays that nodes share.

    Attributes:
        arrays: By name.
        order: The numbers of all samples, node after node; None if every node has arrays of its own.
        target: Name of the array that is to be predicted.
        tags: Of all data sets.
    """

    arrays: dict[str, ArrayPlace] = {}
    order: ArrayPlace | None = None
    target: str = ""
    tags: tuple[str, ...] = ()


class Rows(_Message, frozen=True):
    """A node has the samples ``order[low:high]`` of the shared arrays."""

    low: int
    high: int


class Own(_Message, frozen=True):
    """A node has arrays of its own; the attributes are those of a `MemoryDataset`."""

    name: str
    arrays: dict[str, ArrayPlace]
    target: str
    tags: tuple[str, ...]
    description: str


# to the worker -------------------------------------------------------------------------------------------------


class Begin(_Message, frozen=True):
    """The first message.

    With it come the memory in which the worker writes which task it is at, and that of the data.

    Attributes:
        engine: What trains there.
        data: What lies in the data's memory.
        nbytes: Its size.
        level: Log lines below it are not sent.
    """

    engine: InnerEngine
    data: DataPlace
    nbytes: int
    level: int


class Share(_Message, frozen=True):
    """Arrays that tasks will name by a number: in ``data``, or, if that is empty, in memory that comes with this."""

    number: int
    spec: ParamsSpec
    data: bytes


class Plan(_Message, frozen=True):
    """A training plan that tasks will name by a number."""

    number: int
    bundle: bytes


class Forget(_Message, frozen=True):
    """Arrays that no task will name any more."""

    numbers: tuple[int, ...]


class Common(_Message, frozen=True):
    """What the tasks that follow have in common, until there is another one.

    Attributes:
        request: What to do: that of one of them, which holds for all but in what a `Job` says.
        args: The request's ``model_args`` and ``training_args``, pickled, where msgpack would not give them back as
            they are; else empty.
        plan: Number of the plan.
        params: Number of the global parameters.
        aux: Numbers of extra arrays by name.
    """

    request: TrainRequest
    args: bytes
    plan: int
    params: int
    aux: dict[str, int]


class Job(msgspec.Struct, frozen=True, array_like=True):
    """What a task has for itself.

    Attributes:
        number: The name of it between the processes.
        node_id: The node; this and the next five are as in its request.
        dataset_id: The node's data set.
        seed: Root of its seeds for this round.
        data_seed: Root of what does not change between rounds.
        acked_round: The last round that the node's update was taken of.
        acked_state: What it has kept of that.
        data: The node's data.
        state: `LocalState.values` of the state that it goes on from, and the number of its arrays.
        ends_group: Whether it is the last of those that are to be trained together.
    """

    number: int
    node_id: str
    dataset_id: str
    seed: int
    data_seed: int
    acked_round: int
    acked_state: str
    data: Rows | Own
    state: tuple[bytes, int] | None
    ends_group: bool


class Jobs(_Message, frozen=True):
    """Tasks, in order."""

    jobs: tuple[Job, ...]


def request_of(common: TrainRequest, job: Job) -> TrainRequest:
    """The request of a task, from that of another one with which it has all else in common."""
    key = TaskKey(
        experiment_id=common.key.experiment_id, round=common.key.round, node_id=job.node_id,
        attempt=common.key.attempt,
    )  # fmt: skip
    return msgspec.structs.replace(
        common, key=key, dataset_id=job.dataset_id, seed=job.seed, data_seed=job.data_seed,
        acked_round=job.acked_round, acked_state=job.acked_state,
    )  # fmt: skip


class Drop(_Message, frozen=True):
    """Tasks whose results nobody wants any more; those that have not begun need not."""

    numbers: tuple[int, ...]


ToWorker = Begin | Share | Plan | Forget | Common | Jobs | Drop


# from the worker -----------------------------------------------------------------------------------------------


class Ready(_Message, frozen=True):
    """It can train."""


class Sign(_Message, frozen=True):
    """A sign of progress, or a line for the researcher."""

    number: int
    progress: Progress | None
    line: LogLine | None


class Output(_Message, frozen=True):
    """What a plan has printed; ``error`` says on which of the two streams."""

    number: int
    text: str
    error: bool


class Remark(_Message, frozen=True):
    """A line of the library's log."""

    logger: str
    level: int
    text: str


class Segment(_Message, frozen=True):
    """New memory for results, which comes with it.

    Attributes:
        number: Its name.
        slots: How many results it holds.
        stride: Bytes of each.
    """

    number: int
    slots: int
    stride: int


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where a result lies."""

    segment: int
    slot: int


class Done(_Message, frozen=True):
    """Trained. The arrays lie one after the other: parameters, extra arrays, state.

    Attributes:
        number: The task.
        seconds: How long it took.
        reply: The reply of the node.
        place: Where the arrays lie; None if there are none.
        spec: Of the parameters; None: that of the global ones.
        aux: Names and tables of extra arrays.
        state: What the node is to keep: `LocalState.values`, and the table of its arrays.
        said: What was to be said of the task, and has not been sent yet.
    """

    number: int
    seconds: float
    reply: TrainReply
    place: Place | None
    spec: ParamsSpec | None
    aux: tuple[tuple[str, ParamsSpec], ...]
    state: tuple[bytes, ParamsSpec] | None
    said: tuple[Sign | Output, ...]


class Failed(_Message, frozen=True):
    """Not trained; the attributes are those of the error, of class ``kind``."""

    number: int
    seconds: float
    kind: str
    message: str
    cure: str
    details: str


class Dropped(_Message, frozen=True):
    """Not begun, as asked."""

    number: int


FromWorker = Ready | Sign | Output | Remark | Segment | Done | Failed | Dropped
