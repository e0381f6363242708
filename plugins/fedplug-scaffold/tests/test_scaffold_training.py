"""Scaffold and what else a training may be: other hooks, optimizers, layers, precisions, several models.

What each of them should come to is written out step by step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scaffold_kit import BEST, TWO, Net, WhoCanMayGo, bowls, ends, experiment, summed
from sklearn.naive_bayes import MultinomialNB
from torch import nn

from fedplug import DataManager, NumpyTrainingPlan, Params
from fedplug.core.errors import RoundError
from fedplug.core.numpy_backend import NumpyBackend
from fedplug.core.trainer import MultiModelTrainer, Trainer, hook
from fedplug_scaffold import FedAverage, Scaffold
from fedplug_scaffold.hooks import scaffold_hooks
from fedplug_scaffold.scaffold import AUX
from fedplug_sklearn import FedPartialFit
from fedplug_torch import TorchTrainingPlan


def near(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


# other hooks, other optimizers -----------------------------------------------------------------------------


def by_hand(rounds: int, steps: int = 20, lr: float = 0.05, mu: float = 0.0, clip: float = np.inf, rho: float = 0.0,
            keep: bool = False) -> list[float]:  # fmt: skip
    """Bowls by corrected gradients plus FedProx's term, clipped, with momentum that may be kept between rounds."""
    x, own, found, speed = 0.0, dict.fromkeys(TWO, 0.0), [], dict.fromkeys(TWO, 0.0)
    for _ in range(rounds):
        c, places = sum(own.values()) / 2, []
        for node, (a, b) in TWO.items():
            y, total = x, 0.0
            speed[node] = speed[node] if keep else 0.0
            for _ in range(steps):
                gradient = a * (y - b)
                total += gradient
                step = gradient - own[node] + c + mu * (y - x)
                speed[node] = rho * speed[node] + step * min(1.0, clip / max(abs(step), 1e-300))
                y -= lr * speed[node]
            own[node] = total / steps
            places.append(y)
        x = sum(places) / 2
        found.append(x)
    return found


@pytest.mark.parametrize(
    ("args", "settings"),
    [
        ({"fedprox_mu": 2.0}, {"mu": 2.0}),
        ({"grad_clip": 0.7}, {"clip": 0.7}),
        ({"fedprox_mu": 2.0, "grad_clip": 0.7}, {"mu": 2.0, "clip": 0.7}),
    ],
    ids=["FedProx", "clipping", "both"],
)
def test_the_mean_is_of_bare_gradients_and_the_corrected_ones_are_clipped(args, settings):
    args = {"num_updates": 20, "optimizer_args": {"lr": 0.05}, **args}
    with experiment(Net(bowls(TWO)), training_args=args) as exp:
        near(ends(exp, 8), by_hand(8, **settings))


@pytest.mark.parametrize("scaffold_first", [True, False])
def test_hooks_come_in_this_order(scaffold_first):
    made = Trainer(
        NumpyBackend({"x": np.zeros(())}, lambda data, target: None), args={"fedprox_mu": 1.0, "grad_clip": 1.0}
    )
    mine = hook("on_batch_backward", before="step", name="mine")(lambda ctx: None)
    if not scaffold_first:
        made.add_hook(mine)
    made.install("scaffold", scaffold_hooks())
    if scaffold_first:
        made.add_hook(mine)
    names = made.hooks_in_train.names("on_batch_backward")
    assert names[:2] == ("backward", "scaffold_collect")
    assert names[-2:] == ("grad_clip", "step")
    assert sorted(names[2:-2]) == ["fedprox", "mine", "scaffold_correct"]


class TorchBowl(TorchTrainingPlan):
    """`Bowl` in PyTorch, with momentum."""

    class Point(nn.Module):
        def __init__(self, dtype):
            super().__init__()
            self.x = nn.Parameter(torch.zeros((), dtype=dtype))

    def init_model(self, model_args):
        return self.Point(getattr(torch, model_args.get("dtype", "float64")))

    def init_optimizer(self, optimizer_args):
        return torch.optim.SGD(self.model().parameters(), **optimizer_args)

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), batch_size=1)

    def training_step(self, data, target):
        point = self.model().x
        return (0.5 * data.to(point.dtype) * (point - target.to(point.dtype)) ** 2).mean()


