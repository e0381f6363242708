"""What the tests share: declearn's own optimizer as the oracle, one-row plans, and a network that loses and forges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from declearn.model.api import Vector
from declearn.model.sklearn import NumpyVector
from declearn.optimizer import Optimizer as Theirs

from fedplug import DataManager, Decision, Experiment, NumpyTrainingPlan, Params
from fedplug.core.messages import TaskFailure
from fedplug.core.pool import TaskFailed, UpdateFetched
from fedplug.core.strategy import DefaultStrategy
from fedplug.simulation import Federation

MODULES: list[Any] = [
    "adagrad",
    "adam",
    ("adam", {"amsgrad": True}),
    "rmsprop",
    "yogi",
    ("yogi", {"amsgrad": True}),
    "momentum",
    ("momentum", {"nesterov": True, "beta": 0.5}),
    "ewma",
    "yogi-momentum",
    ("l2-clipping", {"max_norm": 0.5}),
    ("l2-global-clipping", {"max_norm": 0.5}),
]
KINDS = ["float64", "float32", "torch.float32"]


def name_of(value: Any) -> str:
    """The id of a case."""
    return value if isinstance(value, str) else "-".join([value[0], *map(str, value[1])])


# arrays and steps ------------------------------------------------------------------------------------------


def arrays(kind: str, seed: int) -> dict[str, Any]:
    """Random arrays, or tensors, of three shapes."""
    rng = np.random.default_rng(seed)
    found = {"layer.weight": rng.normal(size=(3, 2)), "layer.bias": rng.normal(size=2), "scale": rng.normal(size=())}
    if kind.startswith("torch"):
        return {name: torch.tensor(each, dtype=getattr(torch, kind[6:])) for name, each in found.items()}
    return {name: np.array(each, kind) for name, each in found.items()}


def same_bits(found: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    """Whether two models are equal to the bit, and of one dtype."""
    for name, each in found.items():
        other = expected[name] if hasattr(expected[name], "dtype") else np.asarray(expected[name])
        if each.dtype != other.dtype or each.reshape(-1).tolist() != other.reshape(-1).tolist():
            return False
    return found.keys() == expected.keys()


def vector(values: Mapping[str, Any]) -> Vector[Any]:
    """A vector of declearn's over tensors, or arrays."""
    if any(isinstance(each, torch.Tensor) for each in values.values()):
        from declearn.model.torch import TorchVector

        return TorchVector(dict(values))
    return NumpyVector({name: np.asarray(each) for name, each in values.items()})


class Weights:
    """All that declearn asks of a model."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.params = params

    def get_weights(self, trainable: bool = False) -> Vector[Any]:
        return vector(self.params)


def their_steps(optimizer: Theirs, params: Mapping[str, Any], gradients: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What declearn's own optimizer makes of ``params``, which stay as they are."""
    for each in gradients:
        moves = optimizer.compute_updates_from_gradients(Weights(params), vector(each)).coefs
        params = {name: param + moves[name] for name, param in params.items()}
    return dict(params)


# bowls: f(x) = a / 2 (x - b)^2 at each node --------------------------------------------------------------------


class Bowl(NumpyTrainingPlan):
    """One number; a node's rows are all (a, b)."""

    def init_dependencies(self):
        return ["from fedplug_declearn import Optimizer"]

    def init_model(self):
        return {"x": np.zeros(())}

    def init_optimizer(self, optimizer_args):
        return Optimizer(**optimizer_args)  # noqa: F821

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), batch_size=1)

    def training_step(self, data, target):
        error = self.model()["x"] - target[0]
        return 0.5 * data[0] * error**2, {"x": data[0] * error}


TWO = {"p": (1.0, 0.0), "q": (10.0, 1.0)}
"""Curvature and minimum; the sum of both is least at 10/11."""

BEST = 10 / 11


def bowls(bowl_of: Mapping[str, tuple[float, float]], rows: Mapping[str, int] | None = None) -> dict[str, Any]:
    """The data of nodes; ``rows`` says how many equal rows each has (1 by default)."""
    rows = rows or {}
    return {n: (np.full(rows.get(n, 1), a), np.full(rows.get(n, 1), b)) for n, (a, b) in bowl_of.items()}


class Net(Federation):
    """A federation whose network loses, after the training, what it is told to lose, and forges what nodes send."""

    training = ""
    """The node that trains, or has trained last, in any of them."""

    def __init__(self, nodes: Mapping[str, Any], lose: Iterable[tuple[str, int]] = ()) -> None:
        super().__init__(nodes)
        self.lose = set(lose)
        self.forged: dict[str, Any] = {}
        """Node id → what becomes of the extra arrays that it sends."""
        self.sent: list[tuple[str, dict[str, Params]]] = []
        self.received: list[tuple[str, dict[str, Params]]] = []
        self.trained: list[Params] = []

    def train(self, request: Any, plan: Any, params: Params, aux: Mapping[str, Params] | None = None) -> None:
        self.sent.append((request.key.node_id, dict(aux or {})))
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

    def forget(self, node: str, experiment: Experiment) -> None:
        """Empty what a node keeps between rounds."""
        self.states(node).forget(experiment.id)


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


def experiment(net: Any, plan: type = Bowl, **settings: Any) -> Experiment:
    """An experiment over ``net``; 20 steps a round with a rate of 0.05."""
    from fedplug_scaffold import FedAverage

    given = {
        "tags": "simulation",
        "training_plan_class": plan,
        "training_args": {"num_updates": 20, "optimizer_args": {"lr": 0.05}},
        "aggregator": FedAverage("uniform"),
        "seed": 1,
        "progress": "quiet",
    }
    return Experiment(transport=net, **{**given, **settings})
