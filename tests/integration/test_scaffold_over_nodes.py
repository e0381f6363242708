"""Scaffold over node processes: the bits of a simulation, one more array each way, and a node that is killed goes on.

Two nodes with parabolas in 50,000 dimensions whose minima and curvatures differ: plain averaging ends elsewhere.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedplug import DataManager, Experiment, Monitor, NumpyTrainingPlan
from fedplug.simulation import Federation

SIZE = 50_000
CURVES = {"lyon": (1.0, 0.0), "nice": (10.0, 1.0)}
"""Curvature and minimum of each node; the sum of both is least at 10/11 of the pattern."""

ROUNDS = 4
KILLED_AFTER = 2


class Valley(NumpyTrainingPlan):
    def init_model(self):
        return {"w": np.zeros(50_000, np.float32)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), batch_size=1)

    def training_step(self, data, target):
        error = self.model()["w"] - np.float32(target[0]) * np.linspace(0.1, 1, 50_000, dtype=np.float32)
        return 0.5 * float(data[0]) * float((error**2).mean()), {"w": np.float32(data[0]) * error}


class Traffic(Monitor):
    def __init__(self) -> None:
        self.rounds: list[Mapping[str, int]] = []

    def round_ended(self, ctx: Any, result: Any) -> None:
        self.rounds.append(dict(result.traffic))


def data() -> dict[str, dict[str, Any]]:
    return {node: {"x": np.full(1, a), "y": np.full(1, b)} for node, (a, b) in CURVES.items()}


def experiment(transport: Any, **more: Any) -> Experiment:
    return Experiment(
        training_plan_class=Valley, transport=transport, min_nodes=2, seed=2, progress="quiet", connect_timeout=60,
        training_args={"num_updates": 20, "optimizer_args": {"lr": 0.05}}, aggregator="scaffold", **more,
    )  # fmt: skip


def test_it_has_the_bits_of_a_simulation_although_a_node_is_killed_and_sends_one_more_array_each_way(
    start_node: Any, zmq_url: str, fedplug_dir: Path
) -> None:
    traffic = Traffic()
    with experiment(zmq_url) as exp:
        exp.add_monitor(traffic)
        nodes = {node: start_node(node, exp.pool().description, arrays) for node, arrays in data().items()}
        exp.set_tags("#data")
        exp.run(KILLED_AFTER)
        nodes["nice"].send(signal.SIGKILL)
        assert nodes["nice"].wait() == -signal.SIGKILL
        while "nice" in exp.pool().nodes:
            exp.pool().next_event(0.1)
        nodes["nice"].start()
        exp.run(ROUNDS - KILLED_AFTER)
        scaffold = exp.params()
        states = [{reply["state"] for reply in replies.values()} for replies in exp.training_replies().values()]
        exp.set_aggregator("fedaverage")
        exp.run(1)
    assert states == [{"none"}] + [{"kept"}] * (ROUNDS - 1)

    with experiment(Federation(data()), tags="simulation") as simulated:
        simulated.run(ROUNDS)
        assert simulated.params() == scaffold
    with experiment(Federation(data()), tags="simulation") as plain:
        plain.set_aggregator("fedaverage")
        plain.run(ROUNDS)
    best = 10 / 11 * np.linspace(0.1, 1, SIZE)
    assert abs(scaffold["w"] - best).max() < abs(plain.params()["w"] - best).max() / 4

    *rounds, average = traffic.rounds
    array = 4 * SIZE * len(CURVES)  # in the precision of the model
    for number, counts in enumerate(rounds):
        for way, arrays in (("bytes_sent", 0 if number == 0 else 1), ("bytes_received", 1)):
            more = counts[way] - average[way]
            assert arrays * array - 4096 * len(CURVES) <= more <= 1.05 * arrays * array + 8192 * len(CURVES)
