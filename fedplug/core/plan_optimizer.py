"""Optimizers that know no framework: one object moves tensors of PyTorch as well as arrays of NumPy.

A plan of any framework may return one from ``init_optimizer``. What such an optimizer remembers is saved by its
``state_dict``, and it may talk with a counterpart at the researcher once a round.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fedplug.core.errors import CodecError, ParamsError, PlanError, UsageError
from fedplug.core.params import Params
from fedplug.core.plain_state import freeze, thaw
from fedplug.core.stateful import Stateful

if TYPE_CHECKING:
    from fedplug.core.trainer.context import Context


class PlanOptimizer(Stateful, ABC):
    """Base of optimizers that a plan of any framework may use.

    In a training of a round, the loop calls `begin`, then `step` after each batch, then `end`. An optimizer whose
    trainer has no node behind it (fine-tuning, a plain `Trainer`) is only asked for steps.
    """

    @abstractmethod
    def step(self, params: Mapping[str, Any], gradients: Mapping[str, Any]) -> None:
        """Move the parameters, in place.

        Args:
            params: The framework's own arrays by name, live and apart from any graph.
            gradients: By name, of the same shapes; one that is missing is zero. They may be changed.
        """

    def begin(self, ctx: Context) -> None:
        """A training of a round begins: read ``ctx.inbox``, and what the node has kept in ``ctx.state``.

        Raises:
            PlanError: What should have come with the round has not.
        """

    def end(self, ctx: Context) -> None:
        """The training is over: put into ``ctx.outbox`` what the counterpart needs, and keep the rest in ``ctx.state``.

        What is kept here is kept in any case. What ``keep_optimizer_state`` is about is `state_dict`.
        """


class SGD(PlanOptimizer):
    """Plain gradient descent: ``p <- p - lr * g``.

    Args:
        lr: The learning rate.
    """

    def __init__(self, lr: float) -> None:
        self.lr = lr

    def step(self, params: Mapping[str, Any], gradients: Mapping[str, Any]) -> None:
        """Change ``params`` in place."""
        for name, gradient in gradients.items():
            array = params[name]
            array -= np.asarray(self.lr * gradient, array.dtype)


def plain_gradient_descent(optimizer_args: Mapping[str, Any]) -> SGD:
    """What plans over NumPy's arrays train with unless they define ``init_optimizer``.

    Raises:
        PlanError: There are arguments beside the rate.
    """
    unknown = sorted(set(optimizer_args) - {"lr"})
    if unknown:
        raise PlanError(
            f"Plain gradient descent takes only lr, but optimizer_args has {', '.join(map(repr, unknown))}.",
            cure="Remove it, or define init_optimizer; fedplug_declearn.Optimizer has momentum, Adam and more.",
        )
    return SGD(optimizer_args["lr"])


def read_state(optimizer: Stateful) -> tuple[Params, dict[str, Any]]:
    """What an optimizer has learnt, for a node to keep: arrays by name, and plain data.

    Raises:
        UsageError: Its state holds something else.
    """
    parts: list[Params] = []
    plain = freeze(optimizer.state_dict(), parts, f"the state of {type(optimizer).__name__}")
    arrays = {f"{number}/{name}": each[name] for number, each in enumerate(parts) for name in each}
    return Params.from_arrays(arrays), {"class": type(optimizer).__name__, "state": plain, "parts": len(parts)}


def write_state(optimizer: Stateful, arrays: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Let an optimizer go on from what `read_state` gave.

    Raises:
        ParamsError: It is the state of another optimizer, or no state at all.
    """
    if values.get("class") != type(optimizer).__name__ or "parts" not in values:
        raise ParamsError(f"it belongs to another optimizer ({values.get('class')})")
    parts: list[dict[str, Any]] = [{} for _ in range(values["parts"])]
    for name, array in arrays.items():
        number, _, rest = name.partition("/")
        parts[int(number)][rest] = array
    try:
        optimizer.load_state_dict(thaw(values["state"], [Params.from_arrays(part) for part in parts]))
    except (CodecError, UsageError) as error:  # of other modules than before: it begins anew
        raise ParamsError(error.message) from None
