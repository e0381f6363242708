"""The lean step with each optimizer of torch: the bits of the own loop, and never where somebody could tell."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import optimizer_plans as plans
import pytest
import torch
from engine_kit import outcome
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from fedplug.core.errors import FedplugError
from fedplug.simulation import IID, Engine, Federation, SerialEngine
from fedplug_torch import lean_rules, recorded_step
from fedplug_torch.params import bits_equal

ARGS: dict[str, Any] = {"epochs": 3, "loader_args": {"batch_size": 8}}


def run(plan: type, engine: Engine, **optimizer_args: Any) -> Any:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((78, 5)).astype(np.float32), rng.integers(0, 3, 78)
    federation = Federation.from_arrays(x, y, partition=IID(3), seed=2, engine=engine)
    return outcome(federation, plan, training_args={**ARGS, "optimizer_args": {"lr": 0.05, **optimizer_args}})


@pytest.fixture(params=["own steps", "steps played back"])
def said(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    """What the simulation says, with steps that are the plan's own and with steps that are played back soon."""
    monkeypatch.setattr(recorded_step, "WORTH", 10_000 if request.param == "own steps" else 2)
    caplog.set_level(logging.INFO, "fedplug.simulation")
    return caplog


def check(said: pytest.LogCaptureFixture, plan: type, **optimizer_args: Any) -> None:
    """That a plan trains by the lean step, and comes to what it comes to by its own loop."""
    found = run(plan, SerialEngine(), **optimizer_args)
    name = optimizer_args.get("kind", "SGD")
    assert said.messages == [f"{plan.__name__} trains by the lean step: its training is nothing but steps of {name}."]
    assert found == run(plan, SerialEngine(lean=False), **optimizer_args)


