"""`Metric`: a measure of a test whose state adds up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from fedplug.core.params import Array


class Metric(ABC):
    """Base of all metrics. A metric is made from keyword arguments, those of ``test_metric_args`` that it knows.

    A metric never sees all samples of a federation. It sees batches, makes a *state* of each, and all that ever
    happens to states is that they are added: over the batches of a node, then over the nodes.

    The law: ``state`` of the union of two sets of samples is the sum of their states. So the value does not depend
    on how the samples lie in batches and nodes, nor on the order of either: it is that of the pooled samples. For
    counts this holds exactly (float64 counts up to 2**53), for sums of real numbers up to their rounding.

    A metric of your own needs `state` and `value`; `check` makes it safe against nodes that send nonsense.

    Example::

        class WithinOne(Metric):
            def state(self, outputs, targets):
                return np.array([np.sum(np.abs(outputs - targets) <= 1), len(targets)], float)

            def value(self, state):
                return {"within_one": state[0] / state[1]}
    """

    @abstractmethod
    def state(self, outputs: Any, targets: Any) -> Array:
        """The state of a batch.

        Args:
            outputs: What the plan's ``predict`` or ``forward`` returned, as a NumPy array, samples in rows; nested
                dicts and tuples of arrays where the model returns these.
            targets: The targets, likewise.

        Returns:
            Sums over the samples, float64 of shape ``(k,)``, with the same ``k`` for every batch and every node.

        Raises:
            PlanError: Outputs or targets are not what this metric can measure.
        """

    @abstractmethod
    def value(self, state: Array) -> dict[str, Any]:
        """What a state comes to, by name.

        Args:
            state: A sum of states of at least one sample.

        Returns:
            Numbers, NaN where there is no answer; a matrix as nested lists.
        """

    def check(self, state: Array) -> None:
        """Refuse a state that no samples can have. It comes from the network; its numbers are finite.

        Args:
            state: What a node has sent, float64 of shape ``(k,)``.

        Raises:
            UpdateRejectedError: It is impossible; says why, as the end of a sentence about the node.
        """
