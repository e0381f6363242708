"""FedProx: FedAverage whose nodes stay near the model that they were sent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fedplug.core.aggregator import NodePayload, Weighting
from fedplug.core.context import RoundContext
from fedplug.core.errors import UsageError
from fedplug.core.numbers import is_number
from fedplug_scaffold.fedaverage import FedAverage


class FedProx(FedAverage):
    """The weighted mean, of nodes that minimise ``F_k(w) + mu/2 * ||w - w_t||^2``.

    Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith: "Federated Optimization in Heterogeneous Networks", MLSys 2020,
    algorithm 2. The proximal term is the nodes' business (``training_args["fedprox_mu"]``, `fedplug.core.trainer`);
    this aggregator asks for it.

    Args:
        mu: Weight of the proximal term, above 0; the paper tries 0.001 to 1.
        weighting: As for `FedAverage`.

    Raises:
        UsageError: An argument is wrong.
    """

    def __init__(self, mu: float = 0.01, weighting: Weighting = "samples") -> None:
        super().__init__(weighting)
        if not (is_number(mu) and 0 < mu < math.inf):
            raise UsageError(f"FedProx needs mu > 0, got {mu!r}.", cure="E.g. FedProx(mu=0.01); FedAverage has none.")
        self.mu = float(mu)

    def check(self, training_args: Mapping[str, Any]) -> None:
        """Refuse training arguments that ask for another ``mu``."""
        asked = training_args.get("fedprox_mu")
        if asked and asked != self.mu:
            raise UsageError(
                f"training_args have fedprox_mu={asked!r}, but the aggregator is FedProx(mu={self.mu!r}).",
                cure="Leave fedprox_mu out.",
            )

    def node_payload(self, node_id: str, ctx: RoundContext) -> NodePayload:
        """``fedprox_mu``, for every node."""
        return NodePayload({}, {"fedprox_mu": self.mu})
