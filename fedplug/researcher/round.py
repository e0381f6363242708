"""One round: select, send, gather, judge, fold, finish.

Updates are folded in sorted node order whatever the order of their arrival, so that the sum is the same to
the last bit. An update whose predecessors are all folded is fetched into memory and folded at once. One that
is early is fetched into memory if it fits the budget, else into a file; but as long as everybody before it is
only a quick transfer away, it stays at its node, which saves the file. So the researcher holds one update at
a time in memory (or as many small ones as its budget allows), and slow links are used side by side.
"""

from __future__ import annotations

import contextlib
import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fedplug.core.aggregator import StreamingAggregator
from fedplug.core.context import RoundResult
from fedplug.core.errors import FedplugError, ParamsError, UpdateRejectedError
from fedplug.core.messages import LogLine, Progress, TaskKey, TrainReply
from fedplug.core.metrics import TEST_AUX, Findings
from fedplug.core.monitor import Monitor
from fedplug.core.params import Params
from fedplug.core.pool import NodeJoined, NodeLost, NodePool, PoolEvent, TaskFailed, UpdateFetched, UpdateOffered
from fedplug.core.strategy import Outcome, RoundState
from fedplug.core.update import Update
from fedplug.researcher.next_params import check_for, next_params
from fedplug.researcher.node_tests import NodeTests, weighted_metrics
from fedplug.researcher.progress.text import block
from fedplug.researcher.refusals import blamed, check_decision, check_offer, check_update, given_up
from fedplug.researcher.round_plan import RoundPlan
from fedplug.researcher.spool import Room, Spool

__all__ = ["PATIENCE", "TICK", "Round", "RoundPlan"]

TICK = 1.0
"""Seconds between two calls of the strategy when nothing happens."""

PATIENCE = 1.0
"""Seconds without a fold after which updates no longer wait at their nodes for the transfers before them."""


@dataclass
class _Task:
    """What is known about one node's work in this round; ``place`` is where it stands in the order of folding."""

    key: TaskKey
    place: int
    offer: UpdateOffered | None = None
    room: Room | None = None
    update: Update | None = None
    counted: bool = False  # whether its turn has come, and all but a non-streaming aggregator have had it
    folded: bool = False