@pytest.mark.parametrize("keep", [False, True])
def test_an_optimizer_with_momentum_gets_corrected_gradients(keep):
    args = {"num_updates": 20, "optimizer_args": {"lr": 0.02, "momentum": 0.5}, "keep_optimizer_state": keep}
    with experiment(Net(bowls(TWO)), TorchBowl, training_args=args) as exp:
        found = ends(exp, 60)
    near(found, by_hand(60, lr=0.02, rho=0.5, keep=keep))
    assert found[-1] == pytest.approx(BEST, abs=1e-6)


class WordCounts(FedPartialFit):
    parameters = ("feature_count_", "class_count_")

    def init_dependencies(self):
        return ["from sklearn.naive_bayes import MultinomialNB"]

    def init_model(self):
        return MultinomialNB().partial_fit(np.zeros((2, 1)), [0, 1], classes=[0, 1])

    def training_data(self):
        return DataManager(self.dataset.column("x")[:, None], self.dataset.column("y") > 0)


def test_a_plan_without_gradients_is_refused_before_it_trains():
    net = Net(bowls(TWO, {"p": 4, "q": 4}))
    with (
        experiment(net, WordCounts, training_args={"num_updates": 1}) as exp,
        pytest.raises(RoundError, match="gradients"),
    ):
        exp.run(1)
    assert net.received == []


# what stays at the node, what is frozen, what no optimizer moves -------------------------------------------


class PersonalBowl(NumpyTrainingPlan):
    """A number that is shared and one that stays; both are added up."""

    def init_model(self):
        return {"own": np.zeros(()), "x": np.zeros(())}

    def tag_parameters(self, name):
        return {"local", "persistent"} if name == "own" else set()

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), batch_size=1)

    def training_step(self, data, target):
        error = self.model()["x"] + self.model()["own"] - target[0]
        return 0.5 * data[0] * error**2, {"x": data[0] * error, "own": data[0] * error}


def test_what_stays_at_the_node_stays_there_and_is_not_corrected():
    net = Net(bowls(TWO))
    with experiment(net, PersonalBowl) as exp:
        found = ends(exp, 6)
    assert {name for _, aux in [*net.sent, *net.received] for name in aux[AUX]} == {
        "common/x", "delta/x", "generation", "fresh"
    }  # fmt: skip
    x, c, personal, mine, expected = 0.0, 0.0, dict.fromkeys(TWO, 0.0), dict.fromkeys(TWO, 0.0), []
    for _ in range(6):
        places = []
        for node, (a, b) in TWO.items():
            y, total = x, 0.0
            for _ in range(20):
                gradient = a * (y + personal[node] - b)
                total += gradient
                y -= 0.05 * (gradient - mine[node] + c)
                personal[node] -= 0.05 * gradient
            mine[node] = total / 20
            places.append(y)
        x, c = sum(places) / 2, sum(mine.values()) / 2
        expected.append(x)
    near(found, expected)


class Lines(TorchTrainingPlan):
    """A line through a plane, whose offset some nodes hold still, in the whole round or for some epochs of it."""

    def init_dependencies(self):
        return ["from fedplug.core.trainer import hook"]

    def init_model(self, model_args):
        made = nn.Linear(2, 1).double()
        nn.init.zeros_(made.weight)
        nn.init.zeros_(made.bias)
        made.bias.requires_grad_(self.node_id() not in model_args["frozen"])
        return made

    def init_optimizer(self, optimizer_args):
        return torch.optim.SGD(self.model().parameters(), **optimizer_args)

    @hook("on_epoch_start")
    def thaw(self, ctx):
        if "thaws" in self.model_args():
            self.model().bias.requires_grad_(ctx.cur_epoch_i in self.model_args()["thaws"])

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), shuffle=False, batch_size=8)

    def training_step(self, data, target):
        return ((self.forward(data.double()).squeeze(1) - target) ** 2).mean()


