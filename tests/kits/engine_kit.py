"""What tests of simulations' engines share: experiments, what they come to, and an engine for worker processes."""

from __future__ import annotations

from contextlib import closing
from typing import Any, ClassVar

import numpy as np
from walk_plan import Walk

from fedplug import Experiment, Monitor
from fedplug.core.messages import TrainReply
from fedplug.core.params import Params
from fedplug.simulation import IID, Engine, Federation
from fedplug.simulation.engines import Emit, Task, Trained


class Told(Monitor):
    """Keeps what the nodes tell while they train, without times."""

    def __init__(self) -> None:
        self.signs: list[tuple[Any, ...]] = []

    def progress(self, node_id: str, progress: Any) -> None:
        self.signs.append((node_id, progress.step, progress.total_steps, progress.epoch, progress.samples))

    def log(self, node_id: str, line: Any) -> None:
        self.signs.append((node_id, line.level, line.text))


def samples(nodes: int = 8, each: int = 6) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    count = nodes * each
    return rng.standard_normal((count, 4)).astype(np.float32), rng.integers(0, 3, count)


def federation(engine: Engine | str, nodes: int = 8, **settings: Any) -> Federation:
    return Federation.from_arrays(*samples(nodes), partition=IID(nodes), seed=2, engine=engine, **settings)


def result_of(exp: Experiment) -> tuple[Params, list[tuple[int, str, Any]]]:
    """The parameters of an experiment that has run, and round by round what each node told of its losses."""
    losses = [
        (number, node, reply["metrics"])
        for number, replies in exp.history.replies().items()
        for node, reply in sorted(replies.items())
    ]
    return exp.params(), losses


def outcome(transport: Any, plan: type = Walk, rounds: int = 2, **settings: Any) -> dict[str, Any]:
    """Run an experiment, and return all of it that must not depend on the engine."""
    told = Told()
    args = {"epochs": 1, "loader_args": {"batch_size": 2}, "optimizer_args": {"lr": 0.1}, "log_interval": 2}
    settings = {"seed": 5, **settings, "training_args": {**args, **settings.get("training_args", {})}}
    with Experiment(
        tags="simulation", transport=transport, training_plan_class=plan, round_limit=rounds, progress="quiet",
        save_breakpoints=False, **settings,
    ) as exp:  # fmt: skip
        exp.add_monitor(told)
        exp.run()
        replies = {
            number: {node: {**reply, "timing": None} for node, reply in each.items()}
            for number, each in exp.history.replies().items()
        }
        return {"params": exp.params(), "replies": replies, "signs": told.signs}


def outcome_of(engine: Engine | str, *args: Any, nodes: int = 8, faults: Any = None, **settings: Any) -> dict[str, Any]:
    """The same of an experiment with a federation of its own."""
    with closing(federation(engine, nodes, faults=faults)) as made:
        return outcome(made, *args, **settings)


class Together(Engine):
    """Trains nothing; the metric of a task says how many others the engine had with it."""

    together: ClassVar[bool] = True

    def __init__(self, value: float = 1.0) -> None:
        self.value = value
        self.waiting: dict[Any, int] = {}

    def submit(self, task: Task) -> None:
        self.waiting[task.request.key] = 0
        self.waiting = dict.fromkeys(self.waiting, len(self.waiting))

    def run(self, task: Task, emit: Emit) -> Trained:
        key = task.request.key
        size = self.waiting.pop(key)
        reply = TrainReply(key=key, sample_count=1, steps=1, metrics={"loss": self.value, "together": float(size)})
        return Trained(reply, task.params, {})
