"""A test of a model on the nodes' held-out samples, without any training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedplug.core.aggregator import Aggregator
from fedplug.core.context import RoundContext, RoundResult
from fedplug.core.messages import LogLine, Progress
from fedplug.core.monitor import Monitor
from fedplug.core.params import Params
from fedplug.core.pool import NodePool
from fedplug.core.strategy import DefaultStrategy, Strategy
from fedplug.researcher.progress.text import metrics_line
from fedplug.researcher.round import Round
from fedplug.researcher.schedule import Schedule, Unchanged
from fedplug.researcher.spool import Spool


@dataclass(frozen=True)
class Evaluation:
    """What a test has found.

    Attributes:
        ctx: The round that training would go on with.
        result: What came out.
    """

    ctx: RoundContext
    result: RoundResult

    @property
    def round(self) -> int:
        """The round that the model would start."""
        return self.ctx.round

    @property
    def metrics(self) -> Mapping[str, float]:
        """Numbers over the held-out samples of all nodes together, by name: ``test_global_...``."""
        return self.result.metrics

    @property
    def values(self) -> Mapping[str, Any]:
        """What is no number, such as ``test_global_confusion_matrix``."""
        return self.result.values

    @property
    def nodes(self) -> dict[str, dict[str, Any]]:
        """Both for each node, by node id."""
        return {
            node: {**dict(sorted(reply.metrics.items())), **self.result.node_values.get(node, {})}
            for node, reply in self.result.replies.items()
        }

    @property
    def samples(self) -> dict[str, int]:
        """Number of samples that each node tested on, by node id."""
        return {node: reply.sample_count for node, reply in self.result.replies.items()}

    @property
    def dropped(self) -> Mapping[str, str]:
        """The nodes whose test did not count, with the reason."""
        return self.result.dropped

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.result.seconds

    def __str__(self) -> str:
        samples = sum(self.samples.values())
        return f"{metrics_line(self.metrics)} on {samples} samples of {len(self.samples)} nodes"


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
        monitor: Told about replies and dropped nodes, and what was found.

    Raises:
        UsageError: No sample is held out, or there is no such metric.
        RoundError: The strategy gave up.
    """
    judge, told = strategy or DefaultStrategy(), monitor or Monitor()
    job = schedule.plan_test(number, sorted(nodes), params, aggregator or Unchanged(), judge)
    told.message(f"Testing the global model on {len(nodes)} nodes ...")
    told.testing(job.ctx, job.ctx.node_ids)
    found = Evaluation(job.ctx, Round(pool, job, spool, watch or _ignore, told).run())
    told.tested(found.ctx, found.result)
    told.message(f"The global model: {found}.")
    return found


def _ignore(sign: Progress | LogLine, node_id: str) -> None:
    """Nobody watches."""
