"""One round: select, send, gather, judge, fold, finish.

Updates are folded in sorted node order whatever the order of their arrival, so that the sum is the same to
the last bit. An update whose predecessors are all folded is fetched into memory and folded at once. One that
is early is fetched into memory if it fits the budget, else into a file; but as long as everybody before it is
only a quick transfer away, or may be in a moment, it stays at its node, which saves the file. So the researcher
holds one update at a time in memory (or as many small ones as its budget allows), and slow links are used side by
side.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fedplug.core.context import RoundResult
from fedplug.core.crash_points import crash_point
from fedplug.core.errors import FedplugError, ParamsError, UpdateRejectedError
from fedplug.core.messages import LogLine, Progress, TrainReply
from fedplug.core.metrics import TEST_AUX, Findings
from fedplug.core.monitor import Monitor
from fedplug.core.params import Params, ParamsSpec
from fedplug.core.pool import (
    NodeJoined,
    NodeLost,
    NodePool,
    PoolEvent,
    TaskFailed,
    UpdateFetched,
    UpdateOffered,
)
from fedplug.core.strategy import Outcome
from fedplug.core.update import Update
from fedplug.researcher.fold import Fold, RoundTask
from fedplug.researcher.line import Line
from fedplug.researcher.next_params import check_for
from fedplug.researcher.node_tests import weighted_metrics
from fedplug.researcher.progress.text import block
from fedplug.researcher.refusals import blamed, check_ask, check_decision, check_reply, check_update, given_up
from fedplug.researcher.roll import Roll, outcome_of
from fedplug.researcher.round_plan import RoundPlan
from fedplug.researcher.settling import Settling
from fedplug.researcher.spool import Spool

__all__ = ["TICK", "Round", "RoundPlan"]

TICK = 1.0
"""Seconds between two calls of the strategy when nothing happens."""


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
    roll: Roll = field(init=False)
    last_attempt: int = field(init=False)  # the highest attempt that a task of this round has used
    _details: list[str] = field(default_factory=list)  # tracebacks of plans, as nodes tell them
    _replies: dict[str, TrainReply] = field(default_factory=dict)
    _fold: Fold = field(init=False)
    _line: Line = field(init=False)
    _settling: Settling = field(init=False)
    _tested: Findings = field(default_factory=Findings)

    def __post_init__(self) -> None:
        self.roll = Roll(self.job.ctx.node_ids)
        self.last_attempt = max(request.key.attempt for request in self.job.requests.values())
        self._fold = Fold(self.job)
        self._line = Line(self.pool, self.spool, self.roll, self._fold)
        self._settling = Settling(self.pool, self.spool, self.monitor)

    @property
    def replies(self) -> dict[str, TrainReply]:
        """The replies whose updates have come so far, by node id."""
        return dict(self._replies)

    def run(self) -> RoundResult:
        """Do the round.

        Raises:
            RoundError: The strategy gave up, or nothing could be aggregated. The global model is as before.
        """
        before = dict(self.pool.traffic())
        try:
            self._send()
            params = self._finish(self._gather())
        except BaseException:
            self._give_up("the round was stopped")
            raise
        traffic = {name: count - before.get(name, 0) for name, count in self.pool.traffic().items()}
        return RoundResult(
            params=params,
            replies=dict(sorted(self._replies.items())),
            dropped=dict(self.roll.reasons),
            metrics=dict(sorted((weighted_metrics(self._replies.values()) | self._tested.scalars).items())),
            seconds=self.roll.elapsed,
            traffic=traffic,
            values=self._tested.values,
            node_values=self._fold.tests.node_values(),
            roll=tuple(self.roll.entries),
        )

    # sending -----------------------------------------------------------------------------------------------

    def _send(self) -> None:
        connected = self.pool.nodes
        self._fold.begin()
        for node_id in self.job.ctx.node_ids:
            self._line.put(self.job.requests[node_id].key)
        for key in self.spool.added:
            self._enlist(key.node_id, key.attempt)
        for task in self._line:
            node_id = task.key.node_id
            if self._recall(task):
                continue
            if node_id in self.spool.refused:
                self._drop(node_id, "rejected", self.spool.refused[node_id])
            elif not self.spool.complete:
                if node_id not in connected:
                    if self.pool.is_fixed:
                        self._drop(node_id, "failed", f"{self.pool.description} does not have it")
                        continue
                    self._drop(node_id, "lost", "it is not connected")  # the pool keeps the task until it is
                self._give(node_id)
        crash_point("tasks-sent")

    def _give(self, node_id: str) -> None:
        job, payload = self.job, self.job.payloads[node_id]
        self.pool.train(job.requests[node_id], job.plan, job.params, payload.aux if payload else None)

    def _ask(self, node_id: str) -> None:
        """Give a node its task once more, as a new attempt, or let it take part from now on."""
        self._enlist(node_id, self.last_attempt + 1)
        self.spool.ask(self.job.requests[node_id].key)
        self._give(node_id)

    def _enlist(self, node_id: str, attempt: int) -> None:
        self.last_attempt = max(self.last_attempt, attempt)
        self.job = self.job.with_node(node_id, attempt)
        self._line.put(self.job.requests[node_id].key)
        self.monitor.asked(node_id, again=self.roll.ask(node_id))

    def _recall(self, task: RoundTask) -> bool:
        """Whether an earlier run of this round has the update of a task on the disk, and it is as good as new."""
        recalled = self.spool.recall(task.key)
        if recalled is None:
            return False
        task.room = recalled.room
        try:
            self._on_update(task, recalled.event)
        except (UpdateRejectedError, ParamsError) as error:  # the aggregator may be another one now
            self._drop(task.key.node_id, "rejected", error.message)
        self.pool.commit(task.key)
        del recalled
        self._line.fold_ready()
        return True

    # gathering ---------------------------------------------------------------------------------------------

    def _gather(self) -> str:
        """Gather updates until the strategy has enough; why it does not wait for the others."""
        strategy = self.job.strategy
        while not self.spool.complete:
            for node_id in self.roll.silent(strategy.silence):
                self._drop(node_id, "stalled", f"it has made no progress for {strategy.silence:g} s")
            state = self.roll.state(lambda: self.pool.nodes.keys() & self.job.replacements)
            with blamed("Strategy", strategy, "judge"):
                decision = check_decision(strategy.judge(self.job.ctx, state), strategy)
            if decision.verdict == "abort":
                raise given_up(self.job.ctx, decision.reason, self._details, train=self.job.train)
            if decision.verdict == "enough":
                return decision.reason
            asked = check_ask(decision, state, strategy)
            del state  # or the roll would have to copy it
            for node_id in asked:
                self._ask(node_id)
            deadline = time.monotonic() + TICK
            changed = False
            while not changed and (left := deadline - time.monotonic()) > 0:
                changed = self._step(left)
        return ""

    def _step(self, timeout: float) -> bool:
        """Take the next event in, fold what can be folded, ask for more. Whether the strategy should look again."""
        event = self.pool.next_event(self._line.due_in(self._settling.due_in(timeout)), self._on_sign)
        changed = event is not None and self._on_event(event)
        idle = event is None
        del event  # it holds an update, which must be gone once it is folded
        self._line.fold_ready()
        self._settling.settle_if_due(self._line.fetch_next, pause=timeout if idle else 0)
        return changed

    def _on_sign(self, sign: Progress | LogLine, node_id: str) -> None:
        task = self._line.get(node_id)
        if task is not None and sign.key == task.key and self.roll.sign(node_id):
            self.monitor.back(node_id)
        self.watch(sign, node_id)

    def _on_event(self, event: PoolEvent) -> bool:
        """Take one event in; whether the strategy should look again."""
        if isinstance(event, NodeLost):
            # nobody reads events between two rounds: it may be long past, and the node be back
            gone = event.node_id not in self.pool.nodes
            if gone and self._line.get(event.node_id) and event.node_id not in self.roll.outcomes:
                self._drop(event.node_id, "lost", event.reason)
                return True
            return False
        if isinstance(event, NodeJoined):
            return self._welcome_back(event.node.node_id)
        if isinstance(event, TaskFailed):
            key = event.failure.key
        elif isinstance(event, (UpdateFetched, UpdateOffered)):
            key = event.reply.key
        else:
            return False
        task = self._line.get(key.node_id)
        if task is None or task.key != key:
            self.pool.commit(key)  # a leftover of an earlier round or attempt: its node may forget it
            return False
        if isinstance(event, TaskFailed):
            if self.roll.outcomes.get(key.node_id) == "replied":
                return False  # too late: its update has been taken
            self._drop(key.node_id, outcome_of(event.failure), event.failure.text)
            if event.failure.details:
                self._details.append(f"Node {key.node_id}:\n{block(event.failure.details, 8_000)}")
            return True
        try:
            if isinstance(event, UpdateOffered):
                self._on_offer(task, event)
                return False
            if task.offer is None:  # its arrays came without one
                self._check(event.reply, event.params.spec, {name: aux.spec for name, aux in event.aux.items()})
            if self._on_update(task, event):
                self._settling.take(event)
        except (UpdateRejectedError, ParamsError) as error:
            self._drop(key.node_id, "rejected", error.message)
            self._settling.refuse(key, error.message)
        return True

    def _on_offer(self, task: RoundTask, offer: UpdateOffered) -> None:
        self._welcome_back(task.key.node_id)
        if task.offer is None and not task.has_come:
            self._check(offer.reply, offer.spec, offer.aux)
            self._line.offered(task, offer)

    def _check(self, reply: TrainReply, spec: ParamsSpec, aux: Mapping[str, ParamsSpec]) -> None:
        check_reply(reply, spec, aux, self.job.expected, self.job.samples.get(reply.key.node_id))

    def _on_update(self, task: RoundTask, event: UpdateFetched) -> bool:
        """Whether the update is one that was not here before; it is valid."""
        if task.has_come:
            return False
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
        self._fold.tests.take(task.key.node_id, event.aux.get(TEST_AUX), request.training_args)
        self._welcome_back(task.key.node_id)
        task.update = update
        self.roll.close(task.key.node_id, "replied")
        self._replies[task.key.node_id] = reply
        self.monitor.replied(task.key.node_id, reply)
        if task.room:
            task.room.rest()
        return True

    def _welcome_back(self, node_id: str) -> bool:
        """Whether the node was lost or stalled, which it is not any more."""
        back = self.roll.back(node_id)
        if back:
            self.monitor.back(node_id)
        return back

    # the end -----------------------------------------------------------------------------------------------

    def _finish(self, why: str) -> Params:
        for task in self._line:
            node_id = task.key.node_id
            if self.roll.outcomes.get(node_id) != "replied":
                self.pool.cancel(task.key, "the round is complete without it")
            if node_id not in self.roll.outcomes:
                self.monitor.dropped(node_id, self.roll.left_out(node_id, why))
        for task in self._line:
            self._fold.add(task)
        self._tested = self._fold.tests.result()
        for key in self.pool.late():
            self.spool.late(key)
            self.monitor.message(f"The update of node {key.node_id} for round {key.round + 1} came too late.")
        self.spool.stock.empty()  # nothing more comes, and the result needs memory
        params = self._fold.result(self.job, list(self._line))
        crash_point("aggregated")
        self._settling.patiently(lambda: self.spool.conclude(self._replies, params))
        for task in self._line:
            task.let_go()
        return params

    def _drop(self, node_id: str, outcome: Outcome, reason: str) -> None:
        reason = self.roll.close(node_id, outcome, reason)
        task = self._line.get(node_id)
        if task is not None and (self.roll.is_given_up(node_id) or outcome == "interrupted"):
            task.let_go()
        self.monitor.dropped(node_id, reason)

    def _give_up(self, reason: str) -> None:
        """Stop the nodes, and keep nothing: the error that is under way may keep this object for long."""
        with contextlib.suppress(FedplugError):
            self._settling.settle()
        self.spool.stop(reason)
        self._fold.forget()
        for task in self._line:
            if not self.roll.is_given_up(task.key.node_id):
                with contextlib.suppress(FedplugError):  # the pool may be what has failed
                    self.pool.cancel(task.key, reason)
            task.update = None
            task.let_go()
