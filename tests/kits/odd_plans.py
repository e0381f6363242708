"""Plans that do what few plans do, and with what their code holds besides the plan: to be found out."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from cohort_plans import Chain, Kit
from torch import nn

from fedplug import DataManager

COUNTS = [0]


class Odd(Kit):
    """Lets plans of this file, and those derived from them, travel."""

    Net = Chain.Net

    def init_dependencies(self) -> list[str]:
        return [*super().init_dependencies(), "from odd_plans import *", "import random"]

    def init_helpers(self) -> list[Any]:
        return [*super().init_helpers(), "odd_plans"]


def late() -> int:
    """1, but 2 from the twentieth call on."""
    COUNTS[0] += 1
    return 1 + (COUNTS[0] >= 20)


class Ticker:
    """Counts by itself."""

    count = 0

    def tick(self) -> int:
        self.count += 1
        return 1 + (self.count >= 20)


tick = Ticker().tick
late_too = functools.partial(late)
drawn = np.random.default_rng(5).random


def passed_on(step: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that does nothing."""

    @functools.wraps(step)
    def wrapped(*args: Any) -> Any:
        return step(*args)

    return wrapped


# what a plan that is set up once would not find as it is used to, or would leave behind


class TiedByData(Odd):
    """Two parameters over one memory, as weights are often tied."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.out = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)
            self.two.weight.data = self.one.weight.data

        def forward(self, x: torch.Tensor) -> Any:
            return self.out(torch.tanh(self.two(self.one(x))))


class Rebinding(Odd):
    """Clips its weights as is often done."""

    def training_step(self, data: Any, target: Any) -> Any:
        for parameter in self.model().parameters():
            parameter.data = parameter.data.clamp(-0.3, 0.3)
        return F.cross_entropy(self.forward(data), target)


class Thawing(Odd):
    def init_model(self) -> nn.Module:
        net = self.Net()
        net.one.requires_grad_(False)
        return net

    def training_step(self, data: Any, target: Any) -> Any:
        if len(data) < 8:
            self.model().one.requires_grad_(True)
        return F.cross_entropy(self.forward(data), target)


class Exchanging(Odd):
    class Net(Chain.Net):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.Tanh()

        def forward(self, x: torch.Tensor) -> Any:
            return self.two(self.act(self.one(x)))

    def training_step(self, data: Any, target: Any) -> Any:
        if len(data) < 8:
            self.model().act = nn.ReLU()
        return F.cross_entropy(self.forward(data), target)


class Hooking(Odd):
    def training_step(self, data: Any, target: Any) -> Any:
        self.model().one.register_forward_hook(lambda module, inputs, out: out * 0.99)
        return F.cross_entropy(self.forward(data), target)


class HookingTensors(Odd):
    def training_step(self, data: Any, target: Any) -> Any:
        if len(data) < 8:
            self.model().one.weight.register_hook(lambda gradient: gradient * 0.5)
        return F.cross_entropy(self.forward(data), target)


class LookingBack(Odd):
    """The gradient of the step before is there, but in the first step."""

    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(self.forward(data), target) * (2 if self.model().one.weight.grad is None else 1)


class ClippingLate(Odd):
    """Asks for the gradients of the step before by a function of torch."""

    def training_step(self, data: Any, target: Any) -> Any:
        norm = torch.nn.utils.clip_grad_norm_(self.model().parameters(), 1.0)
        return F.cross_entropy(self.forward(data), target) * (1 + 0.01 * norm.detach())


class KnowingItsOptimizer(Odd):
    def training_step(self, data: Any, target: Any) -> Any:
        has_moved = self.optimizer().state.get(self.model().one.weight, {}).get("momentum_buffer") is not None
        return F.cross_entropy(self.forward(data), target) * (1 if has_moved else 2)


class Forking(Odd):
    """Draws from the global stream, and puts it back."""

    def training_step(self, data: Any, target: Any) -> Any:
        with torch.random.fork_rng():
            noise = torch.randn(data.shape)
        return F.cross_entropy(self.forward(data + 0.1 * noise), target)


class KnowingItsSeed(Odd):
    def training_step(self, data: Any, target: Any) -> Any:
        own = torch.Generator().manual_seed(torch.initial_seed())
        return F.cross_entropy(self.forward(data + 0.1 * torch.randn(data.shape, generator=own)), target)


class KnowingTheStream(Odd):
    def training_step(self, data: Any, target: Any) -> Any:
        own = random.Random()
        own.setstate(random.getstate())
        return F.cross_entropy(self.forward(data), target) * (1 + own.random())


class Greeting(Odd):
    def init_model(self) -> nn.Module:
        print("a model")
        return self.Net()


class Telling(Odd):
    def training_step(self, data: Any, target: Any) -> Any:
        print("a step")
        return F.cross_entropy(self.forward(data), target)


class HoldingAGenerator(Odd):
    """Keeps a method of an object that changes with each call."""

    def init_model(self) -> nn.Module:
        self.draw = np.random.default_rng(3).random
        return self.Net()

    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(self.forward(data), target) * (1 + self.draw())


class HalfSaved(Odd):
    """Parts of its model are not in its state, and begin anew in each round."""

    class Net(Chain.Net):
        def state_dict(self, *args: Any, **kwargs: Any) -> Any:
            state = super().state_dict(*args, **kwargs)
            return {name: value for name, value in state.items() if name.startswith("two")}

        def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
            return super().load_state_dict(state_dict, strict=False)


# what a step that is played back would not do


class Defaults(Odd):
    def training_step(self, data: Any, target: Any, seen: Any = [0]) -> Any:  # noqa: B006 - that is the point
        seen[0] += 1
        return F.cross_entropy(self.forward(data), target) * (1 + seen[0] // 20)


class Holding(Odd):
    def init_model(self) -> nn.Module:
        self.factor = late
        return self.Net()

    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(self.forward(data), target) * self.factor()


class Wrapped(Odd):
    @passed_on
    def training_step(self, data: Any, target: Any) -> Any:
        COUNTS[0] += 1
        return F.cross_entropy(self.forward(data), target) * (1 + COUNTS[0] // 20)


class Inside(Odd):
    class Schedule:
        steps = 0

        @classmethod
        def factor(cls) -> int:
            cls.steps += 1
            return 1 + cls.steps // 20

    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(self.forward(data), target) * self.Schedule.factor()


class InsideListed(Odd):
    class Schedule:
        steps: Any = [0]  # noqa: RUF012 - that is the point

    def training_step(self, data: Any, target: Any) -> Any:
        self.Schedule.steps[0] += 1
        return F.cross_entropy(self.forward(data), target) * (1 + self.Schedule.steps[0] // 20)


class Ticking(Odd):
    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(self.forward(data), target) * tick()


class Preset(Odd):
    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(self.forward(data), target) * late_too()


class Drawn(Odd):
    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(self.forward(data), target) * (1 + drawn())


class Marked(Odd):
    """Counts where functions have attributes, too."""

    def training_step(self, data: Any, target: Any) -> Any:
        function: Any = type(self).training_step
        function.calls = getattr(function, "calls", 0) + 1
        return F.cross_entropy(self.forward(data), target) * (1 + function.calls // 20)


class Catching(Odd):
    """What is refused while a step is recorded is an error like others for it."""

    def training_step(self, data: Any, target: Any) -> Any:
        try:
            factor = 2.0 if data.max().item() > 2.2 else 1.0
        except Exception:  # noqa: BLE001 - that is the point
            factor = 1.0
        return F.cross_entropy(self.forward(data), target) * factor


class CountingBackwards(Odd):
    class Count(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> Any:
            return x * 1.0

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            COUNTS[0] += 1
            return gradients[0] * (1 + COUNTS[0] // 20)

    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(self.Count.apply(self.forward(data)), target)  # type: ignore[no-untyped-call]


# others


class Exiting(Odd):
    def training_step(self, data: Any, target: Any) -> Any:
        raise SystemExit(3)


class SwitchingOff(Odd):
    """Leaves gradients off."""

    def training_step(self, data: Any, target: Any) -> Any:
        torch.set_grad_enabled(True)
        loss = F.cross_entropy(self.forward(data), target)
        torch.set_grad_enabled(False)
        return loss


class Sometimes(Odd):
    """A layer takes part in small batches only."""

    class Net(Chain.Net):
        def __init__(self) -> None:
            super().__init__()
            self.more = nn.Linear(7, 3)

    def init_optimizer(self, optimizer_args: dict[str, Any]) -> Any:
        optimizer_args = dict(optimizer_args)
        kind = getattr(torch.optim, optimizer_args.pop("kind"))
        return kind(self.model().parameters(), **optimizer_args)

    def training_step(self, data: Any, target: Any) -> Any:
        net = self.model()
        loss = F.cross_entropy(self.forward(data), target)
        return loss if len(data) == 8 else loss + F.cross_entropy(net.more(torch.tanh(net.one(data))), target)


class Erring(Odd):
    """Fails at one node, after some steps."""

    def training_step(self, data: Any, target: Any) -> Any:
        if self.node_id() == "node-2" and len(data) < 8:
            raise ValueError("no such luck")
        return F.cross_entropy(self.forward(data), target)


class Made(Odd):
    """Counts its models, where all of its plans find it."""

    made = 0

    def init_model(self) -> nn.Module:
        type(self).made += 1
        return self.Net()

    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(self.forward(data), target) * (1 + self.made / 10)


class MadeOutside(Made):
    def init_model(self) -> nn.Module:
        COUNTS[0] += 1
        return self.Net()

    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(self.forward(data), target) * (1 + COUNTS[0] / 10)


class Served(MadeOutside):
    """Counts the times that it is asked for its data."""

    def init_model(self) -> nn.Module:
        return self.Net()

    def training_data(self) -> DataManager:
        COUNTS[0] += 1
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))


class Balanced(Odd):
    """Keeps what its data say in a buffer of the model."""

    class Net(Chain.Net):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weights", torch.ones(3))

    def training_data(self) -> DataManager:
        y = self.dataset.column("y")
        self.model().weights.copy_(torch.from_numpy(np.bincount(y, minlength=3) / len(y)))
        return DataManager(self.dataset.column("x"), y)

    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(self.forward(data), target, weight=self.model().weights)


class Starting(Odd):
    def training_data(self) -> DataManager:
        self.model().two.bias.data.fill_(0.7)
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))


class CountingInVain(Odd):
    """Counts in its class, and on the plan, which needs the own loop; so it counts from the beginning."""

    steps = 0

    def training_step(self, data: Any, target: Any) -> Any:
        type(self).steps += 1
        return F.cross_entropy(self.forward(data), target) * (1 + self.steps % 50 / 50)


class DroppingInVain(Odd):
    """Counts where helpers do, draws from a generator of its class and from the global stream."""

    own: Any = np.random.default_rng(1)

    def training_step(self, data: Any, target: Any) -> Any:
        COUNTS[0] += 1
        out = F.dropout(self.forward(data), 0.1) * tick()
        return F.cross_entropy(out, target) * (1 + COUNTS[0] / 100 + self.own.random())


class Spectral(Odd):
    """Products of a matrix and vectors, whose bits depend on where they lie in memory."""

    class Net(Chain.Net):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.utils.parametrizations.spectral_norm(self.one)
