"""Plans whose nodes can be trained together, with stacked parameters; to use, and to derive others from."""

from __future__ import annotations

import random
import time
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from lean_plans import Plain
from torch import nn

from fedplug import DataManager


class Kit(Plain):
    """Lets plans of this file, and those derived from them, travel."""

    def init_dependencies(self) -> list[str]:
        return [*super().init_dependencies(), "from cohort_plans import *", "from cohort_plans import Kit"]

    def init_helpers(self) -> list[Any]:
        return ["lean_plans", "cohort_plans"]


class Chain(Kit):
    """Products of matrices, and an activation."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(5, 7)
            self.two = nn.Linear(7, 3)

        def forward(self, x: torch.Tensor) -> Any:
            return self.two(F.relu(self.one(x)))


class Straight(Kit):
    def init_model(self) -> nn.Module:
        return nn.Linear(5, 3)


class Adaptive(Chain):
    def init_optimizer(self, optimizer_args: dict[str, Any]) -> Any:
        optimizer_args = dict(optimizer_args)
        kind = getattr(torch.optim, optimizer_args.pop("kind"))
        return kind(self.model().parameters(), **optimizer_args)


class Groups(Chain):
    """Two groups of parameters with settings of their own, and one that nothing moves."""

    def init_optimizer(self, optimizer_args: dict[str, Any]) -> Any:
        net = self.model()
        net.one.bias.requires_grad_(False)
        groups = [
            {"params": [net.two.weight], "lr": 0.3, "weight_decay": 0.1},
            {"params": [net.one.weight, net.one.bias]},
        ]
        return torch.optim.SGD(groups, lr=0.05, momentum=optimizer_args.get("momentum", 0))


class Tied(Chain):
    """One tensor under two names, a buffer, layers with sums over features, and a loss that is a sum of three."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.code = nn.Linear(5, 4, bias=False)
            self.again = nn.Linear(5, 4, bias=False)
            self.again.weight = self.code.weight
            self.norm = nn.LayerNorm(4)
            self.out = nn.Sequential(nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 3))
            self.register_buffer("scale", torch.full((5,), 0.5))

        def forward(self, x: torch.Tensor) -> Any:
            x = x * self.scale
            return self.out(torch.cat([self.norm(self.code(x)), torch.tanh(self.again(x * 2))], dim=1))

    def training_step(self, data: Any, target: Any) -> Any:
        out = self.forward(data)
        weights = sum(p.square().sum() for p in self.model().parameters())
        smooth = F.cross_entropy(out, target, weight=torch.tensor([1.0, 2.0, 0.5]), label_smoothing=0.1)
        return smooth + 1e-3 * weights + F.mse_loss(out.softmax(1), F.one_hot(target, 3).float())


class Product(Chain):
    """The gradient of each parameter is made of the other one."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left = nn.Parameter(torch.randn(5, 4) / 2)
            self.right = nn.Parameter(torch.randn(4, 3) / 2)
            self.twin = nn.Parameter(torch.randn(4, 3) / 2)
            self.idle = nn.Parameter(torch.ones(2))

        def forward(self, x: torch.Tensor) -> Any:
            return x @ (self.left @ self.right)

    def training_step(self, data: Any, target: Any) -> Any:
        net = self.model()
        return F.cross_entropy(self.forward(data), target) + (net.right * net.twin).sum() * 0.01


class Embedded(Chain):
    """Whole numbers and a mask as inputs, nested."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(6, 4)
            self.out = nn.Linear(9, 3)

        def forward(self, x: Any) -> Any:
            words = self.words(x["words"]).mean(1)
            return self.out(torch.cat([words, x["rest"][0]], dim=1))

    def training_data(self) -> DataManager:
        x = self.dataset.column("x")
        words = np.abs(x[:, :3] * 2).astype(np.int64) % 6
        return DataManager({"words": words, "rest": (x,)}, self.dataset.column("y"))


class Unlabelled(Chain):
    def training_data(self) -> DataManager:
        return DataManager(self.dataset.column("x"))

    def training_step(self, data: Any, target: Any) -> Any:
        assert target is None
        return self.forward(data).square().mean()


