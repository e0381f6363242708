"""The Training-Plan page's own plan, and what it takes for granted, in a whole federation."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fedplug import DataManager, Experiment
from fedplug.simulation import Federation
from fedplug_torch import TorchTrainingPlan

# Written to a file, so that nothing but the page's own names is there. No init_dependencies: all is taken for granted.
PAGE = """
class MyTrainingPlan(TorchTrainingPlan):
    def init_model(self, model_args):
        return self.Net(model_args=model_args)

    class Net(nn.Module):
        def __init__(self, model_args):
            super().__init__()
            hidden = model_args.get("fc_hidden_size", 128)
            self.conv1 = nn.Conv2d(1, 4, 3, 1)
            self.dropout1 = nn.Dropout(0.25)
            self.fc1 = nn.Linear(36, hidden)
            self.fc2 = nn.Linear(hidden, 2)

        def forward(self, x):
            x = F.max_pool2d(F.relu(self.conv1(x)), 2)
            x = F.relu(self.fc1(torch.flatten(self.dropout1(x), 1)))
            return F.log_softmax(self.fc2(x), dim=1)

    def training_data(self):
        self.add_preprocess(self.brighter, ProcessTypes.DATA_LOADER)
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), shuffle=True)

    def brighter(self, batches):
        for data, target in batches:
            yield data + 0.1, target

    def training_step(self, data, target):
        output = self.forward(data)
        loss = torch.nn.functional.nll_loss(output, target)
        return loss

    def init_optimizer(self, optimizer_args):
        return torch.optim.Adam(self.model().parameters(), lr=optimizer_args["lr"])
"""


def pictures(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, count)
    return rng.normal(size=(count, 1, 8, 8)).astype(np.float32) + y[:, None, None, None], y


def experiment(plan=None, **settings) -> Experiment:
    nodes = {"a": pictures(1, 40), "b": pictures(2, 24)}
    given = {
        "tags": "simulation", "training_plan_class": plan, "round_limit": 2, "seed": 1, "progress": "quiet",
        "training_args": {"loader_args": {"batch_size": 8}, "num_updates": 5, "optimizer_args": {"lr": 1e-3}},
        "transport": Federation(nodes),
    }  # fmt: skip
    return Experiment(**{**given, **settings})


@pytest.fixture
def page(tmp_path: Path) -> Path:
    file = tmp_path / "page.py"
    head = "import torch\nimport torch.nn as nn\nfrom fedplug_torch import TorchTrainingPlan\n"
    file.write_text(head + PAGE)
    return file


def test_the_pages_plan_runs_with_the_imports_it_takes_for_granted(page, tmp_path):
    with experiment(training_plan_path=page, model_args={"fc_hidden_size": 16}) as exp:
        assert exp.training_plan_bundle().dependencies == tuple(TorchTrainingPlan.default_dependencies())
        exp.run()
        assert exp.params()["fc1.weight"].shape == (16, 36)
        assert {reply["steps"] for reply in exp.training_replies()[1].values()} == {5}
        exp.training_plan().export_model(tmp_path / "model.pt")
        trained = exp.params()
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert list(state) == list(trained)
    np.testing.assert_array_equal(state["conv1.weight"], trained["conv1.weight"])
    with experiment(training_plan_path=page, model_args={"fc_hidden_size": 16}, seed=2) as exp:
        assert exp.params() != trained
        exp.training_plan().import_model(tmp_path / "model.pt")
        assert exp.params() == trained


def test_random_seed_seeds_python_numpy_and_torch_alike(page):
    class Draws(TorchTrainingPlan):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.drawn = nn.Parameter(torch.zeros(3))

        def init_dependencies(self):
            return ["import random", "import numpy as np"]

        def init_model(self):
            net = self.Net()
            with torch.no_grad():
                net.drawn[:] = torch.tensor([random.random(), np.random.random(), torch.rand(1).item()])
            return net

        def training_data(self):
            return DataManager(self.dataset.column("x"), self.dataset.column("y"))

        def training_step(self, data, target):
            return self.model().drawn.sum()

    with experiment(Draws, training_args={"random_seed": 42}) as exp:
        drawn = exp.params()["drawn"].tolist()
    torch_stream = torch.Generator().manual_seed(42)
    expected = [random.Random(42).random(), np.random.RandomState(42).random(), torch.rand(1, generator=torch_stream)]
    assert drawn == torch.tensor(expected).tolist()


class Normed(TorchTrainingPlan):
    def init_model(self):
        return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 2))

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        return torch.nn.functional.cross_entropy(self.forward(data), target)


def test_persistent_buffers_are_shared_unless_told_otherwise():
    buffers = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    for share in (True, False):
        with experiment(Normed, training_args={"share_persistent_buffers": share, "num_updates": 3}) as exp:
            exp.run()
            assert buffers & set(exp.params()) == (buffers if share else set())
            assert {"1.weight", "2.weight"} < set(exp.params())
            states = {reply["state"] for reply in exp.training_replies()[1].values()}
            assert states == ({"none"} if share else {"kept"}), "each node goes on with its own"