def clouds() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(8)
    return {node: (rng.integers(-8, 9, (8, 2)) / 8, rng.integers(-16, 17, 8) / 8) for node in "pq"}


def lines_by_hand(rounds: int, steps: int, thaws: Any) -> list[np.ndarray]:
    """Weight and offset after each round, where the offset moves in steps ``thaws`` only."""
    x, c, own, found = np.zeros(3), np.zeros(3), {node: np.zeros(3) for node in "pq"}, []
    for _ in range(rounds):
        places = []
        for node, (rows, target) in clouds().items():
            y, total = x, np.zeros(3)
            for k in range(steps):
                error = rows @ y[:2] + y[2] - target
                moves = np.array([1, 1, k in thaws])
                gradient = moves * np.append(2 * error @ rows, 2 * error.sum()) / 8
                total = total + gradient
                y = y - 0.1 * moves * (gradient - own[node] + c)
            own[node] = total / steps
            places.append(y)
        x, c = sum(places) / 2, sum(own.values()) / 2
        found.append(x)
    return found


LINES = {"num_updates": 4, "optimizer_args": {"lr": 0.1}}


def lines_of(exp: Any, rounds: int) -> list[np.ndarray]:
    found = []
    for _ in range(rounds):
        exp.run(1)
        found.append(np.append(exp.params()["weight"], exp.params()["bias"]))
    return found


@pytest.mark.parametrize(
    ("model_args", "thaws", "names"),
    [
        ({"frozen": []}, {0, 1, 2, 3}, ["bias", "weight"]),
        ({"frozen": ["p", "q"]}, {}, ["weight"]),
        ({"frozen": [], "thaws": [2, 3]}, {2, 3}, ["bias", "weight"]),
        ({"frozen": [], "thaws": [0, 1]}, {0, 1}, ["bias", "weight"]),
        ({"frozen": [], "thaws": []}, {}, ["bias", "weight"]),
    ],
    ids=["all trained", "offset frozen", "frozen at first", "frozen in the end", "frozen by a hook"],
)
def test_what_is_frozen_does_not_move(model_args, thaws, names):
    net = Net(clouds())
    with experiment(net, Lines, training_args=LINES, model_args=model_args) as exp:
        near(lines_of(exp, 5), lines_by_hand(5, 4, thaws))
        assert sorted(summed(exp)) == names


def test_nodes_that_train_other_layers_are_told_apart():
    net, turns = Net(clouds()), WhoCanMayGo(strict=True)
    settings: dict[str, Any] = {"training_args": LINES, "node_selection_strategy": turns}
    with experiment(net, Lines, model_args={"frozen": ["q"]}, **settings) as exp:
        with pytest.raises(RoundError, match="those of other nodes differ: only one has 'bias'"):
            exp.run(1)
        turns.without = {("q", 0)}
        exp.run(1)
        before = len(net.received)
        with pytest.raises(RoundError, match="'bias' is trained there only") as caught:
            exp.run(1)
    assert "The same parameters must be trained at all nodes" in str(caught.value)
    assert [node for node, _ in net.received[before:]] == ["p"], "the other is told before it has trained"


def test_whoever_freezes_a_layer_later_begins_anew():
    with experiment(Net(clouds()), Lines, training_args=LINES, model_args={"frozen": []}) as exp:
        exp.run(2)
        exp.set_model_args({"frozen": ["p", "q"]})
        exp.set_aggregator(Scaffold())
        exp.run(2)
        assert list(summed(exp)) == ["weight"]


class Normed(TorchTrainingPlan):
    def init_model(self):
        return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))

    def init_optimizer(self, optimizer_args):
        return torch.optim.SGD(self.model().parameters(), **optimizer_args)

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), shuffle=False, batch_size=4)

    def training_step(self, data, target):
        return ((self.forward(data).squeeze(1) - target) ** 2).mean()


