"""T1: what the hook loop costs: empty, against a bare ``for``; and with all default hooks, against bare PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.common import Result, cpu_time, median_pairs
from fedplug.core.data import ArrayData
from fedplug.core.trainer import Backend, Trainer

BATCH = 32


class Still(Backend):
    """A model for which nothing is computed."""

    optimizer = True

    def forward(self, data: Any, target: Any) -> float:
        return 0.0

    def backward(self, loss: Any) -> None: ...

    def step(self) -> None: ...

    def evaluate(self, data: Any, target: Any) -> dict[str, float]:
        return {}

    def make_optimizer(self, optimizer_args: Any = None) -> None: ...

    def drop_optimizer(self) -> None: ...


def run(quick: bool = False) -> list[Result]:
    """Measure; ``quick`` makes fewer batches."""
    return [empty(20_000 if quick else 200_000), against_torch(200 if quick else 1500, 5 if quick else 15)]


def empty(batches: int) -> Result:
    """The loop and all default hooks around a backend that does nothing, less the same batches in a bare loop."""
    source = ArrayData(np.zeros((batches, 1)), np.zeros(batches))
    trainer = Trainer(
        Still(), {"train": source}, args={"loader_args": {"batch_size": 1, "shuffle": False}, "log_interval": 10},
        report=id, cancelled=lambda: False,
    )  # fmt: skip
    bare = trainer.hooks_in_train.copy()
    for trigger in ("on_batch_start", "on_batch_forward", "on_batch_backward", "on_batch_end", "on_fit_end"):
        bare.clear(trigger)
    loader = trainer._loader(source, "train")  # type: ignore[arg-type]

    def loop() -> float:
        with cpu_time() as taken:
            for _ in zip(source.batches(loader, None), range(batches), strict=True):
                pass
        return taken[0] / batches * 1e6

    def hooks(which: Any) -> float:
        with cpu_time() as taken:
            trainer.train(hooks=which, with_params=False)
        return taken[0] / batches * 1e6

    figure, ceiling, _ = median_pairs(lambda: hooks(bare), loop, 5)
    full = hooks(None)
    details = {"loop": ceiling, "without hooks": figure, "with all default hooks": full}
    return Result("T1", "empty hook loop above a bare for, a batch", figure - ceiling, "us", None, 3.0, details)


def against_torch(steps: int, pairs: int) -> Result:
    """MLP 784-64-10, batch 32: a training with all default hooks and reports over a loop by hand."""
    import torch
    from torch import nn

    from fedplug_torch.backend import TorchModelBackend
    from fedplug_torch.data import TensorData

    torch.set_num_threads(1)
    x = torch.randn(steps * BATCH, 784)
    y = torch.randint(0, 10, (steps * BATCH,))
    source = TensorData(x, y)

    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))

    def by_hand() -> float:
        net = model()
        with cpu_time() as taken:
            optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
            criterion = nn.CrossEntropyLoss()
            order = torch.from_numpy(np.random.default_rng(0).permutation(len(x)))
            net.train()
            for low in range(0, len(x), BATCH):
                rows = order[low : low + BATCH]
                optimizer.zero_grad()
                loss = criterion(net(x[rows]), y[rows])
                loss.backward()
                optimizer.step()
        return taken[0] / steps * 1e6

    def with_hooks() -> float:
        net = model()
        args = {"loader_args": {"batch_size": BATCH}, "optimizer_args": {"lr": 0.01}, "log_interval": 10}
        with cpu_time() as taken:
            trainer = Trainer(
                TorchModelBackend(net, nn.CrossEntropyLoss()), {"train": source}, args=args, seed=0,
                report=id, cancelled=lambda: False,
            )  # fmt: skip
            trainer.train(with_params=False)
        return taken[0] / steps * 1e6

    by_hand()
    with_hooks()
    figure, ceiling, ratios = median_pairs(with_hooks, by_hand, pairs)
    middle = float(np.median(ratios))
    details = {"steps": steps, "ratios": [round(r, 3) for r in ratios], "by hand": ceiling, "median of ratios": middle}
    return Result(
        "T1", "training with all default hooks over bare PyTorch, a batch", figure, "us", ceiling, 1.03, details
    )