@pytest.mark.parametrize(
    "args",
    [
        {"kind": "SGD", "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01, "maximize": True},
        {"kind": "SGD", "foreach": False},
        {"kind": "SGD", "fused": True},
        {"kind": "Adam", "weight_decay": 0.01},
        {"kind": "Adam", "amsgrad": True, "betas": [0.5, 0.8], "eps": 1e-3},
        {"kind": "Adam", "fused": True},
        {"kind": "AdamW"},
        {"kind": "Adadelta", "lr": 1.0},
        {"kind": "Adagrad", "initial_accumulator_value": 0.1},
        {"kind": "Adamax"},
        {"kind": "ASGD", "t0": 3},
        {"kind": "NAdam"},
        {"kind": "RAdam"},
        {"kind": "RMSprop", "momentum": 0.9, "centered": True},
        {"kind": "Rprop"},
    ],
)
def test_each_optimizer_gives_the_bits_and_figures_of_the_own_loop(said, args) -> None:
    check(said, plans.Chosen, **args)


@pytest.mark.parametrize(
    "args",
    [
        {"kind": "SGD"},
        {"kind": "SGD", "momentum": 0.9, "weight_decay": 0.01},
        {"kind": "Adam", "weight_decay": 0.01},
        {"kind": "RMSprop", "momentum": 0.9},
    ],
)
@pytest.mark.parametrize("plan", [plans.Partly, plans.Skewed, plans.Twins])
def test_odd_groups_and_gradients_give_the_bits_of_the_own_loop(said, plan, args) -> None:
    check(said, plan, **args)


# laws of the rules -----------------------------------------------------------------------------------------


def some(values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


GROUP = st.fixed_dictionaries({"lr": some([0.1, 1e-3, 1]), "weight_decay": some([0, 0.1]), "maximize": st.booleans()})
MOMENTUM = some(
    [
        {"momentum": 0, "dampening": 0, "nesterov": False},
        {"momentum": 0.9, "dampening": 0, "nesterov": True},
        {"momentum": 0.5, "dampening": 0.3, "nesterov": False},
    ]
)
BETAS = st.fixed_dictionaries(
    {"betas": some([(0.9, 0.999), (0.0, 0.5)]), "eps": some([1e-8, 0.1]), "amsgrad": st.booleans()}
)
CASES = st.one_of(
    st.tuples(st.just(torch.optim.SGD), st.lists(st.tuples(GROUP, MOMENTUM), min_size=1, max_size=2)),
    st.tuples(some([torch.optim.Adam, torch.optim.AdamW]), st.lists(st.tuples(GROUP, BETAS), min_size=1, max_size=2)),
)
SHAPES = [(3, 5), (17,), (), (40, 33)]


def made(case: Any, dtype: torch.dtype, frozen: int) -> tuple[torch.optim.Optimizer, list[torch.Tensor]]:
    """An optimizer with the groups of a case, each of which has parameters of all shapes."""
    torch_rng = torch.Generator().manual_seed(1)
    kind, groups = case
    params = [[nn.Parameter(torch.randn(shape, generator=torch_rng).to(dtype)) for shape in SHAPES] for _ in groups]
    params[0][frozen].requires_grad_(False)
    chosen = [{**one, **two, "params": each} for (one, two), each in zip(groups, params, strict=True)]
    return kind(chosen), [each for group in params for each in group]


@given(
    case=CASES, dtype=some([torch.float32, torch.float64, torch.float16]), frozen=st.integers(0, 3),
    idle=st.lists(st.sets(st.integers(0, 7)), min_size=1, max_size=4), again=st.booleans(),
)  # fmt: skip
@settings(deadline=None)
def test_a_rule_that_is_written_out_moves_parameters_as_the_optimizer_does(case, dtype, frozen, idle, again) -> None:
    """Whatever the settings of the groups, and whichever parameters take part in a step; and once more from anew."""
    theirs, expected = made(case, dtype, frozen)
    mine, found = made(case, dtype, frozen)
    rule = lean_rules.rule_of(mine)
    assert isinstance(rule, lean_rules.ByOptimizer) == (dtype is torch.float16)
    if again:
        start = [each.detach().clone() for each in found]
        rule.move([torch.ones_like(each) for each in found if each.requires_grad])
        for each, before in zip(found, start, strict=True):
            each.detach().copy_(before)
    rule.begin()
    rng = torch.Generator().manual_seed(2)
    for number, left_out in enumerate(idle):
        for place, parameter in enumerate(expected):
            gradient = (torch.randn(parameter.shape, generator=rng) * 10**-number).to(dtype)
            parameter.grad = gradient if place not in left_out and parameter.requires_grad else None
        found_of = enumerate(parameter.grad for parameter in expected if parameter.requires_grad)
        gradients = {place: gradient.clone() for place, gradient in found_of if gradient is not None}
        theirs.step()
        if gradients:
            rule.move(list(gradients.values()), list(gradients) if left_out else None)
    assert all(bits_equal(each.detach(), other.detach()) for each, other in zip(expected, found, strict=True))


class Rounded(lean_rules.Adam):
    """Comes to other bits."""

    def move(self, gradients: lean_rules.Tensors, numbers: lean_rules.Numbers = None) -> None:
        super().move([each * (1 + 1e-6) for each in gradients], numbers)


class Outdated(lean_rules.Adam):
    """Calls torch as it cannot be called."""

    def move(self, gradients: lean_rules.Tensors, numbers: lean_rules.Numbers = None) -> None:
        raise TypeError("an argument is missing")


@pytest.mark.parametrize("rule", [Rounded, Outdated])
def test_a_rule_that_another_version_of_torch_has_made_false_is_not_used(said, monkeypatch, rule) -> None:
    monkeypatch.setitem(lean_rules._WRITTEN_OUT, torch.optim.Adam, rule)
    check(said, plans.Chosen, kind="Adam")


# what needs the own loop -----------------------------------------------------------------------------------


REASONS: dict[type, str] = {
    plans.Showing: "the plan works with its optimizer by itself",
    plans.Overridden: "the optimizer has a step of its own",
    plans.Called: "the optimizer has hooks",
    plans.Derived: "the optimizer is Slow, which is not one of torch.optim",
    plans.Exact: "the optimizer is SGD with a lr that is no plain number",
}


@pytest.mark.parametrize("plan", REASONS, ids=lambda plan: plan.__name__)
def test_a_plan_that_does_more_with_its_optimizer_runs_its_own_loop(said, plan) -> None:
    found = run(plan, SerialEngine(), kind="SGD", momentum=0.9)
    assert said.messages[-1] == f"{plan.__name__} trains by its own loop: {REASONS[plan]}."
    assert sum("own loop" in text for text in said.messages) == 1
    assert found == run(plan, SerialEngine(lean=False), kind="SGD", momentum=0.9)


@pytest.fixture
def hook_for_all() -> Iterator[None]:
    handle = register_optimizer_step_pre_hook(lambda *args: None)
    yield
    handle.remove()


@pytest.mark.usefixtures("hook_for_all")
def test_hooks_of_all_optimizers_need_the_own_loop(said) -> None:
    run(plans.Chosen, SerialEngine(), kind="Adam")
    assert said.messages == ["Chosen trains by its own loop: the optimizer has hooks."]


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_several_tensors_at_once_need_the_own_loop(said, kind) -> None:
    found = run(plans.Chosen, SerialEngine(), kind=kind, foreach=True)
    assert said.messages == [f"Chosen trains by its own loop: the optimizer is {kind} with foreach=True."]
    assert found == run(plans.Chosen, SerialEngine(lean=False), kind=kind, foreach=True)


def test_an_optimizer_that_cannot_be_used_says_what_it_says_in_the_own_loop(said) -> None:
    with pytest.raises(FedplugError) as by_itself:
        run(plans.Chosen, SerialEngine(lean=False), kind="LBFGS")
    with pytest.raises(FedplugError) as caught:
        run(plans.Chosen, SerialEngine(), kind="LBFGS")
    assert str(caught.value) == str(by_itself.value)
    assert said.messages == [
        "Chosen trains by its own loop: the optimizer is LBFGS, which asks for the loss several times in a step."
    ]
