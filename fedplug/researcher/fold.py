"""The sum of a round: updates go in one after the other, and the new global parameters come out."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from fedplug.core.aggregator import StreamingAggregator
from fedplug.core.messages import TaskKey
from fedplug.core.params import Params
from fedplug.core.pool import UpdateOffered
from fedplug.core.update import Update
from fedplug.researcher.next_params import next_params
from fedplug.researcher.node_tests import NodeTests
from fedplug.researcher.refusals import blamed
from fedplug.researcher.round_plan import RoundPlan
from fedplug.researcher.spool import Room


@dataclass
class RoundTask:
    """What is known about one node's work in this round; ``place`` is where it stands in the order of folding."""

    key: TaskKey
    place: int
    offer: UpdateOffered | None = None
    offered_at: float = 0.0  # monotonic seconds
    room: Room | None = None
    update: Update | None = None  # until it is folded
    counted: bool = False  # whether its turn has come, and all but a non-streaming aggregator have had it
    folded: bool = False

    @property
    def has_come(self) -> bool:
        """Whether its update has come and was found valid."""
        return self.update is not None or self.folded

    def let_go(self) -> None:
        """The update is in the sum (or out of the round): forget its arrays."""
        if self.folded:
            self.update = None
        if self.room is not None:
            self.room.release()
            self.room = None


class Fold:
    """Adds the updates of a round, and the sums of its tests.

    Args:
        job: The round.

    Attributes:
        tests: The nodes' tests.
        streaming: The aggregator, if it takes one update after the other.
        latest: When something was folded last (monotonic seconds).
    """

    def __init__(self, job: RoundPlan) -> None:
        self.tests = NodeTests(job.metrics)
        self.streaming = job.aggregator if isinstance(job.aggregator, StreamingAggregator) else None
        self.latest = time.monotonic()
        self._job = job
        self._state: Any = None
        self._counts: list[Update] = []  # of what is in the sum, for privacy: with the start in place of the arrays

    def begin(self) -> None:
        """Make the sum that is zero.

        Raises:
            RoundError: The aggregator fails.
        """
        if self.streaming is not None:
            with blamed("Aggregator", self.streaming, "begin"):
                self._state = self.streaming.begin(self._job.params, self._job.ctx)

    def add(self, task: RoundTask) -> None:
        """Fold a task's update, if it has one that was not folded before.

        Raises:
            RoundError: The aggregator or the optimizer fails.
        """
        self.tests.add_up(task.key.node_id)
        if task.update is None or task.counted:
            return
        task.counted = True
        if self._job.agg_optimizer is not None:
            with blamed("Optimizer", self._job.agg_optimizer, "take"):
                self._job.agg_optimizer.take(task.update)
        if self.streaming is not None:
            with blamed("Aggregator", self.streaming, "accumulate"):
                self.streaming.accumulate(self._state, task.update)
            if self._job.privacy is not None:
                update = task.update
                self._counts.append(Update(update.node_id, self._job.params, update.sample_count, update.steps))
            task.folded = True
            self.latest = time.monotonic()
            task.let_go()

    def result(self, job: RoundPlan, tasks: Collection[RoundTask]) -> Params:
        """The new global parameters.

        Args:
            job: The round as it has become: with the nodes that were asked besides.
            tasks: All tasks, in the order of folding.

        Raises:
            RoundError: The aggregator or the optimizer fails.
        """
        if self.streaming is not None:
            updates = self._counts
            with blamed("Aggregator", self.streaming, "finalize"):
                params = self.streaming.finalize(self._state)
        else:
            updates = [task.update for task in tasks if task.update is not None]
            with blamed("Aggregator", job.aggregator, "aggregate"):
                params = job.aggregator.aggregate(job.params, updates, job.ctx)
        self.forget()
        return next_params(job, params, updates)

    def forget(self) -> None:
        """Let go of the sum."""
        self._state = None
