"""The lean step of a simulation: the bits of the own loop, and never where somebody could tell the difference."""

from __future__ import annotations

import logging
import random
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lean_plans import Plain
from torch import nn

from fedplug import DataManager, Experiment, Monitor
from fedplug.core.trainer import hook
from fedplug.simulation import IID, Federation, SerialEngine, virtual_data

ARGS: dict[str, Any] = {"epochs": 2, "loader_args": {"batch_size": 8}, "optimizer_args": {"lr": 0.1}, "log_interval": 2}


class Progresses(Monitor):
    """Keeps what the nodes tell while they train."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, int, int, int, float]] = []

    def progress(self, node_id: str, progress: Any) -> None:
        told = (node_id, progress.step, progress.total_steps, progress.epoch, progress.samples)
        self.told.append((*told, progress.metrics["loss"]))


def run(plan: type, lean: bool, args: dict[str, Any] | None = None, rounds: int = 2, **settings: Any) -> Any:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((104, 5)).astype(np.float32), rng.integers(0, 3, 104)
    told = Progresses()
    federation = Federation.from_arrays(x, y, partition=IID(4), seed=2, engine=SerialEngine(lean=lean))
    with Experiment(
        tags="simulation", transport=federation, training_plan_class=plan, training_args={**ARGS, **(args or {})},
        round_limit=rounds, seed=5, progress="quiet", save_breakpoints=False, **settings,
    ) as exp:  # fmt: skip
        exp.add_monitor(told)
        exp.run()
        replies = {
            number: {node: {**reply, "timing": None} for node, reply in each.items()}
            for number, each in exp.history.replies().items()
        }
        return exp.params(), replies, told.told


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "fedplug.simulation")
    return caplog


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
        {"optimizer_args": {"lr": 0.1, "weight_decay": 0.01}},
        {"optimizer_args": {"lr": 0.1, "maximize": True}},
    ],
)
def test_the_lean_step_gives_the_bits_the_figures_and_the_signs_of_the_own_loop(said, args) -> None:
    params, replies, told = run(Plain, True, args)
    assert [record.message for record in said.records if record.name == "fedplug.simulation"] == [
        "Plain trains by the lean step: its training is nothing but steps of SGD."
    ]
    own = run(Plain, False, args)
    assert params == own[0]
    assert replies == own[1]
    assert told == own[2]


class Spoiling(Plain):
    """Writes into its batches."""

    def training_step(self, data: Any, target: Any) -> Any:
        return super().training_step(data.mul_(2.0), target)


class Centred(Plain):
    """Wants more of its data than the columns' names."""

    def training_data(self) -> DataManager:
        x = self.dataset.column("x")
        return DataManager(x - x.mean(0), self.dataset.column("y"))


@pytest.mark.parametrize(
    ("plan", "args", "copied"),
    [
        (Plain, {}, False),
        (Plain, {"loader_args": {"batch_size": 8, "shuffle": False}}, True),
        (Spoiling, {}, False),
        (Spoiling, {"loader_args": {"batch_size": 100, "shuffle": False}}, True),
        (Centred, {}, True),
    ],
)
def test_batches_are_drawn_from_the_shared_arrays_unless_the_plan_wants_the_node_s_data(
    said, monkeypatch, plan, args, copied
) -> None:
    taken, get = [], virtual_data._Picked.__getitem__

    def getitem(self: Any, name: str) -> Any:
        taken.append(name)
        return get(self, name)

    monkeypatch.setattr(virtual_data._Picked, "__getitem__", getitem)
    found = run(plan, True, args)
    assert bool(taken) is copied
    assert found == run(plan, False, args)
    assert [each.split(":")[0] for each in said.messages] == [f"{plan.__name__} trains by the lean step"]


class Straight(Plain):
    def init_model(self) -> nn.Module:
        return nn.Linear(5, 3)


class Turning(Plain):
    """Different parameters take part in its steps; what they take part in is seen in the batch."""

    def training_step(self, data: Any, target: Any) -> Any:
        net = self.model()
        out = self.forward(data)
        return F.cross_entropy(out, target) + (net.unused(data[:, :2]).square().mean() if data[0, 0] > 0 else 0)