BUFFERS = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}


def test_running_means_take_the_plain_mean_and_a_server_rate_moves_the_rest():
    net = Net(clouds())
    with experiment(net, Normed, training_args=LINES, aggregator=Scaffold(0.5)) as exp:
        for _ in range(3):
            start = exp.params()
            exp.run(1)
            means = FedAverage("uniform")
            state = means.begin(start, None)
            for each in net.trained[-2:]:
                state.add(each, 1)
            mean, found = state.result(), exp.params()
            for name in found:
                if name in BUFFERS:
                    assert np.array_equal(found[name], mean[name])
                    assert not np.array_equal(found[name], start[name])
                else:
                    np.testing.assert_allclose(found[name], (start[name] + mean[name]) / 2, rtol=0, atol=1e-6)
        assert BUFFERS.isdisjoint(summed(exp))


class CountingBowl(NumpyTrainingPlan):
    """`Bowl` with a counter, and a buffer that it calls one."""

    def init_model(self):
        return {"x": np.zeros(()), "seen": np.zeros((), np.int64), "running": np.zeros(())}

    def buffer_names(self):
        return frozenset({"running"})

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), batch_size=1)

    def training_step(self, data, target):
        model = self.model()
        model["seen"] += 1
        model["running"] += 0.25
        error = model["x"] - target[0]
        return 0.5 * data[0] * error**2, {"x": data[0] * error, "seen": np.zeros(()), "running": np.zeros(())}


def test_whole_numbers_and_buffers_of_numpy_take_the_plain_mean_at_any_rate():
    args = {"num_updates": 3, "optimizer_args": {"lr": 0.05}}
    with experiment(Net(bowls(TWO)), CountingBowl, training_args=args, aggregator=Scaffold(0.5)) as exp:
        exp.run(2)
        assert exp.params()["seen"] == 6
        assert exp.params()["running"] == 1.5
        assert "seen" not in summed(exp)


def test_a_server_rate_holds_in_the_round_of_a_lost_state_too():
    net = Net(bowls(TWO))
    with experiment(net, aggregator=Scaffold(0.5)) as exp:
        net.forged["p"] = lambda extra: {AUX: Params.from_arrays({**extra[AUX], "fresh": np.int64(0)})}
        with pytest.warns(UserWarning, match="begin anew"):
            exp.run(1)
        places = [float(each["x"]) for each in net.trained]
        assert float(exp.params()["x"]) == pytest.approx(sum(places) / 4, abs=1e-15)


# precision -------------------------------------------------------------------------------------------------


class HalfBowl(NumpyTrainingPlan):
    def init_model(self):
        return {"x": np.zeros((), np.float16)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), batch_size=1)

    def training_step(self, data, target):
        error = self.model()["x"] - np.float16(target[0])
        return float(data[0] * error**2 / 2), {"x": np.float16(data[0]) * error}


STEEP = {"p": (32768.0, 1.5), "q": (8192.0, -0.5)}
"""The sum of both is least at 1.1. Four gradients of the first add up to more than float16 can hold."""


