"""Plans that look at what a simulation leaves out, or keep something where no plan shows it: found out in time."""

from __future__ import annotations

import contextlib
import io
import logging
from functools import cache
from typing import Any

import numpy as np
import odd_plans as plans
import pytest
import torch
from engine_kit import Told

from fedplug import Experiment, QuorumStrategy
from fedplug.core.helper_import import forget
from fedplug.core.plan_source import bundle_plan, load_plan
from fedplug.simulation import IID, CohortEngine, Federation, SerialEngine
from fedplug_torch import recorded_step
from fedplug_torch.lean import TorchLeanStep

ARGS: dict[str, Any] = {"epochs": 4, "loader_args": {"batch_size": 8}, "optimizer_args": {"lr": 0.1}, "log_interval": 3}


def run(plan: type, engine: Any, args: dict[str, Any] | None = None, **settings: Any) -> Any:
    """All that comes out of an experiment with a plan that nobody has loaded before."""
    forget(load_plan(bundle_plan(plan)).__module__)  # type: ignore[type-abstract]
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((104, 5)).astype(np.float32), rng.integers(0, 3, 104)
    federation = Federation.from_arrays(x, y, partition=IID(4), seed=2, engine=engine)
    told, shown = Told(), io.StringIO()
    with (
        contextlib.redirect_stdout(shown),
        Experiment(
            tags="simulation", transport=federation, training_plan_class=plan, training_args={**ARGS, **(args or {})},
            round_limit=3, seed=5, progress="quiet", save_breakpoints=False, **settings,
        ) as exp,
    ):  # fmt: skip
        exp.add_monitor(told)
        exp.run()
        replies = {
            (number, node): {**reply, "timing": None}
            for number, each in exp.history.replies().items()
            for node, reply in each.items()
        }
        return {"params": exp.params(), "replies": replies, "signs": told.signs, "shown": shown.getvalue()}


@cache
def own(plan: type, momentum: float = 0.0) -> Any:
    """What comes out of the plan's own loop, which is what has to come out of all others."""
    return run(plan, SerialEngine(lean=False), {"optimizer_args": {"lr": 0.1, "momentum": momentum}})


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """The log, where records are worth their while soon."""
    monkeypatch.setattr(recorded_step, "WORTH", 3)
    caplog.set_level(logging.INFO, "fedplug.simulation")
    return caplog


PLACES = "the plan freezes or replaces parameters by itself, or adds hooks to them"
OTHERS = "the plan or its model has got other attributes in training"
GRADIENTS = "the plan works with gradients by itself"

OWN_LOOP: dict[type, str] = {
    plans.TiedByData: "the model has two tensors over the same memory",
    plans.Rebinding: PLACES,
    plans.Thawing: PLACES,
    plans.Exchanging: "the plan or its model has changed its 'act' in training",
    plans.Hooking: OTHERS,
    plans.HookingTensors: PLACES,
    plans.LookingBack: GRADIENTS,
    plans.ClippingLate: GRADIENTS,
    plans.KnowingItsOptimizer: "the plan works with its optimizer by itself",
    plans.Forking: "the plan looks at random streams (fork_rng)",
    plans.KnowingItsSeed: "the plan looks at random streams (initial_seed)",
    plans.KnowingTheStream: "the plan looks at random streams (getstate)",
    plans.Greeting: "the plan calls print()",
    plans.Telling: "the plan calls print()",
    plans.HoldingAGenerator: "the plan keeps something by itself (self.draw)",
    plans.Made: "its set-up changes Made",
    plans.MadeOutside: "its set-up changes odd_plans.COUNTS",
    plans.Balanced: "its training_data changes the model",
    plans.Starting: "its training_data changes the model",
    plans.CountingInVain: "the plan or its model has changed its 'steps' in training",
    plans.DroppingInVain: "training draws random numbers",
    plans.HalfSaved: "the model has a parameter that its state_dict leaves out",
}


@pytest.mark.parametrize("engine", [SerialEngine, pytest.param(CohortEngine, marks=pytest.mark.slow)])
@pytest.mark.parametrize("plan", OWN_LOOP, ids=lambda plan: plan.__name__)
def test_a_plan_that_would_notice_has_its_own_loop(said, plan, engine) -> None:
    found = run(plan, engine(), {"optimizer_args": {"lr": 0.1, "momentum": 0.9}})
    assert said.messages[-1] == f"{plan.__name__} trains by its own loop: {OWN_LOOP[plan]}."
    assert found == own(plan, 0.9)