@pytest.mark.parametrize("momentum", [0, 0.9])
def test_parameters_that_take_part_in_some_steps_only_are_moved_as_the_optimizer_moves_them(said, momentum) -> None:
    args = {"optimizer_args": {"lr": 0.1, "momentum": momentum, "weight_decay": 0.01}}
    found = run(Turning, True, args)
    assert any("by the lean step" in record.message for record in said.records)
    assert not any("by its own loop" in record.message for record in said.records)
    own = run(Turning, False, args)
    assert found == own


class Dropping(Plain):
    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(F.dropout(self.forward(data), 0.2), target)


class Shaking(Plain):
    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(self.forward(data) + random.random(), target) * random.random()


class Noisy(Plain):
    def training_data(self) -> DataManager:
        x = self.dataset.column("x")
        return DataManager(x + np.random.standard_normal(x.shape).astype(np.float32), self.dataset.column("y"))


class Counting(Plain):
    count = 0

    def training_step(self, data: Any, target: Any) -> Any:
        self.count += 1
        return F.cross_entropy(self.forward(data), target) * self.count


class Remembering(Plain):
    def init_model(self) -> nn.Module:
        self.seen: list[int] = []
        return self.Net()

    def training_step(self, data: Any, target: Any) -> Any:
        self.seen.append(1)
        return F.cross_entropy(self.forward(data), target) * len(self.seen)


class Knowing(Plain):
    def init_model(self) -> nn.Module:
        self.scale = 1.0 + self.round()
        return self.Net()

    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(self.forward(data), target) * self.scale


class Replacing(Plain):
    def training_step(self, data: Any, target: Any) -> Any:
        norm = self.model().norm
        norm.running_mean = norm.running_mean * 0.5
        return F.cross_entropy(self.forward(data), target)


class Hooked(Plain):
    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(self.forward(data), target)

    @hook("on_batch_backward", name="halve", before="step")
    def halve(self, ctx: Any) -> None:
        for gradient in ctx.backend.gradients().values():
            gradient.mul_(0.5)


class Scheduled(Plain):
    def init_scheduler(self, optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)


class Finishing(Plain):
    def postprocess(self, params: dict[str, Any]) -> dict[str, Any]:
        return {name: value * 1 if value.dtype == torch.int64 else value * 0.5 for name, value in params.items()}


class Processing(Plain):
    def training_data(self) -> DataManager:
        self.add_preprocess(self.doubled)
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def doubled(self, batches: Any) -> Any:
        return ((data * 2, target) for data, target in batches)


class Stepping(Plain):
    def training_step(self, data: Any, target: Any) -> Any:
        loss = F.cross_entropy(self.forward(data), target)
        loss.backward(retain_graph=True)
        return loss


class Buffered(Plain):
    class Net(Plain.Net):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()), persistent=False)

        def forward(self, x: torch.Tensor) -> Any:
            self.calls.add_(1)
            return super().forward(x) * self.calls


class Elsewhere(Plain):
    """Its optimizer moves a tensor that is not the model's."""

    def init_optimizer(self, optimizer_args: dict[str, Any]) -> Any:
        return torch.optim.SGD([*self.model().parameters(), nn.Parameter(torch.ones(1))], **optimizer_args)


class Idle(Plain):
    def init_optimizer(self, optimizer_args: dict[str, Any]) -> Any:
        optimizer = torch.optim.SGD(self.model().two.parameters(), **optimizer_args)
        self.model().two.requires_grad_(False)
        return optimizer


class Tagging(Plain):
    def tag_parameters(self, name: str) -> set[str]:
        return {"local", "persistent"} if name.startswith("two") else set()


class LastingChannels(Plain):
    def init_model(self) -> nn.Module:
        net = nn.Sequential(nn.Unflatten(1, (5, 1, 1)), nn.Conv2d(5, 3, (2, 2), padding=1), nn.AdaptiveAvgPool2d(1))
        return nn.Sequential(net.to(memory_format=torch.channels_last), nn.Flatten())


class OwnLayers(Plain):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(5, 3)
            self.drop = nn.Dropout(0.5)

        def forward(self, x: torch.Tensor) -> Any:
            return self.drop(self.line(x))


