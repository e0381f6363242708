"""Several methods at once, in one order whoever came first; and validation between training and upload."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pytest

from fedplug import DataManager, Experiment, NumpyTrainingPlan
from fedplug.core.trainer import Hook
from fedplug.core.trainer.methods import control_variates
from fedplug.simulation import Federation

# imported by path: the tests are no package
_spec = importlib.util.spec_from_file_location("trainer_kit_together", Path(__file__).with_name("trainer_kit.py"))
kit = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(kit)


def noise(ctx):
    """Stands for a plugin that changes the gradient after everybody else, but before it is clipped."""
    ctx.backend.add_gradients({name: 0.125 * np.ones_like(array) for name, array in ctx.backend.trainable().items()})


PLUGINS = {
    "scaffold": control_variates(),
    "noisy": [Hook(noise, "on_batch_backward", ("train",), "noise", after=("backward",), before=("step",), last=True)],
    "watcher": [Hook(lambda ctx: None, "on_batch_end", ("train", "eval"), "watch")],
}


def trained(order):
    subject = kit.trainer(epochs=2, fedprox_mu=0.5, grad_clip=1.0)
    subject.ctx.inbox = {"control_variate": {"w": np.full(3, 0.25), "b": np.zeros(())}}
    for plugin in order:
        subject.install(plugin, PLUGINS[plugin])
    rows = [row.name for row in subject.describe() if (row.phase, row.trigger) == ("train", "on_batch_backward")]
    return rows, subject.train().params


@pytest.mark.parametrize("order", list(itertools.permutations(PLUGINS)))
def test_check_48_methods_work_together_in_one_order_whoever_came_first(order):
    rows, params = trained(order)
    expected_rows, expected = trained(list(PLUGINS))
    assert rows == expected_rows
    assert rows[0] == "backward"
    assert rows[-1] == "step"
    assert rows.index("fedprox") < rows.index("grad_clip"), "what FedProx adds is clipped too"
    assert rows.index("control_variates") < rows.index("grad_clip")
    assert params == expected


class Plan(NumpyTrainingPlan):
    def init_model(self):
        return {"w": np.zeros(3)}

    def init_dependencies(self):
        return ["import numpy as np"]

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        residual = data @ self.model()["w"] - target
        return float((residual**2).mean()), {"w": 2 * data.T @ residual / len(residual)}

    def testing_step(self, data, target):
        return {"mse": float(((data @ self.model()["w"] - target) ** 2).mean())}


def test_check_50_validation_after_training_and_before_the_upload_is_one_option_away():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3))
    args = {"num_updates": 20, "optimizer_args": {"lr": 0.05}, "test_ratio": 0.25, "test_on_local_updates": True}
    with Experiment(
        tags="simulation", training_plan_class=Plan, training_args=args, round_limit=1, seed=1, progress="quiet",
        transport=Federation({"a": (x, x @ np.array([1.0, 2.0, 3.0]))}),
    ) as exp:  # fmt: skip
        exp.run()
        metrics = exp.training_replies()[0]["a"]["metrics"]
    assert sorted(metrics) == ["loss", "test_local_mse"]
    assert metrics["test_local_mse"] < metrics["loss"], "it was the trained model that was tested"
