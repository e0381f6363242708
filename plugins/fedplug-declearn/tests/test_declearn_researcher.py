"""`Optimizer` at the researcher: FedAdam and its kin against their formulas, breakpoints, failures, odd models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from declearn_kit import TWO, Net, bowls, experiment
from torch import nn

from fedplug import DataManager, Experiment, NumpyTrainingPlan, Params, RoundContext
from fedplug.core.errors import RoundError, UsageError
from fedplug.core.plan_optimizer import read_state
from fedplug_declearn import CosineDecay, Optimizer
from fedplug_torch import TorchTrainingPlan


class Formula:
    """The server optimizers of Reddi et al., algorithm 2, written out, with what declearn adds to the paper.

    declearn corrects the bias of Adam's and Yogi's averages (the paper does not), and its beta_2 and eps are 0.99 and
    1e-7.
    """

    def __init__(self, name: str, lr: float) -> None:
        self.name, self.lr = name, lr
        self.m = self.v = self.t = 0

    def step(self, x: Any, g: Any) -> Any:
        self.t += 1
        if self.name == "momentum":
            self.m = 0.9 * self.m + g
            return x - self.lr * self.m
        if self.name == "adagrad":
            self.v = self.v + g**2
            return x - self.lr * g / (np.sqrt(self.v) + 1e-7)
        self.m = 0.9 * self.m + 0.1 * g
        if self.name == "adam":
            self.v = 0.99 * self.v + 0.01 * g**2
        else:
            self.v = self.v - 0.01 * np.sign(self.v - g**2) * g**2
        m, v = self.m / (1 - 0.9**self.t), self.v / (1 - 0.99**self.t)
        return x - self.lr * m / (np.sqrt(v) + 1e-7)


SERVERS = [("adam", "adam"), ("yogi", "yogi"), ("adagrad", "adagrad"), ("momentum", ("momentum", {"beta": 0.9}))]
IDS = [name for name, _ in SERVERS]
A, B = (np.array(column) for column in zip(*TWO.values(), strict=True))


@pytest.mark.parametrize(("name", "module"), SERVERS, ids=IDS)
def test_a_server_optimizer_follows_its_formula(name, module):
    formula, x = Formula(name, 0.3), 0.0
    with experiment(Net(bowls(TWO)), agg_optimizer=Optimizer(0.3, modules=[module])) as exp:
        for _ in range(8):
            ends = B + (1 - 0.05 * A) ** 20 * (x - B)  # where 20 steps of gradient descent lead from x
            x = formula.step(x, x - ends.mean())
            exp.run(1)
            assert float(exp.params()["x"]) == pytest.approx(x, abs=1e-12)
    assert abs(x) > 0.1


@pytest.mark.parametrize(("name", "module"), SERVERS, ids=IDS)
def test_it_does_so_for_arrays_of_any_shape(name, module):
    rng = np.random.default_rng(4)
    optimizer, formula = Optimizer(0.1, modules=[module]), Formula(name, 0.1)
    params = Params.from_arrays({"w": rng.normal(size=(3, 2))})
    for number in range(8):
        aggregated = Params.from_arrays({"w": rng.normal(size=(3, 2))})
        expected = formula.step(params["w"], params["w"] - aggregated["w"])
        optimizer.begin_round(RoundContext(round=number))
        params = optimizer.advance(params, aggregated, RoundContext(round=number))
        np.testing.assert_allclose(params["w"], expected, rtol=0, atol=1e-12)


def test_a_rate_of_one_without_modules_is_plain_averaging():
    rng = np.random.default_rng(5)
    start, aggregated = (Params.from_arrays({"w": rng.normal(size=1000)}) for _ in "ab")
    moved = Optimizer(1.0).advance(start, aggregated, RoundContext())
    largest = np.maximum(abs(start["w"]), abs(aggregated["w"]))
    assert (abs(moved["w"] - aggregated["w"]) <= 1e-15 * largest).all()
    with experiment(Net(bowls(TWO)), agg_optimizer=Optimizer(lr=1.0)) as exp, experiment(Net(bowls(TWO))) as plain:
        exp.run(5)
        plain.run(5)
        assert float(exp.params()["x"]) == pytest.approx(float(plain.params()["x"]), rel=1e-15)


def test_a_rate_of_one_half_goes_half_the_way():
    start, aggregated = Params.from_arrays({"w": np.array([1.0, 4.0])}), Params.from_arrays({"w": np.array([2.0, 0.0])})
    assert Optimizer(0.5).advance(start, aggregated, RoundContext())["w"].tolist() == [1.5, 2.0]


# breakpoints and failures ----------------------------------------------------------------------------------

REMEMBERING = [
    *(module for _, module in SERVERS),
    ("rmsprop", {"round_reset": True}),
    ("yogi", {"amsgrad": True}),
]


def made(module: Any) -> Optimizer:
    return Optimizer(CosineDecay(0.3, length=9), modules=[module, "ewma"], regularizers=["ridge"])


@pytest.mark.parametrize("module", REMEMBERING, ids=str)
def test_going_on_from_a_breakpoint_makes_the_same_optimizer_again_by_itself(module, fedplug_dir: Path):
    with experiment(Net(bowls(TWO)), agg_optimizer=made(module)) as whole:
        whole.run(5)
    first = experiment(Net(bowls(TWO)), agg_optimizer=made(module), save_breakpoints=True)
    first.run(2)  # and is never closed: its process was killed
    record = json.loads((first.experimentation_path() / "breakpoint_0002" / "breakpoint.json").read_text())
    assert record["agg_optimizer"]["name"] == "declearn:declearn"
    with Experiment.load_breakpoint(transport=Net(bowls(TWO)), progress="quiet") as second:
        assert repr(second.agg_optimizer()) == repr(made(module))
        second.run(3)
        assert second.params() == whole.params()
    first.close()


def test_its_name_alone_is_not_enough():
    with pytest.raises(UsageError, match="Optimizer cannot be made without arguments") as caught:
        experiment(Net(bowls(TWO)), agg_optimizer="declearn")
    assert "Optimizer(...)" in caught.value.cure


class FailsAfterwards(Optimizer):
    """Fails in round 2 after it has learnt from it."""

    failed = False

    def advance(self, start, aggregated, ctx):
        moved = super().advance(start, aggregated, ctx)
        if ctx.round == 2 and not self.failed:
            self.failed = True
            raise RuntimeError("once")
        return moved


@pytest.mark.parametrize("module", REMEMBERING, ids=str)
def test_a_round_that_fails_teaches_it_nothing(module):
    with experiment(Net(bowls(TWO)), agg_optimizer=made(module)) as whole:
        whole.run(5)
    optimizer = FailsAfterwards(CosineDecay(0.3, length=9), modules=[module, "ewma"], regularizers=["ridge"])
    net = Net(bowls(TWO), lose={("q", 3)})
    with experiment(net, agg_optimizer=optimizer) as exp:
        for done, reason in ((2, "once"), (3, "lost on the way")):
            exp.run(done - exp.round_current())
            before = read_state(optimizer)
            with pytest.raises(RoundError, match=reason):
                exp.run(1)
            assert read_state(optimizer) == before
        net.lose.clear()
        exp.run(2)
        assert exp.params() == whole.params()


def test_a_test_of_the_model_teaches_it_nothing():
    args = {"num_updates": 20, "optimizer_args": {"lr": 0.05}, "test_ratio": 0.5}
    settings = {"agg_optimizer": made("adam"), "training_args": args}
    with experiment(Net(bowls(TWO, {"p": 2, "q": 2})), **settings) as exp:
        exp.run(2)
        before = read_state(exp.agg_optimizer())
        exp.evaluate()
        assert read_state(exp.agg_optimizer()) == before


# models ----------------------------------------------------------------------------------------------------


class NormPlan(TorchTrainingPlan):
    def init_model(self, model_args):
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def init_optimizer(self, optimizer_args):
        return torch.optim.SGD(self.model().parameters(), **optimizer_args)

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), shuffle=False)

    def training_step(self, data, target):
        return F.mse_loss(self.forward(data).squeeze(1), target)


def clouds() -> Net:
    rng = np.random.default_rng(6)
    x = {node: rng.normal(index, 0.2 + index, size=(16, 3)).astype(np.float32) for index, node in enumerate("pq")}
    return Net({node: (each, each.sum(1)) for node, each in x.items()})


ONE_EPOCH = {"epochs": 1, "loader_args": {"batch_size": 4}, "optimizer_args": {"lr": 0.05}}
BUFFERS = ("1.running_mean", "1.running_var", "1.num_batches_tracked")


def test_the_buffers_of_batchnorm_follow_the_aggregate():
    """A step of Adam against them would make a variance negative."""
    net = clouds()
    with experiment(net, NormPlan, training_args=ONE_EPOCH, agg_optimizer=Optimizer(0.5, modules=["adam"])) as exp:
        for _ in range(4):
            exp.run(1)
            p, q = net.trained[-2:]
            found = exp.params()
            for name in BUFFERS:
                exact = (p[name].astype(np.float64) + q[name]) / 2
                np.testing.assert_array_equal(found[name], exact.astype(found[name].dtype))
            assert (found["1.running_var"] > 0).all()
            assert abs(found["0.weight"] - (p["0.weight"] + q["0.weight"]) / 2).max() > 0.01


def test_buffers_have_no_part_in_the_norm_that_is_clipped():
    net, limit = clouds(), 0.01
    clipping = Optimizer(1.0, modules=[("l2-global-clipping", {"max_norm": limit})])
    with experiment(net, NormPlan, training_args=ONE_EPOCH, agg_optimizer=clipping) as exp:
        start = exp.params()
        exp.run(1)
        moves = [exp.params()[n].astype(np.float64) - start[n] for n in start if n not in BUFFERS]
    assert np.sqrt(sum((each**2).sum() for each in moves)) == pytest.approx(limit, rel=1e-4)


class SmallPlan(TorchTrainingPlan):
    def init_dependencies(self):
        return ["from fedplug_declearn import Optimizer"]

    def init_model(self, model_args):
        return nn.Linear(3, 2).to(getattr(torch, model_args["dtype"]))

    def init_optimizer(self, optimizer_args):
        return Optimizer(**optimizer_args, modules=["momentum"])

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), shuffle=False)

    def training_step(self, data, target):
        dtype = self.model().weight.dtype
        return F.mse_loss(self.forward(data.to(dtype)).sum(1), target.to(dtype))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_single(dtype):
    net = clouds()
    args = {**ONE_EPOCH, "keep_optimizer_state": True, "optimizer_args": {"lr": 0.001}}
    with experiment(
        net, SmallPlan, model_args={"dtype": dtype}, training_args=args, agg_optimizer=Optimizer(0.05, modules=["adam"])
    ) as exp:
        formulas = {name: Formula("adam", 0.05) for name in exp.params()}
        for number in range(3):
            start = exp.params()
            exp.run(1)
            p, q = net.trained[-2:]
            for name, formula in formulas.items():
                wide = start[name].astype(np.float32)
                mean = ((p[name].astype(np.float64) + q[name].astype(np.float64)) / 2).astype(start[name].dtype)
                expected = formula.step(wide, wide - mean.astype(np.float32))
                found = exp.params()[name]
                assert found.dtype == (ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16)
                assert not np.array_equal(found, start[name])
                unit = 2.0**-8 if dtype == "bfloat16" else 2.0**-11  # a number is rounded by so much of itself
                np.testing.assert_allclose(found.astype(np.float32), expected, rtol=unit, atol=1e-6)
            assert {r["state"] for r in exp.training_replies()[number].values()} == {"kept" if number else "none"}


class CountingBowl(NumpyTrainingPlan):
    def init_model(self):
        return {"x": np.zeros(()), "seen": np.zeros(2, np.int64)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), batch_size=1)

    def training_step(self, data, target):
        self.model()["seen"][0] += int(data[0])
        error = self.model()["x"] - target[0]
        return 0.5 * data[0] * error**2, {"x": data[0] * error, "seen": np.zeros(2)}


def test_whole_numbers_follow_the_aggregate():
    with experiment(Net(bowls(TWO)), CountingBowl, agg_optimizer=Optimizer(0.1, 0.5, ["adam"], ["ridge"])) as exp:
        for number in (1, 2):
            exp.run(1)
            assert exp.params()["seen"].tolist() == [number * 20 * (1 + 10) // 2, 0]
            assert exp.params()["seen"].dtype == np.int64
            assert 0 < exp.params()["x"] < 0.25


class ManyBowls(NumpyTrainingPlan):
    def init_model(self, model_args):
        return {"x": np.zeros(model_args["size"])}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), batch_size=1)

    def training_step(self, data, target):
        error = self.model()["x"] - target[0]
        return 0.5 * data[0] * (error**2).sum(), {"x": data[0] * error}


def test_a_model_of_another_size_is_not_moved_by_what_was_learnt_about_the_old_one():
    settings: dict[str, Any] = {"model_args": {"size": 1}, "agg_optimizer": Optimizer(0.5, modules=["momentum"])}
    with experiment(Net(bowls(TWO)), ManyBowls, **settings) as exp:
        exp.run(1)
        exp.set_model_args({"size": 3}, keep_weights=False)
        with pytest.raises(UsageError, match="about another model") as caught:
            exp.run(1)
        assert "set_agg_optimizer(Optimizer(...))" in caught.value.cure
        exp.set_agg_optimizer(Optimizer(0.5, modules=["momentum"]))
        assert exp.run(1) == 1


# what belongs to the nodes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "message", "cure"),
    [
        (Optimizer(1.0, modules=["scaffold-client"]), "'scaffold-client' is for the nodes", "Use 'scaffold-server'"),
        (Optimizer(1.0, regularizers=["fedprox"]), "'fedprox' is for the nodes", "the plan's init_optimizer"),
    ],
)
def test_parts_for_the_nodes_are_refused_before_anything_is_sent(optimizer, message, cure):
    net = Net(bowls(TWO))
    with experiment(net, agg_optimizer=optimizer) as exp:
        with pytest.raises(UsageError, match=message) as caught:
            exp.run(1)
        assert cure in caught.value.cure
    assert net.sent == []
