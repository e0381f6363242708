"""What the journal of an experiment says: the rounds, as they were begun, and what became of them.

The journal lies in the experiment's folder, ``journal.sqlite``; see `fedplug.core.journal` for the file itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from fedplug.core.messages import TaskKey
from fedplug.core.params import Params
from fedplug.core.plain_state import freeze
from fedplug.researcher.round_plan import RoundPlan


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="what"):
    """Base of all records."""


class Begun(Record, frozen=True, tag="round begun"):
    """A round begins.

    Attributes:
        experiment: Id of the experiment.
        round: Number of the round, from 0.
        asked: Digest of everything that its nodes are asked, see `asked_digest`.
        params: Fingerprint of the global parameters that it begins with.
        plan: Hash of the training plan.
        attempts: Node id → attempt of its task; with experiment and round that is the key of the task.
        file: Name of the file in the experiment's folder where its updates lie.
    """

    experiment: str
    round: int
    asked: str
    params: str
    plan: str
    attempts: dict[str, int]
    file: str


class Asked(Record, frozen=True, tag="task given out"):
    """A node gets a task of this round: one more, or once more."""

    node: str
    attempt: int


class Place(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where the description of an update lies in the file of its round, and its SHA-256 (hex)."""

    start: int
    nbytes: int
    sha256: str


class Received(Record, frozen=True, tag="update received"):
    """The update of a task is on the disk.

    Attributes:
        node: The node.
        attempt: Of its task.
        update: See `update_id`.
        place: Where it lies.
    """

    node: str
    attempt: int
    update: str
    place: Place


class Refused(Record, frozen=True, tag="update refused"):
    """The update of a task is not taken, for good."""

    node: str
    attempt: int
    reason: str


class Late(Record, frozen=True, tag="update late"):
    """An update came when its round was over; it was not aggregated."""

    round: int
    node: str
    attempt: int


class Stopped(Record, frozen=True, tag="round stopped"):
    """The round ended without a result. The updates that are here stay good; the other tasks were given up."""

    reason: str


class Committed(Record, frozen=True, tag="round committed"):
    """The round is complete.

    Attributes:
        round: Its number.
        updates: What is in the result: (node id, update, number of samples), sorted.
        params: Fingerprint of the new global parameters.
    """

    round: int
    updates: tuple[tuple[str, str, int], ...]
    params: str


AnyRecord = Begun | Asked | Received | Refused | Late | Stopped | Committed


@dataclass
class RoundState:
    """What the journal knows of a round.

    Attributes:
        begun: How it began.
        attempts: Node id → attempt of its latest task.
        added: Nodes that were asked besides, in that order.
        received: Node id → its update.
        refused: Node id → why its update was not taken.
        stopped: Whether the open tasks were given up.
        committed: How it ended.
    """

    begun: Begun
    attempts: dict[str, int] = field(init=False)
    added: list[str] = field(default_factory=list)
    received: dict[str, Received] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    stopped: bool = False
    committed: Committed | None = None

    def __post_init__(self) -> None:
        self.attempts = dict(self.begun.attempts)

    def key(self, node: str) -> TaskKey:
        """The latest task of a node."""
        return TaskKey(
            experiment_id=self.begun.experiment, round=self.begun.round, node_id=node, attempt=self.attempts[node]
        )

    def apply(self, record: AnyRecord) -> None:
        """Something more has happened."""
        match record:
            case Asked():
                self.stopped = False
                self.attempts[record.node] = record.attempt
                self.received.pop(record.node, None)
                if record.node not in self.begun.attempts and record.node not in self.added:
                    self.added.append(record.node)
            case Received() if self.attempts.get(record.node) == record.attempt:
                self.received[record.node] = record
            case Refused() if self.attempts.get(record.node) == record.attempt:
                self.refused[record.node] = record.reason
            case Stopped():
                self.stopped = True
                self.refused.clear()
                self.added = [node for node in self.added if node in self.received]
            case Committed():
                self.committed = record
            case _:
                pass


def asked_digest(job: RoundPlan) -> str:
    """SHA-256 (hex) over all that the nodes of a round are asked, apart from the attempts.

    To two rounds with one digest the nodes give the same answers.

    Raises:
        UsageError: ``model_args`` holds something that cannot be written down.
    """
    digest = hashlib.sha256()
    for node, request in sorted(job.requests.items()):
        arrays: list[Params] = []
        facts = msgspec.structs.replace(
            request,
            key=msgspec.structs.replace(request.key, attempt=0),
            model_args=freeze(dict(request.model_args), arrays, "model_args"),
            training_args={name: value for name, value in request.training_args.items() if name != "log_interval"},
        )
        payload = job.payloads.get(node)
        aux = sorted((payload.aux if payload else {}).items())
        prints = [job.plan.hash, job.params.fingerprint(), *(each.fingerprint() for each in arrays)]
        prints += [f"{name}\0{each.fingerprint()}" for name, each in aux]
        digest.update(msgspec.msgpack.encode((facts, prints), order="deterministic"))
    return digest.hexdigest()


def update_id(key: TaskKey, params: Params, aux: Mapping[str, Params]) -> str:
    """The name of an update: SHA-256 (hex) over its task and the digests of its arrays."""
    digests = [params.fingerprint(), *(f"{name}\0{each.fingerprint()}" for name, each in sorted(aux.items()))]
    return hashlib.sha256("\n".join([str(key), *digests]).encode()).hexdigest()
