"""A round with scripted nodes: what they do comes in the order of a script; nothing else is made up."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from fedplug.core.aggregator import Aggregator, StreamingAggregator
from fedplug.core.context import RoundContext, RoundResult
from fedplug.core.mean import WeightedMean
from fedplug.core.messages import NodeInfo, TaskFailure, TaskKey, TrainReply, TrainRequest
from fedplug.core.monitor import Monitor
from fedplug.core.params import Params, ParamsSpec
from fedplug.core.plan_source import PlanBundle
from fedplug.core.pool import (
    Allocate,
    NodeJoined,
    NodeLost,
    NodePool,
    PoolEvent,
    TaskFailed,
    UpdateFetched,
    UpdateOffered,
    Watcher,
)
from fedplug.core.strategy import Decision, DefaultStrategy, RoundState, Strategy
from fedplug.core.update import Update
from fedplug.researcher.round import Round, RoundPlan
from fedplug.researcher.spool import Spool

START = Params.from_arrays({"w": np.zeros(5, np.float32), "b": np.zeros((2, 2), np.float64), "n": np.int64(0)})
PLAN = PlanBundle("Plan", "class Plan: ...")


class Mean(StreamingAggregator[WeightedMean]):
    def begin(self, start: Params, ctx: RoundContext) -> WeightedMean:
        return WeightedMean(start.spec)

    def accumulate(self, state: WeightedMean, update: Update) -> None:
        state.add(update.params, update.sample_count)

    def finalize(self, state: WeightedMean) -> Params:
        return state.result()


class Together(Aggregator):
    """Needs all updates at once; remembers in which order it got them."""

    def __init__(self) -> None:
        self.order: list[str] = []

    def aggregate(self, start: Params, updates: Sequence[Update], ctx: RoundContext) -> Params:
        self.order = [update.node_id for update in updates]
        return Params.stack_reduce([update.params for update in updates], lambda x: x.mean(axis=0))


class Quorum(Strategy):
    def __init__(self, count: int) -> None:
        self.count = count
        self.states: list[RoundState] = []

    def select(self, ctx: RoundContext, nodes: Sequence[str]) -> list[str]:
        return list(nodes)

    def judge(self, ctx: RoundContext, state: RoundState) -> Decision:
        self.states.append(state)
        if len(state.replied) >= self.count:
            return Decision("enough")
        if len(state.replied) + len(state.missing) < self.count:
            return Decision("abort", f"only {len(state.replied)} of {self.count} replied")
        return Decision("wait")


class Patient(Strategy):
    """Waits for all, also for nodes that are lost."""

    def select(self, ctx: RoundContext, nodes: Sequence[str]) -> list[str]:
        return list(nodes)

    def judge(self, ctx: RoundContext, state: RoundState) -> Decision:
        return Decision("enough" if len(state.replied) == len(state.selected) else "wait")


FAILURES = {"fail": "plan-raised", "restart": "interrupted", "refuse": "not-approved"}


class ScriptedPool(NodePool):
    """Nodes whose events come in the order of a script; fetches deliver when the script says ``fetch``."""

    def __init__(self, updates: Mapping[str, Params], script: Sequence[tuple[str, str]]) -> None:
        self._nodes = {node: NodeInfo(node_id=node) for node in updates}
        self._away: dict[str, NodeInfo] = {}
        self.changes: dict[str, Any] = {}
        self.aux: dict[str, ParamsSpec] = {}
        self.updates = updates
        self.script = deque(script)
        self.keys: dict[str, TaskKey] = {}
        self.samples = {node: 10 + index for index, node in enumerate(sorted(updates))}
        self.wanted: dict[str, Allocate | None] = {}
        self.committed: list[str] = []
        self.cancelled: list[str] = []
        self.sent: list[Params] = []
        self.in_file: set[str] = set()
        self.steps = 1
        self.alive: dict[str, int] = {}

    @property
    def nodes(self) -> Mapping[str, NodeInfo]:
        return self._nodes

    def search(self, query: int, tags: tuple[str, ...], node_ids: tuple[str, ...] | None = None) -> None:
        raise AssertionError("a round does not search")

    def ask_plan(
        self, query: int, plan: PlanBundle, datasets: Mapping[str, str], description: str | None = None
    ) -> None:
        raise AssertionError("a round does not ask for approval")

    def train(
        self, request: TrainRequest, plan: PlanBundle, params: Params, aux: Mapping[str, Params] | None = None
    ) -> None:
        self.keys[request.key.node_id] = request.key
        self.sent.append(params)

    def next_event(self, timeout: float | None, watch: Watcher | None = None) -> PoolEvent | None:
        if not self.script:
            # whatever was asked for and is not scripted is delivered in the end
            for node in list(self.wanted):
                return self._deliver(node)
            raise AssertionError("the round waits although nothing can come any more")
        what, node = self.script[0]
        if what == "fetch" and node not in self.wanted:
            for other in self.wanted:  # not asked for yet: the round must first get what it did ask for
                return self._deliver(other)
            raise AssertionError(f"the round never fetches {node}")
        self.script.popleft()
        reply = TrainReply(
            key=self.keys[node], sample_count=self.samples[node], steps=self.steps, metrics={"loss": 1.0}
        )
        if what == "offer":
            return UpdateOffered(reply, self.updates[node].spec)
        if what == "fetch":
            return self._deliver(node)
        if what in FAILURES:
            self.wanted.pop(node, None)
            return TaskFailed(TaskFailure(key=self.keys[node], code=FAILURES[what], text="boom"))
        if what == "lose":
            self._away[node] = self._nodes.pop(node)
            return NodeLost(node, "silence for 6 s")
        if what == "join":
            self._nodes[node] = self._away.pop(node)
            return NodeJoined(self._nodes[node])
        if what == "was lost":
            return NodeLost(node, "an event from before the round; it has been back for long")
        if what == "odd":
            return UpdateOffered(replace(reply, **self.changes), self.updates[node].spec, self.aux)
        if what == "stale":
            old = TaskKey(experiment_id="earlier", round=0, node_id=node)
            return UpdateOffered(TrainReply(key=old, sample_count=1), START.spec)
        raise AssertionError(what)

    def _deliver(self, node: str) -> PoolEvent:
        allocate = self.wanted.pop(node)
        params = self.updates[node]
        if allocate is not None:
            room = allocate(params.nbytes)
            room[: params.nbytes] = np.frombuffer(params.buffer, np.uint8)
            params = Params(params.spec, room[: params.nbytes])
        reply = TrainReply(
            key=self.keys[node], sample_count=self.samples[node], steps=self.steps, metrics={"loss": float(len(node))}
        )
        return UpdateFetched(reply, params)

    def fetch(self, key: TaskKey, allocate: Allocate | None = None, settle: Callable[[], None] | None = None) -> None:
        assert key.node_id not in self.wanted, "fetched twice"
        if settle is not None:
            self.in_file.add(key.node_id)
        self.wanted[key.node_id] = allocate

    def commit(self, key: TaskKey) -> None:
        self.committed.append(f"{key.experiment_id}/{key.node_id}")

    def cancel(self, key: TaskKey, reason: str) -> None:
        self.cancelled.append(key.node_id)

    def close(self) -> None: ...


def make_round(
    pool: ScriptedPool,
    tmp_path: Path,
    aggregator: Aggregator | None = None,
    strategy: Strategy | None = None,
    budget: int = 1 << 20,
    start: Params = START,
    spool: Spool | None = None,
) -> Round:
    nodes = tuple(sorted(pool.updates))
    ctx = RoundContext("exp", 0, node_ids=nodes)
    requests = {
        node: TrainRequest(key=TaskKey(experiment_id="exp", round=0, node_id=node), dataset_id="d", plan_class="Plan")
        for node in nodes
    }
    job = RoundPlan(
        ctx, PLAN, start, requests, dict.fromkeys(nodes), aggregator or Mean(), strategy or DefaultStrategy()
    )
    return Round(pool, job, spool or Spool(tmp_path, budget), lambda sign, node: None, Monitor())


def make_updates(count: int, seed: int = 0) -> dict[str, Params]:
    rng = np.random.default_rng(seed)
    return {
        f"node-{index}": Params.from_arrays(
            {
                "w": (rng.normal(size=5) * 10.0 ** rng.integers(-8, 8)).astype(np.float32),
                "b": rng.normal(size=(2, 2)) * 10.0 ** rng.integers(-8, 8),
                "n": rng.integers(0, 100),
            }
        )
        for index in range(count)
    }


def canonical(updates: Mapping[str, Params]) -> Params:
    mean = WeightedMean(START.spec)
    for index, node in enumerate(sorted(updates)):
        mean.add(updates[node], 10 + index)
    return mean.result()


def run(pool: ScriptedPool, tmp_path: Path, **options: object) -> RoundResult:
    return make_round(pool, tmp_path, **options).run()  # type: ignore[arg-type]
