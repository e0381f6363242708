"""Scaffold over node processes: the bits of a simulation, and twice the bytes of plain averaging, no more.

Two nodes with parabolas in 50,000 dimensions whose minima and curvatures differ: plain averaging ends elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedplug import DataManager, Experiment, Monitor, NumpyTrainingPlan, Params
from fedplug.simulation import Federation
from fedplug_declearn import Optimizer

SIZE = 50_000
ROUNDS = 3
CURVES = {"lyon": (1.0, 0.0), "nice": (10.0, 1.0)}
"""Curvature and minimum of each node; the sum of both is least at 10/11 of the pattern."""


class Valley(NumpyTrainingPlan):
    def init_dependencies(self):
        return ["from fedplug_declearn import Optimizer"]

    def init_model(self):
        return {"w": np.zeros(50_000)}

    def init_optimizer(self, optimizer_args):
        return Optimizer(**optimizer_args)

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), batch_size=1)

    def training_step(self, data, target):
        error = self.model()["w"] - target[0] * np.linspace(0.1, 1, 50_000)
        return 0.5 * data[0] * (error**2).mean(), {"w": data[0] * error}


class Traffic(Monitor):
    def __init__(self) -> None:
        self.rounds: list[Mapping[str, int]] = []

    def round_ended(self, ctx: Any, result: Any) -> None:
        self.rounds.append(dict(result.traffic))


def data() -> dict[str, dict[str, Any]]:
    return {node: {"x": np.full(1, a), "y": np.full(1, b)} for node, (a, b) in CURVES.items()}


PLAIN = {"num_updates": 20, "optimizer_args": {"lr": 0.05}}
SCAFFOLD = {"num_updates": 20, "optimizer_args": {"lr": 0.05, "modules": ["scaffold-client"]}}


def run(exp: Experiment) -> tuple[Params, Params]:
    """Some rounds with Scaffold, and as many without; the parameters after each."""
    exp.run(ROUNDS)
    scaffold = exp.params()
    exp.set_agg_optimizer(None)
    exp.set_training_args(PLAIN)
    exp.run(ROUNDS)
    return scaffold, exp.params()


def experiment(transport: Any, **more: Any) -> Experiment:
    return Experiment(
        training_plan_class=Valley, transport=transport, min_nodes=2, seed=2, progress="quiet", connect_timeout=60,
        training_args=SCAFFOLD, agg_optimizer=Optimizer(lr=1.0, modules=["scaffold-server"]), **more,
    )  # fmt: skip


@pytest.mark.slow  # test_declearn_control_variates.py has the algorithm, test_scaffold_over_nodes.py the network
def test_it_has_the_bits_of_a_simulation_and_sends_twice_the_bytes(
    start_node: Any, zmq_url: str, fedplug_dir: Path
) -> None:
    traffic = Traffic()
    with experiment(zmq_url) as exp:
        exp.add_monitor(traffic)
        for node, arrays in data().items():
            start_node(node, exp.pool().description, arrays)
        exp.set_tags("#data")
        scaffold, plain = run(exp)
    with experiment(Federation(data()), tags="simulation") as simulated:
        assert run(simulated) == (scaffold, plain)
    states = [{reply["state"] for reply in replies.values()} for replies in exp.training_replies().values()]
    assert states == [{"none"}] + [{"kept"}] * (ROUNDS - 1) + [{"none"}] * ROUNDS

    rounds = traffic.rounds
    assert len(rounds) == 2 * ROUNDS
    least = 8 * SIZE * len(CURVES)
    most = 1.1 * least + 4096 * len(CURVES)
    for number in range(ROUNDS):
        without, with_it = rounds[number + ROUNDS], rounds[number]
        assert least <= with_it["bytes_received"] - without["bytes_received"] <= most
        sent = with_it["bytes_sent"] - without["bytes_sent"]
        if number == 0:  # nobody has a control variate yet, and the researcher sends a zero
            assert abs(sent) <= 4096 * len(CURVES)
        else:
            assert least <= sent <= most
    best = 10 / 11 * np.linspace(0.1, 1, SIZE)
    assert abs(scaffold["w"] - best).max() < abs(plain["w"] - best).max() / 2
