"""A researcher that ends itself at a point of its second round: ``killed_researcher.py PORT SIGNAL POINT FOLDER...``

Its nodes are those of `fault_kit`. Each keeps a parameter and an optimizer's state between rounds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from fault_kit import LIMITS, LONG, FaultNode, Federation, Watch

from fedplug import DataManager, Experiment, Monitor, NumpyTrainingPlan
from fedplug.core.crash_points import watched
from fedplug.core.plugins import default_host
from fedplug.core.transport import TransportOptions
from fedplug.protocol import ResearcherEndpoint
from fedplug.researcher import breakpoints, round_loop, settling
from fedplug.transports.registry import open_transport

ROUNDS, KILLED_IN = 3, 1


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


SETTINGS: dict[str, Any] = {
    "training_plan_class": KeepingPlan, "model_args": {}, "round_limit": ROUNDS, "save_breakpoints": True,
    "training_args": {
        "epochs": 20, "loader_args": {"batch_size": 4}, "optimizer_args": {"lr": 0.01}, "log_interval": 1,
        "keep_optimizer_state": True,
    },
}  # fmt: skip


def facts(exp: Experiment) -> dict[int, Any]:
    """Return what was trained in each round: the parts that nodes keep show in the losses, to the last bit."""
    return {
        number: {node: (reply["state"], reply["metrics"]["loss"]) for node, reply in replies.items()}
        for number, replies in exp.training_replies().items()
    }


def undisturbed(federation: Federation) -> tuple[str, dict[int, Any]]:
    """Return the bits of a run that nobody disturbs, and its facts."""
    with federation.experiment(Watch(), **SETTINGS) as exp:
        assert exp.run() == ROUNDS
        return exp.params().fingerprint(), facts(exp)


def ended(federation: Federation, number: int, point: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a researcher that is sent a signal at a point of its second round.

    Args:
        federation: The nodes.
        number: The signal.
        point: The point.
        environment: ``MEMORY_BUDGET`` says how many bytes of updates may wait in memory.
    """
    command = [sys.executable, __file__, str(federation.port), str(int(number)), point]
    command += [str(node.place) for node in federation.nodes.values()]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False
    )


@contextmanager
def gone_on(federation: Federation, path: Path | None = None, **more: Any) -> Iterator[Experiment]:
    """The experiment that the last researcher has left."""
    url = f"zmq://127.0.0.1:{federation.port}"
    transport = open_transport(url, default_host())
    with (
        ResearcherEndpoint(transport, url, federation.options, limits=LIMITS) as pool,
        Experiment.load_breakpoint(path, transport=pool, progress="quiet", connect_timeout=LONG, **more) as exp,
    ):
        yield exp


def trained(federation: Federation, exp: Experiment) -> dict[str, Counter[int]]:
    """How often each node has begun to train each round, under whatever key."""
    return {
        name: Counter(int(key.split("/")[1]) for key in node.started(exp.id).elements())
        for name, node in federation.nodes.items()
    }


EACH_ONCE = dict.fromkeys(range(ROUNDS), 1)


class Ending(Monitor):
    """Sends this process a signal where the point is reached that was named."""

    def __init__(self, number: int, point: str) -> None:
        self.number, self.point = number, point
        self.round = 0

    def at(self, point: str) -> None:
        if (point, self.round) == (self.point, KILLED_IN):
            self.round = -1  # once
            os.kill(os.getpid(), self.number)

    def progress(self, node_id: str, progress: Any) -> None:
        self.at("nodes at work")

    def round_ended(self, ctx: Any, result: Any) -> None:
        self.round = ctx.round + 1


def main(port: str, number: str, point: str, *places: str) -> None:
    ending = Ending(int(number), point)

    def before(owner: Any, name: str, here: str) -> None:
        true: Callable[..., Any] = getattr(owner, name)

        def stand_in(*args: Any, **options: Any) -> Any:
            ending.at(here)
            return true(*args, **options)

        setattr(owner, name, stand_in)

    before(breakpoints, "_write", "breakpoint half written")
    before(breakpoints, "breakpoints_of", "breakpoint not renamed")
    round_loop.MEMORY_BUDGET = int(os.environ.get("MEMORY_BUDGET", round_loop.MEMORY_BUDGET))
    settling.SETTLE_AFTER = 0.0  # each update by itself, so that all points are reached
    nodes = {Path(place).name: FaultNode(Path(place)) for place in places}
    federation = Federation(int(port), TransportOptions(heartbeat=LIMITS.heartbeat), nodes)
    with watched(ending.at), federation.experiment(Watch(), **SETTINGS) as exp:
        exp.add_monitor(ending)
        exp.run()
    print("not ended")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(*sys.argv[1:])
