"""Plans with optimizers of all kinds, and plans that do odd things with them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from cohort_plans import Chain
from torch import nn


class Chosen(Chain):
    """Its arguments say which optimizer it has."""

    def init_optimizer(self, optimizer_args: dict[str, Any]) -> Any:
        args = dict(optimizer_args)
        return getattr(torch.optim, args.pop("kind"))(self.moved(), **args)

    def init_dependencies(self) -> list[str]:
        return [*super().init_dependencies(), "from optimizer_plans import Chosen"]

    def init_helpers(self) -> list[Any]:
        return [*super().init_helpers(), "optimizer_plans"]

    def moved(self) -> Any:
        return self.model().parameters()


# nothing but steps ----------------------------------------------------------------------------------------


class Partly(Chosen):
    """Two groups of parameters with settings of their own; one parameter is frozen, and one is in no group."""

    def moved(self) -> Any:
        net = self.model()
        net.one.bias.requires_grad_(False)
        return [
            {"params": [net.two.weight], "lr": 0.3, "weight_decay": 0.1},
            {"params": [net.one.weight, net.one.bias]},
        ]


class Skewed(Chosen):
    """Gradients that lie in another order than the parameters do, or are one number many times."""

    class Net(Chain.Net):
        def __init__(self) -> None:
            super().__init__()
            self.turned = nn.Parameter(torch.randn(7, 11))
            self.level = nn.Parameter(torch.randn(7, 11))

        def forward(self, x: torch.Tensor) -> Any:
            hidden = F.relu(self.one(x))
            return self.two(hidden) + F.linear(hidden, self.turned.t()).square().mean(1, keepdim=True)

    def training_step(self, data: Any, target: Any) -> Any:
        out = self.forward(data)
        return F.cross_entropy(out, target) + out.square().mean() / 3 + self.model().level.sum() * 0.3


class Twins(Chosen):
    """Two parameters whose gradients are one tensor."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left = nn.Parameter(torch.randn(5, 3))
            self.right = nn.Parameter(torch.randn(5, 3))

        def forward(self, x: torch.Tensor) -> Any:
            return x @ (self.left + self.right)


# more than steps -------------------------------------------------------------------------------------------


class Showing(Chosen):
    """What its optimizer looks like counts."""

    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(self.forward(data), target) * len(f"{self.optimizer()}")


class Overridden(Chosen):
    """Its optimizer does something else."""

    def init_optimizer(self, optimizer_args: dict[str, Any]) -> Any:
        optimizer = super().init_optimizer(optimizer_args)
        optimizer.step = lambda: None
        return optimizer


class Called(Chosen):
    def init_optimizer(self, optimizer_args: dict[str, Any]) -> Any:
        optimizer = super().init_optimizer(optimizer_args)
        net = self.model()
        optimizer.register_step_post_hook(lambda *args: net.one.weight.data.mul_(0.5))
        return optimizer


class Derived(Chosen):
    def init_optimizer(self, optimizer_args: dict[str, Any]) -> Any:
        class Slow(torch.optim.SGD):
            def step(self, closure: Any = None) -> Any:
                self.param_groups[0]["lr"] *= 0.5
                return super().step(closure)

        return Slow(self.moved(), lr=optimizer_args["lr"])


class Exact(Chosen):
    """A learning rate that can be changed in place."""

    def init_optimizer(self, optimizer_args: dict[str, Any]) -> Any:
        return torch.optim.SGD(self.moved(), lr=torch.tensor(optimizer_args["lr"]))
