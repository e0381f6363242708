"""A test of a model on the nodes' held-out samples, without any training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedplug.core.aggregator import Aggregator
from fedplug.core.messages import LogLine, Progress
from fedplug.core.monitor import Monitor
from fedplug.core.params import Params
from fedplug.core.pool import NodePool
from fedplug.core.strategy import DefaultStrategy, Strategy
from fedplug.researcher.round import Round
from fedplug.researcher.schedule import Schedule, Unchanged
from fedplug.researcher.spool import Spool


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


def evaluate(
    pool: NodePool,
    schedule: Schedule,
    nodes: Sequence[str],
    params: Params,
    *,
    number: int,
    spool: Spool,
    strategy: Strategy | None = None,
    aggregator: Aggregator | None = None,
    watch: Callable[[Progress | LogLine, str], None] | None = None,
    monitor: Monitor | None = None,
) -> Evaluation:
    """Test ``params`` on the held-out samples of ``nodes``.

    Nothing changes at the nodes: neither what they keep between rounds nor which round they go on from. It uses
    ``schedule.attempt`` up: a training of the same round needs a higher one.

    Args:
        pool: Where the nodes are.
        schedule: What the nodes are asked with.
        nodes: Who tests.
        params: What is tested.
        number: The round whose training would start from ``params``: the number of rounds that are complete.
        spool: Where replies may wait.
        strategy: Decides what the test can do without; by default it needs every node.
        aggregator: Says what nodes receive besides the parameters; nothing by default.
        watch: Told about signs of life; a test's phase is ``test-global``.
        monitor: Told about replies and dropped nodes.

    Raises:
        UsageError: No sample is held out, or there is no such metric.
        RoundError: The strategy gave up.
    """
    judge = strategy or DefaultStrategy()
    job = schedule.plan_test(number, sorted(nodes), params, aggregator or Unchanged(), judge)
    result = Round(pool, job, spool, watch or _ignore, monitor or Monitor()).run()
    found = {
        node: {**dict(sorted(reply.metrics.items())), **result.node_values.get(node, {})}
        for node, reply in result.replies.items()
    }
    samples = {node: reply.sample_count for node, reply in result.replies.items()}
    return Evaluation(number, result.metrics, result.values, found, samples, result.dropped, result.seconds)


def _ignore(sign: Progress | LogLine, node_id: str) -> None:
    """Nobody watches."""
