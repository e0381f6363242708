"""The nodes' tests of a round: checked, added up in the order of folding, and what they come to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fedplug.core.errors import PlanError, UpdateRejectedError
from fedplug.core.messages import TrainReply
from fedplug.core.metrics import Findings, Metric, findings, merged
from fedplug.core.metrics.sums import check_sums, metric_sizes, of_test
from fedplug.core.params import Array, Params

TESTED = ("test_global_", "test_local_")
"""How the names of metrics of a test begin."""

_WHEN = {"global": "test_on_global_updates", "local": "test_on_local_updates"}


class NodeTests:
    """Takes the sums of nodes and adds them.

    What is added is kept once for all nodes; of each node only those results remain that are no numbers.

    Args:
        metrics: What was to be measured, by name.
    """

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        self._metrics = metrics
        self._sizes: dict[str, int] = {}
        self._waiting: dict[str, dict[str, Array]] = {}  # by node, until its turn comes
        self._total: dict[str, Array] = {}
        self._values: dict[str, dict[str, Any]] = {}

    def take(self, node_id: str, sums: Params | None, training_args: Mapping[str, Any]) -> None:
        """Take the sums of a node in, for `add_up`.

        Args:
            node_id: The node.
            sums: What it has sent; None if it tested nothing. It is copied.
            training_args: What it was asked with.

        Raises:
            UpdateRejectedError: The sums are impossible; nothing of them is kept.
        """
        if sums is None:
            return
        asked = [when for when, name in _WHEN.items() if training_args.get(name)]
        check_sums(sums, self._metrics, asked, self._sizes)
        copied = {name: np.array(array) for name, array in sums.items()}
        try:
            values = self._come_to(copied).values
        except PlanError as error:
            raise UpdateRejectedError(f"its test results come to nothing: {error.message}") from error
        self._sizes.update(metric_sizes(copied))
        self._waiting[node_id] = copied
        if values:
            self._values[node_id] = values

    def add_up(self, node_id: str) -> None:
        """Add the sums of a node, if there are any that were not added before."""
        sums = self._waiting.pop(node_id, None)
        if sums is not None:
            self._total = merged([self._total, sums])

    def result(self) -> Findings:
        """What all sums together come to."""
        return self._come_to(self._total)

    def node_values(self) -> dict[str, dict[str, Any]]:
        """What each node's sums come to that is no number, by node."""
        return dict(sorted(self._values.items()))

    def _come_to(self, sums: Mapping[str, Array]) -> Findings:
        found = Findings()
        for when in _WHEN:
            part = findings(of_test(sums, when), self._metrics).named(f"test_{when}_")
            found.scalars.update(part.scalars)
            found.values.update(part.values)
        return found


def weighted_metrics(replies: Iterable[TrainReply]) -> dict[str, float]:
    """Means of the nodes' metrics but for tests, weighted by sample count, over the nodes that report them."""
    sums: dict[str, tuple[float, float]] = {}
    for reply in replies:
        for name, value in reply.metrics.items():
            if name.startswith(TESTED):
                continue  # made of sums, not of means
            total, weight = sums.get(name, (0.0, 0.0))
            sums[name] = (total + value * reply.sample_count, weight + reply.sample_count)
    return {name: total / weight for name, (total, weight) in sorted(sums.items()) if weight}
