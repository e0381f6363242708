"""The rules by which the lean step moves parameters: those of ``torch.optim``, to the bit.

SGD with its settings, Adam, AMSGrad and AdamW are written out: ``torch.optim`` takes two to four times as long, as it
goes through groups, defaults and states for each parameter. They do the same operations in the same order as
``torch.optim`` does, which is compared before a rule is used. Every other optimizer moves the parameters itself: it is
made once, and its state is put back to what it was before each training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from fedplug_torch.params import bits_equal

Tensors = list[torch.Tensor] | tuple[torch.Tensor, ...]
Numbers = Sequence[int] | None

_ONE_BY_ONE = {"foreach": False, "fused": False, "differentiable": False, "capturable": False}
"""What an optimizer must not be told, so that it moves one parameter after the other; None will do, too."""


class Rule(ABC):
    """Moves parameters by their gradients."""

    @abstractmethod
    def begin(self) -> None:
        """Forget the steps before, as an optimizer that has just been made."""

    @abstractmethod
    def move(self, gradients: Tensors, numbers: Numbers = None) -> None:
        """One step.

        Args:
            gradients: Of the parameters that take part, at least of one; contiguous.
            numbers: Which these are, in order; None for all.
        """


class SGD(Rule):
    """The rule of ``torch.optim.SGD`` for one group of parameters.

    Args:
        settings: Those of the group.
        values: The parameters, to be changed in place.
    """

    def __init__(self, settings: Mapping[str, Any], values: Sequence[torch.Tensor]) -> None:
        self._values = list(values)
        self._rate, self._decay, self._maximize = -settings["lr"], settings["weight_decay"], settings["maximize"]
        self._momentum, self._nesterov = settings["momentum"], settings["nesterov"]
        self._part = 1 - settings["dampening"]
        self._velocities = [torch.empty_like(value) for value in values] if self._momentum else []
        self._without = set(range(len(values)))  # the numbers of the parameters that have no velocity yet

    def begin(self) -> None:
        """As `Rule.begin`."""
        self._without.update(range(len(self._values)))

    def move(self, gradients: Tensors, numbers: Numbers = None) -> None:
        """As `Rule.move`."""
        values = self._values if numbers is None else [self._values[number] for number in numbers]
        if self._maximize:
            gradients = torch._foreach_neg(gradients)
        if self._decay:
            gradients = torch._foreach_add(gradients, values, alpha=self._decay)
        if self._momentum:
            gradients = self._with_momentum(range(len(values)) if numbers is None else numbers, gradients)
        torch._foreach_add_(values, gradients, alpha=self._rate)

    def _with_momentum(self, numbers: Sequence[int], gradients: Tensors) -> Tensors:
        """What the parameters of these numbers are moved by."""
        velocities = [self._velocities[number] for number in numbers]
        if self._without.isdisjoint(numbers):
            torch._foreach_mul_(velocities, self._momentum)
            torch._foreach_add_(velocities, gradients, alpha=self._part)
        else:  # the first time, all of the gradient counts
            for number, velocity, gradient in zip(numbers, velocities, gradients, strict=True):
                if number in self._without:
                    velocity.copy_(gradient)
                else:
                    velocity.mul_(self._momentum).add_(gradient, alpha=self._part)
            self._without.difference_update(numbers)
        return torch._foreach_add(gradients, velocities, alpha=self._momentum) if self._nesterov else velocities


class Adam(Rule):
    """The rule of ``torch.optim.Adam`` and ``torch.optim.AdamW`` for one group of parameters.

    Args:
        settings: Those of the group; with ``decoupled_weight_decay`` it is AdamW.
        values: The parameters, to be changed in place.
    """

    def __init__(self, settings: Mapping[str, Any], values: Sequence[torch.Tensor]) -> None:
        self._lr, self._eps, (self._one, self._two) = settings["lr"], settings["eps"], settings["betas"]
        self._decay, self._is_decoupled = settings["weight_decay"], settings["decoupled_weight_decay"]
        self._maximize, self._amsgrad = settings["maximize"], settings["amsgrad"]
        means, squares = ([torch.zeros_like(value) for value in values] for _ in range(2))
        largest = [torch.zeros_like(value) for value in values] if self._amsgrad else squares
        self._state = (list(values), means, squares, largest)
        self._steps = [0] * len(values)

    def begin(self) -> None:
        """As `Rule.begin`."""
        for kept in self._state[1:]:
            for tensor in kept:
                tensor.zero_()
        self._steps = [0] * len(self._steps)

    def move(self, gradients: Tensors, numbers: Numbers = None) -> None:
        """As `Rule.move`."""
        values, means, squares, largest = self._state
        if numbers is None:
            numbers = range(len(values))
        else:
            values, means, squares, largest = ([kept[number] for number in numbers] for kept in self._state)
        if self._maximize:
            gradients = torch._foreach_neg(gradients)
        if self._decay and self._is_decoupled:
            torch._foreach_mul_(values, 1 - self._lr * self._decay)
        elif self._decay:
            gradients = torch._foreach_add(gradients, values, alpha=self._decay)
        torch._foreach_lerp_(means, gradients, 1 - self._one)
        torch._foreach_mul_(squares, self._two)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - self._two)
        if self._amsgrad:
            for most, square in zip(largest, squares, strict=True):
                torch.maximum(most, square, out=most)
        sizes, roots = self._corrections(numbers)
        below = torch._foreach_sqrt(largest)
        torch._foreach_div_(below, roots)
        torch._foreach_add_(below, self._eps)
        torch._foreach_addcdiv_(values, means, below, sizes)

    def _corrections(self, numbers: Iterable[int]) -> tuple[list[float], list[float]]:
        """One more step of each of these parameters: its size, and what the root of its squares is divided by."""
        sizes, roots = list[float](), list[float]()
        known: dict[int, tuple[float, float]] = {}  # most parameters have taken as many steps as the others
        for number in numbers:
            step = self._steps[number] = self._steps[number] + 1
            if step not in known:
                known[step] = -(self._lr / (1 - self._one**step)), (1 - self._two**step) ** 0.5
            size, root = known[step]
            sizes.append(size)
            roots.append(root)
        return sizes, roots


class Groups(Rule):
    """Rules for groups of parameters that follow one another.

    Args:
        rules: Each with the number of its parameters.
    """

    def __init__(self, rules: Sequence[tuple[Rule, int]]) -> None:
        self._rules = rules

    def begin(self) -> None:
        """As `Rule.begin`."""
        for rule, _ in self._rules:
            rule.begin()

    def move(self, gradients: Tensors, numbers: Numbers = None) -> None:
        """As `Rule.move`."""
        low, found = 0, dict(zip(range(len(gradients)) if numbers is None else numbers, gradients, strict=True))
        for rule, count in self._rules:
            mine = [number for number in range(low, low + count) if number in found]
            if mine:
                rule.move([found[number] for number in mine], [number - low for number in mine])
            low += count


class ByOptimizer(Rule):
    """An optimizer that was made once, for training after training.

    Args:
        optimizer: One of ``torch.optim``, which keeps what it remembers in its ``state``. Its parameters are changed in
            place.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._fresh = {parameter: deepcopy(kept) for parameter, kept in optimizer.state.items()}
        self._moved = moved(optimizer)
        self._params: list[torch.Tensor] = [each for group in optimizer.param_groups for each in group["params"]]
        step: Any = type(optimizer).step
        # Around it is a wrapper that calls hooks, of which there are none, and tells profilers of the step.
        self._step: Callable[[torch.optim.Optimizer], Any] = step.__wrapped__ if hasattr(step, "hooked") else step

    def begin(self) -> None:
        """As `Rule.begin`."""
        self._optimizer.state.clear()
        self._optimizer.state.update((parameter, deepcopy(kept)) for parameter, kept in self._fresh.items())

    def move(self, gradients: Tensors, numbers: Numbers = None) -> None:
        """As `Rule.move`; what stands where the optimizer looks for gradients is put back."""
        before = [parameter.grad for parameter in self._params]
        for parameter in self._params:
            parameter.grad = None
        taking_part = self._moved if numbers is None else [self._moved[number] for number in numbers]
        for parameter, gradient in zip(taking_part, gradients, strict=True):
            parameter.grad = gradient
        try:
            self._step(self._optimizer)
        finally:
            for parameter, kept in zip(self._params, before, strict=True):
                parameter.grad = kept


