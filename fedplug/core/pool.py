"""The researcher's view of the nodes: who is there, what they hold, train there, take what comes back.

`NodePool` is the one seam between an experiment and the world. Behind it stands a protocol over a transport
(`fedplug.protocol.ResearcherEndpoint`) or a simulation (`fedplug.simulation.Federation`); the round, the
aggregators and the strategies never know which.

A finished training is first *offered*: the researcher learns its size and decides when to `fetch` the
arrays and where to put them. That is what bounds its memory, however many nodes finish at once. A pool whose arrays
are here anyway, such as a simulation's, leaves the offer out.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from fedplug.core.closing import Closing
from fedplug.core.messages import (
    DatasetCard,
    LogLine,
    NodeInfo,
    PlanAnswer,
    Progress,
    TaskFailure,
    TaskKey,
    TrainReply,
    TrainRequest,
)
from fedplug.core.params import Array, Params, ParamsSpec
from fedplug.core.plan_source import PlanBundle


@dataclass(frozen=True, slots=True)
class NodeJoined:
    """A node is connected and can be asked."""

    node: NodeInfo


@dataclass(frozen=True, slots=True)
class NodeLost:
    """A node is gone. Its tasks are not given up: it may come back with their results."""

    node_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class DatasetsFound:
    """A node's answer to `NodePool.search`."""

    node_id: str
    query: int
    cards: tuple[DatasetCard, ...]


@dataclass(frozen=True, slots=True)
class PlanAnswered:
    """A node's answer to `NodePool.ask_plan`."""

    node_id: str
    query: int
    answer: PlanAnswer


@dataclass(frozen=True, slots=True)
class UpdateOffered:
    """A node has finished a task; its arrays can be fetched.

    Attributes:
        reply: The reply without its arrays.
        spec: Layout of the parameters, already checked for sanity, not yet against the model.
        aux: Layouts of the extra arrays.
    """

    reply: TrainReply
    spec: ParamsSpec
    aux: Mapping[str, ParamsSpec] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class UpdateFetched:
    """The arrays of an offer are here, whole and with the digest that was promised."""

    reply: TrainReply
    params: Params
    aux: Mapping[str, Params] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class TaskFailed:
    """A node could not do a task, or refused it, or what it sent was unusable."""

    failure: TaskFailure


PoolEvent = NodeJoined | NodeLost | DatasetsFound | PlanAnswered | UpdateOffered | UpdateFetched | TaskFailed
Watcher = Callable[[Progress | LogLine, str], None]
"""Called with signs of life and the id of the node they came from."""

Allocate = Callable[[int], Array]
"""Gives a writable byte array of at least the size asked for: memory, or a file that is mapped."""


class NodePool(Closing):
    """All nodes that an experiment can reach. Used from one thread."""

    @property
    @abstractmethod
    def nodes(self) -> Mapping[str, NodeInfo]:
        """The nodes that are connected now, by id."""

    @property
    def description(self) -> str:
        """Where this pool is, for messages to people, e.g. ``"zmq://127.0.0.1:7400"``."""
        return type(self).__name__

    @property
    def is_fixed(self) -> bool:
        """Whether all nodes that will ever be there are there now, so that nobody needs to wait for more."""
        return False

    @abstractmethod
    def search(self, query: int, tags: tuple[str, ...], node_ids: tuple[str, ...] | None = None) -> None:
        """Ask nodes for the data sets that carry all of ``tags`` (all data sets if empty).

        Every node that is connected, or connects later while ``query`` is the latest, answers with one
        `DatasetsFound`. A new search replaces the one before.

        Args:
            query: A number of the caller's, repeated in the answers.
            tags: Tags that a data set must all carry.
            node_ids: Ask only these; None for all.
        """

    @abstractmethod
    def ask_plan(
        self, query: int, plan: PlanBundle, datasets: Mapping[str, str], description: str | None = None
    ) -> None:
        """Ask nodes whether a plan may run there.

        Every one of them that is connected, or connects later while ``query`` is the latest, answers with one
        `PlanAnswered`. A new question replaces the one before.

        Args:
            query: A number of the caller's, repeated in the answers.
            plan: The plan.
            datasets: Id of the data set that it is to run on, by node id; these nodes are asked.
            description: What it is for, in words for the owners, who are then asked to approve it; None: only ask
                what they have decided.
        """

    @abstractmethod
    def train(
        self,
        request: TrainRequest,
        plan: PlanBundle,
        params: Params,
        aux: Mapping[str, Params] | None = None,
    ) -> None:
        """Send a task to the node that its key names. The same `Params` object is encoded once for all.

        One of `UpdateOffered` and `TaskFailed` follows; or `UpdateFetched`, where there is nothing to transfer. A node
        that is away gets the task when it is back.
        """

    @abstractmethod
    def next_event(self, timeout: float | None, watch: Watcher | None = None) -> PoolEvent | None:
        """The next event that needs a decision.

        Args:
            timeout: Seconds to wait; 0 to only look; None for as long as it takes.
            watch: Told about progress and log lines while waiting, on the caller's thread.

        Returns:
            The event; None after the time-out.
        """

    @abstractmethod
    def fetch(self, key: TaskKey, allocate: Allocate | None = None, settle: Callable[[], None] | None = None) -> None:
        """Get the arrays of an offer; `UpdateFetched` (or `TaskFailed`) follows.

        Args:
            key: The offer's task.
            allocate: Where to put the arrays; fresh memory by default. It is called once per array blob.
            settle: Called now and then while they arrive (after every few MiB), from any thread: what has
                arrived will not be looked at for a while, so that memory which a file stands behind can be
                given back.
        """

    @abstractmethod
    def commit(self, key: TaskKey) -> None:
        """Tell the node that its update is taken for good (or refused for good): it may forget it.

        It may be the update of a task that an earlier run of the researcher gave out.
        """

    @abstractmethod
    def cancel(self, key: TaskKey, reason: str) -> None:
        """Give a task up. Nothing more is heard of it; the node stops training."""

    def late(self) -> Sequence[TaskKey]:
        """The tasks whose updates came, since the last call, after they had been given up. They are not used."""
        return ()

    def traffic(self) -> Mapping[str, int]:
        """Counters: ``bytes_sent``, ``bytes_received`` and whatever else the pool counts."""
        return {}

    @abstractmethod
    def close(self) -> None:
        """Say goodbye to the nodes and give back sockets and threads. May be called twice."""
