from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_breast_cancer, load_digits
from torch import nn

from fedplug import DataManager, Params
from fedplug.core.errors import PlanRunError
from fedplug.core.messages import LogLine, TaskKey, TrainRequest
from fedplug.core.node_dataset import NodeDataset
from fedplug.core.plan_source import PlanBundle, bundle_plan, load_plan
from fedplug.core.plugins import PluginHost
from fedplug.core.rng import SeedTree
from fedplug.core.training_args import TrainingArgs
from fedplug.core.training_plan import PlanSetup
from fedplug.node.training import run_task
from fedplug_torch import TorchTrainingPlan

HOST = PluginHost.discover()


class Arrays(NodeDataset):
    def __init__(self, x, y):
        self.path, self.type, self.name, self.target = Path("d.npz"), "arrays", "d", "y"
        self._arrays = {"x": x, "y": y}

    def arrays(self):
        return self._arrays


class Digits(TorchTrainingPlan):
    class Net(nn.Module):
        def __init__(self, hidden):
            super().__init__()
            self.one = nn.Linear(64, hidden)
            self.norm = nn.BatchNorm1d(hidden)
            self.drop = nn.Dropout(0.2)
            self.two = nn.Linear(hidden, 10)

        def forward(self, x):
            return self.two(self.drop(F.relu(self.norm(self.one(x)))))

    def init_model(self, model_args):
        return self.Net(model_args["hidden"])

    def init_optimizer(self, optimizer_args):
        return torch.optim.SGD(self.model().parameters(), lr=optimizer_args["lr"], momentum=0.9)

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        return F.cross_entropy(self.forward(data), target)

    def testing_step(self, data, target):
        return {"accuracy": (self.forward(data).argmax(1) == target).float().mean()}


def digits() -> Arrays:
    x, y = load_digits(return_X_y=True)
    return Arrays(x[:600] / 16, y[:600])


BUNDLE = bundle_plan(Digits)
STEP = "        return F.cross_entropy("


def start(bundle=BUNDLE, **model_args) -> Params:
    plan_class = load_plan(bundle)
    with plan_class.seeded(11):
        plan = plan_class()
        plan.setup(PlanSetup(model_args=model_args or {"hidden": 32}), with_optimizer=False)
    return plan.get_params()


def run(bundle=BUNDLE, dataset=None, params=None, heard=None, seed=5, model_args=None, **args):
    model_args = {"hidden": 32} if model_args is None else model_args
    request = TrainRequest(
        key=TaskKey(experiment_id="e", round=0, node_id="paris"), dataset_id="d", plan_class=bundle.class_name,
        model_args=model_args, training_args=args, seed=seed,
    )  # fmt: skip
    heard = [] if heard is None else heard
    return run_task(request, bundle, params or start(), {}, dataset or digits(), HOST, heard.append)


def variant(*edits: tuple[str, str], more: str = "") -> PlanBundle:
    source = BUNDLE.source
    for old, new in edits:
        assert old in source
        source = source.replace(old, new)
    return PlanBundle("Digits", source + more, BUNDLE.dependencies)


# training --------------------------------------------------------------------------------------------------


def test_training_equals_a_hand_written_loop_to_the_bit():
    seed = SeedTree.root(5)
    reply, params, _ = run(epochs=2, loader_args={"batch_size": 48}, optimizer_args={"lr": 0.05})

    torch.manual_seed(seed.child("plan").seed63())
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x[:600] / 16, dtype=torch.float32), torch.tensor(y[:600])
    model = Digits.Net(32)
    model.load_state_dict({name: torch.tensor(array) for name, array in start().items()})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    model.train()
    losses = []
    for epoch in range(2):
        order = torch.from_numpy(seed.child("order", "epoch", epoch).generator().permutation(600))
        for low in range(0, 600, 48):
            rows = order[low : low + 48]
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            losses.append((loss.item(), len(rows)))

    for name, tensor in model.state_dict().items():
        assert params[name].tobytes() == tensor.numpy().tobytes(), name
    assert reply.steps == 26
    assert reply.metrics["loss"] == pytest.approx(sum(a * n for a, n in losses) / 1200, rel=1e-12)


def test_the_same_seed_gives_the_same_bits_dropout_included():
    one, two, other = run()[1], run()[1], run(seed=6)[1]
    assert one == two != other


def test_random_seed_rules_the_global_streams():
    assert run(seed=5, random_seed=1)[1] != run(seed=5)[1]
    assert run(seed=5, random_seed=1)[1] == run(seed=5, random_seed=1)[1]


def test_it_learns_real_data():
    reply, *_ = run(
        epochs=15, optimizer_args={"lr": 0.05}, test_ratio=0.2, test_on_global_updates=True, test_on_local_updates=True
    )
    assert reply.metrics["test_global_accuracy"] < 0.4
    assert reply.metrics["test_local_accuracy"] > 0.9
    assert reply.sample_count == 480