_EXACT = (torch.float32, torch.float64)
"""For these, operations on several tensors come to the bits of those on one; ``_foreach_mul_`` of float16 does not."""

_WRITTEN_OUT: dict[type, type[SGD | Adam]] = {torch.optim.SGD: SGD, torch.optim.Adam: Adam, torch.optim.AdamW: Adam}


def rule_of(optimizer: torch.optim.Optimizer) -> Rule:
    """The rule of an optimizer that `why_none` says nothing against.

    Args:
        optimizer: Its parameters are to stay in the memory that they lie in now.
    """
    kind, groups = type(optimizer), optimizer.param_groups
    made = _WRITTEN_OUT.get(kind)
    if made is None or optimizer.state or not all(map(_is_one_by_one, groups)) or not _agrees(made, optimizer):
        return ByOptimizer(optimizer)
    rules = [(made(_settings(group, kind), [each.detach() for each in _moved(group)]), group) for group in groups]
    return rules[0][0] if len(rules) == 1 else Groups([(rule, len(_moved(group))) for rule, group in rules])


def moved(optimizer: torch.optim.Optimizer) -> tuple[torch.Tensor, ...]:
    """The parameters that an optimizer moves: those that are not frozen, in the order of its groups."""
    return tuple(parameter for group in optimizer.param_groups for parameter in _moved(group))


