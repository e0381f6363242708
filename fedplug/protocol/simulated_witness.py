"""Who sees everything that happens in the simulator, and knows how it must end."""

from __future__ import annotations

import hashlib
from collections import Counter

from fedplug.core.messages import TaskKey
from fedplug.core.params import Params
from fedplug.protocol.simulated_node import Violation, arrays, trained


def aggregated(updates: dict[str, Params]) -> Params:
    """The next model: it follows from every byte of every update, in sorted order of nodes."""
    digest = hashlib.sha256()
    for node_id in sorted(updates):
        digest.update(updates[node_id].buffer)
    return arrays(f"model of {digest.hexdigest()}")


class Witness:
    """Sees everything that happens in a story, in all runs of all processes, and knows how it must end.

    Args:
        nodes: Ids of the nodes.
        rounds: Rounds that the experiment wants.
    """

    def __init__(self, nodes: list[str], rounds: int) -> None:
        self.received: set[TaskKey] = set()
        self.acknowledged: set[TaskKey] = set()
        self.cancelled: set[TaskKey] = set()
        self.committed: dict[int, tuple[TaskKey, ...]] = {}
        self.failures: Counter[str] = Counter()
        self.models = [arrays("model")]
        self._begun: set[TaskKey] = set()
        for number in range(rounds):
            keys = [TaskKey(experiment_id="e", round=number, node_id=node) for node in nodes]
            updates = {key.node_id: arrays(trained(self.models[-1], key)) for key in keys}
            self.models.append(aggregated(updates))

    def sent(self, key: TaskKey, model: Params) -> bool:
        """Whether a node got the model that a run without faults would have sent."""
        return bytes(model.buffer) == bytes(self.models[key.round].buffer)

    def begin(self, key: TaskKey) -> None:
        """A training begins."""
        if key in self._begun:
            raise Violation(f"{key} was trained twice")
        self._begun.add(key)

    def receive(self, key: TaskKey) -> None:
        """An update has arrived."""
        if key in self.acknowledged:
            raise Violation(f"{key} was acknowledged, and then fetched again")
        self.received.add(key)

    def commit(self, number: int, roll: tuple[TaskKey, ...], model: Params) -> None:
        """A round is complete."""
        if self.committed.setdefault(number, roll) != roll:
            raise Violation(f"round {number} was complete, and has changed")
        if bytes(model.buffer) != bytes(self.models[number + 1].buffer):
            raise Violation(f"the model after round {number} has other bits than without faults")
