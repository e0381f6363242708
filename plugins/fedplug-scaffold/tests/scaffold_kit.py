"""What the tests share: the paper's equations in a plain loop, small plans, and a network that loses and forges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fedplug import DataManager, Decision, Experiment, Monitor, NumpyTrainingPlan, Params
from fedplug.core.messages import TaskFailure
from fedplug.core.pool import TaskFailed, UpdateFetched
from fedplug.core.strategy import DefaultStrategy
from fedplug.simulation import Federation
from fedplug_scaffold import Scaffold
from fedplug_scaffold.scaffold import AUX

Gradient = Callable[[np.ndarray, int], np.ndarray]
"""Of a node's objective at a point, in its step number so-and-so of a round."""


def paper(
    gradients: Mapping[str, Gradient],
    x: Any,
    rounds: Sequence[Iterable[str]],
    *,
    lr: float,
    steps: int,
    server_lr: float = 1.0,
    begins: Iterable[int] = (),
    forgets: Iterable[tuple[str, int]] = (),
) -> list[np.ndarray]:
    """Karimireddy et al., algorithm 1 with option II, word for word; ``x`` after each round.

    Args:
        gradients: Of all N nodes.
        x: The first point.
        rounds: Who is in S, round by round.
        lr: ``eta_l``.
        steps: ``K``.
        server_lr: ``eta_g``.
        begins: Rounds before which all control variates are forgotten.
        forgets: Nodes, each with the round before which it alone forgets its own.
    """
    x, found = np.asarray(x, np.float64), []
    c, own = np.zeros_like(x), {node: np.zeros_like(x) for node in gradients}
    for number, chosen in enumerate(rounds):
        if number in begins:
            c, own = np.zeros_like(x), {node: np.zeros_like(x) for node in gradients}
        moves, changes = [], []
        for node in sorted(chosen):
            if (node, number) in forgets:
                own[node] = np.zeros_like(x)
            y = x
            for k in range(steps):
                y = y - lr * (gradients[node](y, k) - own[node] + c)
            renewed = own[node] - c + (x - y) / (steps * lr)
            moves.append(y - x)
            changes.append(renewed - own[node])
            own[node] = renewed
        x = x + server_lr * sum(moves) / len(moves)
        c = c + len(changes) / len(gradients) * sum(changes) / len(changes)
        found.append(x)
    return found


# bowls: f(x) = a / 2 (x - b)^2 at each node --------------------------------------------------------------------


class Bowl(NumpyTrainingPlan):
    """One number; a node's rows are all (a, b)."""

    def init_model(self):
        return {"x": np.zeros(())}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), batch_size=1)

    def training_step(self, data, target):
        error = self.model()["x"] - target[0]
        return 0.5 * data[0] * error**2, {"x": data[0] * error}


TWO = {"p": (1.0, 0.0), "q": (10.0, 1.0)}
"""Curvature and minimum; the sum of both is least at 10/11."""

BEST = 10 / 11
THREE = {**TWO, "z": (4.0, -2.0)}
BEST_OF_THREE = (10 * 1 - 4 * 2) / 15


def bowls(curves: Mapping[str, tuple[float, float]], rows: Mapping[str, int] | None = None) -> dict[str, Any]:
    """The data of nodes; ``rows`` says how many equal rows each has (1 by default)."""
    rows = rows or {}
    return {n: (np.full(rows.get(n, 1), a), np.full(rows.get(n, 1), b)) for n, (a, b) in curves.items()}


def slopes(curves: Mapping[str, tuple[float, float]]) -> dict[str, Gradient]:
    """Their gradients, for `paper`."""
    return {node: lambda x, k, a=a, b=b: a * (x - b) for node, (a, b) in curves.items()}


def of_paper(curves: Mapping[str, tuple[float, float]], rounds: Any, **more: Any) -> list[float]:
    """`paper` on bowls, from zero, with 20 steps of 0.05; ``rounds`` is a number, or who is in each."""
    rounds = [curves] * rounds if isinstance(rounds, int) else rounds
    return [float(x) for x in paper(slopes(curves), 0.0, rounds, lr=0.05, steps=20, **more)]