REASONS: dict[type, str] = {
    Dropping: "training draws random numbers",
    Shaking: "training draws random numbers",
    Noisy: "training draws random numbers",
    OwnLayers: "the model has dropout",
    Counting: "has got other attributes in training",
    Remembering: "the plan keeps something by itself (self.seen)",
    Knowing: "its set-up depends on the node's round",
    Replacing: "has changed its 'running_mean' in training",
    Hooked: "the plan has hooks of its own",
    Scheduled: "the plan has a init_scheduler of its own",
    Finishing: "the plan has a postprocess of its own",
    Processing: "it changes batches or parameters by add_preprocess",
    Stepping: "it fails (RuntimeError)",
    Buffered: "has a buffer that is not persistent",
    Elsewhere: "the optimizer moves parameters that are not the model's",
    Idle: "the optimizer moves no parameter",
    Tagging: "the plan has a tag_parameters of its own",
    LastingChannels: "the model has a tensor that is not contiguous",
}


@pytest.mark.parametrize("plan", REASONS, ids=lambda plan: plan.__name__)
def test_a_plan_that_is_more_than_steps_runs_its_own_loop_with_the_same_bits(said, plan) -> None:
    found = run(plan, True)
    lines = [record.message for record in said.records if record.name == "fedplug.simulation"]
    assert lines[-1].startswith(f"{plan.__name__} trains by its own loop: ")
    assert REASONS[plan] in lines[-1]
    assert sum("own loop" in line for line in lines) == 1
    own = run(plan, False)
    assert (found[0], found[1]) == (own[0], own[1])


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ({"optimizer_args": {"lr": 0.1, "foreach": True}}, "the optimizer is SGD with foreach=True"),
        ({"fedprox_mu": 0.1}, "training_args add hooks to the loop"),
        ({"grad_clip": 0.1}, "training_args add hooks to the loop"),
        ({"test_ratio": 0.2, "test_on_local_updates": True}, "it tests the model too"),
        ({"keep_optimizer_state": True}, "keep_optimizer_state is set"),
        ({"share_persistent_buffers": False}, "share_persistent_buffers is off"),
        ({"dp_args": {"type": "central", "clip": 1.0, "sigma": 0.5}}, "dp_args ask for privacy"),
    ],
)
def test_what_training_arguments_ask_for_beyond_steps_is_done_by_the_own_loop(said, args, reason) -> None:
    found = run(Straight, True, args)
    assert any(reason in record.message for record in said.records)
    assert found[0] == run(Straight, False, args)[0]


class Weighted(Plain):
    def init_model(self, model_args: dict[str, Any]) -> nn.Module:
        self.scale = float(model_args["weights"].sum())
        return nn.Linear(5, 3)

    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(self.forward(data), target) * self.scale


def test_model_args_may_hold_arrays_and_change(said) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 5)).astype(np.float32), rng.integers(0, 3, 40)
    finals = []
    for lean in (True, False):
        federation = Federation.from_arrays(x, y, partition=IID(2), engine=SerialEngine(lean=lean))
        for weights in (np.ones(3), np.full(3, 2.0)):
            with Experiment(
                tags="simulation", transport=federation, training_plan_class=Weighted, training_args=ARGS, seed=5,
                round_limit=1, progress="quiet", save_breakpoints=False, model_args={"weights": weights},
            ) as exp:  # fmt: skip
                exp.run()
                finals.append(exp.params())
    assert finals[:2] == finals[2:]
    assert finals[0] != finals[1]


def test_extra_arrays_of_an_aggregator_need_the_own_loop(said) -> None:
    found = run(
        Plain, True, aggregator="scaffold", args={"num_updates": 3, "epochs": None, "share_persistent_buffers": False}
    )
    assert any("own loop" in record.message for record in said.records)
    own = run(
        Plain, False, aggregator="scaffold", args={"num_updates": 3, "epochs": None, "share_persistent_buffers": False}
    )
    assert found[0] == own[0]


class Failing(Plain):
    calls: ClassVar[list[int]] = []

    def training_step(self, data: Any, target: Any) -> Any:
        raise ValueError("no such luck")


class Exploding(Plain):
    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(self.forward(data), target) * float("inf")


@pytest.mark.parametrize(
    ("plan", "message"), [(Failing, "no such luck"), (Exploding, "The loss of training_step became")]
)
def test_what_fails_says_what_it_says_in_the_own_loop(said, plan, message) -> None:
    texts = []
    for lean in (True, False):
        with pytest.raises(Exception, match=message) as caught:
            run(plan, lean)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]


def test_the_global_streams_are_where_they_were(said) -> None:
    for plan in (Plain, Dropping, Shaking, Noisy):
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        run(plan, True, rounds=1)
        assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
