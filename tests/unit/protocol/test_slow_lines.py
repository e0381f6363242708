"""A line so slow that a chunk takes longer than a heartbeat's silence: row 12, with a clock that is a number."""

from __future__ import annotations

from collections import Counter, deque

import numpy as np
import pytest

from fedplug.core.messages import NodeInfo, TaskKey, TrainReply, TrainRequest
from fedplug.core.params import Params
from fedplug.core.plan_source import PlanBundle
from fedplug.core.pool import NodeLost, UpdateFetched, UpdateOffered
from fedplug.core.transport import Frame, Opened
from fedplug.protocol.actions import Deliver, Reconnect, Send
from fedplug.protocol.limits import Limits
from fedplug.protocol.node import NodeMachine
from fedplug.protocol.researcher import ResearcherMachine
from fedplug.wire import decode_header
from fedplug.wire import headers as h

LIMITS = Limits(chunk=64, inline=96, peer_credit=8, pool_credit=8)
MODEL = Params.from_arrays({"w": np.arange(200, dtype=np.float32)})
CHUNKS = -(-MODEL.nbytes // LIMITS.chunk)
PLAN = PlanBundle("Plan", "class Plan:\n    pass\n")


class SlowLine:
    """A node whose messages go up one after the other, each chunk in so many seconds. Down it is fast."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.now, self.free = seconds, 100.0, 0.0
        self.researcher = ResearcherMachine(LIMITS)
        self.node = NodeMachine(NodeInfo(node_id="n1"), LIMITS, incarnation=1)
        self.line: deque[tuple[float, Frame]] = deque()
        self.crossed: Counter[int] = Counter()
        self.events: list[object] = []
        self.reconnects = 0
        self.node.connecting(self.now)
        self.researcher.on(Opened(b"c"), self.now)
        self.node.on(Opened(b""), self.now)

    def step(self) -> None:
        """A quarter of a second."""
        self.now += 0.25
        self.researcher.tick(self.now)
        self.node.tick(self.now)
        while self.line and self.line[0][0] <= self.now:
            self.researcher.on(self.line.popleft()[1], self.now)
        for action in self.researcher.take():
            if isinstance(action, Send):
                self.node.on(Frame(b"", action.header, memoryview(action.body)), self.now)
            elif isinstance(action, Deliver):
                self.events.append(action.event)
        for action in self.node.take():
            if isinstance(action, Send):
                header = decode_header(action.header)
                is_chunk = isinstance(header, h.Chunk)
                if is_chunk:
                    self.crossed[header.index] += 1
                self.free = max(self.now, self.free) + (self.seconds if is_chunk else 0.01)
                self.line.append((self.free, Frame(b"c", action.header, memoryview(bytes(action.body)))))
            elif isinstance(action, Reconnect):
                self.reconnects += 1

    def until(self, *kinds: type) -> object:
        """Let time pass until something of these kinds has happened."""
        for _ in range(100_000):
            self.step()
            found = [event for event in self.events if isinstance(event, kinds)]
            if found:
                return found[0]
        raise AssertionError(f"{kinds} did not happen: {self.events}")

    def fetch(self) -> object:
        """Train, and fetch the update; what comes of it."""
        key = TaskKey(experiment_id="e", round=0, node_id="n1")
        self.researcher.train(TrainRequest(key=key, dataset_id="d", plan_class="P"), PLAN, MODEL, None, self.now)
        while not self.node._jobs or self.node._jobs[key].state != "running":
            self.step()
        self.node.finish(TrainReply(key=key, sample_count=1), MODEL * 2.0, None, self.now)
        self.until(UpdateOffered)
        self.researcher.fetch(key, None, self.now)
        return self.until(UpdateFetched, NodeLost)


@pytest.mark.parametrize("seconds", [1.0, 7.0, 0.95 * LIMITS.silence * LIMITS.patience])
def test_row_12_nobody_is_lost_as_long_as_chunks_arrive(seconds: float) -> None:
    world = SlowLine(seconds)
    began = world.now
    fetched = world.fetch()
    assert isinstance(fetched, UpdateFetched)
    assert fetched.params == MODEL * 2.0
    assert world.now - began >= CHUNKS * seconds
    assert world.reconnects == 0
    assert world.crossed == dict.fromkeys(range(CHUNKS), 1)


def test_row_12_a_line_that_carries_no_chunk_at_all_is_given_up() -> None:
    lost = SlowLine(2 * LIMITS.silence * LIMITS.patience).fetch()
    assert isinstance(lost, NodeLost)
    assert "nothing was heard of it" in lost.reason