def experiment(net: Any, plan: type = Bowl, **settings: Any) -> Experiment:
    """An experiment with Scaffold over ``net``; 20 steps a round with a rate of 0.05."""
    given = {
        "tags": "simulation",
        "training_plan_class": plan,
        "training_args": {"num_updates": 20, "optimizer_args": {"lr": 0.05}},
        "aggregator": Scaffold(),
        "seed": 1,
        "progress": "quiet",
    }
    return Experiment(transport=net, **{**given, **settings})


def ends(exp: Experiment, rounds: int, name: str = "x") -> list[Any]:
    """Run rounds; one parameter after each."""
    found = []
    for _ in range(rounds):
        exp.run(1)
        found.append(exp.params()[name].tolist())
    return found


# networks, strategies and listeners ------------------------------------------------------------------------


class Net(Federation):
    """A federation whose network loses, after the training, what it is told to lose, and forges what nodes send."""

    training = ""
    """The node that trains, or has trained last, in any of them."""

    def __init__(self, nodes: Mapping[str, Any], lose: Iterable[tuple[str, int]] = (), **more: Any) -> None:
        super().__init__(nodes, **more)
        self.lose = set(lose)
        self.forged: dict[str, Any] = {}
        """Node id → what becomes of the extra arrays that it sends."""
        self.sent: list[tuple[str, dict[str, Params]]] = []
        self.received: list[tuple[str, dict[str, Params]]] = []
        self.trained: list[Params] = []
        self.asked: list[dict[str, Any]] = []
        """The training arguments of each request."""

    def train(self, request: Any, plan: Any, params: Params, aux: Mapping[str, Params] | None = None) -> None:
        self.sent.append((request.key.node_id, dict(aux or {})))
        self.asked.append(request.training_args)
        super().train(request, plan, params, aux)

    def next_event(self, timeout: float | None, watch: Any = None) -> Any:
        event = super().next_event(timeout, watch)
        if isinstance(event, UpdateFetched) and (event.reply.key.node_id, event.reply.key.round) in self.lose:
            return TaskFailed(TaskFailure(key=event.reply.key, code="lost", text="lost on the way"))
        return event

    def _run(self, task: Any, *rest: Any) -> Any:
        request = task.request
        Net.training = request.key.node_id
        reply, trained, extra = super()._run(task, *rest)
        extra = self.forged.get(request.key.node_id, dict)(extra)
        self.received.append((request.key.node_id, dict(extra)))
        self.trained.append(trained)
        return reply, trained, extra

    def forget(self, node: str, exp: Experiment) -> None:
        """Empty what a node keeps between rounds."""
        self.states(node).forget(exp.id)

    def held(self, exp: Experiment) -> dict[str, Params]:
        """The control variates that the nodes go on from, node by node."""
        found = {}
        datasets = exp.training_data().data()
        for node, acked in exp._acked.items():
            state = self.states(node).load(exp.id, datasets[node].dataset_id, acked.round, acked.state_id)
            if state is not None:
                names = [name for name in state.arrays if name.startswith(f"{AUX}/")]
                found[node] = Params.from_arrays({name.removeprefix(f"{AUX}/"): state.arrays[name] for name in names})
        return found


def summed(exp: Experiment) -> Params:
    """The sum of control variates at the researcher."""
    return exp.aggregator().state_dict()["sum"]


class WhoCanMayGo(DefaultStrategy):
    """Asks those that it is not told to leave out, and aggregates what it gets; if it is strict, from all of them."""

    def __init__(self, without: Iterable[tuple[str, int]] = (), *, strict: bool = False) -> None:
        self.without, self.strict = set(without), strict

    def select(self, ctx: Any, nodes: Sequence[str]) -> list[str]:
        return [node for node in nodes if (node, ctx.round) not in self.without]

    def judge(self, ctx: Any, state: Any) -> Decision:
        if self.strict:
            return super().judge(ctx, state)
        return Decision("wait" if state.missing else "enough")


class Listener(Monitor):
    """Remembers who was dropped and why, and what nodes say."""

    def __init__(self) -> None:
        self.dropped_nodes: list[tuple[str, str]] = []
        self.heard: list[str] = []

    def dropped(self, node_id: str, reason: str) -> None:
        self.dropped_nodes.append((node_id, reason))

    def log(self, node_id: str, line: Any) -> None:
        self.heard.append(line.text)
