"""The engine that stacks nodes: what it comes to is what one after the other comes to; and when it does not stack."""

from __future__ import annotations

import logging
import re
import shutil
import types
from typing import Any

import cohort_plans as plans
import numpy as np
import pytest
import torch
import torch._inductor.config
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedplug import Experiment, Monitor, QuorumStrategy
from fedplug.core.errors import UsageError
from fedplug.core.markers import hookimpl
from fedplug.core.messages import TaskKey, TrainRequest
from fedplug.core.plan_source import bundle_plan
from fedplug.core.plugins import PluginHost
from fedplug.core.trainer.hooks import make_hook
from fedplug.simulation import IID, Dirichlet, Federation, Quantity, SerialEngine
from fedplug.simulation.cohort import CohortEngine
from fedplug.simulation.engines import Task
from fedplug_torch import cohort_steps

ARGS: dict[str, Any] = {"epochs": 2, "loader_args": {"batch_size": 8}, "optimizer_args": {"lr": 0.1}, "log_interval": 2}

CLOSE = 1e-5
"""Over the largest value of each array: what the engine promises."""

STACKABLE = [
    plans.Straight, plans.Tied, plans.Product, plans.Embedded, plans.Unlabelled, plans.Double, plans.Inner,
]  # fmt: skip

STACKED = "trains with stacked parameters, several nodes at once."