def _moved(group: Mapping[str, Any]) -> list[torch.Tensor]:
    return [parameter for parameter in group["params"] if parameter.requires_grad]


def why_none(optimizer: Any) -> str:
    """Why the lean step has no rule for an optimizer, in words; empty if it has one."""
    kind, name = type(optimizer), type(optimizer).__name__
    if getattr(torch.optim, name, None) is not kind:
        return f"the optimizer is {name}, which is not one of torch.optim"
    if kind is torch.optim.LBFGS:
        return "the optimizer is LBFGS, which asks for the loss several times in a step"
    if has_hooks(optimizer):
        return "the optimizer has hooks"
    if own := vars(optimizer).keys() & set(dir(kind)):
        return f"the optimizer has a {min(own)} of its own"
    for group in optimizer.param_groups:
        for setting in ("foreach", "differentiable", "capturable"):
            if group.get(setting):
                return f"the optimizer is {name} with {setting}={group[setting]!r}"
        for setting, value in group.items():
            if setting != "params" and not _is_plain(value):
                return f"the optimizer is {name} with a {setting} that is no plain number"
    return ""


def has_hooks(optimizer: torch.optim.Optimizer) -> bool:
    """Whether somebody is called before or after its steps, or those of all optimizers."""
    own = (vars(optimizer).get(f"_optimizer_step_{when}_hooks") for when in ("pre", "post"))
    return any((*own, _global_optimizer_pre_hooks, _global_optimizer_post_hooks))


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _is_one_by_one(group: Mapping[str, Any]) -> bool:
    is_told = any(group.get(setting) not in (None, usual) for setting, usual in _ONE_BY_ONE.items())
    return not is_told and all(parameter.dtype in _EXACT for parameter in group["params"])


def _settings(group: Mapping[str, Any], kind: type) -> Mapping[str, Any]:
    return {"decoupled_weight_decay": kind is torch.optim.AdamW, **group}


_MOST_COMPARED = 1003
"""Values of each parameter: enough for what processors do with several at once, and for what is left over."""

_STEPS_COMPARED = 3


def _agrees(made: type[SGD | Adam], optimizer: torch.optim.Optimizer) -> bool:
    """Whether a rule comes to the bits of an optimizer of this kind, with these settings, in this version of torch."""
    try:
        return _comes_to_the_same(made, optimizer)
    except Exception:  # noqa: BLE001 - another version may be called otherwise; then the optimizer goes on by itself
        return False


def _comes_to_the_same(made: type[SGD | Adam], optimizer: torch.optim.Optimizer) -> bool:
    kind: Any = type(optimizer)
    theirs, mine = list[dict[str, Any]](), list[list[torch.Tensor]]()
    for group in optimizer.param_groups:
        start = [_wave(parameter, 1.0) for parameter in _moved(group)]
        theirs.append({**group, "params": [torch.nn.Parameter(each) for each in start]})
        mine.append([each.clone() for each in start])
    twin = kind(theirs)
    rules = [made(_settings(group, kind), values) for group, values in zip(optimizer.param_groups, mine, strict=True)]
    for step in range(_STEPS_COMPARED):
        for group, rule in zip(theirs, rules, strict=True):
            gradients = [_wave(parameter, 2.0 + step) for parameter in group["params"]]
            for parameter, gradient in zip(group["params"], gradients, strict=True):
                parameter.grad = gradient.clone()
            if gradients:
                rule.move(gradients)
        twin.step()
    return all(
        bits_equal(value, parameter.detach())
        for group, values in zip(theirs, mine, strict=True)
        for parameter, value in zip(group["params"], values, strict=True)
    )


def _wave(parameter: torch.Tensor, pitch: float) -> torch.Tensor:
    """Some values of all sizes, as many as a parameter has."""
    count = min(parameter.numel(), _MOST_COMPARED)
    return torch.sin(pitch * torch.arange(1, count + 1, dtype=torch.float64)).to(parameter.dtype)
