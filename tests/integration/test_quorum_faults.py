"""A quorum among real nodes: one is killed in the middle of a training, one stops to move and comes back."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from node_kit import Node

from fedplug import DataManager, Experiment, Monitor, NumpyTrainingPlan, OverSelection, QuorumStrategy, Strategy
from fedplug.core.context import RoundContext, RoundResult
from fedplug.core.messages import Progress, TrainReply
from fedplug.core.strategy import Decision, RoundState
from fedplug.core.transport import TransportOptions
from fedplug.node.policy.file import save_policy
from fedplug.node.policy.template import policy_text

NODES = ("lyon", "nice", "paris")
DEADLINE = 600.0


class GatedPlan(NumpyTrainingPlan):
    """Stands still after its first step on a node that has a gate, until somebody opens the gate, or for ever."""

    steps = 0

    def init_dependencies(self):
        return ["from pathlib import Path", "import numpy as np"]

    def init_model(self, model_args):
        return {"slope": np.zeros(1)}

    def training_data(self):
        return DataManager(self.dataset.table(["x"]), self.dataset.column("y"))

    def training_step(self, data, target):
        gate = Path(self.model_args()["gates"]) / self.dataset.name
        if self.steps and gate.exists():
            gate.open().close()  # a pipe with a name: blocks until somebody opens it to write
        self.steps += 1
        error = data @ self.model()["slope"] - target
        return float((error**2).mean()), {"slope": 2 * error @ data / len(data)}


class Watch(Monitor):
    """Remembers what happens, and calls back when it does."""

    def __init__(self) -> None:
        self.training: set[str] = set()
        self.done: set[str] = set()
        self.results: list[RoundResult] = []
        self.look: Callable[[], None] = lambda: None

    def round_started(self, ctx: RoundContext, node_ids: Any) -> None:
        self.training, self.done = set(), set()

    def progress(self, node_id: str, progress: Progress) -> None:
        self.training.add(node_id)
        self.look()

    def replied(self, node_id: str, reply: TrainReply) -> None:
        self.done.add(node_id)
        self.look()

    def round_ended(self, ctx: RoundContext, result: RoundResult) -> None:
        self.results.append(result)


def hospital(node: Node, folder: Path, url: str) -> Node:
    """A node with a small table; its plan waits at gates outside of its scratch folder, so it is not shut in."""
    table = folder / f"{node.name}.csv"
    table.write_text("x,y\n" + "".join(f"{x / 10},{2 * x / 10}\n" for x in range(20)))
    node.prepare()
    save_policy(node.place, policy_text(approval="off").replace('"best"', '"off"'))
    return node.add(table, name=node.name, tags=["#line"], target="y").start(url)


@pytest.fixture
def start(
    make_node: Callable[[str], Node], tmp_path: Path
) -> Iterator[Callable[..., tuple[Experiment, dict[str, Node], Watch]]]:
    hospitals: dict[str, Node] = {}
    experiments: list[Experiment] = []

    def started(strategy: Strategy) -> tuple[Experiment, dict[str, Node], Watch]:
        gates = tmp_path / "gates"
        gates.mkdir()
        os.mkfifo(gates / "paris")
        exp = Experiment(
            training_plan_class=GatedPlan,
            model_args={"gates": str(gates)},
            training_args={
                "epochs": 1, "loader_args": {"batch_size": 5}, "optimizer_args": {"lr": 0.1}, "log_interval": 1
            },
            node_selection_strategy=strategy,
            transport="zmq://127.0.0.1:0",
            transport_options=TransportOptions(heartbeat=60.0),  # silence must not be what ends a round
            min_nodes=3,
            connect_timeout=120,
            seed=1,
            progress="quiet",
        )  # fmt: skip
        experiments.append(exp)
        watch = Watch()
        exp.add_monitor(watch)
        hospitals.update({name: hospital(make_node(name), tmp_path, exp.pool().description) for name in NODES})
        exp.set_tags("#line")
        return exp, hospitals, watch

    yield started
    for exp in experiments:
        exp.close()


def test_a_node_that_is_killed_in_the_middle_of_its_training_is_done_without(start) -> None:
    exp, hospitals, watch = start(QuorumStrategy(2))

    def kill() -> None:
        if "paris" in watch.training and hospitals["paris"].process.poll() is None:
            hospitals["paris"].send(signal.SIGKILL)
            hospitals["paris"].process.wait(60)

    watch.look = kill
    assert exp.run(1) == 1
    (result,) = watch.results
    assert sorted(result.replies) == ["lyon", "nice"]
    assert list(result.dropped) == ["paris"]
    assert "paris" not in exp.pool().nodes
    assert result.dropped["paris"], "the reason is told"
    np.testing.assert_array_less(0.1, exp.params()["slope"])


class ByHand(QuorumStrategy):
    """The same, by a clock that stands still until somebody sets it."""

    now = 0.0

    def judge(self, ctx: RoundContext, state: RoundState) -> Decision:
        return super().judge(ctx, replace(state, elapsed=self.now))


def test_a_node_that_does_not_move_misses_the_deadline_and_takes_part_in_the_next_round(start, tmp_path) -> None:
    strategy = ByHand(2, deadline=DEADLINE)
    exp, hospitals, watch = start(strategy)

    def stop() -> None:
        if watch.done == {"lyon", "nice"} and "paris" in watch.training and strategy.now == 0:
            hospitals["paris"].send(signal.SIGSTOP)
            strategy.now = DEADLINE

    watch.look = stop
    assert exp.run(1) == 1
    assert sorted(watch.results[0].replies) == ["lyon", "nice"]
    assert watch.results[0].dropped == {"paris": "it had not replied by the deadline of 600 s"}

    (tmp_path / "gates" / "paris").unlink()
    strategy.now = 1.0
    hospitals["paris"].send(signal.SIGCONT)
    assert exp.run(1) == 1
    assert sorted(watch.results[1].replies) == ["lyon", "nice", "paris"]
    assert watch.results[1].dropped == {}
    assert watch.results[1].replies["paris"].key.round == 1


def test_of_three_nodes_the_first_two_count_and_the_third_does_not_disturb_later_rounds(start, tmp_path) -> None:
    exp, _, watch = start(OverSelection(2, extra=0.5))
    assert exp.run(1) == 1
    late = {"paris": "2 replies had come before its own, and no more were needed"}
    assert sorted(watch.results[0].replies) == ["lyon", "nice"]
    assert watch.results[0].dropped == late
    (tmp_path / "gates" / "paris").unlink()
    assert exp.run(4) == 4
    for number, result in enumerate(watch.results):
        assert len(result.replies) == 2
        assert sorted([*result.replies, *result.dropped]) == list(NODES)
        assert {reply.key.round for reply in result.replies.values()} == {number}
        assert set(result.dropped.values()) == set(late.values())
