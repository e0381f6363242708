"""The experiment in the simulator: it trains all nodes for some rounds, and starts what failed as a new attempt.

What it must not forget it writes to its disk before it tells anybody; another run of it goes on from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedplug.core.messages import TaskFailure, TaskKey, TrainRequest
from fedplug.core.params import Params
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
from fedplug.protocol.researcher import ResearcherMachine
from fedplug.protocol.simulated_disk import SimulatedDisk
from fedplug.protocol.simulated_node import DESCRIPTION, PLAN, Violation, arrays, same, trained
from fedplug.protocol.simulated_witness import aggregated

if TYPE_CHECKING:
    from fedplug.protocol.simulator import Simulator

QUERY = 7

_HONEST = {"plan-raised", "interrupted"}
_FORGETFUL = {"update-lost"}
_CANCELLED = {"cancelled", "update-lost"}
_DAMAGED = {"bad-blob", "bad-update"}


class SimulatedExperiment:
    """One run of the experiment.

    Args:
        world: Clock, chance, and the witness.
        machine: Leads to the nodes.
        nodes: Ids of the nodes.
        rounds: Rounds that are wanted.
        disk: What earlier runs have left; None for an experiment that keeps nothing.
    """

    def __init__(
        self, world: Simulator, machine: ResearcherMachine, nodes: list[str], rounds: int, disk: SimulatedDisk | None
    ) -> None:
        self.done = False
        self.resumed = False
        self._world = world
        self._machine = machine
        self._nodes = nodes
        self._rounds = rounds
        self._disk = disk
        self._round = -1
        self._model = arrays("model")
        self._open: dict[str, TaskKey] = {}
        self._updates: dict[str, tuple[TaskKey, Params | None]] = {}
        self._offered: set[TaskKey] = set()
        self._ended: set[TaskKey] = set()
        self._present: set[str] = set()
        self._answers: list[str] = []
        self._plan_answers: list[str] = []
        self._due: list[TaskKey] = []
        self._given: set[TaskKey] = set()

    def begin(self) -> None:
        """Search, and start the first round, or go on where an earlier run was cut off."""
        now = self._world.now
        self._machine.search(QUERY, ("a",), None, now)
        self._machine.ask_plan(QUERY, PLAN, dict.fromkeys(self._nodes, "d"), DESCRIPTION, now)
        complete, roll = self._recover()
        if self._round < 0:
            self._next_round()
        elif self._round == complete:
            self._conclude(roll, self._model)
        elif not self._open:
            self._complete()

    def flush(self) -> None:
        """Give out the tasks that events made due; not from within an event, as a real experiment would not."""
        while self._due:
            key = self._due.pop(0)
            if key not in self._given:
                self._write("given", key)
            request = TrainRequest(key=key, dataset_id="d", plan_class="Plan", aux=("c",))
            aux = {"c": arrays(f"aux {key.round} {key.node_id}")}
            self._machine.train(request, PLAN, self._model, aux, self._world.now)
            if not self._due:
                self._world.carry_out()
                self._reach("tasks-sent")

    def cancel_one(self, index: int) -> None:
        """Change one's mind about a task."""
        key = self._open.get(f"n{index}")
        if key is not None and key not in self._due:
            self._again(key)
            self._world.witness.cancelled.add(key)
            self._machine.cancel(key, "changed my mind", self._world.now)

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
            key = event.reply.key
            self._require_open(key, "offered")
            if key in self._offered:
                raise Violation(f"{key} was offered twice")
            self._offered.add(key)
            self._world.later(self._world.uniform(0, 1), lambda: self._fetch(key))
        elif isinstance(event, UpdateFetched):
            self._on_fetched(event)
        elif isinstance(event, TaskFailed):
            self._on_failed(event.failure)

    def check_end(self) -> None:
        """Everything must have ended, as without faults."""
        if not self.done:
            raise Violation(f"round {self._round} never ended; open: {list(self._open.values())}")
        # An experiment that was resumed may need nobody any more before all have answered.
        for answers in (sorted(self._answers), sorted(self._plan_answers)):
            if answers != self._nodes and not (self.resumed and len(set(answers)) == len(answers)):
                raise Violation(f"answers came from {answers}, the nodes are {self._nodes}")
        if list(self._world.witness.committed) != list(range(self._rounds)):
            raise Violation(f"rounds {list(self._world.witness.committed)} are complete")

    # -- the disk -----------------------------------------------------------------------------------------------

    def _recover(self) -> tuple[int, tuple[TaskKey, ...]]:
        """Read the journal: the round that is open goes on with the same keys, and what has arrived is read again.

        Returns:
            Number of the last round that is complete, and its roll.
        """
        late: list[TaskKey] = []
        complete, roll = -1, ()
        for what, *about in self._disk.records if self._disk else ():
            self.resumed = True
            if what == "begun":
                self._round += 1
                late = []
                self._updates = {}
                self._open = {node: TaskKey(experiment_id="e", round=self._round, node_id=node) for node in self._nodes}
                self._given.update(self._open.values())
            elif what == "given":
                late.append(self._open[about[0].node_id])
                self._open[about[0].node_id] = about[0]
                self._given.add(about[0])
            elif what == "received":
                key = self._open.pop(about[0].node_id)
                self._updates[key.node_id] = key, None
            else:
                complete, roll = self._round, about[0]
        if complete >= 0:
            self._model = self._read(("model", complete)) or aggregated(self._all())
            self._world.witness.commit(complete, roll, self._model)
        for key in late:
            self._machine.cancel(key, "given up before", self._world.now)
        for key, _ in self._updates.values():
            self._machine.commit(key, self._world.now)
        self._due = list(self._open.values())
        return complete, roll

    def _read(self, name: object) -> Params | None:
        return None if self._disk is None else self._disk.files.get(name)

    def _all(self) -> dict[str, Params]:
        """The updates of the round by node; those of an earlier run are read."""
        found: dict[str, Params] = {}
        for node, (key, update) in self._updates.items():
            arrays = update or self._read(key)
            if arrays is None:
                raise Violation(f"the journal says that {key} was received, but its file is not there")
            found[node] = arrays
        return found

    def _write(self, *record: Any) -> None:
        if self._disk is not None:
            self._disk.append(*record)
            self._disk.flush()

    def _reach(self, point: str) -> None:
        if self._disk is not None and self._world.experiment is self:
            self._world.reach("researcher", point)

    def _keep(self, key: TaskKey, update: Params) -> None:
        """The order that loses no update: its file, then the record, then its node."""
        if self._disk is not None:
            self._reach("update-fetched")
            self._disk.write(key, update)
            self._disk.flush()
            self._reach("update-in-file")
            self._write("received", key)
            self._reach("reply-journalled")
        self._world.witness.acknowledged.add(key)
        self._machine.commit(key, self._world.now)

    def _tidy(self, roll: tuple[TaskKey, ...], model: Params) -> None:
        """Once the model is safe, its updates are not needed any more, nor is the model before."""
        if self._disk is not None:
            self._disk.write(("model", self._round), model)
            self._disk.flush()
            self._reach("breakpoint-written")
            for name in (*roll, ("model", self._round - 1)):
                self._disk.write(name, None)

    # -- rounds -------------------------------------------------------------------------------------------------

    def _next_round(self) -> None:
        self._round += 1
        self._updates = {}
        self._write("begun")
        self._reach("round-begun")
        keys = [TaskKey(experiment_id="e", round=self._round, node_id=node) for node in self._nodes]
        self._open = {key.node_id: key for key in keys}
        self._given.update(keys)
        self._due.extend(keys)

    def _complete(self) -> None:
        """All updates of the round are here."""
        roll = tuple(key for _, (key, _) in sorted(self._updates.items()))
        model = aggregated(self._all())
        self._reach("aggregated")
        self._write("committed", roll)
        self._world.witness.commit(self._round, roll, model)
        self._reach("round-committed")
        self._conclude(roll, model)

    def _conclude(self, roll: tuple[TaskKey, ...], model: Params) -> None:
        self._tidy(roll, model)
        self._model = model
        if self._round + 1 == self._rounds:
            self.done = True
        else:
            self._next_round()

    def _fetch(self, key: TaskKey) -> None:
        if self._world.experiment is self and self._open.get(key.node_id) == key:
            self._machine.fetch(key, None, self._world.now)
            self._world.carry_out()

    def _on_fetched(self, event: UpdateFetched) -> None:
        key = event.reply.key
        self._require_open(key, "fetched")
        text = trained(self._model, key)
        if not (same(event.params, text) and same(event.aux["c"], f"aux {text}")):
            raise Violation(f"{key}: the arrays are not those that the node sent")
        self._world.witness.receive(key)
        self._keep(key, event.params)
        self._ended.add(key)
        self._updates[key.node_id] = key, event.params
        del self._open[key.node_id]
        self._world.later(0.0, lambda: self._reach("reply-acknowledged"))
        if not self._open:
            self._complete()

    def _on_failed(self, failure: TaskFailure) -> None:
        self._require_open(failure.key, "failed")
        allowed = set(_HONEST)
        if self._world.story.liars:
            allowed |= _DAMAGED
        if self._disk is None:
            allowed |= _FORGETFUL
        elif failure.key in self._world.witness.cancelled:
            allowed |= _CANCELLED  # by an earlier run, which was cut off before it could write that down
        if failure.code not in allowed:
            raise Violation(f"{failure.key} failed for no reason: {failure.code}, {failure.text}")
        self._world.witness.failures[failure.code] += 1
        self._again(failure.key)

    def _again(self, key: TaskKey) -> None:
        self._ended.add(key)
        new = TaskKey(experiment_id="e", round=key.round, node_id=key.node_id, attempt=key.attempt + 1)
        self._open[key.node_id] = new
        self._due.append(new)

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
