"""A federation in one process: each virtual node trains in turn, in the caller's thread.

    federation = Federation({"paris": (x1, y1), "lyon": (x2, y2)})
    Experiment(tags="simulation", transport=federation, training_plan_class=MyPlan, ...).run()

Plans, aggregators, strategies and results are those of a real federation, to the last bit; only the network
and the worker processes are missing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from fedplug import __version__
from fedplug.core.errors import FedplugError, PlanRunError, UsageError
from fedplug.core.local_state import StateBook, lineage
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
    UpdateOffered,
    Watcher,
)
from fedplug.node.datasets.memory import MemoryDataset
from fedplug.node.privacy import simulated_noise_key
from fedplug.node.state_store import MemoryStateStore
from fedplug.node.training import run_task


class Federation(NodePool):
    """Virtual nodes, one data set each.

    Args:
        nodes: Node id → its data: a ``(data, target)`` pair of arrays, a mapping of named arrays, a pandas
            ``DataFrame``, or a `MemoryDataset`. Pairs become the arrays ``"x"`` and ``"y"``.
        tags: Tags that all data sets carry.
        target: Name of the array that is to be predicted, for mappings; by default ``"y"`` where there is one.
        host: The plugins to use; all installed ones by default.

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
    ) -> None:
        if not isinstance(nodes, Mapping):
            raise UsageError(
                f"A federation needs the data of each node under its id, but got {_kind(nodes)}.",
                cure="E.g. Federation({'paris': (x1, y1), 'lyon': (x2, y2)}).",
            )
        if not nodes:
            raise UsageError("A federation needs at least one node.", cure="E.g. Federation({'paris': (x, y)}).")
        labels = (tags,) if isinstance(tags, str) else tuple(tags)
        self._host = host or default_host()
        self._datasets = {node: _dataset(node, data, labels, target) for node, data in sorted(nodes.items())}
        self._states = {node: MemoryStateStore() for node in self._datasets}
        self._infos = {node: NodeInfo(node_id=node, name=node, version=__version__) for node in self._datasets}
        self._events: deque[PoolEvent] = deque(NodeJoined(info) for info in self._infos.values())
        self._tasks: deque[tuple[TrainRequest, PlanBundle, Params, Mapping[str, Params]]] = deque()
        self._finished: dict[TaskKey, tuple[TrainReply, Params, Mapping[str, Params]]] = {}

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
        for node, dataset in self._datasets.items():
            if node_ids is None or node in node_ids:
                card = dataset.card()
                found: tuple[DatasetCard, ...] = (card,) if set(tags) <= set(card.tags) else ()
                self._events.append(DatasetsFound(node, query, found))

    def ask_plan(
        self, query: int, plan: PlanBundle, datasets: Mapping[str, str], description: str | None = None
    ) -> None:
        """Every node answers at once: a simulation runs every plan, as the data are the experiment's own."""
        for node in datasets:
            if node in self._datasets:
                self._events.append(PlanAnswered(node, query, PlanAnswer(plan=plan.hash, status="not required")))

    def train(
        self, request: TrainRequest, plan: PlanBundle, params: Params, aux: Mapping[str, Params] | None = None
    ) -> None:
        """Queue a task; it runs inside `next_event`. A node that does not exist never gets its task."""
        if request.key.node_id in self._datasets:
            self._tasks.append((request, plan, params, aux or {}))

    def next_event(self, timeout: float | None, watch: Watcher | None = None) -> PoolEvent | None:
        """The next event; trains the next node in line if there is no other, unless it is only to look."""
        if not self._events and self._tasks and timeout != 0:
            self._events.append(self._train_next(watch))
        if not self._events and timeout:
            time.sleep(timeout)  # nothing can come any more: whoever waits on waits for the clock
        return self._events.popleft() if self._events else None

    def fetch(self, key: TaskKey, allocate: Allocate | None = None, settle: Callable[[], None] | None = None) -> None:
        """The arrays are here already."""
        reply, params, aux = self._finished.pop(key)
        self._events.append(UpdateFetched(reply, params, aux))

    def commit(self, key: TaskKey) -> None:
        """Forget an update."""
        self._finished.pop(key, None)

    def cancel(self, key: TaskKey, reason: str) -> None:
        """Forget a task."""
        self._finished.pop(key, None)
        self._tasks = deque(task for task in self._tasks if task[0].key != key)
        self._events = deque(event for event in self._events if _key_of(event) != key)

    def close(self) -> None:
        """Forget all tasks."""
        self._tasks.clear()
        self._events.clear()
        self._finished.clear()

    def _train_next(self, watch: Watcher | None) -> PoolEvent:
        request, plan, params, aux = self._tasks.popleft()
        node = request.key.node_id

        def emit(sign: Progress | LogLine) -> None:
            if watch is not None:
                watch(sign, node)

        try:
            reply, trained, extra = self._run(request, plan, params, aux, emit)
        except FedplugError as error:
            details = error.details if isinstance(error, PlanRunError) else ""
            failure = TaskFailure(key=request.key, code="plan-raised", text=str(error), details=details)
            return TaskFailed(failure)
        self._finished[request.key] = (reply, trained, extra)
        return UpdateOffered(reply, trained.spec, {name: params.spec for name, params in extra.items()})

    def _run(
        self,
        request: TrainRequest,
        plan: PlanBundle,
        params: Params,
        aux: Mapping[str, Params],
        emit: Callable[[Progress | LogLine], None],
    ) -> tuple[TrainReply, Params, Mapping[str, Params]]:
        """Train on one node, from the state that it has kept to the one that it keeps."""
        key = request.key
        dataset, states = self._datasets[key.node_id], self._states[key.node_id]
        book = StateBook(states.base_of(request, emit))
        noise_key = simulated_noise_key(request, plan, params, aux, book.base)
        reply, trained, extra = run_task(
            request, plan, params, aux, dataset, self._host, emit, state=book, noise_key=noise_key
        )
        kept = book.result()
        if kept is not None:
            state_id = lineage(request, plan.hash, params, aux, found=book.base is not None)
            states.save(key.experiment_id, request.dataset_id, key.round, state_id, request.acked_state, kept)
            reply = msgspec.structs.replace(reply, state_id=state_id)
        return reply, trained, extra


def _dataset(node: str, data: Any, tags: tuple[str, ...], target: str | None) -> MemoryDataset:
    if isinstance(data, MemoryDataset):
        return data
    if isinstance(data, tuple) and len(data) == 2:
        data = {"x": data[0], "y": data[1]}
    elif hasattr(data, "columns") and hasattr(data, "items"):  # pandas, which the core does not import
        data = {str(name): _texts(column.to_numpy()) for name, column in data.items()}
    if isinstance(data, Mapping):
        usual = "y" if "y" in data else ""
        return MemoryDataset(node, data, tags=tags, target=usual if target is None else target)
    raise UsageError(
        f"The data of node {node!r} is {_kind(data)}.",
        cure="Give a pair (data, target), a mapping of named arrays, a DataFrame, or a MemoryDataset.",
    )


def _texts(column: Any) -> Any:
    """A column of a table; pandas keeps texts as objects."""
    return column.astype(str) if column.dtype == object and all(isinstance(v, str) for v in column) else column


def _kind(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _key_of(event: PoolEvent) -> TaskKey | None:
    if isinstance(event, UpdateOffered | UpdateFetched):
        return event.reply.key
    return event.failure.key if isinstance(event, TaskFailed) else None
