"""The runtime of a node in the simulator: it trains for a while, then replies, or fails. It checks what it sees."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fedplug.core.link import (
    EarlierTasks,
    FinishedTask,
    PlanAsked,
    SearchReceived,
    TaskCancelled,
    TaskReceived,
    UpdateCommitted,
)
from fedplug.core.messages import PlanAnswer, Progress, TaskFailure, TaskKey, TrainReply
from fedplug.core.params import Params
from fedplug.core.plan_source import PlanBundle
from fedplug.protocol.node import NodeMachine
from fedplug.protocol.simulated_disk import SimulatedDisk

if TYPE_CHECKING:
    from fedplug.protocol.simulator import Simulator

PLAN = PlanBundle("Plan", "class Plan:\n    " + "pass\n    " * 40)
DESCRIPTION = "for a simulation"


class Violation(AssertionError):  # noqa: N818 - it is no error of the program that raises it
    """Something that must hold in the simulator does not."""


@lru_cache(maxsize=4096)
def arrays(text: str) -> Params:
    """Arrays that follow from ``text``: sometimes small enough to ride along, sometimes several chunks."""
    seed = hashlib.sha256(text.encode()).digest()
    size = (4, 20, 60, 140)[seed[0] % 4]
    values = np.frombuffer(b"".join(hashlib.sha256(seed + bytes([i])).digest() for i in range(20)), np.uint8)
    return Params.from_arrays({"w": values[: size * 4], "b": values[:3]})


def same(params: Params, text: str) -> bool:
    """Whether these are `arrays` of ``text``, by their bytes: a fingerprint may have been believed, not taken."""
    return bytes(params.buffer) == bytes(arrays(text).buffer)


def trained(model: Params, key: TaskKey) -> str:
    """The text of what a node makes of a model: the same in every attempt, as a training that repeats to the bit is."""
    return f"update of {hashlib.sha256(model.buffer).hexdigest()} {key.round} {key.node_id}"


class SimulatedNode:
    """One run of a node.

    Args:
        world: Clock and chance.
        index: Number of the node.
        make: The class of its machine.
        incarnation: Of this run.
        disk: What earlier runs have left; None for a node that keeps nothing.
    """

    def __init__(
        self, world: Simulator, index: int, make: type[NodeMachine], incarnation: int, disk: SimulatedDisk | None
    ) -> None:
        self.index = index
        self.node_id = f"n{index}"
        self._world = world
        self._disk = disk
        self._cancelled: set[TaskKey] = set()
        self._begun: set[TaskKey] = set()
        earlier = None if disk is None else self._earlier(disk)
        self.machine = world.make_node(make, self.node_id, incarnation, earlier)

    def on(self, event: object) -> None:
        """An event of the machine."""
        if isinstance(event, TaskReceived):
            self._on_task(event)
        elif isinstance(event, SearchReceived):
            query = event.query
            self._later(self._world.uniform(0, 0.2), lambda: self.machine.answer_search(query, (), self._world.now))
        elif isinstance(event, PlanAsked):
            if event.plan != PLAN or event.description != DESCRIPTION:
                raise Violation("the node got another plan to approve than was sent")
            self._later(self._world.uniform(0, 0.2), lambda: self._answer_plan(event.query))
        elif isinstance(event, TaskCancelled):
            self._cancelled.add(event.key)
            self._end(event.key, "cancelled")
        elif isinstance(event, UpdateCommitted):
            if event.key not in self._world.witness.received:
                raise Violation(f"{event.key} was committed at the node, but never received")
            self._end(event.key, "committed")

    # -- the disk -----------------------------------------------------------------------------------------------

    def _earlier(self, disk: SimulatedDisk) -> EarlierTasks:
        """What the journal says; what was cut off in earlier runs is ended."""
        begun: dict[TaskKey, None] = {}
        ends: dict[TaskKey, str] = {}
        for what, key, *how in disk.records:
            if what == "ended":
                ends[key] = how[0]
                begun.pop(key, None)
            else:
                begun[key] = None
        files = disk.files
        for key in [key for key in begun if key not in files]:
            self._end(key, "interrupted")
            ends[key] = "interrupted"
        for name in set(files) - set(begun):
            disk.write(name, None)
        return EarlierTasks([files[key] for key in begun if key in files], ends)

    def _begin(self, key: TaskKey) -> None:
        self._write("begun", key)
        self._reach("task-begun")

    def _keep(self, task: FinishedTask) -> None:
        """The order that loses no update: its bytes, then whoever waits for it."""
        self._reach("task-trained")
        if self._disk is not None:
            self._disk.write(task.reply.key, task)
            self._disk.flush()
            self._reach("update-kept")

    def _end(self, key: TaskKey, how: str) -> None:
        """Written down at once; that an update was committed, some of the time with what is written next."""
        if self._disk is None:
            return
        self._disk.append("ended", key, how)
        if how == "committed" and self._world.happens(0.5):
            self._later(self._world.uniform(0, 1), lambda: self._settle(key))
        else:
            self._settle(key)

    def _settle(self, key: TaskKey) -> None:
        """An update goes when it is on the disk that it may."""
        if self._disk is not None:
            self._disk.flush()
            self._reach("task-ended")
            self._disk.write(key, None)

    def _write(self, *record: Any) -> None:
        if self._disk is not None:
            self._disk.append(*record)
            self._disk.flush()

    def _reach(self, point: str) -> None:
        if self._disk is not None:
            self._world.reach(self.node_id, point)

    # -- tasks --------------------------------------------------------------------------------------------------

    def _answer_plan(self, query: int) -> None:
        self.machine.answer_plan(query, PlanAnswer(plan=PLAN.hash, status="approved"), self._world.now)

    def _on_task(self, event: TaskReceived) -> None:
        key = event.request.key
        if not same(event.aux["c"], f"aux {key.round} {key.node_id}"):
            raise Violation(f"{key}: the node got other arrays than were sent")
        if not self._world.witness.sent(key, event.params):
            raise Violation(f"{key}: the node got another model than was sent")
        if event.plan != PLAN:
            raise Violation(f"{key}: the node got another plan than was sent")
        # It waits in the queue of the node for a while.
        self._later(self._world.uniform(0, 0.3), lambda: self._train(event))

    def _train(self, event: TaskReceived) -> None:
        key = event.request.key
        if key in self._cancelled:
            return
        self._world.witness.begin(key)
        self._begin(key)
        seconds = self._world.uniform(0.02, 4)
        self._later(seconds / 2, lambda: self.machine.report(Progress(key=key, step=1), self._world.now))
        self._later(seconds, lambda: self._finish(key, event.params))

    def _finish(self, key: TaskKey, model: Params) -> None:
        if key in self._cancelled:
            return
        if self._world.happens(0.1):
            self._end(key, "plan-raised")
            self.machine.fail(TaskFailure(key=key, code="plan-raised", text="no luck"), self._world.now)
            return
        text = trained(model, key)
        task = FinishedTask(TrainReply(key=key, sample_count=3, aux=("c",)), arrays(text), {"c": arrays(f"aux {text}")})
        self._keep(task)
        self.machine.finish(task.reply, task.params, task.aux, self._world.now)
        self._world.carry_out_node(self)
        self._reach("update-offered")

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        def act() -> None:
            if self._world.nodes[self.index] is self:
                action()
                self._world.carry_out_node(self)

        self._world.later(seconds, act)