def test_the_default_optimizer_is_adam_with_optimizer_args():
    bundle = PlanBundle("Digits", BUNDLE.source.replace("def init_optimizer", "def not_used"), BUNDLE.dependencies)
    plan = load_plan(bundle)()
    plan.setup(PlanSetup(model_args={"hidden": 4}, training_args=TrainingArgs.from_dict(
        {"optimizer_args": {"lr": 0.25, "betas": [0.8, 0.9]}})))  # fmt: skip
    assert type(plan.optimizer()) is torch.optim.Adam
    assert plan.optimizer().defaults["lr"] == 0.25
    assert tuple(plan.optimizer().defaults["betas"]) == (0.8, 0.9)
    with pytest.raises(PlanRunError, match="cannot be made from optimizer_args") as caught:
        run(bundle, optimizer_args={"momentum": 0.9})
    assert "define init_optimizer" in caught.value.cure


def test_methods_may_take_no_argument():
    bundle = variant(
        ("def init_model(self, model_args)", "def init_model(self)"),
        ("model_args[", 'self.model_args()["hidden"] if 0 else {"hidden": 32}['),
        ("def init_optimizer(self, optimizer_args)", "def init_optimizer(self)"),
        ("optimizer_args[", "self.optimizer_args()["),
    )
    assert run(bundle)[1] == run()[1]


def test_testing_does_not_change_the_training():
    assert run(test_ratio=0.2)[1] == run(test_ratio=0.2, test_on_global_updates=True, test_batch_size=16)[1]


def test_tests_run_in_evaluation_mode_without_gradients():
    look = "        assert not self.model().training and not torch.is_grad_enabled()\n"
    line = '        return {"accuracy"'
    bundle = variant((line, look + line))
    assert "test_local_accuracy" in run(bundle, test_ratio=0.2, test_on_local_updates=True)[0].metrics


def test_without_testing_step_the_loss_is_reported():
    bundle = variant(("def testing_step", "def not_used"))
    assert "test_local_loss" in run(bundle, test_ratio=0.2, test_on_local_updates=True)[0].metrics


# global state ----------------------------------------------------------------------------------------------


def test_global_streams_and_settings_are_restored():
    def draw():
        return random.random(), np.random.random(), torch.rand(1).item()

    def seed_all():
        random.seed(1), np.random.seed(1), torch.manual_seed(1)

    settings = torch.get_num_threads(), torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    seed_all()
    expected = draw()
    seed_all()
    run(num_updates=2, threads=2)
    with pytest.raises(PlanRunError):
        run(variant((STEP, "        1 / 0\n" + STEP)))
    assert draw() == expected
    assert (torch.get_num_threads(), torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic) == settings


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_as_told(threads):
    bundle = variant((STEP, f"        assert torch.get_num_threads() == {threads}\n" + STEP))
    run(bundle, num_updates=1, threads=threads)


def test_no_gpu_falls_back_with_a_log_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    heard = []
    assert run(heard=heard, num_updates=1, use_gpu=True)[1] == run(num_updates=1)[1]
    (line,) = [message for message in heard if isinstance(message, LogLine)]
    assert "no GPU that torch can use" in line.text


def test_batches_follow_the_module_to_its_device_whatever_their_shape(monkeypatch):
    # "meta" stands for any device that is not the processor.
    monkeypatch.setattr(load_plan(BUNDLE), "device", torch.device("meta"))
    plan = load_plan(BUNDLE)()
    plan.setup(PlanSetup(model_args={"hidden": 4}))
    batch = {"a": torch.zeros(2), "b": [torch.zeros(2), (torch.zeros(2), "text", None)]}
    placed = plan.make_backend().place(batch)
    assert {placed["a"].device.type, placed["b"][0].device.type, placed["b"][1][0].device.type} == {"meta"}
    assert placed["b"][1][1:] == ("text", None)
    assert plan.model().one.weight.device.type == "meta"


