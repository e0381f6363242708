"""A training that holds Python's lock, so that nothing else in its process can run: row 16."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from fault_kit import HEARTBEAT, LIMITS, Federation, Watch, federation_below

from fedplug import DataManager, NumpyTrainingPlan

HELD = 4
"""Seconds; a node counts as lost after `Limits.silence`, some 0.6."""


class HoldingPlan(NumpyTrainingPlan):
    """Holds the lock in its second step, at the node in Paris."""

    steps = 0

    def init_dependencies(self):
        return ["import ctypes", "import numpy as np"]

    def init_model(self, model_args):
        return {"slope": np.zeros(3)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        self.steps += 1
        if self.steps == 2 and self.node_id() == "paris":
            ctypes.PyDLL(None).sleep(self.model_args()["held"])  # noqa: F821 - see init_dependencies
        error = data @ self.model()["slope"] - target
        return float((error**2).mean()), {"slope": 2 * error @ data / len(data)}


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with federation_below(tmp_path_factory.mktemp("nodes")) as federation:
        yield federation


def test_row_16_the_node_shows_signs_of_life_while_its_training_shows_none(federation: Federation) -> None:
    paris = federation.proxies["paris"]
    paris.play()
    replied, alive = threading.Event(), threading.Event()
    watching: list[threading.Thread] = []

    def count() -> None:
        """Wait for some eight signs of life, of more than a hundred bytes each; those of ZeroMQ itself are tiny."""
        before = paris.sent("up")
        while not replied.wait(HEARTBEAT / 4):
            if paris.sent("up") - before > 1000:
                alive.set()
                return

    def look(what: str, name: str) -> None:
        if (what, name) == ("replied", "lyon"):
            watching.append(threading.Thread(target=count))
            watching[0].start()
        elif (what, name) == ("replied", "paris"):
            replied.set()

    try:
        outcome = federation.run(Watch(look), training_plan_class=HoldingPlan, model_args={"held": HELD}, round_limit=1)
    finally:
        replied.set()
        for thread in watching:
            thread.join()
    assert outcome.rounds == 1
    assert alive.is_set(), "nothing was heard of the node while its training held the lock"
    assert 5 * LIMITS.silence < HELD
    assert federation.nodes["paris"].started(outcome.experiment_id) == {f"{outcome.experiment_id}/0/paris/0": 1}
