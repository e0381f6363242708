"""The plain loop: federated averaging as one would write it by hand, on one thread, with nothing around it.

Images are one float32 tensor. For each node: the global weights into one model, a new optimizer (SGD), a permutation,
slices of 32, zero_grad, forward, cross-entropy, backward, step; then the weighted mean in float64. It imports nothing
of FedPlug, so that it can run beside other frameworks, in environments of theirs (benchmarks/peers).
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

Array = npt.NDArray[Any]
FOLDER = Path("/usr/share/datasets/fashion-mnist")
BATCH = 32
RATE = 0.05
MakeOptimizer = Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]
PLAIN_SGD: MakeOptimizer = partial(torch.optim.SGD, lr=RATE)


def fashion_mnist() -> tuple[Array, Array]:
    """60,000 images of 784 values in [0, 1] as float32, and their classes as int64.

    Raises:
        SystemExit: They are not installed.
    """
    if not FOLDER.is_dir():
        raise SystemExit("This workload needs Fashion-MNIST: sudo apt-get install dataset-fashion-mnist")
    images = _read("train-images-idx3-ubyte.gz", 16).reshape(-1, 784)
    return images.astype(np.float32) / np.float32(255), _read("train-labels-idx1-ubyte.gz", 8).astype(np.int64)


def _read(name: str, head: int) -> Array:
    return np.frombuffer(gzip.decompress((FOLDER / name).read_bytes()), np.uint8, offset=head)


class MLP(nn.Module):
    """784-64-10: 50,890 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(784, 64)
        self.two = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of ten classes."""
        out: torch.Tensor = self.two(F.relu(self.one(x)))
        return out


class CNN(nn.Module):
    """Convolutions of 32 and 64 filters of 3x3, max-pooling by 2, 128, 10: 1,199,882 parameters.

    Images come as rows of 784 values, as they do for the MLP.
    """

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(1, 32, 3)
        self.two = nn.Conv2d(32, 64, 3)
        self.three = nn.Linear(64 * 12 * 12, 128)
        self.four = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of ten classes."""
        x = F.relu(self.two(F.relu(self.one(x.view(-1, 1, 28, 28)))))
        out: torch.Tensor = self.four(F.relu(self.three(F.max_pool2d(x, 2).flatten(1))))
        return out


class PlainLoop:
    """The loop, over nodes that are rows of one tensor.

    Args:
        x: All images.
        y: Their classes.
        rows: Node id → the numbers of its samples.
        model: What is trained; an `MLP` by default.
        optimizer: Makes a node's optimizer of the parameters; plain SGD by default.
    """

    def __init__(
        self,
        x: Array,
        y: Array,
        rows: Mapping[str, Array],
        model: nn.Module | None = None,
        optimizer: MakeOptimizer = PLAIN_SGD,
    ) -> None:
        self.x, self.y = torch.from_numpy(x), torch.from_numpy(y)
        self.rows = {node: torch.from_numpy(np.ascontiguousarray(mine)) for node, mine in rows.items()}
        self.model = MLP() if model is None else model
        self.optimizer = optimizer

    def round(self, start: Mapping[str, torch.Tensor], orders: Mapping[str, Array]) -> dict[str, torch.Tensor]:
        """One round of one epoch.

        Args:
            start: The global parameters.
            orders: Node id → a permutation of its samples, for the nodes that train, sorted.
        """
        sums = {name: torch.zeros(tensor.shape, dtype=torch.float64) for name, tensor in start.items()}
        total = 0
        for node, order in orders.items():
            self.train(start, self.rows[node][torch.from_numpy(order)])
            weight = len(order)
            total += weight
            for name, tensor in self.model.state_dict().items():
                sums[name].add_(tensor, alpha=weight)
        return {name: (value / total).float() for name, value in sums.items()}

    def train(self, start: Mapping[str, torch.Tensor], rows: torch.Tensor) -> None:
        """One epoch on one node."""
        model = self.model
        model.load_state_dict(start)  # type: ignore[arg-type] # any mapping will do
        optimizer = self.optimizer(model.parameters())
        for low in range(0, len(rows), BATCH):
            picked = rows[low : low + BATCH]
            optimizer.zero_grad()
            loss = F.cross_entropy(model(self.x[picked]), self.y[picked])
            loss.backward()
            optimizer.step()


def greatest_difference(
    found: Mapping[str, Array], expected: Mapping[str, torch.Tensor], names: Sequence[str]
) -> float:
    """The largest difference of two models, over the largest value of each array; infinite where one is not a number.

    No linear algebra: its threads would go on spinning for a while, and be counted as the next round's.
    """
    worst = 0.0
    for name in names:
        there = expected[name].numpy()
        difference = float(np.abs(found[name] - there).max() / (np.abs(there).max() or 1.0))
        worst = max(worst, float("inf") if math.isnan(difference) else difference)
    return worst
