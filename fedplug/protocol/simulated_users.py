"""The two who use the machines in the simulator: an experiment and the runtime of a node. They check what they see."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from fedplug.core.link import LinkEvent, PlanAsked, SearchReceived, TaskCancelled, TaskReceived, UpdateCommitted
from fedplug.core.messages import PlanAnswer, Progress, TaskFailure, TaskKey, TrainReply, TrainRequest
from fedplug.core.params import Params
from fedplug.core.plan_source import PlanBundle
from fedplug.core.pool import (
    DatasetsFound,
    NodeJoined,
    NodeLost,
    PlanAnswered,
    PoolEvent,
    TaskFailed,
    UpdateFetched,
    UpdateOffered,
)
from fedplug.protocol.node import NodeMachine
from fedplug.protocol.researcher import ResearcherMachine

if TYPE_CHECKING:
    from fedplug.protocol.simulator import Simulator

PLAN = PlanBundle("Plan", "class Plan:\n    " + "pass\n    " * 40)
QUERY = 7

_HONEST = {"plan-raised", "interrupted", "update-lost"}
_DAMAGED = {"bad-blob", "bad-update"}


class Violation(AssertionError):  # noqa: N818 - it is no error of the program that raises it
    """Something that must hold in the simulator does not."""


def arrays(text: str) -> Params:
    """Arrays that follow from ``text``: sometimes small enough to ride along, sometimes several chunks."""
    seed = hashlib.sha256(text.encode()).digest()
    size = (4, 20, 60, 140)[seed[0] % 4]
    values = np.frombuffer(b"".join(hashlib.sha256(seed + bytes([i])).digest() for i in range(20)), np.uint8)
    return Params.from_arrays({"w": values[: size * 4], "b": values[:3]})


def same(params: Params, text: str) -> bool:
    """Whether these are `arrays` of ``text``, by their bytes: a fingerprint may have been believed, not taken."""
    return bytes(params.buffer) == bytes(arrays(text).buffer)


class SimulatedExperiment:
    """Trains all nodes for some rounds, starts what failed again as a new attempt, and counts."""

    def __init__(self, world: Simulator, machine: ResearcherMachine, nodes: int, rounds: int) -> None:
        self.counted: set[TaskKey] = set()
        self.delivered: set[TaskKey] = set()
        self.failures: list[TaskFailure] = []
        self.done = False
        self._world = world
        self._machine = machine
        self._nodes = [f"n{index}" for index in range(nodes)]
        self._rounds = rounds
        self._round = -1
        self._open: dict[str, TaskKey] = {}
        self._offered: set[TaskKey] = set()
        self._ended: set[TaskKey] = set()
        self._present: set[str] = set()
        self._answers: list[str] = []
        self._plan_answers: list[str] = []
        self._due: list[tuple[str, int]] = []

    def begin(self) -> None:
        """Search, and start the first round."""
        self._machine.search(QUERY, ("a",), None, self._world.now)
        datasets = dict.fromkeys(self._nodes, "d")
        self._machine.ask_plan(QUERY, PLAN, datasets, "for a simulation", self._world.now)
        self._next_round()

    def flush(self) -> None:
        """Give out the tasks that events made due; not from within an event, as a real experiment would not."""
        due, self._due = self._due, []
        for node_id, attempt in due:
            key = TaskKey(experiment_id="e", round=self._round, node_id=node_id, attempt=attempt)
            self._open[node_id] = key
            request = TrainRequest(key=key, dataset_id="d", plan_class="Plan", aux=("c",))
            aux = {"c": arrays(f"aux {self._round} {node_id}")}
            self._machine.train(request, PLAN, arrays(f"model {self._round}"), aux, self._world.now)
        if due:
            self._world.carry_out()

    def cancel_one(self, index: int) -> None:
        """Change one's mind about a task."""
        key = self._open.get(f"n{index}")
        if key is not None:
            self._machine.cancel(key, "changed my mind", self._world.now)
            self._again(key)

    def on(self, event: object) -> None:
        """An event of the machine."""
        if isinstance(event, NodeJoined | NodeLost):
            self._on_presence(event)
        elif isinstance(event, DatasetsFound):
            self._answers.append(event.node_id)
        elif isinstance(event, PlanAnswered):
            if event.answer.plan != PLAN.hash:
                raise Violation(f"{event.node_id} answered about another plan")
            self._plan_answers.append(event.node_id)
        elif isinstance(event, UpdateOffered):
            self._require_open(event.reply.key, "offered")
            if event.reply.key in self._offered:
                raise Violation(f"{event.reply.key} was offered twice")
            self._offered.add(event.reply.key)
            key = event.reply.key
            self._world.later(self._world.uniform(0, 1), lambda: self._fetch(key))
        elif isinstance(event, UpdateFetched):
            self._on_fetched(event)
        elif isinstance(event, TaskFailed):
            self._require_open(event.failure.key, "failed")
            allowed = _HONEST | (_DAMAGED if self._world.story.liars else set())
            if event.failure.code not in allowed:
                raise Violation(f"{event.failure.key} failed for no reason: {event.failure.code}, {event.failure.text}")
            self.failures.append(event.failure)
            self._again(event.failure.key)

    def check_end(self) -> None:
        """Everything must have ended."""
        if not self.done:
            raise Violation(f"round {self._round} never ended; open: {list(self._open.values())}")
        if sorted(self._answers) != self._nodes:
            raise Violation(f"answers to the search came from {sorted(self._answers)}, the nodes are {self._nodes}")
        if sorted(self._plan_answers) != self._nodes:
            raise Violation(f"answers about the plan came from {sorted(self._plan_answers)}")
        if len(self.counted) != len(self._nodes) * self._rounds:
            raise Violation(f"{len(self.counted)} updates were counted")

    def _fetch(self, key: TaskKey) -> None:
        if self._open.get(key.node_id) == key:
            self._machine.fetch(key, None, self._world.now)
            self._world.carry_out()

    def _on_fetched(self, event: UpdateFetched) -> None:
        key = event.reply.key
        self._require_open(key, "fetched")
        if key in self.counted:
            raise Violation(f"{key} was counted twice")
        if not (same(event.params, f"update {key}") and same(event.aux["c"], f"update aux {key}")):
            raise Violation(f"{key}: the arrays are not those that the node sent")
        self.counted.add(key)
        self._ended.add(key)
        self._machine.commit(key, self._world.now)
        del self._open[key.node_id]
        if not self._open and not self._due:
            self._next_round()

    def _next_round(self) -> None:
        self._round += 1
        if self._round == self._rounds:
            self.done = True
        else:
            self._due.extend((node_id, 0) for node_id in self._nodes)

    def _again(self, key: TaskKey) -> None:
        self._ended.add(key)
        del self._open[key.node_id]
        self._due.append((key.node_id, key.attempt + 1))

    def _require_open(self, key: TaskKey, what: str) -> None:
        if self._open.get(key.node_id) != key:
            raise Violation(f"{key} was {what}, but it {'has ended' if key in self._ended else 'is not known'}")

    def _on_presence(self, event: PoolEvent) -> None:
        if isinstance(event, NodeJoined):
            if event.node.node_id in self._present:
                raise Violation(f"{event.node.node_id} joined twice")
            self._present.add(event.node.node_id)
        elif isinstance(event, NodeLost):
            if event.node_id not in self._present:
                raise Violation(f"{event.node_id} was lost twice")
            self._present.remove(event.node_id)


