"""Nested data and targets through whole trainings: the same bits as the flat data they are made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedplug import DataManager, NumpyTrainingPlan, Params
from fedplug.core.messages import TaskKey, TrainRequest
from fedplug.core.node_dataset import NodeDataset
from fedplug.core.plan_source import PlanBundle, bundle_plan, load_plan
from fedplug.core.plugins import PluginHost
from fedplug.core.training_plan import PlanSetup
from fedplug.node.training import run_task
from fedplug_torch import TorchTrainingPlan

HOST = PluginHost.discover()


class Table(NodeDataset):
    def __init__(self):
        rng = np.random.default_rng(3)
        self.path, self.type, self.name, self.target = Path("data.csv"), "csv", "table", "y"
        self._arrays = {"x": rng.normal(size=(30, 4)), "y": rng.normal(size=30), "k": rng.integers(0, 3, 30)}

    def arrays(self):
        return self._arrays


class Flat(TorchTrainingPlan):
    def init_dependencies(self):
        return [
            "import numpy as np", "import pandas as pd", "from collections import namedtuple",
            "from torch.utils.data import Dataset, Subset, TensorDataset",
        ]  # fmt: skip

    def init_model(self):
        return nn.Linear(4, 4)  # noqa: F821 - there by default

    def training_data(self):
        x, y, k = (self.dataset.column(name) for name in "xyk")
        return DataManager(x, {"y": y, "k": k})

    def split(self, data, target):
        return data, target["y"], target["k"]

    def training_step(self, data, target):
        x, y, k = self.split(data, target)
        out = self.forward(x)
        return F.cross_entropy(out[:, :3], k) + (out[:, 3] - y).pow(2).mean()  # noqa: F821

    def testing_step(self, data, target):
        return {"loss": self.training_step(data, target)}


BUNDLE = bundle_plan(Flat)
NESTED = {
    "dict": (
        "{'a': x[:, :2], 'b': x[:, 2:]}, {'y': y, 'k': k}",
        "cat([data['a'], data['b']], 1), target['y'], target['k']",
    ),
    "tuple": ("(x[:, :2], x[:, 2:]), (y, k)", "cat(data, 1), *target"),
    "list": ("[x[:, :2], x[:, 2:]], [y, k]", "cat(data, 1), *target"),
    "named": (
        "namedtuple('P', 'a b')(x[:, :2], x[:, 2:]), namedtuple('T', 'y k')(y, k)",
        "cat([data.a, data.b], 1), target.y, target.k",
    ),
    "deep": (
        "{'a': [x[:, :1], (x[:, 1:2], {'c': x[:, 2:]})]}, ({'y': [y]}, k)",
        "cat([data['a'][0], data['a'][1][0], data['a'][1][1]['c']], 1), target[0]['y'][0], target[1]",
    ),
    "tensors": (
        "{'a': torch.from_numpy(x[:, :2]).float(), 'b': x[:, 2:]}, (torch.from_numpy(y).float(), k)",
        "cat([data['a'], data['b']], 1), *target",
    ),
    "pandas": (
        "[pd.DataFrame(x[:, :2]), pd.DataFrame(x[:, 2:])], (pd.Series(y), pd.Series(k))",
        "cat(data, 1), *target",
    ),
    "tensor data set": (
        "TensorDataset(*map(torch.from_numpy, (x[:, :2].astype('f'), x[:, 2:].astype('f'), y.astype('f'), k)))",
        "cat(data[:2], 1), data[2], target",
    ),
    "subset": (
        "Subset(TensorDataset(*map(torch.from_numpy, (x.astype('f'), y.astype('f'), k))), list(range(30)))",
        "data[0], data[1], target",
    ),
    "data set": ("self.Items(x, y, k)", "cat([data['a'], *data['b']], 1), *target"),
}
ITEMS = """
    class Items(Dataset):
        def __init__(self, x, y, k):
            self.x, self.y, self.k = x.astype(np.float32), y.astype(np.float32), k

        def __len__(self):
            return len(self.x)

        def __getitem__(self, i):
            return {"a": self.x[i, :2], "b": (self.x[i, 2:],)}, [self.y[i], self.k[i]]
"""


def run(data="", split="", bundle=BUNDLE, **args):
    if data:
        source = bundle.source.replace("DataManager(x, {'y': y, 'k': k})".replace("'", '"'), f"DataManager({data})")
        source = source.replace(
            'return data, target["y"], target["k"]', f"return {split.replace('cat(', 'torch.cat(')}"
        )
        assert source.count(data) == 1
        bundle = PlanBundle("Flat", source + ITEMS, bundle.dependencies)
    plan_class = load_plan(bundle)
    with plan_class.seeded(11):
        plan = plan_class()
        plan.setup(PlanSetup(), with_optimizer=False)
    request = TrainRequest(
        key=TaskKey(experiment_id="e", round=0, node_id="a"), dataset_id="d", plan_class=bundle.class_name, seed=5,
        data_seed=5, training_args={
            "loader_args": {"batch_size": 8}, "epochs": 2, "test_ratio": 0.3, "test_on_global_updates": True,
            "test_on_local_updates": True, "optimizer_args": {"lr": 0.05}, **args,
        },
    )  # fmt: skip
    reply, params, _ = run_task(request, bundle, plan.get_params(), {}, Table(), HOST, lambda sign: None)
    return params, reply.metrics, (reply.sample_count, reply.steps)


@pytest.mark.parametrize(("data", "split"), NESTED.values(), ids=NESTED)
def test_nested_data_train_and_test_like_flat_ones_to_the_bit(data, split):
    assert run(data, split) == run()
    assert run(data, split)[2] == (21, 6)


class NestedNumpy(NumpyTrainingPlan):
    def init_model(self):
        return {"w": np.zeros(4)}

    def training_data(self):
        x = self.dataset.column("x")
        return DataManager({"a": x[:, :2], "b": [(x[:, 2:],)]}, (self.dataset.column("y"), self.dataset.column("k")))

    def training_step(self, data, target):
        x = np.column_stack([data["a"], data["b"][0][0]])
        error = x @ self.model()["w"] - target[0] - target[1]
        return (error**2).mean(), {"w": 2 * x.T @ error / len(x)}


class FlatNumpy(NumpyTrainingPlan):
    def init_model(self):
        return {"w": np.zeros(4)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y") + self.dataset.column("k"))

    def training_step(self, data, target):
        error = data @ self.model()["w"] - target
        return (error**2).mean(), {"w": 2 * data.T @ error / len(data)}


def test_nested_arrays_train_without_a_framework_too():
    nested, flat = (run(bundle=bundle_plan(plan)) for plan in (NestedNumpy, FlatNumpy))
    assert isinstance(nested[0], Params)
    # y + k is added before or after the matrix product; 6 steps of sums of 8 terms of one size
    assert nested[0].allclose(flat[0], rtol=256 * np.finfo(float).eps, atol=256 * np.finfo(float).eps)
    assert nested[2] == flat[2] == (21, 6)
