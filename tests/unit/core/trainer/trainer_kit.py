"""What the tests of the trainer share: a small NumPy regression, and a hook that writes down when it is called."""

from __future__ import annotations

import numpy as np

from fedplug.core.data import ArrayData
from fedplug.core.numpy_backend import NumpyBackend
from fedplug.core.trainer import Phase, Trainer, Trigger

EIGHT = (
    "on_fit_start", "on_epoch_start", "on_batch_start", "on_batch_forward",
    "on_batch_backward", "on_batch_end", "on_epoch_end", "on_fit_end",
)  # fmt: skip

RNG = np.random.default_rng(5)
X = RNG.normal(size=(12, 3))
Y = X @ np.array([1.0, -2.0, 0.5]) + 0.3


class Momentum:
    def __init__(self, lr=0.1, momentum=0.0):
        self.lr, self.momentum, self.velocity = lr, momentum, {}

    def step(self, params, gradients):
        for name, array in params.items():
            moved = self.momentum * self.velocity.get(name, 0.0) + gradients[name]
            self.velocity[name] = np.asarray(moved)
            array -= self.lr * moved


def numpy_backend(made=Momentum):
    model = {"w": np.zeros(3), "b": np.zeros(())}

    def step(data, target):
        return of(model, data, target)

    return Regression(model, step, make_optimizer=lambda args: made(**args))


def of(model, data, target):
    error = data @ model["w"] + model["b"] - target
    return (error**2).mean(), {"w": 2 * data.T @ error / len(data), "b": np.asarray(2 * error.mean())}


class Regression(NumpyBackend):
    """Its steps look at its own model, so that a clone trains itself."""

    def __init__(self, model, step, **more):
        super().__init__(model, step, **more)
        self._training_step = self.loss_of
        self._predict = self.output_of

    def loss_of(self, data, target):
        return of(self.model, data, target)

    def output_of(self, data):
        return data @ self.model["w"] + self.model["b"]


def source(samples=12):
    return ArrayData(X[:samples], Y[:samples])


def trainer(samples=12, batch=3, *, backend=None, data=None, **more):
    args = {"loader_args": {"batch_size": batch}, "log_interval": 0, "optimizer_args": {"lr": 0.05}}
    options = {k: more.pop(k) for k in list(more) if k in OPTIONS}
    data = {"train": source(samples), "test": source(samples)} if data is None else data
    return Trainer(backend or numpy_backend(), data, args={**args, **more}, seed=1, **options)


OPTIONS = ("finetune_args", "optimizer_state", "strict", "log", "report", "cancelled", "loader", "only_for_eval")


def record(of_trainer, calls=None, phase="train", triggers=tuple(Trigger), name="record", note=lambda ctx: ()):
    """Write (trigger, epoch, batch) of every call into the list that is returned."""
    calls = [] if calls is None else calls
    for trigger in triggers:

        def write(ctx, trigger=trigger):
            calls.append((str(trigger), *note(ctx)))

        of_trainer.hooks[Phase(phase)].add(write, trigger, name=name)
    return calls
