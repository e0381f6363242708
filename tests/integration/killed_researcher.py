"""A researcher that ends itself by SIGKILL at a point of the third round: ``killed_researcher.py URL POINT NODE...``

`test_researcher_killed.py` runs it, and uses its plan for the run that nobody disturbs.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from fedplug import DataManager, Experiment, Monitor, NumpyTrainingPlan
from fedplug.protocol import ResearcherEndpoint
from fedplug.researcher import breakpoints, resume
from fedplug.researcher.round import Round

ROUNDS, KILLED_IN = 4, 2


class KeepingPlan(NumpyTrainingPlan):
    """A line with an offset of each node's own, and an optimizer whose momentum goes on from round to round."""

    class Momentum:
        def __init__(self, lr):
            self.lr, self.velocity = lr, {}

        def step(self, params, gradients):
            for name, gradient in gradients.items():
                self.velocity[name] = 0.5 * self.velocity.get(name, 0.0) + gradient
                params[name] -= self.lr * self.velocity[name]

        def state(self):
            return self.velocity

        def set_state(self, state):
            self.velocity = dict(state)

    def init_model(self):
        return {"slope": np.random.normal(size=3), "offset": np.random.normal(size=1)}

    def init_optimizer(self, optimizer_args):
        return self.Momentum(optimizer_args["lr"])

    def tag_parameters(self, name):
        return {"local", "persistent"} if name == "offset" else set()

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        error = data @ self.model()["slope"] + self.model()["offset"] + np.random.normal(0, 0.1) - target
        return (error**2).mean(), {"slope": 2 * error @ data / len(data), "offset": np.array([2 * error.mean()])}


def experiment(url: str, nodes: list[str], **more: Any) -> Experiment:
    args = {"epochs": 20, "loader_args": {"batch_size": 4}, "optimizer_args": {"lr": 0.01}, "log_interval": 1}
    args["keep_optimizer_state"] = True
    return Experiment(
        tags="#kill", nodes=nodes, training_plan_class=KeepingPlan, training_args=args, seed=11,
        round_limit=ROUNDS, transport=url, progress="quiet", save_breakpoints=True, connect_timeout=60, **more,
    )  # fmt: skip


class Killer(Monitor):
    """Ends the process where its monitor is called at the point that was named."""

    def __init__(self, point: str) -> None:
        self.point = point
        self.round = -1

    def at(self, point: str) -> None:
        if point == self.point and self.round == KILLED_IN:
            os.kill(os.getpid(), signal.SIGKILL)

    def round_started(self, ctx: Any, node_ids: Any) -> None:
        self.round = ctx.round
        self.at("nodes selected")

    def progress(self, node_id: str, progress: Any) -> None:
        self.at("nodes at work")

    def replied(self, node_id: str, reply: Any) -> None:
        self.at("first update taken")

    def round_ended(self, ctx: Any, result: Any) -> None:
        self.at("breakpoint saved")


POINTS = (
    "nodes selected", "tasks sent", "nodes at work", "first update taken", "aggregated, nothing committed",
    "committed, no breakpoint", "breakpoint half written", "breakpoint not renamed", "breakpoint saved",
)  # fmt: skip


def main(url: str, point: str, *nodes: str) -> None:
    killer = Killer(point)

    def before(owner: Any, name: str, here: str) -> None:
        true: Callable[..., Any] = getattr(owner, name)

        def stand_in(*args: Any, **options: Any) -> Any:
            killer.at(here)
            return true(*args, **options)

        setattr(owner, name, stand_in)

    before(Round, "_gather", "tasks sent")
    before(ResearcherEndpoint, "commit", "aggregated, nothing committed")
    before(resume, "write_breakpoint", "committed, no breakpoint")
    before(breakpoints, "_write", "breakpoint half written")
    before(breakpoints, "breakpoints_of", "breakpoint not renamed")
    with experiment(url, list(nodes), monitor=killer) as exp:
        exp.run()
    print("not killed")


if __name__ == "__main__":
    main(*sys.argv[1:])