@pytest.mark.parametrize(
    ("plan", "dtype", "eps"),
    [(HalfBowl, "float16", 2**-10), (TorchBowl, "float16", 2**-10), (TorchBowl, "bfloat16", 2**-7)],
    ids=["NumPy", "PyTorch", "bfloat16"],
)
def test_control_variates_of_half_precision_are_added_up_in_single(plan, dtype, eps):
    """It stands still where a step is less than half of the last place, eps / 2 at 1.1: here, 1.6 eps from the optimum.

    The corrections are near 20480 (x - 1.1), and a step is 2^-16 times that; gradients are rounded besides.
    """
    net = Net(bowls(STEEP))
    args = {"num_updates": 4, "optimizer_args": {"lr": 2.0**-16}}
    with experiment(net, plan, training_args=args, model_args={"dtype": dtype}) as exp:
        exp.run(40)
        assert float(exp.params()["x"]) == pytest.approx(1.1, abs=4 * eps)
        assert exp.params().spec.tensors[0].dtype == dtype
        sums, held = float(summed(exp)["x"]), sum(float(each["x"]) for each in net.held(exp).values())
        assert sums == pytest.approx(held, abs=1e-2)
    assert {each[AUX]["delta/x"].dtype.name for _, each in net.received} == {"float32"}
    assert {each[AUX]["common/x"].dtype.name for _, each in net.sent[2:]} == {"float32"}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_control_variates_travel_in_the_precision_of_the_model(dtype):
    net = Net(bowls(TWO))
    with experiment(net, TorchBowl, model_args={"dtype": dtype}) as exp:
        exp.run(3)
        assert {name: array.dtype.name for name, array in summed(exp).items()} == {"x": "float64"}
    assert {each[AUX]["delta/x"].dtype.name for _, each in net.received} == {dtype}
    assert {each[AUX]["common/x"].dtype.name for _, each in net.sent[2:]} == {dtype}


# trainings within, and models beside -----------------------------------------------------------------------


class NestingBowl(NumpyTrainingPlan):
    """`Bowl`, but that after its first step it trains as long again, in a training of its own."""

    def init_dependencies(self):
        return ["from fedplug.core.trainer import hook"]

    def init_model(self):
        return {"x": np.zeros(())}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), batch_size=1)

    @hook("on_epoch_end")
    def again(self, ctx):
        if ctx.depth == 1 and ctx.cur_epoch_i == 0:
            ctx.trainer.train()

    def training_step(self, data, target):
        error = self.model()["x"] - target[0]
        return 0.5 * data[0] * error**2, {"x": data[0] * error}


def test_a_training_within_the_training_is_not_corrected_and_does_not_count():
    with experiment(Net(bowls(TWO)), NestingBowl) as exp:
        found = ends(exp, 4)
    x, c, own, expected = 0.0, 0.0, dict.fromkeys(TWO, 0.0), []
    for _ in range(4):
        places = []
        for node, (a, b) in TWO.items():
            y, total = x, 0.0
            for k in range(20):
                gradient = a * (y - b)
                total += gradient
                y -= 0.05 * (gradient - own[node] + c)
                for _ in range(20 if k == 0 else 0):
                    y -= 0.05 * a * (y - b)
            own[node] = total / 20
            places.append(y)
        x, c = sum(places) / 2, sum(own.values()) / 2
        expected.append(x)
    near(found, expected)


class TwoBowls(NumpyTrainingPlan):
    """A second model beside the shared one, which tells where it ends."""

    def init_dependencies(self):
        return ["from fedplug import Params", "from fedplug.core.trainer import MultiModelTrainer, hook"]

    def init_model(self):
        return {"x": np.zeros(())}

    def make_trainer(self, backend, data, **options):
        return MultiModelTrainer(2, self.model_args()["mode"], backend, data, **options)

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), batch_size=1)

    @hook("on_fit_end")
    def tell(self, ctx):
        if ctx.cur_model_idx == 1:
            ctx.outbox["second"] = Params.from_arrays(ctx.backend.model)

    def training_step(self, data, target):
        error = self.model()["x"] - target[0]
        return 0.5 * data[0] * error**2, {"x": data[0] * error}


@pytest.mark.parametrize("mode", ["sequential", "parallel"])
def test_a_second_model_has_no_part_in_it(mode):
    net = Net(bowls(TWO))
    with experiment(net, TwoBowls, model_args={"mode": mode}) as exp:
        found = [0.0, *ends(exp, 5)]
    near(found[1:], by_hand(5))
    for place, (node, aux) in enumerate(net.received):
        (a, b), start = TWO[node], found[place // 2]
        assert float(aux["second"]["x"]) == pytest.approx(b + (start - b) * (1 - 0.05 * a) ** 20, abs=1e-12)