class Double(Chain):
    def init_model(self) -> nn.Module:
        return self.Net().double()

    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(self.forward(data.double()), target)


class Inner(Chain):
    """Writes in place into what it has made itself."""

    def training_step(self, data: Any, target: Any) -> Any:
        hidden = F.relu(self.model().one(data), inplace=True)
        hidden = hidden * 2
        hidden.mul_(0.7).add_(0.1)
        return F.cross_entropy(self.model().two(hidden), target)


class Normed(Kit):
    """The running mean of its batches is a buffer that training changes."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(5)
            self.line = nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> Any:
            return self.line(self.norm(x))


class Folding(Kit):
    """A convolution."""

    def init_model(self) -> nn.Module:
        return nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 3, 5), nn.Flatten())


class Deciding(Chain):
    """What it does depends on what the batch holds."""

    def training_step(self, data: Any, target: Any) -> Any:
        loss = F.cross_entropy(self.forward(data), target)
        return loss * 2 if data[0, 0] > 0 else loss


class Reading(Chain):
    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(self.forward(data), target) * (1 + abs(data[0, 0].item()))


class Clamping(Chain):
    def training_step(self, data: Any, target: Any) -> Any:
        hidden = self.model().one(data) * 2
        return F.cross_entropy(self.model().two(hidden.clamp_(max=1.5)), target)


class Scaling(Chain):
    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(self.forward(data.mul_(2)), target)


class Situated(Chain):
    """Another step in another round."""

    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(self.forward(data), target) * (1 + self.round())


COUNTS = [0]


class Numbering(Chain):
    """Counts its steps where no attribute shows it."""

    def training_step(self, data: Any, target: Any) -> Any:
        COUNTS[0] += 1
        return F.cross_entropy(self.forward(data), target)


class Timed(Chain):
    def init_dependencies(self) -> list[str]:
        return [*super().init_dependencies(), "import time"]

    def training_step(self, data: Any, target: Any) -> Any:
        began = time.perf_counter()
        return F.cross_entropy(self.forward(data), target) * (1 if time.perf_counter() >= began else 2)


class Listing(Chain):
    seen: ClassVar[list[int]] = []

    def training_step(self, data: Any, target: Any) -> Any:
        self.seen.append(1)
        return F.cross_entropy(self.forward(data), target)


class Rated(Chain):
    """An optimizer without a stacked rule."""

    def init_optimizer(self, optimizer_args: dict[str, Any]) -> Any:
        return torch.optim.RMSprop(self.model().parameters(), lr=0.01)


class Half(Chain):
    def init_model(self) -> nn.Module:
        return self.Net().bfloat16()

    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(self.forward(data.bfloat16()), target)


class Large(Chain):
    """So large a model that it is faster to train one by one, with a velocity for each parameter."""

    def init_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(5, 20_000), nn.ReLU(), nn.Linear(20_000, 3))

    def init_optimizer(self, optimizer_args: dict[str, Any]) -> Any:
        return torch.optim.SGD(self.model().parameters(), lr=0.01, momentum=0.9)


class Diverging(Chain):
    """The loss of a node becomes infinite, if it has a sample with a large value."""

    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(self.forward(data), target) + torch.exp(data.max())


class Refusing(Chain):
    """Fails at one node, when it makes the data."""

    def training_data(self) -> DataManager:
        if self.node_id() == "node-2":
            raise ValueError("no such luck")
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))


class Dropping(Chain):
    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(F.dropout(self.forward(data), 0.2), target)


class Shaking(Chain):
    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(self.forward(data), target) * random.random()


class Noisy(Chain):
    def training_data(self) -> DataManager:
        x = self.dataset.column("x")
        return DataManager(x + np.random.standard_normal(x.shape).astype(np.float32), self.dataset.column("y"))


class Counting(Chain):
    count = 0

    def training_step(self, data: Any, target: Any) -> Any:
        self.count += 1
        return F.cross_entropy(self.forward(data), target) * self.count
