"""FedNova: nodes that make more steps than others do not pull the model their way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedplug.core.aggregator import AggregatorTags, StreamingAggregator
from fedplug.core.context import RoundContext
from fedplug.core.errors import NoUpdatesError, UsageError
from fedplug.core.mean import WeightedMean
from fedplug.core.params import Array, Params, widened
from fedplug.core.update import Update


@dataclass
class _Sums:
    """What is folded: ``mean`` has the weights ``n_i / a_i``."""

    start: Params
    still: frozenset[str]
    mean: WeightedMean
    plain: WeightedMean | None
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

    It is computed as ``x + tau_eff * (W/n) * (m - x)``, where ``m`` is the mean of all ``y_i`` with the weights
    ``w_i = n_i / a_i`` and ``W`` their sum: the same, in one pass and in the memory of a mean. Whole numbers and
    buffers (running means of normalisation layers) take the mean weighted by samples, as in FedAverage.

    Args:
        momentum: ``rho`` of the nodes' optimizer, in [0, 1); 0 for plain gradient descent.

    Raises:
        UsageError: It is out of range.
    """

    # Steps are no weight: to make twice as many is to normalise by twice as many.
    tags = AggregatorTags(weighted=False, convex=False, streaming=True)

    def __init__(self, momentum: float = 0.0) -> None:
        given: object = momentum
        if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < 1:
            raise UsageError(f"momentum must lie in [0, 1), got {momentum!r}.")
        self.momentum = float(given)

    def begin(self, start: Params, ctx: RoundContext) -> _Sums:
        """Empty sums."""
        exact = {each.name for each in start.spec.tensors if each.dtype.startswith(("bool", "int", "uint"))}
        still = frozenset(exact | (ctx.buffers & start.keys()))
        return _Sums(start, still, WeightedMean(start.spec), WeightedMean(start.spec) if still else None)

    def accumulate(self, state: _Sums, update: Update) -> None:
        """Fold one node's parameters in; one that has made no step has not moved, and only counts its samples."""
        length = self.length(update.steps)
        state.samples += update.sample_count
        state.steps += update.sample_count * length
        if length:
            state.mean.add(update.params, update.sample_count / length)
        if state.plain is not None:
            state.plain.add(update.params, update.sample_count)

    def finalize(self, state: _Sums) -> Params:
        """The next global parameters.

        Raises:
            NoUpdatesError: There was no update, or none with samples and steps.
        """
        if not state.mean.terms:
            raise NoUpdatesError(
                "FedNova has nothing to average: no update, or none with samples and steps.",
                cure="Check that at least one node replied and made a step.",
            )
        # tau_eff * W / n
        factor = (state.steps / state.samples) * (state.mean.total_weight / state.samples)
        mean, plain = state.mean.result(), state.plain.result() if state.plain else None

        def fill(name: str, out: Array) -> None:
            if plain is not None and name in state.still:
                np.copyto(out, plain[name])
            elif factor == 1:
                np.copyto(out, mean[name])
            else:
                start = widened(state.start[name])
                out[...] = (start + factor * (widened(mean[name]) - start)).astype(out.dtype)

        return Params.build(state.start.spec, fill)

    def length(self, steps: int) -> float:
        """``||a_i||_1`` of a node that has made so many steps."""
        rho = self.momentum
        return (steps - rho * (1 - rho**steps) / (1 - rho)) / (1 - rho) if rho else float(steps)

    def check(self, training_args: Mapping[str, Any]) -> None:
        """Refuse FedProx's term, for which ``a_i`` is another one."""
        if training_args.get("fedprox_mu"):
            raise UsageError("FedNova does not know how long a step with fedprox_mu is.", cure="Leave fedprox_mu out.")
