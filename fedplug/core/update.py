"""What a node sends back from one round, as the aggregator sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from fedplug.core.params import Params

Aux = Mapping[str, Params]
"""Extra arrays that an algorithm ships beside the parameters, by name (control variates, moments, ...)."""


def _empty() -> Mapping[str, float]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Update:
    """The result of one node's local training, validated.

    Attributes:
        node_id: The node that trained.
        params: Its parameters after training, laid out as the global model.
        sample_count: Number of distinct training samples the node holds; the usual weight in a mean.
        steps: Number of optimizer steps it made.
        aux: Extra arrays by name, for algorithms that need them.
        metrics: Scalars by name, e.g. ``loss``.
        timing: Seconds by name: ``train`` (wall), ``train_cpu`` (processor), ``total`` (request to reply).
    """

    node_id: str
    params: Params
    sample_count: int
    steps: int = 0
    aux: Aux = field(default_factory=lambda: MappingProxyType({}))
    metrics: Mapping[str, float] = field(default_factory=_empty)
    timing: Mapping[str, float] = field(default_factory=_empty)