def test_importing_the_plugin_does_not_import_torch():
    code = (
        "import sys, fedplug_torch\nfrom fedplug.core.plugins import PluginHost\nPluginHost.discover()\n"
        "fedplug_torch.fedplug_wrap_model(model=int)\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# mistakes --------------------------------------------------------------------------------------------------


NO_MODULE = "init_model must return a torch.nn.Module, but returned "
NO_OPTIMIZER = "init_optimizer must return a torch.optim.Optimizer, but returned nothing"
NO_LOSS = "training_step must return the loss as a scalar tensor, but returned "
END = "target)\n\n    def testing"
BROKEN_FORWARD = ("self.two(self.drop", "self.two(self.one")


@pytest.mark.parametrize(
    ("edit", "words", "cure"),
    [
        (("return self.Net(model_args", "self.Net(model_args"), NO_MODULE + "nothing", "E.g."),
        (
            ('return self.Net(model_args["hidden"])', "return self.Net"),
            NO_MODULE + "a type",
            "call it to make a module",
        ),
        (("return torch.optim.SGD", "torch.optim.SGD"), NO_OPTIMIZER, "E.g."),
        ((STEP, "        return None\n" + STEP), NO_LOSS + "nothing", "return missing"),
        ((STEP, "        return 3.0\n" + STEP), NO_LOSS + "a float", "not loss.item"),
        ((END, END.replace(")", ", reduction='none')", 1)), NO_LOSS + r"a tensor of shape \(32,\)", "loss.mean"),
        ((END, END.replace(")", ").detach()", 1)), NO_LOSS + "a loss that is detached", "no_grad"),
        ((STEP, "        return F.nope(data)\n" + STEP), r"in training_step, line \d+: return F.nope\(data\)", ""),
        (BROKEN_FORWARD, r"in Net.forward, line \d+: .*called by training_step", ""),
    ],
)
def test_mistakes_in_a_plan_are_named(edit, words, cure):
    with pytest.raises(PlanRunError, match=words) as caught:
        run(variant(edit))
    assert cure in caught.value.cure
    assert "Training plan 'Digits'" in caught.value.message


def test_a_loss_that_becomes_nan_names_the_step():
    bundle = variant((STEP, "        self.n = getattr(self, 'n', 0) + 1\n        data = data / (self.n != 4)\n" + STEP))
    with pytest.raises(PlanRunError, match="became nan in step 4"):
        run(bundle)


@pytest.mark.parametrize("returned", ["None", "'0.9'", "{'a': None}", "torch.zeros(3)"])
def test_a_wrong_testing_step_is_named(returned):
    bundle = variant(('return {"accuracy"', f'return {returned}\n        return {{"accuracy"'))
    signs = []
    run(bundle, heard=signs, test_ratio=0.2, test_on_local_updates=True)
    (line,) = [sign for sign in signs if isinstance(sign, LogLine)]
    assert line.level == "error"
    assert "Training plan 'Digits': testing_step must return a number, or a dict or list" in line.text


# bare modules ----------------------------------------------------------------------------------------------


class Cancer(nn.Module):
    def __init__(self, features, outputs=2):
        super(Cancer, self).__init__()  # noqa: UP008 - old habits must work too
        self.layers = nn.Sequential(nn.Linear(features, 16), nn.ReLU(), nn.Linear(16, outputs))

    def forward(self, x):
        return self.layers(F.relu(x) - F.relu(-x) + np.float32(0))


class Columns(NodeDataset):
    def __init__(self, target="label", dtype=np.int64):
        x, y = load_breast_cancer(return_X_y=True)
        x = (x - x.mean(0)) / x.std(0)
        self.path, self.type, self.name, self.target = Path("cancer.csv"), "csv", "cancer", target
        self._arrays = {f"c{i}": x[:, i] for i in range(x.shape[1])} | {"label": y.astype(dtype)}

    def arrays(self):
        return self._arrays


MODULE = HOST.wrap_model(Cancer)
TESTED = {"epochs": 5, "test_ratio": 0.2, "test_on_local_updates": True, "optimizer_args": {"lr": 0.01}}


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_bare_module_classifies(outputs):
    model_args = {"features": 30, "outputs": outputs}
    reply, *_ = run(MODULE, Columns(), start(MODULE, **model_args), model_args=model_args, **TESTED)
    assert reply.metrics["test_local_accuracy"] > 0.9
    assert MODULE.class_name == "CancerPlan"
    assert "import numpy as np" in MODULE.dependencies


def test_a_bare_module_regresses():
    model_args = {"features": 30, "outputs": 1}
    dataset = Columns(dtype=np.float64)
    reply, *_ = run(MODULE, dataset, start(MODULE, **model_args), model_args=model_args, **TESTED)
    assert 0 < reply.metrics["test_local_mse"] < 0.15


def test_a_bare_module_needs_a_target():
    model_args = {"features": 30}
    with pytest.raises(Exception, match="does not say which column is to be predicted"):
        run(MODULE, Columns(target=""), start(MODULE, **model_args), model_args=model_args)


def test_a_bare_module_with_wrong_model_args_is_told():
    with pytest.raises(PlanRunError, match=r"Cancer\(\*\*model_args\) failed.*'width'") as caught:
        run(MODULE, Columns(), start(MODULE, features=30), model_args={"width": 3})
    assert "it holds: width" in caught.value.cure


def test_a_bare_module_that_uses_another_class_is_told():
    class Inner(nn.Module):
        def forward(self, x):
            return x

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Inner()

    with pytest.raises(Exception, match="'Inner', not defined inside the class") as caught:
        HOST.wrap_model(Outer)
    assert "Derive a plan from TorchTrainingPlan" in caught.value.cure


def test_other_classes_are_not_wrapped():
    with pytest.raises(Exception, match="no plugin can make one of it"):
        HOST.wrap_model(int)
