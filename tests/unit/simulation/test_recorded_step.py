"""Steps that are recorded and played back: the bits of the plan's own step, and never where one could tell."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

import cohort_plans as plans
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cohort_plans import Chain, Tied
from engine_kit import result_of
from torch import nn

from fedplug import Experiment
from fedplug.simulation import IID, Federation, SerialEngine
from fedplug_torch import recorded_step, tape
from fedplug_torch.lean import TorchLeanStep

ARGS: dict[str, Any] = {"epochs": 4, "loader_args": {"batch_size": 8}, "optimizer_args": {"lr": 0.1}, "log_interval": 2}
STEPS = 4 * 2 * 4 * 4
"""Nodes, rounds, epochs, and batches in each: three of 8 samples and one of 2."""


def run(plan: type, engine: Any, args: dict[str, Any] | None = None) -> Any:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((104, 5)).astype(np.float32), rng.integers(0, 3, 104)
    federation = Federation.from_arrays(x, y, partition=IID(4), seed=2, engine=engine)
    with Experiment(
        tags="simulation", transport=federation, training_plan_class=plan, training_args={**ARGS, **(args or {})},
        round_limit=2, seed=5, progress="quiet", save_breakpoints=False,
    ) as exp:  # fmt: skip
        exp.run()
        return result_of(exp)


@pytest.fixture
def own_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Records are worth their while soon; the sizes of the batches whose step was the plan's own."""
    monkeypatch.setattr(recorded_step, "WORTH", 3)
    sizes, own = list[int](), TorchLeanStep._own

    def counted(self: Any, data: Any, target: Any) -> Any:
        sizes.append(len(next(iter(data.values())) if isinstance(data, dict) else data))
        return own(self, data, target)

    monkeypatch.setattr(TorchLeanStep, "_own", counted)
    return sizes


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "fedplug.simulation")
    return caplog


def refusals(said: pytest.LogCaptureFixture) -> list[str]:
    return [text for text in said.messages if "played back" in text]