@dataclass
class Round:
    """A round under way. `run` brings it to its end.

    Args:
        pool: The nodes.
        job: What to do.
        spool: Where updates wait.
        watch: Told about every sign of life.
        monitor: Told about replies and dropped nodes.
    """

    pool: NodePool
    job: RoundPlan
    spool: Spool
    watch: Callable[[Progress | LogLine, str], None]
    monitor: Monitor
    _tasks: dict[str, _Task] = field(default_factory=dict)
    _outcomes: dict[str, Outcome] = field(default_factory=dict)
    _reasons: dict[str, str] = field(default_factory=dict)
    _details: list[str] = field(default_factory=list)  # tracebacks of plans, as nodes tell them
    _replies: dict[str, TrainReply] = field(default_factory=dict)
    _tests: NodeTests = field(init=False)
    _tested: Findings = field(default_factory=Findings)
    _last_fold: float = field(default_factory=time.monotonic)
    # An event costs the same for ten nodes and for a thousand: these know where to look.
    _line: list[_Task] = field(default_factory=list)  # all tasks in the order of folding
    _turn: int = 0  # first place in the line that is neither folded nor given up
    _silent: int = 0  # first place in the line from which an offer is still to come
    _waiting: list[int] = field(default_factory=list)  # a heap: the places whose update waits at its node

    def __post_init__(self) -> None:
        self._tests = NodeTests(self.job.metrics)

    @property
    def replies(self) -> dict[str, TrainReply]:
        """The replies whose updates have come so far, by node id."""
        return dict(self._replies)

    def run(self) -> RoundResult:
        """Do the round.

        Raises:
            RoundError: The strategy gave up, or nothing could be aggregated. The global model is as before.
        """
        began = time.monotonic()
        before = dict(self.pool.traffic())
        try:
            self._send()
            params = self._finish(self._gather(began))
        except BaseException:
            self._give_up("the round was stopped")
            raise
        traffic = {name: count - before.get(name, 0) for name, count in self.pool.traffic().items()}
        return RoundResult(
            params=params,
            replies=dict(sorted(self._replies.items())),
            dropped=dict(self._reasons),
            metrics=dict(sorted((weighted_metrics(self._replies.values()) | self._tested.scalars).items())),
            seconds=time.monotonic() - began,
            traffic=traffic,
            values=self._tested.values,
            node_values=self._tests.node_values(),
        )

    # sending -----------------------------------------------------------------------------------------------

    def _send(self) -> None:
        job, connected = self.job, self.pool.nodes
        for place, node_id in enumerate(job.ctx.node_ids):
            request, payload = job.requests[node_id], job.payloads[node_id]
            task = self._tasks[node_id] = _Task(request.key, place)
            self._line.append(task)
            if node_id not in connected:
                self._drop(node_id, "lost", "it is not connected")  # the pool keeps the task until it is
            self.pool.train(request, job.plan, job.params, payload.aux if payload else None)
        self._streaming = job.aggregator if isinstance(job.aggregator, StreamingAggregator) else None
        with blamed("Aggregator", job.aggregator, "begin"):
            self._state = self._streaming.begin(job.params, job.ctx) if self._streaming else None

    # gathering ---------------------------------------------------------------------------------------------

    def _gather(self, began: float) -> str:
        """Gather updates until the strategy has enough; why it does not wait for the others."""
        while True:
            with blamed("Strategy", self.job.strategy, "judge"):
                answer = self.job.strategy.judge(self.job.ctx, self._round_state(began))
            decision = check_decision(answer, self.job.strategy)
            if decision.verdict == "abort":
                raise given_up(self.job.ctx, decision.reason, self._details, train=self.job.train)
            if decision.verdict == "enough":
                return decision.reason
            deadline = time.monotonic() + TICK
            changed = False
            while not changed and (left := deadline - time.monotonic()) > 0:
                changed = self._step(left)

    def _step(self, timeout: float) -> bool:
        """Take the next event in, fold what can be folded, ask for more. Whether the strategy should look again."""
        event = self.pool.next_event(timeout, self.watch)
        changed = event is not None and self._on_event(event)
        del event  # it holds an update, which must be gone once it is folded
        self._fold_ready()
        self._fetch_next()
        return changed

    def _round_state(self, began: float) -> RoundState:
        return RoundState(self.job.ctx.node_ids, dict(self._outcomes), dict(self._reasons), time.monotonic() - began)

    def _on_event(self, event: PoolEvent) -> bool:
        """Take one event in; whether the strategy should look again."""
        if isinstance(event, NodeLost):
            # nobody reads events between two rounds: it may be long past, and the node be back
            gone = event.node_id not in self.pool.nodes
            if gone and event.node_id in self._tasks and event.node_id not in self._outcomes:
                self._drop(event.node_id, "lost", event.reason)
                return True
            return False
        if isinstance(event, NodeJoined):
            return self._welcome_back(event.node.node_id)
        if not isinstance(event, UpdateOffered | UpdateFetched | TaskFailed):
            return False
        key = event.failure.key if isinstance(event, TaskFailed) else event.reply.key
        task = self._tasks.get(key.node_id)
        if task is None or task.key != key:
            self.pool.commit(key)  # a leftover of an earlier round: its node may forget it
            return False
        if isinstance(event, TaskFailed):
            if self._outcomes.get(key.node_id) == "replied":
                return False  # too late: its update has been taken
            self._drop(key.node_id, "failed", event.failure.text)
            if event.failure.details:
                self._details.append(f"Node {key.node_id}:\n{block(event.failure.details, 8_000)}")
            return True
        try:
            if isinstance(event, UpdateOffered):
                self._on_offer(task, event)
                return False
            self._on_update(task, event)
        except (UpdateRejectedError, ParamsError) as error:
            self._drop(key.node_id, "rejected", error.message)
            self.pool.commit(key)
        return True

    def _on_offer(self, task: _Task, offer: UpdateOffered) -> None:
        self._welcome_back(task.key.node_id)
        if task.offer is None and task.update is None and not task.folded:
            check_offer(offer, self.job.expected)
            task.offer = offer
            heapq.heappush(self._waiting, task.place)

    def _on_update(self, task: _Task, event: UpdateFetched) -> None:
        if task.update is not None or task.folded:
            return
        reply = event.reply
        update = Update(
            node_id=task.key.node_id,
            params=event.params,
            sample_count=reply.sample_count,
            steps=reply.steps,
            aux={name: params for name, params in event.aux.items() if name != TEST_AUX},
            metrics=dict(reply.metrics),
            timing=dict(reply.timing),
        )
        check_update(update, self.job.expected, task.room.rest if task.room else None)
        check_for(self.job, update)
        request = self.job.requests[task.key.node_id]
        self._tests.take(task.key.node_id, event.aux.get(TEST_AUX), request.training_args)
        self._welcome_back(task.key.node_id)
        task.update = update
        self._outcomes[task.key.node_id] = "replied"
        self._replies[task.key.node_id] = reply
        self.monitor.replied(task.key.node_id, reply)
        if task.room:
            task.room.rest()

    def _fetch_next(self) -> None:
        """Ask for the updates whose turn it is, or that fit, or that would wait long for somebody else."""
        if not self._waiting:
            return
        in_order = self._streaming is not None
        patient = in_order and time.monotonic() - self._last_fold < PATIENCE
        while self._silent < len(self._line) and not self._may_offer(self._line[self._silent]):
            self._silent += 1
        while self._waiting:
            place = self._waiting[0]
            task = self._line[place]
            if task.offer is not None and not self._is_given_up(task.key.node_id):
                nbytes = task.offer.spec.nbytes + sum(spec.nbytes for spec in task.offer.aux.values())
                # the next in line always gets memory: it is folded, and gone, as soon as it is here
                in_memory = (in_order and place == self._turn) or self.spool.fits(nbytes)
                if not in_memory and patient and place < self._silent:
                    return  # its turn comes in a moment; until then its node keeps it
                task.room = Room(self.spool, nbytes, in_file=not in_memory)
                self.pool.fetch(task.key, task.room.allocate, None if in_memory else task.room.rest)
            heapq.heappop(self._waiting)

    def _fold_ready(self) -> None:
        """Fold every update that has no unfinished node before it."""
        while self._turn < len(self._line):
            task = self._line[self._turn]
            if task.update is None and not self._is_given_up(task.key.node_id):
                return
            self._fold(task)
            self._turn += 1

    def _is_given_up(self, node_id: str) -> bool:
        """Whether nothing more can come from a node. One that is only lost may still be back in time."""
        return self._outcomes.get(node_id) in ("failed", "rejected")

    def _may_offer(self, task: _Task) -> bool:
        """Whether an offer is still to come."""
        return task.offer is None and task.update is None and not self._is_given_up(task.key.node_id)

    def _welcome_back(self, node_id: str) -> bool:
        """Whether the node was lost, which it is not any more."""
        if self._outcomes.get(node_id) != "lost":
            return False
        del self._outcomes[node_id], self._reasons[node_id]
        return True

    def _fold(self, task: _Task) -> None:
        self._tests.add_up(task.key.node_id)
        if task.update is None or task.counted:
            return
        task.counted = True
        if self.job.agg_optimizer is not None:
            with blamed("Optimizer", self.job.agg_optimizer, "take"):
                self.job.agg_optimizer.take(task.update)
        if self._streaming is not None:
            with blamed("Aggregator", self._streaming, "accumulate"):
                self._streaming.accumulate(self._state, task.update)
            task.folded = True
            self._last_fold = time.monotonic()
            self._let_go(task)

    def _let_go(self, task: _Task) -> None:
        """The update is in the sum (or out of the round): forget its arrays here and at the node."""
        if task.folded and task.update is not None:
            update = task.update
            task.update = Update(update.node_id, self.job.params, update.sample_count, update.steps)
        if task.room is not None:
            task.room.release()
            task.room = None

    # the end -----------------------------------------------------------------------------------------------

    def _finish(self, why: str) -> Params:
        job = self.job
        for node_id, task in self._tasks.items():
            if self._outcomes.get(node_id) != "replied":
                self.pool.cancel(task.key, "the round is complete without it")
            if node_id not in self._outcomes:
                self._reasons[node_id] = block(why) or "the round was complete without it"
                self.monitor.dropped(node_id, self._reasons[node_id])
        for task in self._tasks.values():
            self._fold(task)
        self._tested = self._tests.result()
        if self._streaming:
            with blamed("Aggregator", self._streaming, "finalize"):
                params = self._streaming.finalize(self._state)
        else:
            updates = [task.update for task in self._tasks.values() if task.update is not None]
            with blamed("Aggregator", job.aggregator, "aggregate"):
                params = job.aggregator.aggregate(job.params, updates, job.ctx)
        self._state = None
        params = next_params(job, params, [task.update for task in self._tasks.values() if task.update])
        for node_id in self._replies:
            self.pool.commit(self._tasks[node_id].key)
        for task in self._tasks.values():
            self._let_go(task)
        return params

    def _drop(self, node_id: str, outcome: Outcome, reason: str) -> None:
        reason = block(reason)  # a node's own words, which a terminal must not obey
        self._outcomes[node_id] = outcome
        self._reasons[node_id] = reason
        if self._is_given_up(node_id):
            self._let_go(self._tasks[node_id])
        self.monitor.dropped(node_id, reason)

    def _give_up(self, reason: str) -> None:
        """Stop the nodes, and keep nothing: the error that is under way may keep this object for long."""
        self._state = None
        for node_id, task in self._tasks.items():
            if not self._is_given_up(node_id):
                with contextlib.suppress(FedplugError):  # the pool may be what has failed
                    self.pool.cancel(task.key, reason)
            task.update = None
            self._let_go(task)
