"""Plans of PyTorch and NumPy whose optimizer is ours: what a node trains is what declearn alone would, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from declearn.optimizer import Optimizer as Theirs
from declearn_kit import Bowl, Weights, bowls, experiment, vector
from torch import nn

from fedplug import DataManager, NumpyTrainingPlan
from fedplug.core.data import LoaderArgs
from fedplug.core.errors import PlanError, RoundError, UsageError
from fedplug.core.numpy_backend import NumpyBackend
from fedplug.core.plugins import default_host
from fedplug.core.trainer import Trainer
from fedplug.core.trainer.plan_trainer import plan_trainer
from fedplug.core.training_args import TrainingArgs
from fedplug.core.training_plan import PlanSetup
from fedplug.simulation import Federation
from fedplug_declearn import CosineDecay, Optimizer, StepDecay
from fedplug_torch import TorchTrainingPlan

RNG = np.random.default_rng(3)
X = RNG.normal(size=(16, 3)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5], np.float32) + 0.3).astype(np.float32)
BATCH, EPOCHS, ROUNDS = 6, 2, 2


class NetPlan(TorchTrainingPlan):
    """One hidden layer, and a layer that takes no part."""

    def init_dependencies(self):
        return ["from fedplug_declearn import Optimizer"]

    def init_model(self):
        made = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        made.register_parameter("unused", nn.Parameter(torch.ones(2)))
        return made

    def init_optimizer(self, optimizer_args):
        if optimizer_args.pop("native", False):
            return torch.optim.SGD(self.model().parameters(), **optimizer_args)
        rate = optimizer_args.pop("schedule", None) or optimizer_args["lr"]
        return Optimizer(**{**optimizer_args, "lr": rate})

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), shuffle=False)

    def training_step(self, data, target):
        return F.mse_loss(self.forward(data).squeeze(1), target)


class LinePlan(NumpyTrainingPlan):
    def init_dependencies(self):
        return ["from fedplug_declearn import Optimizer"]

    def init_model(self):
        return {"w": np.random.normal(size=3), "b": np.zeros(())}

    def init_optimizer(self, optimizer_args):
        return Optimizer(**optimizer_args)

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), shuffle=False)

    def training_step(self, data, target):
        error = data @ self.model()["w"] + self.model()["b"] - target
        return (error**2).mean(), {"w": 2 * error @ data / len(data), "b": 2 * error.mean()}


def trained(plan: type, keep: bool = False, x: Any = X, y: Any = Y, **optimizer_args: Any) -> tuple[Any, Any]:
    """The parameters before and after some rounds of one node."""
    args = {
        "epochs": EPOCHS, "loader_args": {"batch_size": BATCH}, "optimizer_args": optimizer_args,
        "keep_optimizer_state": keep,
    }  # fmt: skip
    with experiment(Federation({"n": (x, y)}), plan, training_args=args) as exp:
        first = exp.params()
        exp.run(ROUNDS)
        return first, exp.params()


def by_hand(plan: type, start: Any, keep: bool = False, rate: Any = lambda step, number: 0.05, **parts: Any) -> Any:
    """The same with declearn alone: no node, no experiment, no loop of ours."""
    torch_plan = issubclass(plan, TorchTrainingPlan)
    params = {name: np.array(start[name]) for name in start}
    net = NetPlan().init_model()
    optimizer, step = None, 0
    for number in range(ROUNDS):
        if optimizer is None or not keep:
            optimizer, step = Theirs(lrate=1.0, **parts), 0
        optimizer.start_round()
        for low in list(range(0, len(X), BATCH)) * EPOCHS:
            x, y = X[low : low + BATCH], Y[low : low + BATCH]
            if torch_plan:
                net.load_state_dict({name: torch.tensor(each) for name, each in params.items()})
                net.zero_grad()
                F.mse_loss(net(torch.tensor(x)).squeeze(1), torch.tensor(y)).backward()
                named = dict(net.named_parameters())
                gradients = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in named.items()}
                given = {name: torch.tensor(params[name]) for name in named}
            else:
                x, y = x.astype(np.float64), y.astype(np.float64)
                error = x @ params["w"] + params["b"] - y
                gradients = {"w": 2 * error @ x / len(x), "b": 2 * error.mean()}
                given = params
            moves = optimizer.compute_updates_from_gradients(
                Weights({n: given[n] for n in gradients}), vector(gradients)
            )
            params = {n: np.asarray(given[n] + rate(step, number) * moves.coefs[n]) for n in gradients}
            step += 1
    return params


def equal(params: Any, expected: Any) -> bool:
    return all(params[n].dtype == expected[n].dtype and np.array_equal(params[n], expected[n]) for n in params)


CASES = [["adam"], [("momentum", {"nesterov": True})], ["l2-global-clipping", "yogi"], []]


@pytest.mark.parametrize("modules", CASES, ids=str)
def test_a_torch_plan_trains_like_declearn_alone(modules):
    start, found = trained(NetPlan, lr=0.05, modules=modules)
    assert equal(found, by_hand(NetPlan, start, modules=modules))
    assert found["unused"].tolist() == [1.0, 1.0]
    assert not np.array_equal(found["0.weight"], start["0.weight"])


@pytest.mark.parametrize("modules", CASES, ids=str)
def test_a_numpy_plan_trains_like_declearn_alone(modules):
    start, found = trained(LinePlan, x=X.astype(np.float64), y=Y.astype(np.float64), lr=0.05, modules=modules)
    assert equal(found, by_hand(LinePlan, start, modules=modules))


@pytest.mark.parametrize("plan", [NetPlan, LinePlan])
def test_fedprox_begins_anew_in_each_round(plan):
    wide = {} if plan is NetPlan else {"x": X.astype(np.float64), "y": Y.astype(np.float64)}
    pulled = [("fedprox", {"alpha": 0.5})]
    start, found = trained(plan, keep=True, **wide, lr=0.05, regularizers=pulled)
    assert equal(found, by_hand(plan, start, keep=True, regularizers=pulled))
    assert not equal(found, trained(plan, **wide, lr=0.05)[1])


@pytest.mark.parametrize("plan", [NetPlan, LinePlan])
def test_adam_goes_on_over_rounds_with_the_bits_of_one_that_was_never_interrupted(plan):
    wide = {} if plan is NetPlan else {"x": X.astype(np.float64), "y": Y.astype(np.float64)}
    start, found = trained(plan, keep=True, **wide, lr=0.05, modules=["adam"])
    assert equal(found, by_hand(plan, start, keep=True, modules=["adam"]))
    assert not equal(found, trained(plan, **wide, lr=0.05, modules=["adam"])[1])


def test_without_modules_it_is_sgd():
    start, found = trained(NetPlan, lr=0.05)
    native, theirs = trained(NetPlan, lr=0.05, native=True)
    assert start == native
    assert found.allclose(theirs, atol=1e-6)
    assert not theirs.allclose(start, atol=1e-3)


def test_an_optimizer_of_torch_is_as_good_as_ever():
    start, found = trained(NetPlan, lr=0.05, native=True)
    net = NetPlan().init_model()
    net.load_state_dict({name: torch.tensor(start[name]) for name in start})
    sgd = torch.optim.SGD(net.parameters(), lr=0.05)
    for low in list(range(0, len(X), BATCH)) * EPOCHS * ROUNDS:
        sgd.zero_grad()
        F.mse_loss(net(torch.tensor(X[low : low + BATCH])).squeeze(1), torch.tensor(Y[low : low + BATCH])).backward()
        sgd.step()
    assert equal(found, {name: each.detach().numpy() for name, each in net.state_dict().items()})


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize(
    "schedule",
    [CosineDecay(0.1, length=8, final=0.01), StepDecay(0.1, 0.5, every=1, unit="round")],
    ids=lambda s: s.name,
)
def test_a_rate_may_be_scheduled_over_steps_and_over_rounds(schedule, keep):
    start, found = trained(NetPlan, keep=keep, schedule=schedule.plain(), modules=["momentum"])
    assert equal(found, by_hand(NetPlan, start, keep, schedule.rate, modules=["momentum"]))


def test_what_was_kept_for_other_layers_is_left_and_told():
    told: list[str] = []

    class Told(NetPlan):
        pass

    def trainer(frozen: bool, state: Any = None) -> Any:
        plan = ready(Told, {"lr": 0.05, "modules": ["momentum"]})
        plan.model()[0].weight.requires_grad_(not frozen)
        if state is not None:
            plan.write_optimizer(*state)
        data = {"train": default_host().wrap_data(DataManager(X, Y), plan.framework)}
        return plan, plan_trainer(plan, data, LoaderArgs(BATCH, shuffle=False), seed=1, log=told.append)

    plan, one = trainer(frozen=False)
    one.train()
    _, other = trainer(frozen=True, state=plan.read_optimizer())
    _, fresh = trainer(frozen=True)
    assert other.train().params == fresh.train().params
    assert told == ["What the optimizer has kept belongs to other parameters: it begins anew."]


def ready(plan_class: type, optimizer_args: dict[str, Any], **args: Any) -> Any:
    torch.manual_seed(5)
    plan = plan_class()
    plan.setup(PlanSetup(training_args=TrainingArgs.from_dict({"optimizer_args": optimizer_args, **args})))
    return plan


@pytest.mark.parametrize("policy", ["keep", "per_routine"])
def test_a_trainer_that_was_saved_goes_on_with_the_same_bits(policy, tmp_path):
    def made() -> Any:
        plan = ready(NetPlan, {"schedule": CosineDecay(0.1, 9).plain(), "modules": ["adam"]})
        data = {"train": default_host().wrap_data(DataManager(X, Y), plan.framework)}
        return plan_trainer(plan, data, LoaderArgs(BATCH, shuffle=False), seed=1, optimizer_state=policy)

    whole, first, second = made(), made(), made()
    whole.train()
    expected = whole.train().params
    first.train()
    first.save_model(tmp_path / "saved", 1)
    assert second.load_model(tmp_path / "saved") == 1
    assert second.train().params == expected


def test_fedprox_begins_anew_in_each_training_of_a_trainer_that_keeps_its_optimizer():
    model = {"w": np.array(1.0)}
    pulled = Optimizer(0.5, regularizers=[("fedprox", {"alpha": 0.25})])
    backend = NumpyBackend(model, lambda data, target: (0.0, {"w": np.array(4.0)}), optimizer=pulled)
    args = {"num_updates": 2, "loader_args": {"batch_size": 2}}
    trainer = Trainer(backend, {"train": (X, Y)}, args=args, seed=1, optimizer_state="keep")
    ends = [float(trainer.train().params["w"]) for _ in range(2)]
    # each time a step of -2, and one of -2 + 0.5 * 0.25 * 2 back towards where the training began
    assert ends == [1.0 - 3.75, 1.0 - 7.5]


class Scheduled(NetPlan):
    def init_scheduler(self, optimizer):
        raise AssertionError("it is not asked")


def test_a_scheduler_of_torchs_is_refused():
    with pytest.raises(PlanError, match=r"init_scheduler belongs to torch\.optim, .* returned Optimizer") as caught:
        ready(Scheduled, {"lr": 0.1})
    assert "Optimizer(lr=CosineDecay(" in caught.value.cure


def test_local_differential_privacy_is_refused():
    local = {"type": "local", "sigma": 1.0, "clip": 1.0}
    with pytest.raises(UsageError, match=r"protects torch\.optim's optimizers, not Optimizer") as caught:
        ready(NetPlan, {"lr": 0.1}, dp_args=local)
    assert "type 'central'" in caught.value.cure


def test_a_module_of_the_researchers_is_refused_at_a_node():
    args = {"num_updates": 1, "optimizer_args": {"lr": 0.1, "modules": ["scaffold-server"]}}
    with (
        experiment(Federation(bowls({"p": (1.0, 0.0)})), Bowl, training_args=args) as exp,
        pytest.raises(RoundError, match=r"'scaffold-server' is for the researcher.*\n.*Use 'scaffold-client' here"),
    ):
        exp.run(1)
