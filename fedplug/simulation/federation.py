"""A federation of virtual nodes, which an engine trains: one after the other in the caller's thread, or some at once.

    federation = Federation({"paris": (x1, y1), "lyon": (x2, y2)})
    Experiment(tags="simulation", transport=federation, training_plan_class=MyPlan, ...).run()

    federation = Federation.from_arrays(x, y, partition=Dirichlet(nodes=1000, alpha=0.3), seed=1)

Plans, aggregators, strategies and results are those of a real federation, to the last bit; only the network
and the worker processes are missing.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Self

import msgspec

from fedplug.core.errors import EngineError, FedplugError, PlanRunError, UsageError
from fedplug.core.local_state import lineage
from fedplug.core.messages import (
    LogLine,
    NodeInfo,
    PlanAnswer,
    Progress,
    TaskFailure,
    TaskKey,
    TrainReply,
    TrainRequest,
)
from fedplug.core.node_dataset import NodeDataset
from fedplug.core.params import Params
from fedplug.core.plan_source import PlanBundle
from fedplug.core.plugins import PluginHost, default_host
from fedplug.core.pool import (
    Allocate,
    DatasetsFound,
    NodeJoined,
    NodePool,
    PlanAnswered,
    PoolEvent,
    TaskFailed,
    UpdateFetched,
    Watcher,
)
from fedplug.core.rng import SeedTree
from fedplug.node.state_store import MemoryStateStore
from fedplug.simulation.engines import Emit, Engine, Task, make_engine
from fedplug.simulation.faults import Faults
from fedplug.simulation.partitions import Partition
from fedplug.simulation.virtual_data import (
    NodeInfos,
    OwnData,
    SharedData,
    VirtualData,
    kind_of,
    named_arrays,
    usual_target,
)

Update = tuple[TrainReply, Params, Mapping[str, Params]]
"""The reply of a node, its parameters, and extra arrays."""


class Federation(NodePool):
    """Virtual nodes, one data set each.

    Args:
        nodes: Node id → its data: a ``(data, target)`` pair of arrays, a mapping of named arrays, a pandas
            ``DataFrame``, or a `MemoryDataset`. Pairs become the arrays ``"x"`` and ``"y"``.
        tags: Tags that all data sets carry.
        target: Name of the array that is to be predicted, for mappings; by default ``"y"`` where there is one.
        host: The plugins to use; all installed ones by default.
        engine: What runs the trainings: the name of an engine, such as ``"serial"``, or an `Engine`.
        faults: What befalls the nodes; nothing by default.

    Raises:
        UsageError: There is no node, or its data is of another kind.
        DatasetError: The arrays of a node do not fit each other, or it has no array named ``target``.
    """

    def __init__(
        self,
        nodes: Mapping[str, Any],
        *,
        tags: str | Sequence[str] = ("simulation",),
        target: str | None = None,
        host: PluginHost | None = None,
        engine: Engine | str = "serial",
        faults: Faults | None = None,
    ) -> None:
        if not isinstance(nodes, Mapping):
            raise UsageError(
                f"A federation needs the data of each node under its id, but got {kind_of(nodes)}.",
                cure="E.g. Federation({'paris': (x1, y1), 'lyon': (x2, y2)}).",
            )
        if not nodes:
            raise UsageError("A federation needs at least one node.", cure="E.g. Federation({'paris': (x, y)}).")
        self._begin(OwnData(nodes, _words(tags), target), host, engine, faults)

    @classmethod
    def from_arrays(
        cls,
        x: Any,
        y: Any = None,
        *,
        partition: Partition,
        seed: int | None = 0,
        tags: str | Sequence[str] = ("simulation",),
        target: str | None = None,
        host: PluginHost | None = None,
        engine: Engine | str = "serial",
        faults: Faults | None = None,
    ) -> Self:
        """Divide one data set among virtual nodes.

        The arrays are not copied: a node is the numbers of its samples, and those of one node at a time are copied
        while it trains. So there may be thousands of nodes.

        Args:
            x: The inputs, samples in rows, which plans find as array ``"x"``; or a mapping of named arrays, or a
                pandas ``DataFrame``.
            y: The target, which plans find as array ``"y"``; None where ``x`` holds it.
            partition: Which node gets which samples: `IID`, `Dirichlet`, `Shards`, `Quantity`, `Natural`, or your own.
            seed: Of all that the partition draws: the same seed gives the same nodes. None: another one each time.
            tags: Tags that all data sets carry.
            target: Name of the array that is to be predicted; by default ``"y"`` where there is one.
            host: The plugins to use; all installed ones by default.
            engine: What runs the trainings: the name of an engine, such as ``"serial"``, or an `Engine`.
            faults: What befalls the nodes; nothing by default.

        Raises:
            UsageError: The data is of another kind, or cannot be divided like this.
            DatasetError: The arrays do not fit each other, or there is none of a name.

        Example:
            >>> import numpy as np
            >>> from fedplug.simulation import Dirichlet, Federation
            >>> x, y = np.zeros((1000, 8), np.float32), np.arange(1000) % 10
            >>> federation = Federation.from_arrays(x, y, partition=Dirichlet(nodes=50, alpha=0.3), seed=1)
            >>> len(federation.nodes), sum(len(federation.dataset(node)) for node in federation.nodes)
            (50, 1000)
        """
        arrays = named_arrays(x, y)
        if arrays is None:
            raise UsageError(
                f"The data to divide is {kind_of(x)}, without a target.",
                cure="Give arrays x, y; or a mapping of named arrays, or a DataFrame.",
            )
        federation = cls.__new__(cls)
        shared = SharedData(
            arrays, partition, SeedTree.root(seed).child("partition"), _words(tags), usual_target(arrays, target)
        )
        federation._begin(shared, host, engine, faults)
        return federation

    def _begin(self, data: VirtualData, host: PluginHost | None, engine: Engine | str, faults: Faults | None) -> None:
        self._host = host or default_host()
        self._data = data
        self._infos = NodeInfos(data)
        self._engine = make_engine(engine, self._host)
        self._engine.open(data, self._host)
        self._joined: Iterator[PoolEvent] = map(NodeJoined, self._infos.values())
        self._found: Iterator[PoolEvent] = iter(())
        self._answers: Iterator[PoolEvent] = iter(())
        self._tasks: dict[TaskKey, Task | TaskFailure] = {}  # a failure, where nobody need begin
        self._order: list[tuple[float, int, TaskKey]] = []  # a heap of their times; may hold cancelled tasks
        self._faults = faults
        self._count = 0  # of tasks so far: those of the same time are done in the order of their coming
        self._lines: dict[TaskKey, list[LogLine]] = {}  # what is to be told when a task is done
        self._states: dict[str, MemoryStateStore] = {}  # of the nodes that have kept something

    def dataset(self, node_id: str) -> NodeDataset:
        """The data set of a virtual node, as its plan sees it.

        Raises:
            KeyError: There is no such node.
        """
        return self._data.dataset(node_id)

    def states(self, node_id: str) -> MemoryStateStore:
        """What a node has kept between rounds; an empty store that nobody holds on to if it has kept nothing yet."""
        return self._states.get(node_id) or MemoryStateStore()

    @property
    def nodes(self) -> Mapping[str, NodeInfo]:
        """All virtual nodes."""
        return self._infos

    @property
    def is_fixed(self) -> bool:
        """Always: nobody joins a simulation."""
        return True

    @property
    def description(self) -> str:
        """How messages call this pool."""
        return f"a simulation of {len(self._infos)} nodes"

    def search(self, query: int, tags: tuple[str, ...], node_ids: tuple[str, ...] | None = None) -> None:
        """Every node answers at once."""
        wanted, among = set(tags), None if node_ids is None else set(node_ids)

        def answer(node: str) -> DatasetsFound:
            card = self._data.card(node)
            return DatasetsFound(node, query, (card,) if wanted <= set(card.tags) else ())

        self._found = map(answer, (node for node in self._data.ids if among is None or node in among))

    def ask_plan(
        self, query: int, plan: PlanBundle, datasets: Mapping[str, str], description: str | None = None
    ) -> None:
        """Every node answers at once: a simulation runs every plan, as the data are the experiment's own."""
        answer = PlanAnswer(plan=plan.hash, status="not required")
        asked = [node for node in datasets if node in self._data]
        self._answers = (PlanAnswered(node, query, answer) for node in asked)

    def train(
        self, request: TrainRequest, plan: PlanBundle, params: Params, aux: Mapping[str, Params] | None = None
    ) -> None:
        """Queue a task; its result is waited for in `next_event`. A node that does not exist never gets its task."""
        key = request.key
        if key.node_id not in self._data:
            return
        seconds, failure = 0.0, None
        if self._faults is not None:
            seconds = self._faults.seconds(request, len(self._data.dataset(key.node_id)))
            failure = self._faults.failure(request, seconds)
        self._count += 1
        heapq.heappush(self._order, (seconds, self._count, key))
        if failure is not None:
            self._tasks[key] = failure
            return
        states = self._states.get(key.node_id)
        base = None if states is None else states.base_of(request, self._lines.setdefault(key, []).append)
        task = self._tasks[key] = Task(request, plan, params, aux or {}, base)
        self._engine.submit(task)

    def next_event(self, timeout: float | None, watch: Watcher | None = None) -> PoolEvent | None:
        """The next event; trains the next node in line if there is no other, unless it is only to look."""
        news = next(chain(self._joined, self._found, self._answers), None)
        if news is not None:
            return news
        if self._tasks and timeout != 0:
            return self._train_next(watch)
        if timeout:
            time.sleep(timeout)  # nothing can come any more: whoever waits on waits for the clock
        return None

    def fetch(self, key: TaskKey, allocate: Allocate | None = None, settle: Callable[[], None] | None = None) -> None:
        """Nothing is to be fetched: an update is not offered first, but comes with its arrays."""

    def commit(self, key: TaskKey) -> None:
        """Nobody keeps an update that has come."""

    def cancel(self, key: TaskKey, reason: str) -> None:
        """Forget a task."""
        self._lines.pop(key, None)
        if isinstance(self._tasks.pop(key, None), Task):
            self._engine.cancel(key)
        if not self._tasks:
            self._order.clear()

    def close(self) -> None:
        """Forget all tasks, and close the engine."""
        self._engine.close()
        self._tasks.clear()
        self._order.clear()
        self._lines.clear()
        self._joined = self._found = self._answers = iter(())

    def _train_next(self, watch: Watcher | None) -> PoolEvent:
        key = heapq.heappop(self._order)[2]
        while key not in self._tasks:
            key = heapq.heappop(self._order)[2]
        task = self._tasks.pop(key)
        if isinstance(task, TaskFailure):
            return TaskFailed(task)

        def emit(sign: Progress | LogLine) -> None:
            if watch is not None:
                watch(sign, key.node_id)

        for line in self._lines.pop(key, ()):
            emit(line)
        try:
            reply, trained, extra = self._run(task, emit)
        except EngineError:
            raise  # the experiment's own failure
        except FedplugError as error:
            details = error.details if isinstance(error, PlanRunError) else ""
            failure = TaskFailure(key=key, code="plan-raised", text=str(error), details=details)
            return TaskFailed(failure)
        return UpdateFetched(reply, trained, extra)

    def _run(self, task: Task, emit: Emit) -> Update:
        """Train one node; tests that let a network lose or forge something override it."""
        reply, trained, extra, kept = self._engine.run(task, emit)
        if kept is not None:
            request, node_id = task.request, task.request.key.node_id
            states = self._states.setdefault(node_id, MemoryStateStore())
            state_id = lineage(request, task.plan.hash, task.params, task.aux, found=task.base is not None)
            states.save(
                request.key.experiment_id, request.dataset_id, request.key.round, state_id, request.acked_state, kept
            )
            reply = msgspec.structs.replace(reply, state_id=state_id)
        return reply, trained, extra


def _words(tags: str | Sequence[str]) -> tuple[str, ...]:
    return (tags,) if isinstance(tags, str) else tuple(tags)
