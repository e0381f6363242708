"""The rules of torch's optimizers for stacked parameters: each node has its own state and its own number of steps.

The arithmetic is that of ``torch.optim``, up to the order of rounding: SGD with momentum (Sutskever et al., ICML 2013,
as ``torch.optim.SGD`` writes it), Adam (Kingma and Ba, ICLR 2015, algorithm 1), AMSGrad (Reddi et al., ICLR 2018) and
AdamW (Loshchilov and Hutter, ICLR 2019, algorithm 2).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

Gradients = Sequence[torch.Tensor | None]

_NUMBERS = ("lr", "momentum", "dampening", "weight_decay", "eps")


class Rule(ABC):
    """Moves the parameters of some nodes by their gradients.

    Args:
        settings: For each parameter, what its optimizer says of it.

    Attributes:
        copies: How many times the parameters a step goes through: they, their gradients, what the rule keeps.
    """

    copies: ClassVar[int]

    def __init__(self, settings: Sequence[Mapping[str, Any]]) -> None:
        self.settings = settings
        self._values: Sequence[torch.Tensor] = ()
        self._steps = torch.zeros(0)
        self._missed: dict[int, torch.Tensor] = {}  # in how many of them a parameter took no part

    def begin(self, values: Sequence[torch.Tensor]) -> None:
        """Begin with new nodes.

        Args:
            values: For each parameter, those of all nodes, stacked along the first axis; to be changed in place.
        """
        self._values = values
        self._steps = torch.zeros(len(values[0]), dtype=torch.float64, device=values[0].device)
        self._missed.clear()

    def end(self) -> None:
        """Forget the nodes."""
        self._values = ()

    def move(self, nodes: slice, gradients: Gradients) -> None:
        """One step of adjacent nodes.

        Args:
            nodes: Which.
            gradients: For each parameter, those of these nodes; None for one that takes no part.
        """
        self._steps[nodes] += 1
        for number, gradient in enumerate(gradients):
            if gradient is None:
                if number not in self._missed:
                    self._missed[number] = torch.zeros_like(self._steps)
                self._missed[number][nodes] += 1
            else:
                settings = self.settings[number]
                gradient = -gradient if settings["maximize"] else gradient
                self._move(number, nodes, self._values[number][nodes], gradient, settings)

    @abstractmethod
    def _move(
        self, number: int, nodes: slice, values: torch.Tensor, gradient: torch.Tensor, settings: Mapping[str, Any]
    ) -> None:
        """One step of one parameter."""

    def _steps_of(self, number: int, nodes: slice) -> torch.Tensor:
        """How many steps a parameter has taken, by node."""
        steps = self._steps[nodes]
        return steps - self._missed[number][nodes] if number in self._missed else steps

    def _by_node(self, numbers: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """One number for each node, to be multiplied with what is stacked."""
        return numbers.to(like.dtype).reshape(-1, *(1,) * (like.dim() - 1))


class PlainSGD(Rule):
    """SGD that remembers nothing; it can be taken into the product that makes a gradient."""

    copies = 1

    def factors(self, number: int) -> tuple[float, float]:
        """What a parameter, and its gradient, are multiplied with before they are added."""
        settings = self.settings[number]
        rate = settings["lr"] * (-1 if settings["maximize"] else 1)
        return 1 - settings["lr"] * settings["weight_decay"], -rate

    def move(self, nodes: slice, gradients: Gradients) -> None:
        """As `Rule.move`."""
        for number, gradient in enumerate(gradients):
            if gradient is not None:
                keep, add = self.factors(number)
                values = self._values[number][nodes]
                if keep != 1:
                    values.mul_(keep)
                values.add_(gradient, alpha=add)

    def _move(
        self, number: int, nodes: slice, values: torch.Tensor, gradient: torch.Tensor, settings: Mapping[str, Any]
    ) -> None:
        raise NotImplementedError


class MomentumSGD(Rule):
    """SGD with a velocity."""

    copies = 3

    def begin(self, values: Sequence[torch.Tensor]) -> None:
        """As `Rule.begin`."""
        super().begin(values)
        self._velocities = [torch.zeros_like(each) for each in values]

    def end(self) -> None:
        """As `Rule.end`."""
        super().end()
        self._velocities = []

    def _move(
        self, number: int, nodes: slice, values: torch.Tensor, gradient: torch.Tensor, settings: Mapping[str, Any]
    ) -> None:
        if settings["weight_decay"]:
            gradient = gradient.add(values, alpha=settings["weight_decay"])
        velocity = self._velocities[number][nodes].mul_(settings["momentum"])
        if settings["dampening"]:  # the first time, all of the gradient counts
            fresh = torch.where(self._steps_of(number, nodes) == 1, 1.0, 1 - settings["dampening"])
            velocity.addcmul_(gradient, self._by_node(fresh, gradient))
        else:
            velocity.add_(gradient)
        if settings["nesterov"]:
            velocity = gradient.add(velocity, alpha=settings["momentum"])
        values.add_(velocity, alpha=-settings["lr"])


class Adam(Rule):
    """Adam, AMSGrad and AdamW."""

    copies = 6

    def begin(self, values: Sequence[torch.Tensor]) -> None:
        """As `Rule.begin`."""
        super().begin(values)
        self._means, self._squares = ([torch.zeros_like(each) for each in values] for _ in range(2))
        self._largest = [
            torch.zeros_like(each[:, ...] if settings["amsgrad"] else each[:0])
            for each, settings in zip(values, self.settings, strict=True)
        ]

    def end(self) -> None:
        """As `Rule.end`."""
        super().end()
        self._means, self._squares, self._largest = [], [], []

    def _move(
        self, number: int, nodes: slice, values: torch.Tensor, gradient: torch.Tensor, settings: Mapping[str, Any]
    ) -> None:
        rate, decay, (one, two) = settings["lr"], settings["weight_decay"], settings["betas"]
        if decay and settings["decoupled_weight_decay"]:
            values.mul_(1 - rate * decay)
        elif decay:
            gradient = gradient.add(values, alpha=decay)
        mean = self._means[number][nodes].lerp_(gradient, 1 - one)
        square = self._squares[number][nodes].mul_(two).addcmul_(gradient, gradient, value=1 - two)
        if settings["amsgrad"]:
            square = torch.maximum(self._largest[number][nodes], square, out=self._largest[number][nodes])
        steps = self._steps_of(number, nodes)
        size = self._by_node(-rate / (1 - one**steps), values)
        root = self._by_node((1 - two**steps).rsqrt(), values)
        values.addcdiv_(mean * size, (square.sqrt() * root).add_(settings["eps"]))


def rule_for(optimizer: Any, moved: Sequence[torch.Tensor]) -> Rule | str:
    """The rule of an optimizer; or why there is none, in words.

    Args:
        optimizer: A plan's.
        moved: The parameters, in the order in which the rule is to know them; the optimizer's, and no others.
    """
    kind = type(optimizer)
    name = kind.__name__
    if kind not in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
        return f"the optimizer is {name}, which has no rule for stacked parameters"
    if any(getattr(optimizer, hooks, None) for hooks in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")):
        return "the optimizer has hooks"
    by_parameter: dict[int, Mapping[str, Any]] = {}
    for group in optimizer.param_groups:
        settings = {"decoupled_weight_decay": kind is torch.optim.AdamW, **group}
        for setting in _NUMBERS:
            if not isinstance(settings.get(setting, 0), float | int):
                return f"the optimizer is {name} with a {setting} that is no plain number"
        if settings.get("differentiable") or settings.get("capturable"):
            return f"the optimizer is {name} with differentiable or capturable steps"
        by_parameter.update((id(parameter), settings) for parameter in group["params"])
    settings_of = [by_parameter[id(parameter)] for parameter in moved]
    if kind is not torch.optim.SGD:
        return Adam(settings_of)
    return MomentumSGD(settings_of) if any(each["momentum"] for each in settings_of) else PlainSGD(settings_of)