NOT_RECORDED: dict[type, str] = {
    plans.Defaults: "its step uses a default value of training_step, which could change",
    plans.Holding: "its step uses the global 'COUNTS', which could change",
    plans.Wrapped: "its step uses the global 'COUNTS', which could change",
    plans.Inside: "its step sets an attribute, 'steps'",
    plans.InsideListed: "Schedule.steps could change",
    plans.Ticking: "its step uses the global 'tick', which could change",
    plans.Preset: "its step uses the global 'COUNTS', which could change",
    plans.Drawn: "its step uses the global 'drawn', which could change",
    plans.Marked: "Marked.training_step has attributes, which could change",
    plans.Catching: "training looks at values of tensors",
    plans.CountingBackwards: "its step uses the global 'COUNTS', which could change",
}


@pytest.mark.parametrize("plan", NOT_RECORDED, ids=lambda plan: plan.__name__)
def test_a_step_that_depends_on_what_no_plan_shows_is_not_played_back(said, plan) -> None:
    found = run(plan, SerialEngine())
    refusal = f"The steps of {plan.__name__} are not played back from a record: {NOT_RECORDED[plan]}."
    assert refusal in said.messages
    assert found == own(plan)


@pytest.mark.parametrize("plan", NOT_RECORDED, ids=lambda plan: plan.__name__)
def test_nor_is_it_stacked(said, plan) -> None:
    found = run(plan, CohortEngine())
    assert said.messages[0].startswith(f"{plan.__name__} trains its nodes one by one: ")
    assert found == own(plan)


@pytest.mark.parametrize("engine", [SerialEngine, CohortEngine])
def test_a_plan_that_ends_python_fails_as_in_its_own_loop(said, engine) -> None:
    texts = []
    for each in (engine(), SerialEngine(lean=False)):
        with pytest.raises(Exception, match="SystemExit: 3") as caught:
            run(plans.Exiting, each)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("engine", [SerialEngine, CohortEngine])
def test_a_plan_that_counts_the_nodes_whose_data_it_gives_is_asked_at_each(said, engine) -> None:
    found = run(plans.Served, engine())
    assert said.messages[-2].startswith("Served trains by the lean step")
    assert found == run(plans.Served, SerialEngine(lean=False))


def test_what_a_training_has_told_before_it_fails_is_told_once(said) -> None:
    found, own = (
        run(plans.Erring, engine, node_selection_strategy=QuorumStrategy(0.5))
        for engine in (SerialEngine(), SerialEngine(lean=False))
    )
    assert "Erring trains by its own loop: it fails (ValueError)." in said.messages
    assert found == own


def test_gradients_that_a_plan_switches_off_are_on_again(said) -> None:
    found = run(plans.SwitchingOff, SerialEngine())
    assert torch.is_grad_enabled()
    assert found == run(plans.SwitchingOff, SerialEngine(lean=False))


@pytest.mark.parametrize(
    "args",
    [
        {"kind": "Adam", "lr": 0.01},
        {"kind": "Adam", "lr": 0.01, "amsgrad": True, "weight_decay": 0.1},
        {"kind": "SGD", "lr": 0.05, "momentum": 0.9, "dampening": 0.5},
    ],
    ids=str,
)
def test_a_parameter_that_takes_part_in_some_steps_only_has_its_own_number_of_steps(said, args) -> None:
    found = run(plans.Sometimes, CohortEngine(), {"optimizer_args": args})
    assert said.messages == ["Sometimes trains with stacked parameters, several nodes at once."]
    own = run(plans.Sometimes, SerialEngine(lean=False), {"optimizer_args": args})
    for name, value in own["params"].items():
        np.testing.assert_allclose(found["params"][name], value, rtol=0, atol=1e-5 * np.abs(value).max())


def test_tensors_lie_where_they_do_in_the_own_loop(said, monkeypatch) -> None:
    places, init = [], TorchLeanStep.__init__

    def noting(self: Any, plan: Any) -> None:
        tensors = list(plan.model().state_dict(keep_vars=True).values())
        before = [tensor.data_ptr() for tensor in tensors]
        init(self, plan)
        places.append((before, [tensor.data_ptr() for tensor in tensors]))

    monkeypatch.setattr(TorchLeanStep, "__init__", noting)
    found = run(plans.Spectral, SerialEngine())
    [(before, after)] = places
    assert before == after
    assert not any("by its own loop" in text for text in said.messages)
    assert found == run(plans.Spectral, SerialEngine(lean=False))
