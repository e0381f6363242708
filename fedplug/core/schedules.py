"""Learning rates that change with time: each is a function of a number of steps or rounds, and remembers nothing.

So a rate cannot come out of step after a restart, and means the same at every node, whatever it has kept or missed.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fedplug.core.errors import UnknownNameError, UsageError
from fedplug.core.numbers import is_whole

UNITS = ("step", "round")


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """Base of schedules.

    Attributes:
        unit: What is counted: ``"step"``, the optimizer's steps since it was made (at a node: in each round, unless
            ``keep_optimizer_state`` is set), or ``"round"``, the rounds of the experiment. Both from 0.
    """

    name: ClassVar[str] = ""

    unit: str = "step"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise UsageError(f"unit must be one of {', '.join(map(repr, UNITS))}, got {self.unit!r}.")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "float":  # a number of Python's: one of NumPy's would change the dtype of what it scales
                object.__setattr__(self, field.name, _require_number(f"{field.name} of {self.name}", value))
            elif field.type == "int" and not is_whole(value, 1):
                raise UsageError(f"{field.name} of {self.name} must be a whole number above zero, got {value!r}.")

    @abstractmethod
    def at(self, count: int) -> float:
        """The rate after ``count`` steps or rounds."""

    def rate(self, steps: int, rounds: int) -> float:
        """The rate after so many steps and rounds.

        Raises:
            UsageError: It has grown beyond what a number can hold.
        """
        return self.at(rounds if self.unit == "round" else steps)

    def plain(self) -> dict[str, Any]:
        """The schedule as plain data, which `schedule_of` takes back."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain = {k: v.plain() if isinstance(v, Schedule) else list(v) if isinstance(v, tuple) else v
                 for k, v in values.items()}  # fmt: skip
        return {"schedule": self.name, **plain}


@dataclass(frozen=True)
class ExponentialDecay(Schedule):
    """``lr * factor ** (t / every)``.

    Attributes:
        lr: The rate at the beginning.
        factor: What it is multiplied by ...
        every: ... over so many steps or rounds.
    """

    name: ClassVar[str] = "exponential-decay"
    lr: float
    factor: float
    every: int = 1

    def at(self, count: int) -> float:
        """The rate after ``count``."""
        return _decayed(self, count / self.every)


