"""Optimizers of the researcher: server momentum, Adagrad, Adam and Yogi on the mean of the nodes' changes.

Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan: "Adaptive Federated Optimization", ICLR 2021,
algorithm 2. With ``Delta`` the way from the global model ``x`` to the aggregate::

    m <- beta_1 m + (1 - beta_1) Delta
    v <- v + Delta^2                                      (FedAdagrad)
    v <- v - (1 - beta_2) Delta^2 sign(v - Delta^2)       (FedYogi)
    v <- beta_2 v + (1 - beta_2) Delta^2                  (FedAdam)
    x <- x + lr * m / (sqrt(v) + tau)

from ``m = 0`` and ``v = tau^2``. There is no correction of the bias of ``m`` and ``v``: ``tau`` takes its place.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fedplug.core.agg_optimizer import AggOptimizer
from fedplug.core.context import RoundContext
from fedplug.core.errors import ParamsError, UsageError
from fedplug.core.numbers import is_number
from fedplug.core.params import Array, Params, widened


class FedAvgM(AggOptimizer):
    """Server momentum: ``v <- beta v + Delta``, ``x <- x + lr v``.

    Hsu, Qi, Brown: "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification",
    2019, section 4.3. With ``beta=0`` and ``lr=1`` it is plain averaging.

    Args:
        lr: Server learning rate, above 0.
        beta: Momentum, in [0, 1).

    Raises:
        UsageError: An argument is out of range.
    """

    def __init__(self, lr: float = 1.0, beta: float = 0.9) -> None:
        self.lr = _number("lr", lr, above=0)
        self.beta = _number("beta", beta, least=0, below=1)
        self._velocity: dict[str, Array] = {}

    def advance(self, start: Params, aggregated: Params, ctx: RoundContext) -> Params:
        """One step."""

        def move(name: str, delta: Array) -> Array:
            before = self._velocity.get(name)
            self._velocity[name] = delta if before is None else self.beta * before + delta
            return self.lr * self._velocity[name]

        return _moved(start, aggregated, ctx, self._velocity, move)

    def state_dict(self) -> dict[str, Any]:
        """The velocity."""
        return {"velocity": Params.from_arrays(self._velocity)} if self._velocity else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._velocity = _copied(state.get("velocity"))


class _Adaptive(AggOptimizer):
    """What the three adaptive rules share."""

    def __init__(self, lr: float, beta_1: float, tau: float) -> None:
        self.lr = _number("lr", lr, above=0)
        self.beta_1 = _number("beta_1", beta_1, least=0, below=1)
        self.tau = _number("tau", tau, above=0)
        self._m: dict[str, Array] = {}
        self._v: dict[str, Array] = {}

    @abstractmethod
    def _second(self, v: Array, square: Array) -> Array:
        """The next ``v``."""

    def advance(self, start: Params, aggregated: Params, ctx: RoundContext) -> Params:
        """One step."""

        def move(name: str, delta: Array) -> Array:
            if name not in self._m:
                self._m[name] = np.zeros_like(delta)
                self._v[name] = np.full_like(delta, self.tau**2)
            self._m[name] = self.beta_1 * self._m[name] + (1 - self.beta_1) * delta
            self._v[name] = self._second(self._v[name], delta * delta)
            step: Array = self.lr * self._m[name] / (np.sqrt(self._v[name]) + self.tau)
            return step

        return _moved(start, aggregated, ctx, self._m, move)

    def state_dict(self) -> dict[str, Any]:
        """Both moments."""
        return {"m": Params.from_arrays(self._m), "v": Params.from_arrays(self._v)} if self._m else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._m, self._v = _copied(state.get("m")), _copied(state.get("v"))


class FedAdagrad(_Adaptive):
    """Adagrad on the mean change; see the module.

    Args:
        lr: Server learning rate: about the size of a parameter's change in a round.
        beta_1: Decay of the first moment, in [0, 1); the paper's FedAdagrad has none.
        tau: How much adaptivity is held back, above 0; the paper's experiments take 1e-3.

    Raises:
        UsageError: An argument is out of range.
    """

    def __init__(self, lr: float = 0.01, beta_1: float = 0.0, tau: float = 1e-3) -> None:
        super().__init__(lr, beta_1, tau)

    def _second(self, v: Array, square: Array) -> Array:
        return v + square


class FedAdam(_Adaptive):
    """Adam on the mean change; see the module.

    Args:
        lr: Server learning rate: about the size of a parameter's change in a round.
        beta_1: Decay of the first moment, in [0, 1).
        beta_2: Decay of the second moment, in [0, 1).
        tau: How much adaptivity is held back, above 0; the paper's experiments take 1e-3.

    Raises:
        UsageError: An argument is out of range.
    """

    def __init__(self, lr: float = 0.01, beta_1: float = 0.9, beta_2: float = 0.99, tau: float = 1e-3) -> None:
        super().__init__(lr, beta_1, tau)
        self.beta_2 = _number("beta_2", beta_2, least=0, below=1)

    def _second(self, v: Array, square: Array) -> Array:
        return self.beta_2 * v + (1 - self.beta_2) * square


class FedYogi(_Adaptive):
    """Yogi on the mean change; see the module.

    Args:
        lr: Server learning rate: about the size of a parameter's change in a round.
        beta_1: Decay of the first moment, in [0, 1).
        beta_2: How fast the second moment follows, in [0, 1).
        tau: How much adaptivity is held back, above 0; the paper's experiments take 1e-3.

    Raises:
        UsageError: An argument is out of range.
    """

    def __init__(self, lr: float = 0.01, beta_1: float = 0.9, beta_2: float = 0.99, tau: float = 1e-3) -> None:
        super().__init__(lr, beta_1, tau)
        self.beta_2 = _number("beta_2", beta_2, least=0, below=1)

    def _second(self, v: Array, square: Array) -> Array:
        return np.asarray(v - (1 - self.beta_2) * square * np.sign(v - square))


def _moved(
    start: Params,
    aggregated: Params,
    ctx: RoundContext,
    known: Mapping[str, Array],
    move: Callable[[str, Array], Array],
) -> Params:
    """``start`` moved by ``move(name, delta)``, but for whole numbers and buffers, which are those of ``aggregated``.

    Raises:
        ParamsError: What was learnt is about another model.
    """
    for name, array in known.items():
        if name not in start or start[name].shape != array.shape:
            raise ParamsError(
                f"The researcher's optimizer has learnt about {name!r}, which the model does not have in that shape.",
                cure="Begin with a new optimizer for another model: set_agg_optimizer(...).",
            )

    def fill(name: str, out: Array) -> None:
        if name in ctx.buffers or start.spec.by_name[name].is_exact:
            np.copyto(out, aggregated[name])
            return
        before = widened(start[name])
        out[...] = (before + move(name, widened(aggregated[name]) - before)).astype(out.dtype)

    return Params.build(start.spec, fill)


def _copied(params: Params | None) -> dict[str, Array]:
    return {} if params is None else {name: np.array(array) for name, array in params.items()}


def _number(
    name: str, value: Any, *, least: float = -math.inf, above: float = -math.inf, below: float = math.inf
) -> float:
    if not is_number(value) or not (value >= least and value > above and value < below):
        bounds = [f">= {least:g}"] * (least > -math.inf) + [f"> {above:g}"] * (above > -math.inf)
        bounds += [f"< {below:g}"] * (below < math.inf)
        raise UsageError(f"{name} must be a number {' and '.join(bounds)}, got {value!r}.")
    return float(value)
