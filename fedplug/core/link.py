"""A node's view of the researcher: requests come in, answers go out. The twin of `fedplug.core.pool`.

`ResearcherLink` is what the node's supervisor works with. Behind it stands
`fedplug.protocol.NodeEndpoint`, which connects outward, keeps trying, keeps the heartbeat, fetches the
arrays of a task before it reports the task, and keeps a finished update until the researcher has committed it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from fedplug.core.closing import Closing
from fedplug.core.messages import (
    DatasetCard,
    LogLine,
    PlanAnswer,
    Progress,
    TaskFailure,
    TaskKey,
    TrainReply,
    TrainRequest,
)
from fedplug.core.params import Params
from fedplug.core.plan_source import PlanBundle


@dataclass(frozen=True, slots=True)
class Connected:
    """The researcher has welcomed this node."""

    researcher: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The researcher cannot be reached; the link goes on trying.

    Attributes:
        reason: Why, in words. Reported once per change, not once per try.
        refused: The researcher answered and refused this node (version, identity).
    """

    reason: str
    refused: bool = False


@dataclass(frozen=True, slots=True)
class SearchReceived:
    """The researcher asks which data sets carry all of ``tags``; answer with `ResearcherLink.answer_search`."""

    query: int
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PlanAsked:
    """The researcher asks whether a plan may run on a data set; answer with `ResearcherLink.answer_plan`.

    Attributes:
        query: Names the question.
        plan_hash: The plan.
        dataset_id: The data set.
        plan: The plan itself, if the owner is asked to approve it.
        description: What it is for.
    """

    query: int
    plan_hash: str
    dataset_id: str
    plan: PlanBundle | None = None
    description: str = ""


@dataclass(frozen=True, slots=True)
class TaskReceived:
    """A task with everything that belongs to it, checked against its digests. Reported once per key."""

    request: TrainRequest
    plan: PlanBundle
    params: Params
    aux: Mapping[str, Params] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class TaskCancelled:
    """The researcher has given a task up; nothing needs to be sent for it."""

    key: TaskKey
    reason: str


@dataclass(frozen=True, slots=True)
class UpdateCommitted:
    """The researcher has the update of a task for good."""

    key: TaskKey


@dataclass(frozen=True, slots=True)
class FinishedTask:
    """A finished training that an earlier run of the node has left on its disk; nobody has committed it yet."""

    reply: TrainReply
    params: Params
    aux: Mapping[str, Params] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class EarlierTasks:
    """What a node's journal says of the tasks that a researcher gave to earlier runs of it.

    A task of which it says nothing was never begun: it may be given out again under its own key.

    Attributes:
        finished: Trainings whose updates are to be offered (again).
        ends: How others ended, the oldest first: ``"committed"``, ``"cancelled"``, ``"interrupted"`` (begun, and cut
            off by the end of the node), or the code of a failure.
    """

    finished: Sequence[FinishedTask] = ()
    ends: Mapping[TaskKey, str] = field(default_factory=lambda: MappingProxyType({}))


LinkEvent = Connected | Disconnected | SearchReceived | PlanAsked | TaskReceived | TaskCancelled | UpdateCommitted


class ResearcherLink(Closing):
    """The way to the researcher. `next_event` belongs to one thread; the other methods to any."""

    @abstractmethod
    def next_event(self, timeout: float | None) -> LinkEvent | None:
        """The next event; None after ``timeout`` seconds, or early when `wake` was called."""

    @abstractmethod
    def wake(self) -> None:
        """Make a `next_event` that waits, or else the next one, return at once."""

    @abstractmethod
    def answer_search(self, query: int, cards: Sequence[DatasetCard]) -> None:
        """Answer a `SearchReceived`."""

    @abstractmethod
    def answer_plan(self, query: int, answer: PlanAnswer) -> None:
        """Answer a `PlanAsked`."""

    @abstractmethod
    def report(self, message: Progress | LogLine) -> None:
        """Send a sign of life; dropped where the way is full or the researcher away."""

    @abstractmethod
    def finish(self, reply: TrainReply, params: Params, aux: Mapping[str, Params] | None = None) -> None:
        """Offer a finished training. It is kept, and offered again after a lost connection, until committed."""

    @abstractmethod
    def fail(self, failure: TaskFailure) -> None:
        """Say that a task did not finish; repeated until the researcher knows."""

    @abstractmethod
    def close(self) -> None:
        """Say goodbye and give back sockets and threads. May be called twice."""