@dataclass(frozen=True)
class StepDecay(Schedule):
    """``lr * factor ** floor(t / every)``.

    Attributes:
        lr: The rate at the beginning.
        factor: What it is multiplied by ...
        every: ... at once, after so many steps or rounds.
    """

    name: ClassVar[str] = "step-decay"
    lr: float
    factor: float
    every: int

    def at(self, count: int) -> float:
        """The rate after ``count``."""
        return _decayed(self, count // self.every)


@dataclass(frozen=True)
class InverseDecay(Schedule):
    """``lr / (1 + decay * t)``.

    Robbins and Monro, A Stochastic Approximation Method, 1951: such rates sum to infinity, their squares do not.

    Attributes:
        lr: The rate at the beginning.
        decay: How fast it falls.
    """

    name: ClassVar[str] = "inverse-decay"
    lr: float
    decay: float

    def at(self, count: int) -> float:
        """The rate after ``count``."""
        return self.lr / (1 + self.decay * count)


@dataclass(frozen=True)
class PolynomialDecay(Schedule):
    """``final + (lr - final) * (1 - t / length) ** power``, and ``final`` from ``length`` on.

    Attributes:
        lr: The rate at the beginning.
        length: Steps or rounds until the end.
        final: The rate at the end.
        power: 1 for a straight line.
    """

    name: ClassVar[str] = "polynomial-decay"
    lr: float
    length: int
    final: float = 0.0
    power: float = 1.0

    def at(self, count: int) -> float:
        """The rate after ``count``."""
        left = 1 - min(count, self.length) / self.length
        return float(self.final + (self.lr - self.final) * left**self.power) if left else self.final


@dataclass(frozen=True)
class CosineDecay(Schedule):
    """``final + (lr - final) * (1 + cos(pi * t / length)) / 2``, and ``final`` from ``length`` on.

    Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, ICLR 2017, equation 5.

    Attributes:
        lr: The rate at the beginning.
        length: Steps or rounds until the end.
        final: The rate at the end.
    """

    name: ClassVar[str] = "cosine-decay"
    lr: float
    length: int
    final: float = 0.0

    def at(self, count: int) -> float:
        """The rate after ``count``."""
        return self.final + (self.lr - self.final) * (1 + math.cos(math.pi * min(count, self.length) / self.length)) / 2


@dataclass(frozen=True)
class Piecewise(Schedule):
    """``rates[k]`` from the k-th boundary on.

    Attributes:
        rates: One more than boundaries.
        boundaries: Rising counts of steps or rounds, above zero.
    """

    name: ClassVar[str] = "piecewise"
    rates: tuple[float, ...]
    boundaries: tuple[int, ...]

    def __post_init__(self) -> None:
        """Take lists too."""
        for name in ("rates", "boundaries"):
            given = getattr(self, name)
            if not isinstance(given, list | tuple):
                raise UsageError(f"{name} of piecewise must be a list, got {given!r}.")
            object.__setattr__(self, name, tuple(given))
        super().__post_init__()
        rates = tuple(_require_number("each of the rates of piecewise", rate) for rate in self.rates)
        object.__setattr__(self, "rates", rates)
        if len(self.rates) != len(self.boundaries) + 1:
            raise UsageError(
                f"piecewise needs one rate more than boundaries, got {len(self.rates)} and {len(self.boundaries)}."
            )
        whole = all(is_whole(each, 1) for each in self.boundaries)
        if not (whole and list(self.boundaries) == sorted(set(self.boundaries))):
            raise UsageError(f"The boundaries of piecewise must be rising whole numbers, got {list(self.boundaries)}.")

    def at(self, count: int) -> float:
        """The rate after ``count``."""
        return float(self.rates[sum(count >= boundary for boundary in self.boundaries)])


@dataclass(frozen=True)
class Warmup(Schedule):
    """``target * (t + 1) / length`` for ``t < length``, then ``target``, which counts from there on.

    Goyal et al., Accurate, Large Minibatch SGD, 2017, section 2.2 (gradual warmup).

    Attributes:
        target: A rate, or a schedule of the same unit.
        length: Steps or rounds until the target is reached.
    """

    name: ClassVar[str] = "warmup"
    target: float | Schedule
    length: int

    def __post_init__(self) -> None:
        """Take the plain form of a schedule too."""
        object.__setattr__(self, "target", schedule_of(self.target, "target of warmup"))
        super().__post_init__()
        if isinstance(self.target, Schedule) and self.target.unit != self.unit:
            raise UsageError(f"warmup counts by {self.unit}, its target by {self.target.unit}.", cure="Use one unit.")

    def at(self, count: int) -> float:
        """The rate after ``count``."""
        after = max(0, count - self.length)
        target = self.target.at(after) if isinstance(self.target, Schedule) else self.target
        return target * min(1.0, (count + 1) / self.length)


SCHEDULES: Mapping[str, type[Schedule]] = {
    each.name: each
    for each in (ExponentialDecay, StepDecay, InverseDecay, PolynomialDecay, CosineDecay, Piecewise, Warmup)
}
"""All schedules by name."""


def schedule_of(value: Any, what: str = "lr") -> float | Schedule:
    """A learning rate: a number, a schedule, or the plain form of one.

    Args:
        value: What was given.
        what: How an error calls it.

    Raises:
        UsageError: It is none of these, or no rate.
        UnknownNameError: There is no schedule of that name.
    """
    if isinstance(value, Schedule):
        return value
    if isinstance(value, Mapping) and "schedule" in value:
        name = str(value["schedule"])
        if name not in SCHEDULES:
            raise UnknownNameError("schedule", name, SCHEDULES)
        try:
            return SCHEDULES[name](**{key: each for key, each in value.items() if key != "schedule"})
        except TypeError as error:
            raise UsageError(f"The schedule {name!r} cannot be made: {error}.") from None
    return _require_number(what, value)


def _require_number(what: str, value: Any) -> float:
    """``value`` as a float.

    Raises:
        UsageError: It is no finite number from zero up.
    """
    numeric = isinstance(value, int | float) or getattr(getattr(value, "dtype", None), "kind", "") in ("i", "u", "f")
    if not numeric or isinstance(value, bool) or getattr(value, "shape", ()) != ():
        raise UsageError(f"{what} must be a number from zero up, got {value!r}.")
    number = float(value)
    if not math.isfinite(number) or number < 0:
        raise UsageError(f"{what} must be a number from zero up, got {value!r}.")
    return number


def _decayed(schedule: ExponentialDecay | StepDecay, times: float) -> float:
    """``lr * factor ** times``.

    Raises:
        UsageError: It has grown beyond what a number can hold.
    """
    try:
        return float(schedule.lr * schedule.factor**times)
    except OverflowError:
        raise UsageError(
            f"The rate of {schedule.name} has grown beyond all bounds after {times:g} times a factor of "
            f"{schedule.factor:g}.",
            cure="Use a factor of at most 1.",
        ) from None