class Progresses(Monitor):
    """Keeps what the nodes tell while they train."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.losses: list[float] = []
        self.failures: dict[str, str] = {}

    def dropped(self, node_id: str, reason: str) -> None:
        self.failures[node_id] = reason

    def progress(self, node_id: str, progress: Any) -> None:
        self.told.append((node_id, progress.step, progress.total_steps, progress.epoch, progress.samples))
        self.losses.append(progress.metrics["loss"])


class Found:
    """What an experiment came to."""

    def __init__(self, exp: Experiment, told: Progresses) -> None:
        self.params, self.told, self.losses = exp.params(), told.told, list(told.losses)
        self.replies: list[Any] = []
        self.failures = told.failures
        for number, replies in exp.history.replies().items():
            for node, reply in replies.items():
                metrics = reply.pop("metrics", {})
                self.losses += [value for _, value in sorted(metrics.items())]
                self.replies.append((number, node, {**reply, "timing": None, "params": None}))


def run(plan: type, engine: Any, args: dict[str, Any] | None = None, partition: Any = None, **more: Any) -> Found:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((104, 5)).astype(np.float32), rng.integers(0, 3, 104)
    data = more.pop("data", (x, y))
    told = Progresses()
    federation = Federation.from_arrays(
        *data, partition=partition or IID(4), seed=2, engine=engine, host=more.pop("host", None)
    )
    with Experiment(
        tags="simulation", transport=federation, training_plan_class=plan, training_args={**ARGS, **(args or {})},
        round_limit=more.pop("rounds", 2), seed=5, progress="quiet", save_breakpoints=False, **more,
    ) as exp:  # fmt: skip
        exp.add_monitor(told)
        exp.run()
        return Found(exp, told)


def difference(found: Any, expected: Any) -> float:
    """The largest of all arrays, over the largest value of each."""
    worst = 0.0
    for name, value in expected.items():
        scale = float(np.abs(value).max(initial=0.0)) or 1.0
        worst = max(worst, float(np.abs(found[name].astype(float) - value).max(initial=0.0)) / scale)
    return worst


def assert_same(found: Found, expected: Found, close: float = CLOSE) -> None:
    assert difference(found.params, expected.params) <= close
    assert found.told == expected.told
    assert found.replies == expected.replies
    np.testing.assert_allclose(found.losses, expected.losses, rtol=close, atol=close)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "fedplug.simulation")
    return caplog


def lines(said: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in said.records if record.name == "fedplug.simulation"]


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"epochs": None, "num_updates": 5},
        {"loader_args": {"batch_size": 8, "drop_last": True}},
        {"loader_args": {"batch_size": 100, "shuffle": False}},
        {"test_ratio": 0.3, "stratify_testing_dataset": True},
        {"test_ratio": 0.3, "shuffle_testing_dataset": True, "log_interval": 0},
        {"random_seed": 3, "batch_maxnum": 2, "threads": 2},
        {"dry_run": True},
        {"optimizer_args": {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}},
        {"optimizer_args": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}},
        {"optimizer_args": {"lr": 0.1, "momentum": 0.5, "maximize": True, "weight_decay": 0.01}},
        {"optimizer_args": {"lr": 0.1, "weight_decay": 0.01}},
        {"optimizer_args": {"lr": 0.01, "weight_decay": 0.01, "maximize": True}},
    ],
)
def test_stacked_nodes_come_to_what_they_come_to_one_by_one(said, args) -> None:
    found = run(plans.Chain, CohortEngine(), args)
    assert lines(said) == [f"Chain {STACKED}"]
    assert_same(found, run(plans.Chain, SerialEngine(lean=False), args))


@pytest.mark.parametrize(
    "args",
    [
        {"kind": "Adam", "lr": 0.01},
        {"kind": "Adam", "lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.9), "amsgrad": True},
        {"kind": "AdamW", "lr": 0.01, "eps": 1e-5, "maximize": True},
    ],
)
@pytest.mark.parametrize("partition", [IID(4), Quantity(5, power=1.5)], ids=["even", "uneven"])
def test_adam_has_a_stacked_rule(said, args, partition) -> None:
    found = run(plans.Adaptive, CohortEngine(), {"optimizer_args": args}, partition)
    assert lines(said) == [f"Adaptive {STACKED}"]
    assert_same(found, run(plans.Adaptive, SerialEngine(lean=False), {"optimizer_args": args}, partition))


@pytest.mark.parametrize("momentum", [0, 0.9])
def test_parameters_have_the_settings_of_their_group_and_the_others_stay(said, momentum) -> None:
    args = {"optimizer_args": {"momentum": momentum}}
    found = run(plans.Groups, CohortEngine(), args)
    assert lines(said) == [f"Groups {STACKED}"]
    assert_same(found, run(plans.Groups, SerialEngine(), args))


@pytest.mark.parametrize("plan", STACKABLE)
@pytest.mark.parametrize(("partition", "momentum"), [(IID(4), 0), (Dirichlet(6, alpha=0.5), 0.9)])
def test_any_step_that_is_arithmetic_can_be_stacked(said, plan, partition, momentum) -> None:
    args = {"optimizer_args": {"lr": 0.1, "momentum": momentum}}
    found = run(plan, CohortEngine(), args, partition)
    assert lines(said) == [f"{plan.__name__} {STACKED}"]
    assert_same(found, run(plan, SerialEngine(), args, partition))


REASONS: dict[type, str] = {
    plans.Normed: "training writes into a parameter, a buffer or the batch",
    plans.Folding: "the model has convolutions, which are slower stacked than one by one",
    plans.Deciding: "it cannot be stacked (RuntimeError: vmap: It looks like you're attempting to use a Tensor in some",
    plans.Reading: "it cannot be stacked (RuntimeError: vmap: It looks like you're calling .item() on a Tensor",
    plans.Clamping: "PyTorch cannot stack the operation aten::clamp_",
    plans.Scaling: "training writes into a parameter, a buffer or the batch",
    plans.Situated: "its step depends on the node's round",
    plans.Numbering: "its step uses the global 'COUNTS', which could change",
    plans.Timed: "its step uses the module 'time'",
    plans.Listing: "Listing.seen could change",
    plans.Rated: "the optimizer is RMSprop, which has no rule for stacked parameters",
    plans.Half: "the model has parameters of half precision",
    plans.Large: "the model is so large that several of them at once would not be faster",
    plans.Dropping: "training draws random numbers",
    plans.Shaking: "its step uses the module 'random'",
    plans.Noisy: "training draws random numbers",
    plans.Counting: "its step sets an attribute, 'count'",
}


@pytest.mark.parametrize("plan", REASONS, ids=lambda plan: plan.__name__)
def test_a_plan_that_cannot_be_stacked_trains_one_by_one_with_the_same_bits(said, plan) -> None:
    found = run(plan, CohortEngine(), rounds=1)
    first, *others = lines(said)
    assert first.startswith(f"{plan.__name__} trains its nodes one by one: {REASONS[plan]}")
    assert not any("one by one" in line for line in others)
    own = run(plan, SerialEngine(), rounds=1)
    assert (found.params, found.replies, found.told, found.losses) == (own.params, own.replies, own.told, own.losses)


def moving(change: Any) -> tuple[str, Any]:
    return "take_steps", lambda graph, factors: REAL(graph, [change(*each) for each in factors])


def playing(change: Any) -> tuple[str, Any]:
    """A program whose inputs are changed: two weights and two biases, data and target."""
    return "program", lambda graph, constants: lambda *each: PROGRAM(graph, constants)(*change(each))


PLANTED = {
    "the update goes the wrong way": moving(lambda keep, add: (keep, -add)),
    "the update is forgotten": moving(lambda keep, add: (keep, 0.0)),
    "a parameter shrinks": moving(lambda keep, add: (keep * 0.99, add)),
    "another node's parameters are moved": playing(lambda each: [value.roll(1, 0) for value in each]),
    "a node gets the target of another": playing(lambda each: [*each[:5], each[5].roll(1, 0)]),
    "all nodes get the batch of one": playing(lambda each: [*each[:4], *(x[:1].expand_as(x) for x in each[4:])]),
    "a bias is left out": playing(lambda each: [each[0], each[1] * 0, *each[2:]]),
}
REAL, PROGRAM = cohort_steps.take_steps, cohort_steps.program


@pytest.mark.parametrize("bug", PLANTED)
def test_the_first_step_is_compared_with_the_plans_own(said, bug, monkeypatch) -> None:
    monkeypatch.setattr(cohort_steps, *PLANTED[bug])
    found = run(plans.Chain, CohortEngine(), rounds=1)
    assert re.match("Chain trains its nodes one by one: a stacked step has another (loss|gradient)", lines(said)[0])
    assert found.params == run(plans.Chain, SerialEngine(), rounds=1).params


def test_a_wrong_gradient_is_noticed_where_the_rule_has_a_velocity(said, monkeypatch) -> None:
    def wrong(graph: Any, constants: Any) -> Any:
        play = PROGRAM(graph, constants)
        return lambda *each: [out if number != 2 else out * 1.01 for number, out in enumerate(play(*each))]

    monkeypatch.setattr(cohort_steps, "program", wrong)
    run(plans.Chain, CohortEngine(), {"optimizer_args": {"lr": 0.1, "momentum": 0.9}}, rounds=1)
    assert "a stacked step has another gradient of 'one.bias' than the plan's own" in lines(said)[0]


def test_a_node_whose_loss_is_infinite_fails_as_it_does_alone_and_the_others_are_stacked(said) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((104, 5)).astype(np.float32), rng.integers(0, 3, 104)
    x[17] = 200  # exp of it is infinite in float32
    found, own = (
        run(plans.Diverging, engine, rounds=1, data=(x, y), node_selection_strategy=QuorumStrategy(0.5))
        for engine in (CohortEngine(), SerialEngine())
    )
    assert lines(said)[0] == f"Diverging {STACKED}"
    assert found.failures == own.failures
    assert len(found.failures) == 1
    assert "The loss of training_step became inf in step" in str(found.failures)
    assert_same(found, own)


def test_nodes_are_trained_one_by_one_where_one_of_them_fails(said) -> None:
    found, own = (
        run(plans.Refusing, engine, rounds=1, node_selection_strategy=QuorumStrategy(0.5))
        for engine in (CohortEngine(), SerialEngine())
    )
    assert lines(said)[0] == "Refusing trains 4 of its nodes one by one: it fails (ValueError)."
    assert found.failures == own.failures
    assert "no such luck" in str(found.failures)
    assert (found.params, found.replies) == (own.params, own.replies)


@given(
    sizes=st.lists(st.integers(1, 21), min_size=2, max_size=7),
    batch=st.integers(1, 8),
    drop_last=st.booleans(),
    epochs=st.integers(1, 3),
    most=st.integers(2, 4),
    momentum=st.sampled_from([0.0, 0.9]),
)
@example(sizes=[16, 16, 16], batch=8, drop_last=False, epochs=2, most=3, momentum=0.0)
@example(sizes=[1, 9, 9, 9, 20], batch=8, drop_last=False, epochs=3, most=4, momentum=0.9)
@settings(max_examples=12)
def test_whatever_the_sizes_of_nodes_and_batches(sizes, batch, drop_last, epochs, most, momentum) -> None:
    if drop_last and min(sizes) < batch:
        sizes = [size + batch for size in sizes]
    rng = np.random.default_rng(sum(sizes))
    nodes = {
        f"n{number}": (rng.standard_normal((size, 5)).astype(np.float32), rng.integers(0, 3, size))
        for number, size in enumerate(sizes)
    }
    args = {
        **ARGS, "epochs": epochs, "loader_args": {"batch_size": batch, "drop_last": drop_last},
        "optimizer_args": {"lr": 0.1, "momentum": momentum, "dampening": momentum / 3},
    }  # fmt: skip
    found = []
    for engine in (CohortEngine(most), SerialEngine()):
        told = Progresses()
        with Experiment(
            tags="simulation", transport=Federation(nodes, engine=engine), training_plan_class=plans.Chain, seed=5,
            training_args=args, round_limit=1, progress="quiet", save_breakpoints=False,
        ) as exp:  # fmt: skip
            exp.add_monitor(told)
            exp.run()
            found.append(Found(exp, told))
    assert_same(*found)


def test_the_same_seed_gives_the_same_bits_and_so_does_any_size_of_the_cohorts() -> None:
    args = {"loader_args": {"batch_size": 8, "drop_last": True}}
    found = [run(plans.Chain, CohortEngine(size), args, IID(7)).params for size in (None, None, 3)]
    assert found[0] == found[1]
    assert difference(found[2], found[0]) <= CLOSE


@pytest.mark.parametrize("size", [0, 1, 2.0, "3"])
def test_a_size_that_is_no_number_of_nodes_is_refused(size) -> None:
    with pytest.raises(UsageError, match="size must be a whole number of at least 2"):
        CohortEngine(size)


def test_the_engine_is_known_by_its_name(said) -> None:
    run(plans.Chain, "cohort", rounds=1)
    assert lines(said) == [f"Chain {STACKED}"]


def test_extra_arrays_and_mere_tests_are_left_to_the_engine_that_trains_one_by_one(said) -> None:
    args = {"num_updates": 3, "epochs": None, "share_persistent_buffers": False}
    found, own = (run(plans.Chain, e, args, aggregator="scaffold") for e in (CohortEngine(), SerialEngine()))
    assert found.params == own.params


COMPILED: dict[str, Any] = {"loader_args": {"batch_size": 4}}


def test_without_a_compiler_the_steps_are_played_back_and_everybody_is_told(said) -> None:
    with torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")}):
        found = run(plans.Chain, CohortEngine(compile=True), COMPILED)
    assert lines(said) == [
        "Stacked steps are not compiled: there is no C++ compiler (PyTorch looks for no-such-compiler; install g++).",
        f"Chain {STACKED}",
    ]
    assert found.params == run(plans.Chain, CohortEngine(), COMPILED).params


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (lambda losses, values: values[0].mul_(1.001), "compiled steps come to something else than those that are not"),
        (lambda losses, values: losses[0].mul_(1.1), "compiled steps come to something else than those that are not"),
        (lambda losses, values: 1 / 0, "compiling fails (ZeroDivisionError: division by zero)"),
    ],
)
def test_compiled_steps_are_compared_with_those_that_are_not(said, monkeypatch, what, reason) -> None:
    def wrong(steps: Any, **options: Any) -> Any:
        def play(*tensors: torch.Tensor) -> Any:
            losses = steps(*tensors)
            what(losses, tensors)
            return losses

        return play

    monkeypatch.setattr(torch, "compile", wrong)
    with torch._inductor.config.patch({"cpp.cxx": (None, "sh")}):  # something that is there
        found = run(plans.Chain, CohortEngine(compile=True), COMPILED)
    assert lines(said) == [f"Stacked steps are not compiled: {reason}.", f"Chain {STACKED}"]
    assert found.params == run(plans.Chain, CohortEngine(), COMPILED).params


@pytest.mark.slow  # a compiler takes half a minute
def test_compiled_steps_come_to_the_same(said) -> None:
    found = run(plans.Chain, CohortEngine(compile=True), COMPILED, IID(3))
    not_compiled = "Stacked steps are not compiled: there is no C++ compiler"
    told = [line for line in lines(said) if not line.startswith(not_compiled)]
    assert told == [f"Chain {STACKED}"]
    if any(shutil.which(name) for name in ("g++", "c++", "clang++")):
        assert told == lines(said)
    assert_same(found, run(plans.Chain, SerialEngine(), COMPILED, IID(3)))


def test_a_task_that_is_cancelled_is_not_trained_with_the_others(said) -> None:
    x, y = np.zeros((40, 5), np.float32), np.arange(40) % 3
    engine = CohortEngine()
    Federation.from_arrays(x, y, partition=IID(4), engine=engine)
    bundle, params = bundle_plan(plans.Chain), run(plans.Chain, SerialEngine(), rounds=1).params
    tasks = []
    for number in range(4):
        key = TaskKey(experiment_id="e", round=0, node_id=f"node-{number}")
        request = TrainRequest(key=key, dataset_id=key.node_id, plan_class="Chain", training_args=ARGS, seed=number)
        tasks.append(Task(request, bundle, params, {}))
    for task in tasks:
        engine.submit(task)
    engine.cancel(tasks[1].request.key)
    signs: list[Any] = []
    done = [engine.run(tasks[number], signs.append) for number in (3, 0, 2)]
    assert [each.reply.key.node_id for each in done] == ["node-3", "node-0", "node-2"]
    assert not engine._waiting
    assert not engine._done
    engine.close()
    engine.close()


def test_without_a_gpu_the_own_loop_says_that_it_is_missing(said, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = run(plans.Chain, CohortEngine(), {"use_gpu": True}, rounds=1)
    assert lines(said) == [
        "Chain trains its nodes one by one: use_gpu is set, and there is no GPU that torch can use.",
        "Chain trains by its own loop: use_gpu is set.",
    ]
    assert found.params == run(plans.Chain, SerialEngine(), {"use_gpu": True}, rounds=1).params


@pytest.mark.parametrize("engine", [SerialEngine, CohortEngine])
def test_a_plugin_that_listens_to_one_node_in_the_middle_is_heard(said, engine) -> None:
    heard: list[str] = []

    @hookimpl
    def offer(info: Any) -> list[Any]:
        def listen(ctx: Any) -> None:
            heard.append(info.node_id)

        return [make_hook(listen, "on_fit_end")] if info.node_id == "node-2" else []

    host = PluginHost.discover(["torch", "scaffold"])
    host.register(types.SimpleNamespace(fedplug_trainer_hooks=offer), "listener")
    found = run(plans.Straight, engine(), host=host, rounds=1)
    assert heard == ["node-2"]
    assert any("a plugin adds hooks to the training loop" in line for line in lines(said))
    assert_same(found, run(plans.Straight, SerialEngine(lean=False), rounds=1), 0.0)
