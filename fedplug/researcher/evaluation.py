"""A test of a model on the nodes' held-out samples, without any training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedplug.core.context import RoundResult


@dataclass(frozen=True)
class Evaluation:
    """What a test has found.

    Attributes:
        round: The round that the model would start.
        metrics: Numbers over the held-out samples of all nodes together, by name: ``test_global_...``.
        values: What is no number, such as ``test_global_confusion_matrix``.
        nodes: Both for each node, by node id.
        samples: Number of samples that each node tested on, by node id.
        dropped: The nodes whose test did not count, with the reason.
        seconds: How long it took.
    """

    round: int
    metrics: Mapping[str, float]
    values: Mapping[str, Any] = field(default_factory=dict)
    nodes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    samples: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @classmethod
    def of(cls, number: int, result: RoundResult) -> Evaluation:
        """What a round without training has found.

        Args:
            number: The round that the model would start.
            result: What came out.
        """
        nodes = {
            node: {**dict(sorted(reply.metrics.items())), **result.node_values.get(node, {})}
            for node, reply in result.replies.items()
        }
        samples = {node: reply.sample_count for node, reply in result.replies.items()}
        return cls(number, result.metrics, result.values, nodes, samples, result.dropped, result.seconds)
