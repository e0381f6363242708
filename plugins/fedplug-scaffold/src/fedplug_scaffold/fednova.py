"""FedNova: nodes that make more steps than others do not pull the model their way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedplug.core.aggregator import AggregatorTags, StreamingAggregator
from fedplug.core.context import RoundContext
from fedplug.core.errors import NoUpdatesError, UsageError
from fedplug.core.mean import FOLD_BLOCK, WeightedMean
from fedplug.core.numbers import is_number
from fedplug.core.params import Array, Params
from fedplug.core.update import Update


@dataclass
class _Sums:
    """What is folded."""

    start: Params
    moves: dict[str, Array]  # sum of n_i / a_i * (y_i - x), float64
    still: WeightedMean  # of what has no gradient
    samples: float = 0.0
    steps: float = 0.0  # sum of n_i * a_i


class FedNova(StreamingAggregator[_Sums]):
    """Normalised averaging.

    ``x <- x - tau_eff * sum_i p_i d_i`` with ``d_i = (x - y_i) / a_i``, ``tau_eff = sum_i p_i a_i`` and
    ``p_i = n_i / n``: Wang, Liu, Liang, Joshi, Poor, "Tackling the Objective Inconsistency Problem in Heterogeneous
    Federated Optimization", NeurIPS 2020, equations 6 and 7, where ``a_i`` is ``||a_i||_1``. For plain gradient
    descent it is the node's number of steps; with momentum ``rho`` it is
    ``[tau - rho (1 - rho^tau) / (1 - rho)] / (1 - rho)`` (section 4.2). Where all nodes make equally many steps this
    is FedAverage.

    Sums are held in float64, one reply at a time. Whole numbers and buffers (running means of normalisation layers)
    take the mean weighted by samples, as in FedAverage.

    Args:
        momentum: ``rho`` of the nodes' optimizer, in [0, 1); 0 for plain gradient descent.

    Raises:
        UsageError: It is out of range.
    """

    # Steps are no weight: to make twice as many is to normalise by twice as many.
    tags = AggregatorTags(weighted=False, convex=False, streaming=True)

    def __init__(self, momentum: float = 0.0) -> None:
        if not (is_number(momentum) and 0 <= momentum < 1):
            raise UsageError(f"momentum must lie in [0, 1), got {momentum!r}.")
        self.momentum = float(momentum)

    def begin(self, start: Params, ctx: RoundContext) -> _Sums:
        """Empty sums."""
        exact = {each.name for each in start.spec.tensors if each.is_exact}
        still = {name: start[name] for name in start if name in exact or name in ctx.buffers}
        moves = {name: np.zeros(start[name].shape) for name in start if name not in still}
        return _Sums(start, moves, WeightedMean(Params.from_arrays(still).spec))

    def accumulate(self, state: _Sums, update: Update) -> None:
        """Fold one node's parameters in; one that has made no step has not moved, and only counts its samples."""
        update.params.require(state.start.spec)
        length = self.length(update.steps)
        state.samples += update.sample_count
        state.steps += update.sample_count * length
        if length:
            for name, total in state.moves.items():
                _add(update.params[name], state.start[name], update.sample_count / length, total)
        still = {name: update.params[name] for name in state.still.spec.names}
        state.still.add(Params.from_arrays(still), update.sample_count)

    def finalize(self, state: _Sums) -> Params:
        """The next global parameters.

        Raises:
            NoUpdatesError: There was no update, or none with samples and steps.
        """
        if not state.steps:
            raise NoUpdatesError(
                "FedNova has nothing to average: no update, or none with samples and steps.",
                cure="Check that at least one node replied and made a step.",
            )
        still = state.still.result()
        factor = state.steps / state.samples**2  # tau_eff / n

        def fill(name: str, out: Array) -> None:
            if name in still:
                np.copyto(out, still[name])
            else:
                moved = state.moves[name] * factor
                moved += state.start[name]
                out[...] = moved.astype(out.dtype)

        return Params.build(state.start.spec, fill)

    def length(self, steps: int) -> float:
        """``||a_i||_1`` of a node that has made so many steps."""
        rho = self.momentum
        return (steps - rho * (1 - rho**steps) / (1 - rho)) / (1 - rho) if rho else float(steps)

    def check(self, training_args: Mapping[str, Any]) -> None:
        """Refuse FedProx's term, for which ``a_i`` is another one."""
        if training_args.get("fedprox_mu"):
            raise UsageError("FedNova does not know how long a step with fedprox_mu is.", cure="Leave fedprox_mu out.")


def _add(end: Array, start: Array, weight: float, total: Array) -> None:
    """``total += weight * (end - start)`` in float64."""
    ends, starts, totals = end.reshape(-1), start.reshape(-1), total.reshape(-1)
    for low in range(0, totals.size, FOLD_BLOCK):
        block = slice(low, low + FOLD_BLOCK)
        move = ends[block].astype(np.float64)
        move -= starts[block]
        move *= weight
        totals[block] += move