class Wide(Chain):
    """More parameters than the usual, some of them in no step; a convolution, a pool, and a norm over features."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fold = nn.Sequential(
                nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 6, 2), nn.ReLU(inplace=True), nn.MaxPool1d(2)
            )
            self.norm = nn.GroupNorm(2, 6)
            self.out = nn.Linear(12, 3)
            self.idle = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> Any:
            return self.out(self.norm(self.fold(x)).flatten(1))


class Twin(Tied):
    """One tensor under two names, a norm, and a loss that is a sum."""

    def training_step(self, data: Any, target: Any) -> Any:
        weights = sum(p.square().sum() for p in self.model().parameters())
        smooth = F.cross_entropy(self.forward(data), target, weight=torch.tensor([1.0, 2.0, 0.5]), label_smoothing=0.1)
        return smooth + 1e-3 * weights


PLAYED = [
    plans.Chain, plans.Straight, Twin, plans.Product, plans.Embedded, plans.Unlabelled, plans.Inner,
    plans.Folding, plans.Clamping, Wide,
]  # fmt: skip


@pytest.mark.parametrize("momentum", [0, 0.9])
@pytest.mark.parametrize("plan", PLAYED, ids=lambda plan: plan.__name__)
def test_steps_that_are_played_back_give_the_bits_of_the_plans_own_loop(own_steps, said, plan, momentum) -> None:
    args = {"optimizer_args": {"lr": 0.05, "momentum": momentum, "weight_decay": 0.01}}
    found = run(plan, SerialEngine(), args)
    assert refusals(said) == []
    # of each of two sizes: those before the record, the one that it is made on, and those that it is compared on
    assert own_steps == [8, 8, 8, 2, *(each for each in own_steps[4:])]
    assert sorted(own_steps) == [2] * 6 + [8] * 6
    assert found == run(plan, SerialEngine(lean=False), args)


@pytest.mark.parametrize(
    "args",
    [
        {"loader_args": {"batch_size": 8, "shuffle": False}},
        {"loader_args": {"batch_size": 8, "drop_last": True}, "threads": 2},
        {"test_ratio": 0.3, "random_seed": 3},
        {"optimizer_args": {"lr": 0.1, "momentum": 0.9, "nesterov": True}},
    ],
)
def test_they_do_so_whatever_the_training_arguments_are(own_steps, said, args) -> None:
    found = run(plans.Chain, SerialEngine(), args)
    assert refusals(said) == []
    assert 0 < len(own_steps) < STEPS / 4
    assert found == run(plans.Chain, SerialEngine(lean=False), args)


def test_a_record_is_made_of_a_layout_that_comes_often(own_steps, monkeypatch) -> None:
    monkeypatch.setattr(recorded_step, "WORTH", 50)
    run(plans.Chain, SerialEngine())
    assert own_steps.count(8) == 50 + 3
    assert own_steps.count(2) == STEPS / 4


@pytest.fixture
def no_more_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded_step, "_MOST", 1)


@pytest.mark.usefixtures("no_more_records")
def test_the_number_of_records_is_bounded(own_steps) -> None:
    found = run(plans.Chain, SerialEngine())
    assert (own_steps.count(8), own_steps.count(2)) == (6, STEPS / 4)
    assert found == run(plans.Chain, SerialEngine(lean=False))


class Importing(Chain):
    def training_step(self, data: Any, target: Any) -> Any:
        import time

        return F.cross_entropy(self.forward(data), target) * (1 if time.perf_counter() > 0 else 2)


class Listening(Chain):
    """Leaves the arithmetic, by a way that no operation shows."""

    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(self.forward(data), target) * float(np.asarray(data.numpy()).max())


class Unrolled(Chain):
    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(self.forward(data), target) * (1 + len(set(target.tolist())))


class Formatting(Chain):
    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(self.forward(data), target) * len(f"{data[0, 0]}")


class Choosing(Chain):
    """How many of its samples count depends on their values."""

    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(self.forward(data), target) + self.forward(data)[target != 1].square().sum()


class Sized(Chain):
    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(self.forward(data), target) * len(self.dataset)


REASONS: dict[type, str] = {
    Importing: "its step imports 'time'",
    Listening: "training looks at values of tensors (numpy)",
    Unrolled: "training looks at values of tensors (tolist)",
    Formatting: "training looks at values of tensors",
    Choosing: "training looks at values of tensors",
    Sized: "its step depends on the node's dataset",
    plans.Tied: "training looks at values of tensors",  # F.one_hot does, whether they are classes
    plans.Situated: "its step depends on the node's round",
    plans.Normed: "training writes into a parameter, a buffer or the batch",
    plans.Deciding: "training looks at values of tensors",
    plans.Reading: "training looks at values of tensors",
    plans.Scaling: "training writes into a parameter, a buffer or the batch",
    plans.Numbering: "its step uses the global 'COUNTS', which could change",
    plans.Timed: "its step uses the module 'time'",
    plans.Listing: "Listing.seen could change",
    plans.Double: "its loss is not one float32",
    plans.Half: "its loss is not one float32",
}


@pytest.mark.parametrize("plan", REASONS, ids=lambda plan: plan.__name__)
def test_what_a_record_would_lose_is_not_recorded(own_steps, said, plan) -> None:
    found = run(plan, SerialEngine())
    assert refusals(said) == [f"The steps of {plan.__name__} are not played back from a record: {REASONS[plan]}."]
    assert not any("by its own loop" in text for text in said.messages)
    assert len(own_steps) == STEPS
    assert found == run(plan, SerialEngine(lean=False))


class Tallying(Chain):
    """Counts in its class, where no instance shows it."""

    class Net(Chain.Net):
        calls: ClassVar[int] = 1

        def forward(self, x: torch.Tensor) -> Any:
            type(self).calls = 2
            return super().forward(x)


class Cooling(Chain):
    """Does by itself what a scheduler is for."""

    def training_step(self, data: Any, target: Any) -> Any:
        self.optimizer().param_groups[0]["lr"] = 0.01
        return F.cross_entropy(self.forward(data), target)


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (Tallying, "the plan or its model has changed its 'calls' in training"),
        (Cooling, "the plan works with its optimizer by itself"),
    ],
)
def test_what_a_training_leaves_behind_needs_the_own_loop(own_steps, said, plan, reason) -> None:
    found = run(plan, SerialEngine())
    assert said.messages[-1] == f"{plan.__name__} trains by its own loop: {reason}."
    assert found == run(plan, SerialEngine(lean=False))


def changed(number: int, change: Any) -> Any:
    """A program one of whose results is another one."""

    def wrong(graph: Any, constants: Any) -> Any:
        play = tape.program(graph, constants)
        return lambda *leaves: tuple(change(out) if n == number else out for n, out in enumerate(play(*leaves)))

    return wrong


PLANTED = {
    "another loss": changed(0, lambda loss: loss * (1 + 1e-6)),
    "another gradient, by a bit": changed(1, lambda gradient: torch.nextafter(gradient, gradient + 1)),
    "no gradient": changed(2, lambda gradient: None),
    "another shape": changed(4, lambda gradient: gradient.reshape(-1, 1)),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_record_that_comes_to_other_bits_is_not_trusted(own_steps, said, monkeypatch, bug) -> None:
    monkeypatch.setattr(recorded_step, "program", PLANTED[bug])
    found = run(plans.Chain, SerialEngine())
    [text] = refusals(said)
    assert text.endswith("from a record: the record of its step comes to other bits than the step.")
    assert found == run(plans.Chain, SerialEngine(lean=False))


def test_what_cannot_be_recorded_for_another_reason_goes_on_by_itself(own_steps, said, monkeypatch) -> None:
    def broken(*args: Any) -> Any:
        raise RuntimeError("no such luck")

    monkeypatch.setattr(recorded_step, "program", broken)
    found = run(plans.Chain, SerialEngine())
    assert refusals(said) == [
        "The steps of Chain are not played back from a record: its step cannot be recorded (RuntimeError)."
    ]
    assert found == run(plans.Chain, SerialEngine(lean=False))
