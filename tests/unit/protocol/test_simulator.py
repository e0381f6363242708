"""The simulator finds nothing in the machines, and finds every bug that is planted."""

from __future__ import annotations

from collections import Counter

import pytest

from fedplug.core.messages import TaskKey
from fedplug.core.pool import NodeJoined
from fedplug.core.transport import Closed
from fedplug.protocol.actions import Deliver
from fedplug.protocol.limits import Limits
from fedplug.protocol.node import NodeMachine
from fedplug.protocol.pulls import Pull, Puller
from fedplug.protocol.researcher import ResearcherMachine
from fedplug.protocol.simulated_users import Violation
from fedplug.protocol.simulator import Simulator, Story

SEEDS = 300


@pytest.mark.parametrize("block", range(6))
def test_nothing_is_violated_in_fixed_seeds(block):
    size = SEEDS // 6
    faults = Counter()
    for seed in range(block * size, (block + 1) * size):
        simulator = Simulator(seed)
        simulator.run()
        faults.update(simulator.faults)
    assert {"cut", "hole", "one-way", "stall", "restart", "cancel", "damaged", "lies"} <= set(faults)


def test_the_same_seed_plays_the_same_story():
    first, second = Simulator(11), Simulator(11)
    first.run()
    second.run()
    assert first.now == second.now
    assert first.machine.stats == second.machine.stats
    assert first.faults == second.faults


def test_the_violation_names_the_seed():
    class Deaf(NodeMachine):
        def _on_task(self, header, body, now):
            pass

    with pytest.raises(Violation, match="seed 5"):
        Simulator(5, node=Deaf).run()


# Planted bugs: each is one that somebody could have written.


class ForgetsThatItHasTheTask(NodeMachine):
    """A repeated TASK is trained again."""

    def _on_task(self, header, body, now):
        self._jobs.pop(header.request.key, None)
        self._ends._ends.pop(header.request.key, None)
        super()._on_task(header, body, now)


class TakesEveryOfferForNew(ResearcherMachine):
    """A repeated OFFER is reported again."""

    def _on_offer(self, node, header, body, now):
        task = node.tasks.get(header.reply.key)
        if task is not None:
            task.reply = None
        super()._on_offer(node, header, body, now)


class DoesNotResendAfterReconnect(ResearcherMachine):
    """A task that was under way when the connection was lost stays lost."""

    def _resume_tasks(self, node, held, now):
        for task in node.tasks.values():
            if task.state == "waiting":
                self._send_task(node, task, now)

    def _repeat_tasks(self, node, now):
        pass


class TakesSilenceForLife(NodeMachine):
    """Everything that the node does itself counts as a sign of life of the researcher."""

    def tick(self, now):
        self._heard = now
        super().tick(now)


class RefreshesLivenessFromStaleSessions(ResearcherMachine):
    """A message of a session that was given up keeps it going, instead of asking for a new one."""

    def _on_stale(self, peer, header, now):
        for node in self._known.values():
            if node.peer is None and node.session == header.session:
                node.peer, peer.node, node.heard = peer, node, now
                self.nodes[node.node_id] = node.info
                self._do(Deliver(NodeJoined(node.info)))
                return
        super()._on_stale(peer, header, now)


class _LosesBitmap(Puller):
    def pause(self, owner):
        state = self._owners.get(owner)
        for pull in state.pulls.values() if state else ():
            state.asked -= len(pull.asked)
            self._free += len(pull.asked)
            pull.asked.clear()
        super().pause(owner)


class SkipsChunksAfterReconnect(ResearcherMachine):
    """Chunks that were under way when the connection was lost are taken for received."""

    def __init__(self, limits: Limits | None = None, **options):
        super().__init__(limits, **options)
        self._puller = _LosesBitmap(self._limits, self.stats)


class _BelievesEverything(Puller):
    def _completed(self, pull: Pull):
        return self._remove(pull)


class CommitsBeforeTheDigestIsChecked(ResearcherMachine):
    """Whatever arrives is taken for what was promised."""

    def __init__(self, limits: Limits | None = None, **options):
        super().__init__(limits, **options)
        self._puller = _BelievesEverything(self._limits, self.stats)


class ForgetsItsUpdateWithTheConnection(NodeMachine):
    """A finished update is dropped before it is committed."""

    def on(self, item, now):
        if isinstance(item, Closed):
            self._jobs = {key: job for key, job in self._jobs.items() if not job.ended}
        super().on(item, now)


class SpeaksOfCancelledTasks(ResearcherMachine):
    """A cancelled task stays in the table."""

    def cancel(self, key: TaskKey, reason, now):
        task = self._node(key.node_id).tasks.get(key)
        super().cancel(key, reason, now)
        if task is not None:
            self._node(key.node_id).tasks[key] = task


MUTANTS = [
    ForgetsThatItHasTheTask,
    TakesEveryOfferForNew,
    DoesNotResendAfterReconnect,
    TakesSilenceForLife,
    RefreshesLivenessFromStaleSessions,
    SkipsChunksAfterReconnect,
    CommitsBeforeTheDigestIsChecked,
    ForgetsItsUpdateWithTheConnection,
    SpeaksOfCancelledTasks,
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_planted_bug_is_found(mutant):
    role = "node" if issubclass(mutant, NodeMachine) else "researcher"

    def play():
        for seed in range(700):  # the rarest of them needs 644
            Simulator(seed, Story(liars=seed % 3 == 0), **{role: mutant}).run()

    with pytest.raises(Violation):
        play()
