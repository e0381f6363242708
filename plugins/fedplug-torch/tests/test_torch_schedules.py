"""Learning-rate schedules: over the rounds of an experiment, and within them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from fedplug import DataManager, Experiment
from fedplug.core.errors import FedplugError, ParamsError, PlanError
from fedplug.core.local_state import StateBook, keep, restore
from fedplug.core.training_args import TrainingArgs
from fedplug.core.training_plan import PlanSetup
from fedplug.simulation import Federation
from fedplug_torch import TorchTrainingPlan

MAKERS = {
    "step": lambda o: lr_scheduler.StepLR(o, 2, gamma=0.5),
    "milestones": lambda o: lr_scheduler.MultiStepLR(o, [1, 3], gamma=0.1),
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.7),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=6),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=2),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda count: 1 / (1 + count)),
    "one-cycle": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.5, total_steps=8),
    "warm-up": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, total_iters=2), lr_scheduler.ExponentialLR(o, 0.5)], milestones=[2]
    ),
}


class Plan(TorchTrainingPlan):
    make = None
    scheduler_unit = "round"

    def init_model(self):
        return nn.Linear(2, 1)

    def init_optimizer(self, optimizer_args):
        return torch.optim.SGD(self.model().parameters(), lr=optimizer_args["lr"], momentum=0.9)

    def init_scheduler(self, optimizer):
        return type(self).make(optimizer)

    def training_data(self):
        return DataManager(torch.zeros(4, 2), torch.zeros(4, 1))

    def training_step(self, data, target):
        return (self.forward(data) - target).pow(2).mean()


def ready(make, unit="round", number=0, lr=0.1, **args) -> TorchTrainingPlan:
    made = type("Plan", (Plan,), {"make": staticmethod(make), "scheduler_unit": unit})()
    made.setup(PlanSetup(round=number, training_args=TrainingArgs.from_dict({"optimizer_args": {"lr": lr}, **args})))
    return made


def train(plan, steps=1):
    """Step optimizer and scheduler, as the loop does; returns the rates that were used."""
    rates = []
    for _ in range(steps):
        plan.optimizer().zero_grad()
        plan.training_step(torch.ones(4, 2), torch.zeros(4, 1)).backward()
        rates.append(plan.optimizer().param_groups[0]["lr"])
        plan.optimizer().step()
        plan.scheduler().step()
    return rates


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_the_rate_of_a_round_depends_on_its_number_alone(make):
    whole = train(ready(make), 7)
    assert len(set(whole)) > 1
    apart = []
    for number in range(7):
        plan = ready(make, number=number)
        apart += train(plan)
        assert plan.optimizer()._opt_called
    assert apart == whole


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_schedule_within_rounds_begins_anew_or_goes_on(make):
    whole = train(ready(make, "epoch"), 7)
    first = ready(make, "epoch")
    assert train(first, 3) == whole[:3]
    assert train(ready(make, "epoch", number=1), 3) == whole[:3]
    book = StateBook()
    keep(first, book, optimizer=True)
    second = ready(make, "epoch", number=1)
    assert restore(second, StateBook(book.result()), optimizer=True) == ""
    assert train(second, 4) == whole[3:]


def test_a_schedule_that_goes_on_follows_a_rate_that_was_changed():
    first = ready(MAKERS["exponential"], "batch", lr=0.1)
    train(first, 2)
    arrays, values = first.read_optimizer()
    second = ready(MAKERS["exponential"], "batch", lr=0.2)
    second.write_optimizer(arrays, values)
    assert train(second, 2) == pytest.approx([0.2 * 0.7**2, 0.2 * 0.7**3], rel=8 * np.finfo(float).eps)


def test_a_schedule_over_rounds_is_not_kept():
    first = ready(MAKERS["exponential"], number=3)
    train(first)
    arrays, values = first.read_optimizer()
    assert "scheduler" not in values
    second = ready(MAKERS["exponential"], number=9)  # it was away for some rounds
    second.write_optimizer(arrays, values)
    assert train(second) == train(ready(MAKERS["exponential"], number=9))


def test_the_state_of_another_scheduler_is_refused():
    first = ready(MAKERS["exponential"], "batch")
    with pytest.raises(ParamsError, match=r"another scheduler \(ExponentialLR, now StepLR\)"):
        ready(MAKERS["step"], "batch").write_optimizer(*first.read_optimizer())
    arrays, values = first.read_optimizer()
    del values["state"]
    with pytest.raises(ParamsError, match="another version"):
        first.write_optimizer(arrays, values)


@pytest.mark.parametrize("unit", ["batch", "epoch", "round"])
@pytest.mark.parametrize("name", ["exponential", "cosine", "warm-up"])
def test_a_copy_of_a_backend_has_a_schedule_of_its_own(unit, name):
    plan = ready(MAKERS[name], unit, number=2)
    backend = plan.make_backend()
    train(plan)
    twin = backend.clone()
    assert twin.scheduler is not backend.scheduler
    assert twin.scheduler.optimizer is twin.optimizer
    assert train(twin._plan, 2) == train(plan, 2)


def test_a_schedule_that_steps_in_the_loop_goes_through_an_experiment():
    class Cosine(TorchTrainingPlan):
        scheduler_unit = "round"

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(1, 1)
                self.register_buffer("rate", torch.zeros((), dtype=torch.float64))

            def forward(self, x):
                return self.layer(x)

        def init_model(self):
            return self.Net()

        def init_scheduler(self, optimizer):
            return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.total_rounds())

        def training_data(self):
            return DataManager(self.dataset.column("x"), self.dataset.column("y"))

        def training_step(self, data, target):
            self.rate = self.optimizer().param_groups[0]["lr"]
            return F.mse_loss(self.forward(data), target)  # noqa: F821 - there by default

        def postprocess(self, params):
            return {**params, "rate": torch.tensor(self.rate, dtype=torch.float64)}

    x = np.ones((8, 1))
    experiment = Experiment(
        tags="simulation", transport=Federation({"a": (x, x), "b": (x, x)}), training_plan_class=Cosine,
        training_args={"optimizer_args": {"lr": 0.5}}, round_limit=4, seed=1, progress="quiet",
    )  # fmt: skip
    rates = []
    with experiment:
        for _ in range(4):
            experiment.run_once()
            rates.append(float(experiment.params()["rate"]))
    expected = [0.5 * (1 + np.cos(np.pi * number / 4)) / 2 for number in range(4)]
    assert rates == pytest.approx(expected, rel=32 * np.finfo(float).eps)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda _: None, r"must return a scheduler .*, but returned nothing \(is a return missing"),
        (lambda _: 0.1, "but returned a float"),
        (lr_scheduler.ReduceLROnPlateau, "steps by a metric"),
    ],
)
def test_what_is_no_schedule_is_told(make, words):
    with pytest.raises(PlanError, match=words):
        ready(make)


def test_a_unit_that_is_none_is_told():
    plan = ready(MAKERS["step"], "minute")
    from fedplug.core.trainer.plan_trainer import plan_trainer

    with pytest.raises(FedplugError, match="A scheduler steps per batch, epoch, round, not per 'minute'"):
        plan_trainer(plan, {})


def test_a_plan_without_a_schedule_has_none():
    class Bare(Plan):
        init_scheduler = property()  # as if it were not there

    plan = Bare()
    with pytest.raises(PlanError, match=r"self\.scheduler\(\) is not available yet"):
        plan.scheduler()
    plan.setup(PlanSetup())
    assert plan.scheduler() is None