class SimulatedNode:
    """The runtime of a node: trains for a while, then replies, or fails."""

    def __init__(self, world: Simulator, machine: NodeMachine, experiment: SimulatedExperiment) -> None:
        self.machine = machine
        self._world = world
        self._experiment = experiment
        self._cancelled: set[TaskKey] = set()

    def on(self, event: LinkEvent | object) -> None:
        """An event of the machine."""
        if isinstance(event, TaskReceived):
            self._on_task(event)
        elif isinstance(event, SearchReceived):
            query = event.query
            self._later(self._world.uniform(0, 0.2), lambda: self.machine.answer_search(query, (), self._world.now))
        elif isinstance(event, PlanAsked):
            if event.plan != PLAN or event.description != "for a simulation":
                raise Violation("the node got another plan to approve than was sent")
            self._later(self._world.uniform(0, 0.2), lambda: self._answer_plan(event.query))
        elif isinstance(event, TaskCancelled):
            self._cancelled.add(event.key)
        elif isinstance(event, UpdateCommitted) and event.key not in self._experiment.counted:
            raise Violation(f"{event.key} was committed at the node, but never counted")

    def _answer_plan(self, query: int) -> None:
        self.machine.answer_plan(query, PlanAnswer(plan=PLAN.hash, status="approved"), self._world.now)

    def _on_task(self, event: TaskReceived) -> None:
        key = event.request.key
        if key in self._experiment.delivered:
            raise Violation(f"{key} reached its node twice")
        self._experiment.delivered.add(key)
        if not (same(event.params, f"model {key.round}") and same(event.aux["c"], f"aux {key.round} {key.node_id}")):
            raise Violation(f"{key}: the node got other arrays than were sent")
        if event.plan != PLAN:
            raise Violation(f"{key}: the node got another plan than was sent")
        seconds = self._world.uniform(0.02, 4)
        self._later(seconds / 2, lambda: self.machine.report(Progress(key=key, step=1), self._world.now))
        self._later(seconds, lambda: self._end(key))

    def _end(self, key: TaskKey) -> None:
        if key in self._cancelled:
            return
        if self._world.happens(0.1):
            self.machine.fail(TaskFailure(key=key, code="plan-raised", text="no luck"), self._world.now)
            return
        reply = TrainReply(key=key, sample_count=3, aux=("c",))
        aux = {"c": arrays(f"update aux {key}")}
        self.machine.finish(reply, arrays(f"update {key}"), aux, self._world.now)

    def _later(self, seconds: float, action: object) -> None:
        def act() -> None:
            if self in self._world.nodes:
                action()  # type: ignore[operator]
                self._world.carry_out_node(self)

        self._world.later(seconds, act)
