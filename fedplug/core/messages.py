"""What researcher and node say to each other, as plain frozen data. No behaviour, no bytes, no I/O.

Arrays do not stand in a message: a message names them (`TrainRequest.aux` is a tuple of names), and they
travel beside it. How a message becomes bytes is the business of `fedplug.wire`; how it reaches the other
side, of `fedplug.protocol`.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """Base of all messages. Nothing in one leads back to it, so Python need not look for circles: ``gc=False``."""


class TaskKey(Message, frozen=True, kw_only=True, array_like=True):
    """The name of one training: at most once finished, at most once aggregated."""

    experiment_id: str
    round: int
    node_id: str
    attempt: int = 0

    def __str__(self) -> str:
        return f"{self.experiment_id}/{self.round}/{self.node_id}/{self.attempt}"


class NodeInfo(Message, frozen=True, kw_only=True):
    """Who a node is.

    Attributes:
        node_id: Unique and stable; made by ``fedplug node init``.
        name: What people call it, e.g. ``"hospital-a"``.
        version: Version of FedPlug on the node.
        plugins: Name and version of the plugins it has loaded.
    """

    node_id: str
    name: str = ""
    version: str = ""
    plugins: dict[str, str] = {}


class DatasetCard(Message, frozen=True, kw_only=True):
    """What a researcher may know about a data set: never a row, never a path.

    Attributes:
        dataset_id: Unique on its node.
        name: What its owner calls it; by default the file's name without folder and ending.
        type: How it is stored, e.g. ``"csv"``.
        tags: Words under which researchers find it.
        shape: Of the whole table or the largest array; the number of samples comes first.
        description: Free text of its owner's.
        columns: Names of the columns or arrays that plans may see.
        dtypes: Their types, in the same order.
        target: The column or array that is to be predicted; empty if its owner named none.
    """

    dataset_id: str
    name: str
    type: str
    tags: tuple[str, ...]
    shape: tuple[int, ...]
    description: str = ""
    columns: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    target: str = ""


class PlanAnswer(Message, frozen=True, kw_only=True):
    """Whether a node lets a training plan run.

    Attributes:
        plan: Hash of the plan.
        status: ``"approved"``, ``"pending"``, ``"rejected"``, ``"expired"``, ``"unknown"`` (it was never sent there),
            ``"not required"`` (the node runs every plan), or ``"refused"`` (the node does not take it in).
        note: What the owner says about it.
        until: When an approval ends (UTC, ISO 8601); empty: never.
    """

    plan: str
    status: str
    note: str = ""
    until: str = ""


class TrainRequest(Message, frozen=True, kw_only=True):
    """Train one round, or only test. The global parameters and the plan's source travel beside it.

    Attributes:
        key: Which training this is.
        dataset_id: The node's data set to train on.
        plan_class: Name of the training plan's class.
        model_args: For the plan's ``init_model``.
        training_args: See `TrainingArgs`.
        seed: Root of the node's seeds for this round, in [0, 2**63).
        data_seed: Root of what must not change between rounds (the train/test split), in [0, 2**63).
        acked_round: The last round that the researcher has committed with an update of this node; -1 if
            none. A node that keeps state between rounds goes on from the state of that round.
        acked_state: `TrainReply.state_id` of that update: an experiment that was taken back to a breakpoint may have
            come to that round in more than one way, and only the state of this way will do.
        total_rounds: The round limit, for learning-rate schedules; 0 if there is none.
        aux: Names of the extra arrays that travel beside the parameters.
        train: Whether to train. If not, the node tests the parameters it is given on its held-out samples and
            replies without parameters; what it keeps between rounds stays as it is.
    """

    key: TaskKey
    dataset_id: str
    plan_class: str
    model_args: dict[str, Any] = {}
    training_args: dict[str, Any] = {}
    seed: int = 0
    data_seed: int = 0
    acked_round: int = -1
    acked_state: str = ""
    total_rounds: int = 0
    aux: tuple[str, ...] = ()
    train: bool = True


class TrainReply(Message, frozen=True, kw_only=True):
    """A finished training. The parameters travel beside it and become, with it, an `Update`.

    Attributes:
        key: Which training this is.
        sample_count: Number of distinct samples in the training split; of the tested ones, if there was only a test.
        steps: Number of optimizer steps.
        metrics: Scalars by name.
        timing: Seconds by name.
        state: ``"none"`` (this plan keeps nothing between rounds), ``"kept"`` (it went on from the state
            of ``acked_round``) or ``"absent"`` (it should have, but that state is not there).
        state_id: Names what the node keeps of this round (`fedplug.core.local_state.lineage`); empty if nothing.
        aux: Names of the extra arrays that travel beside the parameters.
    """

    key: TaskKey
    sample_count: int
    steps: int = 0
    metrics: dict[str, float] = {}
    timing: dict[str, float] = {}
    state: str = "none"
    state_id: str = ""
    aux: tuple[str, ...] = ()


class TaskFailure(Message, frozen=True, kw_only=True):
    """A training that did not finish.

    Attributes:
        key: Which training this was.
        code: What kind of failure, e.g. ``"plan-raised"``, ``"no-dataset"``, ``"worker-died"``, ``"cancelled"``.
        text: One sentence for the researcher: cause, and cure if there is one.
        details: The end of the traceback, if the plan raised.
    """

    key: TaskKey
    code: str
    text: str
    details: str = ""


class Progress(Message, frozen=True, kw_only=True):
    """A sign of life from a training; may be lost on the way.

    Attributes:
        key: Which training this is about.
        step: Optimizer steps done so far.
        total_steps: Steps to do in all; 0 if that is not known.
        epoch: Epoch, from 1.
        samples: Samples seen so far.
        seconds: Seconds since training began.
        phase: ``"train"``, ``"test-global"`` (before training) or ``"test-local"`` (after it).
        metrics: Scalars by name; ``loss`` while training.
    """

    key: TaskKey
    step: int = 0
    total_steps: int = 0
    epoch: int = 0
    samples: int = 0
    seconds: float = 0.0
    phase: str = "train"
    metrics: dict[str, float] = {}


class LogLine(Message, frozen=True, kw_only=True):
    """A line of a node's log that concerns the researcher; may be lost on the way."""

    level: str
    text: str
    key: TaskKey | None = None
