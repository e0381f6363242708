"""The state machines, message by message."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from fedplug.core.errors import CodecError, UsageError
from fedplug.core.link import (
    Connected,
    Disconnected,
    EarlierTasks,
    FinishedTask,
    PlanAsked,
    TaskCancelled,
    TaskReceived,
    UpdateCommitted,
)
from fedplug.core.messages import (
    LogLine,
    NodeInfo,
    PlanAnswer,
    Progress,
    TaskFailure,
    TaskKey,
    TrainReply,
    TrainRequest,
)
from fedplug.core.params import Params, ParamsSpec
from fedplug.core.plan_source import PlanBundle
from fedplug.core.pool import (
    DatasetsFound,
    NodeJoined,
    NodeLost,
    PlanAnswered,
    TaskFailed,
    UpdateFetched,
    UpdateOffered,
)
from fedplug.core.transport import Closed, Frame, Opened
from fedplug.protocol.actions import Deliver, Drop, Reconnect, Say, Send, Sign
from fedplug.protocol.limits import Limits
from fedplug.protocol.node import NodeMachine
from fedplug.protocol.researcher import ResearcherMachine
from fedplug.wire import decode_header, encode_header
from fedplug.wire import headers as h

PLAN = PlanBundle("Plan", "class Plan:\n    pass\n")
SMALL = Params.from_arrays({"w": np.arange(4, dtype=np.float32)})
LIMITS = Limits(chunk=64, inline=32, peer_credit=4, pool_credit=6)
LARGE = Params.from_arrays({"w": np.arange(100, dtype=np.float32)})


class World:
    """A researcher and a node whose frames pass through the test's hands."""

    def __init__(self, limits=LIMITS):
        self.now = 100.0
        self.limits = limits
        self.researcher = ResearcherMachine(limits)
        self.node = NodeMachine(NodeInfo(node_id="n1"), limits, incarnation=1)
        self.at_researcher, self.at_node, self.signs = [], [], []
        self.dropped, self.reconnects, self.said = [], [], []
        self.passed = []

    def connect(self, token=b"c1", **filters):
        self.token = token
        self.node.connecting(self.now)
        self.researcher.on(Opened(token), self.now)
        self.node.on(Opened(b""), self.now)
        return self.settle(**filters)

    def settle(self, *, up=lambda header: True, down=lambda header: True):
        """Carry frames to and fro until there are none; those for which the filter is false are lost."""
        busy = True
        while busy:
            busy = False
            for action in self.researcher.take():
                if isinstance(action, Send):
                    busy = True
                    header = decode_header(action.header)
                    self.passed.append(header)
                    if action.peer == self.token and down(header):
                        self.node.on(Frame(b"", action.header, memoryview(action.body)), self.now)
                elif isinstance(action, Drop):
                    self.dropped.append(action.peer)
                elif isinstance(action, Deliver):
                    self.at_researcher.append(action.event)
                elif isinstance(action, Sign):
                    self.signs.append(action.message)
                elif isinstance(action, Say):
                    self.said.append(action.text)
            for action in self.node.take():
                if isinstance(action, Send):
                    busy = True
                    header = decode_header(action.header)
                    self.passed.append(header)
                    if up(header):
                        self.researcher.on(Frame(self.token, action.header, memoryview(action.body)), self.now)
                elif isinstance(action, Reconnect):
                    self.reconnects.append(action.after)
                elif isinstance(action, Deliver):
                    self.at_node.append(action.event)
        return self

    def wait(self, seconds, **filters):
        end = self.now + seconds
        while self.now < end:
            self.now += 0.25
            self.researcher.tick(self.now)
            self.node.tick(self.now)
            self.settle(**filters)

    def give(self, params=SMALL, round_index=0, **fields):
        key = TaskKey(experiment_id="e", round=round_index, node_id="n1")
        request = TrainRequest(key=key, dataset_id="d", plan_class="Plan", **fields)
        self.researcher.train(request, PLAN, params, None, self.now)
        self.settle()
        return key

    def finish(self, key, params=SMALL):
        self.node.finish(TrainReply(key=key, sample_count=1), params, None, self.now)
        self.settle()

    def say(self, header, body=b""):
        """Let the node send something of the test's own."""
        header = msgspec.structs.replace(header, session=self.node.session)
        self.researcher.on(Frame(self.token, encode_header(header), memoryview(body)), self.now)
        self.settle()

    def kinds(self, events):
        return [type(event) for event in events]


@pytest.fixture
def world():
    world = World().connect()
    assert world.kinds(world.at_researcher) == [NodeJoined]
    assert world.kinds(world.at_node) == [Connected]
    world.at_researcher.clear()
    world.at_node.clear()
    world.passed.clear()
    return world


def tags(headers):
    return [header.__struct_config__.tag for header in headers]


def test_a_small_round_takes_one_message_each_way_and_a_commit():
    world = World(Limits()).connect()
    world.passed.clear()
    key = world.give()
    world.finish(key)
    world.researcher.fetch(key, None, world.now)
    world.researcher.commit(key, world.now)
    world.settle()
    assert tags(world.passed) == ["TASK", "OFFER", "COMMITTED"]
    assert world.kinds(world.at_researcher) == [NodeJoined, UpdateOffered, UpdateFetched]
    assert world.kinds(world.at_node) == [Connected, TaskReceived, UpdateCommitted]


def test_an_unchanged_plan_and_model_are_not_sent_again():
    world = World(Limits()).connect()
    first = world.give()
    world.finish(first)
    world.passed.clear()
    world.give(round_index=1)
    task = world.passed[0]
    assert not task.plan.inline
    assert not task.params.inline
    assert tags(world.passed) == ["TASK"]
    assert world.at_node[-1].params is world.at_node[1].params


def test_large_blobs_are_pulled_within_the_credit(world):
    key = world.give(LARGE)
    gets = [header for header in world.passed if isinstance(header, h.Get)]
    assert max(sum(count for _, count in get.ranges) for get in gets) <= LIMITS.peer_credit
    assert bytes(world.at_node[0].params.buffer) == bytes(LARGE.buffer)
    world.finish(key, LARGE * 2.0)
    world.researcher.fetch(key, None, world.now)
    world.settle()
    assert bytes(world.at_researcher[-1].params.buffer) == bytes((LARGE * 2.0).buffer)


def test_only_missing_chunks_are_pulled_after_a_reconnection(world):
    seen = []

    def third_and_on(header):
        if isinstance(header, h.Chunk):
            seen.append(header.index)
        return not isinstance(header, h.Chunk) or header.index < 2

    world.researcher.train(
        TrainRequest(key=TaskKey(experiment_id="e", round=0, node_id="n1"), dataset_id="d", plan_class="Plan"),
        PLAN, LARGE, None, world.now,
    )  # fmt: skip
    world.settle(down=third_and_on)
    world.researcher.on(Closed(world.token), world.now)
    world.node.on(Closed(b""), world.now)
    world.settle()
    world.passed.clear()
    world.connect(b"c2")
    params = h.BlobRef(LARGE.fingerprint(), LARGE.nbytes)
    again = [header.index for header in world.passed if isinstance(header, h.Chunk) and header.blob == params.id]
    assert sorted(again) == [2, 3, 4, 5, 6]
    assert TaskReceived in world.kinds(world.at_node)


def test_chunks_of_which_none_comes_are_asked_for_again(world):
    """A GET that overtakes its WELCOME, or meets a full queue, is not answered."""
    key = TaskKey(experiment_id="e", round=0, node_id="n1")
    world.researcher.train(TrainRequest(key=key, dataset_id="d", plan_class="Plan"), PLAN, LARGE, None, world.now)
    world.settle(up=lambda header: not isinstance(header, h.Get))
    world.wait(world.limits.repeat_longest - 1)
    assert not world.at_node
    assert world.node.stats["gets_repeated"] == 0
    world.wait(3)
    assert world.kinds(world.at_node) == [TaskReceived]
    assert world.node.stats["gets_repeated"] == 1

    world.finish(key, LARGE * 2.0)
    world.researcher.fetch(key, None, world.now)
    world.settle(down=lambda header: not isinstance(header, h.Get))
    world.wait(world.limits.repeat_longest + 2)
    assert world.kinds(world.at_researcher) == [UpdateOffered, UpdateFetched]


def test_a_message_outside_a_session_is_answered_with_rehello_and_is_no_sign_of_life(world):
    world.wait(10, up=lambda header: False)
    assert world.kinds(world.at_researcher) == [NodeLost]
    world.settle()
    world.wait(3)
    assert world.kinds(world.at_researcher) == [NodeLost, NodeJoined]
    assert world.researcher.stats["messages_stale"] > 0
    assert world.node.session == (1, 2)


def test_heartbeats_keep_an_idle_session_alive(world):
    world.wait(60)
    assert world.at_researcher == world.at_node == []
    # About one every two seconds from each side.
    assert 50 <= tags(world.passed).count("HB") <= 70


class Crowd:
    """A researcher, and nodes with one connection each; what they send arrives at once."""

    def __init__(self, limits):
        self.now = 100.0
        self.researcher = ResearcherMachine(limits)
        self.nodes, self.events, self.signs, self.deaf = {}, [], [], set()
        self._limits = limits

    def join(self, name, *, older=False):
        node = self.nodes[name] = NodeMachine(NodeInfo(node_id=name), self._limits, incarnation=1)
        if older:
            node._capabilities = ("plan-status",)
        node.connecting(self.now)
        self.researcher.on(Opened(name.encode()), self.now)
        node.on(Opened(b""), self.now)
        self.settle()

    def leave(self, name):
        del self.nodes[name]
        self.researcher.on(Closed(name.encode()), self.now)
        self.settle()

    def settle(self):
        busy = True
        while busy:
            busy = False
            for action in self.researcher.take():
                if isinstance(action, Deliver):
                    self.events.append(action.event)
                elif isinstance(action, Send) and (node := self.nodes.get(action.peer.decode())):
                    busy = True
                    self._note("down", action.header)
                    node.on(Frame(b"", action.header, memoryview(action.body)), self.now)
            for name, node in self.nodes.items():
                for action in node.take():
                    if isinstance(action, Send) and name not in self.deaf:
                        busy = True
                        self._note("up", action.header)
                        self.researcher.on(Frame(name.encode(), action.header, memoryview(action.body)), self.now)

    def wait(self, seconds):
        end = self.now + seconds
        while self.now < end:
            self.now += 0.25
            self.researcher.tick(self.now)
            for node in self.nodes.values():
                node.tick(self.now)
            self.settle()

    def _note(self, way, header):
        if isinstance(decode_header(header), h.Hb):
            self.signs.append(way)

    def counted(self, seconds):
        """Signs of life in so many seconds, up and down."""
        self.signs.clear()
        self.wait(seconds)
        return self.signs.count("up"), self.signs.count("down")

    @property
    def lost(self):
        return [event.node_id for event in self.events if isinstance(event, NodeLost)]


FEW = replace(LIMITS, signs=1.0)
"""Two nodes may give a sign each two seconds; with more, they come more rarely."""


@pytest.mark.parametrize(
    ("signs", "nodes", "pace"), [(250.0, 0, 2), (250.0, 500, 2), (250.0, 501, 4), (250.0, 1000, 4), (250.0, 1001, 6)]
)
def test_the_pace_of_signs_of_life_follows_from_the_number_of_nodes(signs, nodes, pace):
    assert Limits(signs=signs).pace(nodes) == pace


def test_no_pace_is_slower_than_can_be_said_and_none_faster_than_the_heartbeat():
    assert Limits().pace(10**9) == 3600
    assert Limits(heartbeat=3600.0).pace(10**9) == 3600
    assert Limits(heartbeat=60.0).pace(1000) == 60


def test_signs_of_life_do_not_become_more_with_the_nodes_and_nobody_is_lost():
    crowd = Crowd(FEW)
    for number in range(8):
        crowd.join(f"n{number}")
    crowd.wait(20)  # by then all have heard that it is eight seconds
    up, down = crowd.counted(80)
    assert 70 <= up <= 90
    assert 70 <= down <= 90
    assert crowd.lost == []
    assert {node._limits.heartbeat for node in crowd.nodes.values()} == {8.0}


def test_nodes_that_are_left_hear_that_they_may_speak_more_often_and_none_is_lost_meanwhile():
    crowd = Crowd(FEW)
    for number in range(8):
        crowd.join(f"n{number}")
    crowd.wait(20)
    for number in range(2, 8):
        crowd.leave(f"n{number}")
    crowd.events.clear()
    crowd.wait(10)
    assert {node._limits.heartbeat for node in crowd.nodes.values()} == {2.0}
    up, down = crowd.counted(80)
    assert 70 <= up <= 90
    assert 70 <= down <= 90
    assert crowd.lost == []
    crowd.deaf.add("n1")
    crowd.wait(7)
    assert crowd.lost == ["n1"]


def test_a_node_that_falls_silent_among_many_is_lost_after_three_of_its_signs():
    crowd = Crowd(FEW)
    for number in range(4):
        crowd.join(f"n{number}")
    crowd.wait(20)
    crowd.deaf.add("n3")
    crowd.wait(8)
    assert crowd.lost == []
    crowd.wait(5)
    assert crowd.lost == ["n3"]


def test_an_older_node_keeps_the_pace_that_it_was_welcomed_with():
    crowd = Crowd(FEW)
    crowd.join("n0", older=True)
    for number in range(1, 8):
        crowd.join(f"n{number}")
    crowd.wait(60)
    assert crowd.lost == []
    assert crowd.nodes["n0"]._limits.heartbeat == 2.0
    assert crowd.researcher._known["n0"].heartbeat == 2.0
    assert crowd.nodes["n7"]._limits.heartbeat == 8.0
    assert not any(event for event in crowd.nodes["n0"].take() if isinstance(event, Reconnect))


def test_a_node_gives_up_a_silent_researcher_after_three_heartbeats(world):
    world.wait(5.5, down=lambda header: False)
    assert world.reconnects == []
    world.wait(1, down=lambda header: False)
    assert world.reconnects == [0.0]
    assert world.kinds(world.at_node) == [Disconnected]


def test_disconnected_is_reported_once_per_change():
    world = World()
    for _ in range(3):
        world.node.connecting(world.now)
        world.node.on(Closed(b"", "nobody listens"), world.now)
        world.settle()
    assert world.kinds(world.at_node) == [Disconnected]
    assert not world.at_node[0].refused


def test_an_own_pause_is_not_taken_for_the_silence_of_others(world):
    world.wait(3)
    world.now += 30
    world.researcher.tick(world.now)
    world.node.tick(world.now)
    world.settle()
    assert world.at_researcher == world.at_node == []


def test_a_node_of_another_version_is_refused_with_what_to_do():
    world = World()
    world.token = b"c1"
    hello = h.Hello(session=(1, 1), versions=(2, 5), node=NodeInfo(node_id="n1"))
    world.node.connecting(world.now)
    world.node.on(Opened(b""), world.now)
    world.node.take()
    world.researcher.on(Frame(b"c1", encode_header(hello), memoryview(b"")), world.now)
    world.settle()
    event = world.at_node[0]
    assert isinstance(event, Disconnected)
    assert event.refused
    assert "Upgrade" in event.reason
    assert world.reconnects == [30.0]


def test_a_prelude_of_another_version_is_refused():
    world = World()
    world.researcher.on(Frame(b"c1", b"FPWP\x07\x80", memoryview(b"")), world.now)
    (sent,) = [action for action in world.researcher.take() if isinstance(action, Send)]
    assert decode_header(sent.header).code == "version"


def test_a_second_node_with_the_same_id_is_refused_while_the_first_lives(world):
    twin = NodeMachine(NodeInfo(node_id="n1"), LIMITS, incarnation=2)
    twin.connecting(world.now)
    twin.on(Opened(b""), world.now)
    (hello,) = twin.take()
    world.researcher.on(Frame(b"c2", hello.header, memoryview(b"")), world.now)
    (refusal,) = world.researcher.take()
    assert decode_header(refusal.header).code == "duplicate-node"
    assert world.researcher.stats["refused_duplicate-node"] == 1
    twin.on(Frame(b"", refusal.header, memoryview(b"")), world.now)
    (event, _) = twin.take()
    assert event.event.refused


def test_a_reconnected_node_takes_its_place_over_without_being_lost(world):
    world.connect(b"c2")
    assert world.at_researcher == []
    assert world.dropped == [b"c1"]


def test_a_task_in_an_earlier_life_of_the_node_is_interrupted_not_repeated(world):
    world.give()
    world.researcher.on(Closed(world.token), world.now)
    world.node = NodeMachine(NodeInfo(node_id="n1"), LIMITS, incarnation=2)
    world.at_node.clear()
    world.connect(b"c2")
    failed = world.at_researcher[-1]
    assert isinstance(failed, TaskFailed)
    assert failed.failure.code == "interrupted"
    assert TaskReceived not in world.kinds(world.at_node)


def test_a_repeated_task_is_answered_with_what_became_of_it(world):
    key = world.give()
    task = next(header for header in world.passed if isinstance(header, h.Task))

    def repeat():
        world.passed.clear()
        world.node.on(Frame(b"", encode_header(task), memoryview(_inline(task))), world.now)
        world.settle()
        return tags(world.passed)

    assert repeat() == ["TASK_ACK"]
    world.finish(key)
    assert repeat() == ["OFFER"]
    world.researcher.fetch(key, None, world.now)
    world.researcher.commit(key, world.now)
    world.settle()
    assert repeat() == ["TASK_ACK"]
    assert world.kinds(world.at_node).count(TaskReceived) == 1


def test_a_duplicate_offer_after_the_commit_is_answered_with_committed_again(world):
    key = world.give()
    world.finish(key)
    offer = next(header for header in world.passed if isinstance(header, h.Offer))
    world.researcher.fetch(key, None, world.now)
    world.researcher.commit(key, world.now)
    world.settle()
    world.passed.clear()
    world.say(offer, bytes(SMALL.buffer))
    assert tags(world.passed) == ["COMMITTED"]
    assert world.kinds(world.at_researcher).count(UpdateOffered) == 1


def test_an_update_is_kept_and_offered_again_until_it_is_committed(world):
    key = world.give()
    world.researcher.on(Closed(world.token), world.now)
    world.node.on(Closed(b""), world.now)
    world.finish(key)
    assert UpdateOffered not in world.kinds(world.at_researcher)
    world.connect(b"c2")
    assert UpdateOffered in world.kinds(world.at_researcher)


def test_a_lost_offer_is_repeated(world):
    key = world.give()
    world.node.finish(TrainReply(key=key, sample_count=1), SMALL, None, world.now)
    world.settle(up=lambda header: not isinstance(header, h.Offer))
    world.wait(6)
    assert world.kinds(world.at_researcher) == [UpdateOffered]
    assert world.node.stats["ends_repeated"] == 1


def test_a_failure_is_repeated_until_it_is_known(world):
    key = world.give()
    world.node.fail(TaskFailure(key=key, code="plan-raised", text="no"), world.now)
    world.settle(up=lambda header: not isinstance(header, h.Error))
    world.wait(6)
    assert [event.failure.code for event in world.at_researcher] == ["plan-raised"]
    assert "COMMITTED" in tags(world.passed)
    world.passed.clear()
    world.wait(20)
    assert set(tags(world.passed)) <= {"HB"}


def test_an_unfinished_task_is_acknowledged_so_that_it_is_not_sent_again(world):
    world.give()
    world.wait(30)
    assert tags(world.passed).count("TASK") == 1
    assert tags(world.passed).count("TASK_ACK") == 1


def test_a_cancelled_task_is_over_on_both_sides(world):
    key = world.give()
    world.researcher.cancel(key, "enough", world.now)
    world.settle()
    assert world.at_node[-1] == TaskCancelled(key, "enough")
    world.finish(key)
    assert world.at_researcher == []


def test_row_21_an_update_that_comes_when_its_round_is_over_is_told_once_and_not_used(world):
    key = world.give()
    world.researcher.cancel(key, "enough", world.now)
    world.researcher.take()  # what tells the node is lost
    world.finish(key)
    assert world.at_researcher == []
    assert world.at_node[-1] == TaskCancelled(key, "given up before")
    offer = next(header for header in world.passed if isinstance(header, h.Offer))
    world.say(offer, bytes(SMALL.buffer))
    assert (world.researcher.late(), world.researcher.late()) == ([key], [])
    assert world.researcher.stats["offers_late"] == 1


def test_a_node_that_was_away_learns_of_the_cancellation_later(world):
    key = world.give()
    world.researcher.on(Closed(world.token), world.now)
    world.node.on(Closed(b""), world.now)
    world.researcher.cancel(key, "enough", world.now)
    world.settle()
    world.connect(b"c2")
    assert TaskCancelled in world.kinds(world.at_node)


def test_an_update_of_a_forgotten_experiment_waits_until_the_experiment_moves_on(world):
    key = world.give()
    world.finish(key)
    world.researcher = ResearcherMachine(LIMITS)
    world.node.on(Closed(b""), world.now)
    world.connect(b"c2")
    assert TaskCancelled not in world.kinds(world.at_node)
    world.give(round_index=9)
    assert TaskCancelled in world.kinds(world.at_node)


def test_an_offer_larger_than_the_quota_is_refused_before_anything_is_pulled():
    world = World(replace(LIMITS, offer=200)).connect()
    key = world.give()
    world.finish(key, LARGE)
    failed = world.at_researcher[-1]
    assert failed.failure.code == "bad-offer"
    assert "200" in failed.failure.text
    assert world.researcher.stats["offers_refused"] == 1
    assert TaskCancelled in world.kinds(world.at_node)


def test_an_offer_for_another_node_is_refused_and_counted(world):
    key = TaskKey(experiment_id="e", round=0, node_id="n2")
    ref = h.BlobRef(SMALL.fingerprint(), SMALL.nbytes, 0, inline=True)
    offer = h.Offer(reply=TrainReply(key=key, sample_count=1), params=ref, tables=(msgspec.Raw(SMALL.spec.table),))
    world.say(offer, bytes(SMALL.buffer))
    assert world.at_researcher == []
    assert world.researcher.stats["messages_malformed"] == 1


def test_inline_arrays_with_a_wrong_digest_are_refused(world):
    key = world.give()
    world.node.finish(TrainReply(key=key, sample_count=1), SMALL, None, world.now)
    (offer,) = [action for action in world.node.take() if isinstance(action, Send)]
    world.researcher.on(Frame(world.token, offer.header, memoryview(bytes(SMALL.nbytes))), world.now)
    world.settle()
    assert world.at_researcher[-1].failure.code == "bad-offer"


def test_a_blob_that_is_not_what_it_claims_is_pulled_twice_then_refused(world):
    key = world.give()
    world.node.finish(TrainReply(key=key, sample_count=1), LARGE, None, world.now)
    world.node._jobs[key].blobs["params"].buffer = memoryview(bytes(LARGE.nbytes))
    world.settle()
    world.researcher.fetch(key, None, world.now)
    world.settle()
    assert world.at_researcher[-1].failure.code == "bad-update"
    chunks = [header for header in world.passed if isinstance(header, h.Chunk) and header.blob == LARGE.fingerprint()]
    assert sorted(chunk.index for chunk in chunks) == sorted([*range(7), *range(7)])
    assert world.researcher.stats["blobs_damaged"] == 2


def test_of_a_damaged_blob_only_the_damaged_chunks_are_pulled_again_and_then_each_is_checked(world):
    """Two chunks come damaged, and one of them once more; what is right is not asked for twice."""
    left = {2: 2, 5: 1}
    whole = world.researcher.on

    def damaging(item, now):
        if isinstance(item, Frame) and isinstance(header := decode_header(item.header), h.Chunk):
            came.append(header.index)
            if left.get(header.index, 0):
                left[header.index] -= 1
                item = Frame(item.peer, item.header, memoryview(bytes(len(item.body))))
        whole(item, now)

    came = []
    key = world.give()
    world.node.finish(TrainReply(key=key, sample_count=1), LARGE + LARGE, None, world.now)
    world.settle()
    world.researcher.on = damaging
    world.researcher.fetch(key, None, world.now)
    world.settle()
    assert bytes(world.at_researcher[-1].params.buffer) == bytes((LARGE + LARGE).buffer)
    assert sorted(came) == [0, 1, 2, 2, 2, 3, 4, 5, 5, 6]
    assert world.researcher.stats["chunks_damaged"] == 3
    assert world.researcher.stats["blobs_damaged"] == 0


def damage(world, left):
    """Let chunks come damaged at the researcher, as often as ``left`` says by their index; the headers that came."""
    whole, came = world.researcher.on, []

    def damaging(item, now):
        if isinstance(item, Frame):
            header = decode_header(item.header)
            came.append(header)
            if isinstance(header, h.Chunk) and left.get(header.index, 0):
                left[header.index] -= 1
                item = Frame(item.peer, item.header, memoryview(bytes(len(item.body))))
        whole(item, now)

    world.researcher.on = damaging
    return came


def test_checksums_are_asked_for_once_something_is_wrong_and_not_before(world):
    key = world.give()
    world.node.finish(TrainReply(key=key, sample_count=1), LARGE + LARGE, None, world.now)
    world.settle()
    came = damage(world, {3: 1})
    world.researcher.fetch(key, None, world.now)
    world.settle()
    assert bytes(world.at_researcher[-1].params.buffer) == bytes((LARGE + LARGE).buffer)
    assert {chunk.crc for chunk in came if isinstance(chunk, h.Chunk)} == {h.UNTOLD}
    (sums,) = [header for header in came if isinstance(header, h.Sums)]
    assert (sums.first, len(sums.crcs)) == (0, 7)
    asked = [header for header in world.passed if isinstance(header, h.Get)]
    assert [get.sums for get in asked if get.sums or get.ranges == ((3, 1),)] == [True, False]


def test_whole_blobs_cost_no_checksum_on_either_side(world):
    key = world.give(LARGE)
    down = world.researcher._known["n1"].tasks[key].find(LARGE.fingerprint())
    assert TaskReceived in world.kinds(world.at_node)
    world.node.finish(TrainReply(key=key, sample_count=1), LARGE + LARGE, None, world.now)
    world.settle()
    up = world.node._jobs[key].blobs["params"]
    world.researcher.fetch(key, None, world.now)
    world.settle()
    assert UpdateFetched in world.kinds(world.at_researcher)
    assert (down._crcs, up._crcs) == ({}, {})
    assert not any(isinstance(header, h.Sums) for header in world.passed)


@pytest.mark.parametrize("older", ["node", "researcher"])
def test_a_side_that_is_older_sends_and_gets_a_checksum_with_each_chunk(older):
    """Of two releases the older one knows neither SUMS nor what asks for them; damage is found all the same."""
    world = World()
    if older == "node":
        world.node._capabilities = ("plan-status",)
    world.connect()
    if older == "researcher":
        world.node._shared = ()
    key = world.give(LARGE)
    update = LARGE + LARGE
    world.node.finish(TrainReply(key=key, sample_count=1), update, None, world.now)
    world.settle()
    came = damage(world, {2: 2})
    world.researcher.fetch(key, None, world.now)
    world.settle()
    assert bytes(world.at_researcher[-1].params.buffer) == bytes(update.buffer)
    assert all(chunk.crc != h.UNTOLD for chunk in came if isinstance(chunk, h.Chunk))
    welcome = next(header for header in world.passed if isinstance(header, h.Welcome))
    assert welcome.capabilities == (() if older == "node" else ("chunk-sums",))
    if older == "node":
        assert all(c.crc != h.UNTOLD for c in world.passed if isinstance(c, h.Chunk) and c.blob == LARGE.fingerprint())
    assert not any(isinstance(header, h.Sums) or getattr(header, "sums", False) for header in world.passed)


def test_checksums_that_were_under_way_when_the_line_broke_are_asked_for_again(world):
    key = world.give()
    world.node.finish(TrainReply(key=key, sample_count=1), LARGE + LARGE, None, world.now)
    world.settle()
    damage(world, {6: 1})
    world.researcher.fetch(key, None, world.now)
    world.settle(up=lambda header: not isinstance(header, h.Sums))
    assert UpdateFetched not in world.kinds(world.at_researcher)
    assert world.researcher._puller.under_way == 1
    world.researcher.on(Closed(b"c1"), world.now)
    assert world.researcher._puller.under_way == 0
    world.node.on(Closed(b""), world.now)
    world.connect(b"c2")
    assert bytes(world.at_researcher[-1].params.buffer) == bytes((LARGE + LARGE).buffer)
    assert world.researcher._puller.under_way == 0


def test_checksums_of_a_blob_of_many_chunks_come_in_several_messages():
    values = np.arange(600 * 16, dtype=np.float32)
    many = Params.from_arrays({"w": values})
    world = World().connect()
    key = world.give()
    world.node.finish(TrainReply(key=key, sample_count=1), many, None, world.now)
    world.settle()
    came = damage(world, {0: 1, 599: 1})
    world.researcher.fetch(key, None, world.now)
    world.settle()
    assert np.array_equal(world.at_researcher[-1].params["w"], values)
    spans = [(header.first, len(header.crcs)) for header in came if isinstance(header, h.Sums)]
    assert spans == [(0, 256), (256, 256), (512, 88)]
    assert world.researcher.stats["chunks_damaged"] == 2


def test_checksums_that_nobody_asked_for_are_ignored(world):
    key = world.give()
    world.node.finish(TrainReply(key=key, sample_count=1), LARGE + LARGE, None, world.now)
    world.settle()
    world.say(h.Sums(blob=(LARGE + LARGE).fingerprint(), first=0, crcs=(1,) * 7))
    world.researcher.fetch(key, None, world.now)
    world.settle(up=lambda header: getattr(header, "index", 0) != 6)
    world.say(h.Sums(blob=(LARGE + LARGE).fingerprint(), first=0, crcs=(1,) * 7))
    assert world.researcher.stats["chunks_unasked"] == 2
    assert UpdateFetched not in world.kinds(world.at_researcher)


def test_a_get_for_too_many_checksums_is_refused(world):
    key = world.give()
    world.node.finish(TrainReply(key=key, sample_count=1), LARGE, None, world.now)
    world.settle()
    blob = LARGE.fingerprint()
    get = h.Get(session=world.node.session, blob=blob, ranges=((0, 7),) * 40, sums=True)
    world.node.on(Frame(b"", encode_header(get), memoryview(b"")), world.now)
    assert world.node.stats["messages_malformed"] == 1


def test_a_blob_of_which_too_many_chunks_come_damaged_is_given_up(world):
    key = world.give()
    world.node.finish(TrainReply(key=key, sample_count=1), LARGE, None, world.now)
    blob = world.node._jobs[key].blobs["params"]
    for index in range(7):
        blob.crc(index, world.limits.chunk)  # their sums are known before the bytes change
    blob.buffer = memoryview(bytes(LARGE.nbytes))
    world.settle()
    world.researcher.fetch(key, None, world.now)
    world.settle()
    assert world.at_researcher[-1].failure.code == "bad-update"
    assert "too many of its chunks arrived damaged" in world.at_researcher[-1].failure.text
    assert world.researcher.stats["chunks_damaged"] > world.limits.bad_chunks


def test_a_node_may_only_pull_what_belongs_to_its_tasks(world):
    world.say(h.Get(blob=SMALL.fingerprint(), ranges=((0, 1),)))
    assert tags(world.passed) == ["ERROR"]


def test_a_get_beyond_the_credit_counts_as_malformed(world):
    world.researcher.train(
        TrainRequest(key=TaskKey(experiment_id="e", round=0, node_id="n1"), dataset_id="d", plan_class="Plan"),
        PLAN, LARGE, None, world.now,
    )  # fmt: skip
    world.settle(down=lambda header: not isinstance(header, h.Task))
    world.passed.clear()
    world.say(h.Get(blob=LARGE.fingerprint(), ranges=((0, 5),)))
    world.say(h.Get(blob=LARGE.fingerprint(), ranges=((6, 2),)))
    assert world.passed == []
    assert world.researcher.stats["messages_malformed"] == 2


def nonsense(world, count, token=None):
    for _ in range(count):
        world.researcher.on(Frame(token or world.token, b"nonsense", memoryview(b"")), world.now)
        world.settle()


def test_row_30_a_node_that_talks_nonsense_is_dropped_named_and_muted(world):
    nonsense(world, LIMITS.malformed - 1)
    assert not world.dropped, "this may happen"
    nonsense(world, 1)
    assert world.dropped == [world.token]
    assert world.kinds(world.at_researcher) == [NodeLost]
    (notice,) = world.said
    assert "n1 has sent 16 messages" in notice
    assert "not a FedPlug message" in notice

    world.node.on(Closed(b"", "dropped"), world.now)
    world.connect(b"c2")
    refused = world.at_node[-1]
    assert (refused.refused, "does not listen to it" in refused.reason) == (True, True)
    assert world.reconnects[-1] == LIMITS.mute
    world.now += LIMITS.mute
    world.connect(b"c3")
    assert world.kinds(world.at_researcher) == [NodeLost, NodeJoined]


def test_row_30_nonsense_now_and_then_is_forgiven_and_a_new_connection_is_no_new_start(world):
    for _ in range(5):
        nonsense(world, LIMITS.malformed - 1)
        world.wait(LIMITS.mute + 1)
    assert not world.dropped
    nonsense(world, LIMITS.malformed - 1)
    world.node.on(Closed(b"", "cut"), world.now)
    world.connect(b"c2")
    nonsense(world, 1)
    assert world.dropped[-1] == b"c2"


def test_row_30_of_nonsense_without_a_name_only_the_connection_is_dropped_and_the_log_stays_short(world):
    for number in range(200):
        nonsense(world, LIMITS.malformed, token=b"x%d" % number)
    assert len(world.dropped) == 200
    assert world.said == []
    assert world.node.phase == "on"
    assert not world.at_researcher, "nobody else has noticed"


def test_a_connection_that_never_says_hello_is_dropped():
    world = World()
    world.researcher.tick(world.now)
    world.researcher.on(Opened(b"silent"), world.now)
    world.token = b""
    world.wait(70)
    assert world.dropped == [b"silent"]


def test_a_search_reaches_nodes_that_join_later_and_is_answered_once():
    world = World()
    world.researcher.search(3, ("a",), None, world.now)
    world.connect()
    world.node.answer_search(3, (), world.now)
    world.settle()
    world.node.answer_search(3, (), world.now)
    world.settle()
    assert world.at_researcher[1:] == [DatasetsFound("n1", 3, ())]
    assert world.researcher.stats["answers_stale"] == 1


def test_an_unanswered_search_is_repeated_and_others_are_not_asked(world):
    world.researcher.search(3, (), ("n2",), world.now)
    world.settle()
    assert world.passed == []
    world.researcher.search(4, (), ("n1",), world.now)
    world.settle(down=lambda header: False)
    world.wait(6)
    assert tags(world.passed).count("SEARCH") == 2


def test_signs_of_life_are_limited_in_rate_and_the_oldest_give_way():
    world = World(replace(LIMITS, sign_rate=5.0, sign_backlog=10)).connect()
    key = TaskKey(experiment_id="e", round=0, node_id="n1")
    for step in range(100):
        world.node.report(Progress(key=key, step=step), world.now)
    world.node.report(LogLine(level="INFO", text="x" * 20_000), world.now)
    world.settle()
    world.wait(10)
    steps = [sign.step for sign in world.signs if isinstance(sign, Progress)]
    assert steps[-1] == 99
    assert steps == sorted(steps)
    assert len(world.signs) + world.node.stats["signs_dropped"] == 101
    assert world.node.stats["signs_dropped"] > 80
    assert len(world.signs[-1].text) <= 8192


def test_what_a_task_says_at_first_travels_together_and_before_its_end(world):
    key = world.give()
    world.settle()
    seen = len(world.passed)
    for step in (1, 2):
        world.node.report(Progress(key=key, step=step), world.now)
    world.settle()
    assert tags(world.passed[seen:]) == []
    world.node.finish(TrainReply(key=key, sample_count=1), SMALL, None, world.now)
    world.settle()
    assert tags(world.passed[seen:])[:2] == ["EVENT", "OFFER"]
    assert [sign.step for sign in world.signs] == [1, 2]


def test_what_a_long_task_says_goes_out_with_its_acknowledgement_and_then_at_once(world):
    key = world.give()
    world.settle()
    world.node.report(Progress(key=key, step=1), world.now)
    world.settle()
    assert world.signs == []
    world.wait(1)
    assert [sign.step for sign in world.signs] == [1]
    world.node.report(Progress(key=key, step=2), world.now)
    world.settle()
    assert [sign.step for sign in world.signs] == [1, 2]


def test_nobody_can_use_a_key_twice_or_finish_what_was_not_given(world):
    key = world.give()
    with pytest.raises(UsageError, match="given out before"):
        world.give()
    other = TaskKey(experiment_id="e", round=5, node_id="n1")
    with pytest.raises(UsageError, match="never received"):
        world.node.finish(TrainReply(key=other, sample_count=1), SMALL, None, world.now)
    with pytest.raises(UsageError, match="no task"):
        world.researcher.fetch(other, None, world.now)
    with pytest.raises(UsageError, match="not been offered"):
        world.researcher.fetch(key, None, world.now)
    with pytest.raises(UsageError, match="aux"):
        world.node.finish(TrainReply(key=key, sample_count=1, aux=("c",)), SMALL, None, world.now)


def test_what_cannot_travel_is_refused_at_once_and_changes_nothing(world):
    with pytest.raises(CodecError):
        world.give(model_args={"x": "y" * 300_000})
    key = world.give()
    with pytest.raises(CodecError):
        world.node.finish(TrainReply(key=key, sample_count=1, metrics={"m" * 300_000: 1.0}), SMALL, None, world.now)
    world.finish(key)
    assert world.kinds(world.at_researcher) == [UpdateOffered]


def test_a_failing_allocator_fails_the_task_at_the_node_and_the_call_at_the_researcher():
    def full(nbytes):
        raise OSError("no space left")

    world = World()
    world.node = NodeMachine(NodeInfo(node_id="n1"), LIMITS, incarnation=1, place=full)
    world.connect()
    world.give(LARGE)
    assert world.at_researcher[-1].failure.code == "no-space"
    world = World().connect()
    key = world.give()
    world.finish(key, LARGE)
    with pytest.raises(OSError, match="no space"):
        world.researcher.fetch(key, full, world.now)
    world.researcher.fetch(key, None, world.now)
    world.settle()
    assert world.kinds(world.at_researcher)[-1] is UpdateFetched


# questions about plans -------------------------------------------------------------------------------------------

BIG = PlanBundle("Big", "class Big:\n    x = 1\n" + "# remark\n" * 40)


def answer(world, status="pending", plan=PLAN, number=1):
    world.node.answer_plan(number, PlanAnswer(plan=plan.hash, status=status), world.now)
    world.settle()


def test_a_question_about_a_plan_names_it_and_one_for_approval_brings_it(world):
    world.researcher.ask_plan(1, PLAN, {"n1": "d"}, None, world.now)
    world.settle()
    assert world.at_node == [PlanAsked(1, PLAN.hash, "d")]
    answer(world, "unknown")
    assert world.at_researcher == [PlanAnswered("n1", 1, PlanAnswer(plan=PLAN.hash, status="unknown"))]
    for number, plan in ((2, PLAN), (3, BIG)):  # one rides along, the other is pulled
        world.researcher.ask_plan(number, plan, {"n1": "d"}, "why", world.now)
        world.settle()
        assert world.at_node[-1] == PlanAsked(number, plan.hash, "d", plan, "why")
        answer(world, plan=plan, number=number)
        assert world.at_researcher[-1].query == number
    kinds = [type(header) for header in world.passed]
    assert kinds.count(h.PlanAsk) == 3
    assert h.Get in kinds


def test_a_lost_question_or_answer_is_repeated_and_asked_of_the_owner_once(world):
    def no(kind):
        return lambda header: not isinstance(header, kind)

    world.researcher.ask_plan(1, BIG, {"n1": "d"}, "why", world.now)
    world.settle(down=no(h.PlanAsk))
    assert world.at_node == []
    world.wait(6)
    assert world.kinds(world.at_node) == [PlanAsked]
    world.node.answer_plan(1, PlanAnswer(plan=BIG.hash, status="pending"), world.now)
    world.settle(up=no(h.PlanStatus))
    assert world.at_researcher == []
    world.wait(12)
    assert world.kinds(world.at_researcher) == [PlanAnswered]
    assert world.kinds(world.at_node) == [PlanAsked]


def test_a_node_that_comes_back_is_asked_again_also_in_the_middle_of_a_plan(world):
    world.researcher.ask_plan(1, BIG, {"n1": "d"}, "why", world.now)
    world.settle(down=lambda header: not isinstance(header, h.Chunk))
    assert world.at_node == []
    world.node.on(Closed(b"", "cut"), world.now)
    world.researcher.on(Closed(world.token, "cut"), world.now)
    world.connect(b"c2")
    assert world.kinds(world.at_node) == [Disconnected, Connected, PlanAsked]
    assert world.at_node[-1].plan == BIG
    answer(world, plan=BIG)
    assert world.kinds(world.at_researcher) == [NodeLost, NodeJoined, PlanAnswered]


def test_a_new_question_replaces_the_one_before_and_late_answers_are_not_told(world):
    world.researcher.ask_plan(1, BIG, {"n1": "d"}, "why", world.now)
    world.settle(down=lambda header: not isinstance(header, h.Chunk))
    world.researcher.ask_plan(2, PLAN, {"n1": "d"}, None, world.now)
    world.settle()
    assert world.at_node == [PlanAsked(2, PLAN.hash, "d")]
    answer(world, number=1)
    world.say(h.PlanStatus(query=1, answer=PlanAnswer(plan=BIG.hash, status="approved")))
    assert world.at_researcher == []
    answer(world, number=2)
    answer(world, "approved", number=2)  # the owner is quick: who wants to know asks again
    assert [event.answer.status for event in world.at_researcher] == ["pending"]


def test_a_node_from_before_there_was_approval_runs_every_plan_and_is_not_asked():
    world = World()

    class Old(NodeMachine):
        def _do(self, action):
            if isinstance(action, Send) and isinstance(header := decode_header(action.header), h.Hello):
                action.header = encode_header(msgspec.structs.replace(header, capabilities=()))
            super()._do(action)

    world.node = Old(NodeInfo(node_id="n1"), LIMITS, incarnation=1)
    world.researcher.ask_plan(1, PLAN, {"n1": "d", "n2": "d"}, "why", world.now)
    world.connect()
    assert world.at_researcher[1:] == [PlanAnswered("n1", 1, PlanAnswer(plan=PLAN.hash, status="not required"))]
    world.wait(12)
    assert not any(isinstance(header, h.PlanAsk) for header in world.passed)


def test_a_plan_that_is_not_what_its_hash_says_is_never_shown_to_an_owner(world):
    changed = bytearray(BIG.encode())
    changed[-3] ^= 1
    world.researcher.ask_plan(1, BIG, {"n1": "d"}, "why", world.now)
    world.researcher._plan_blob.buffer = memoryview(bytes(changed))
    world.settle()
    assert world.at_node == []
    (event,) = world.at_researcher
    assert event.answer.status == "refused"
    assert "does not have the digest" in event.answer.note or "do not have the digest" in event.answer.note


def test_a_question_that_cannot_travel_is_refused_at_once_whether_or_not_the_node_is_there():
    world = World()
    for wrong in ({"description": "x" * 5000}, {"datasets": {"n1": "d" * 300}}, {"description": "\ud800"}):
        given = {"datasets": {"n1": "d"}, "description": "why", **wrong}
        with pytest.raises(CodecError):
            world.researcher.ask_plan(1, PLAN, given["datasets"], given["description"], world.now)
    world.connect()
    assert world.kinds(world.at_node) == [Connected]
    world.node.on(_frame(world, h.PlanAsk(query=1, plan=h.BlobRef("0" * 64, 2**40), class_name="P", submit=True)), 0.0)
    assert world.node.stats["messages_malformed"] == 1


def _frame(world, header):
    return Frame(b"", encode_header(msgspec.structs.replace(header, session=world.node.session)), memoryview(b""))


def _inline(task):
    """The body of a TASK as World sends it: the small plan does not fit the tests' inline limit, the model does."""
    return bytes(SMALL.buffer) if task.params.inline else b""


# a node that was restarted ---------------------------------------------------------------------------------------


def restart(world, earlier=None):
    """Kill the node and start it again, with what its journal says; None: it keeps no journal."""
    world.researcher.on(Closed(world.token, "killed"), world.now)
    world.settle()
    world.at_node.clear()
    world.at_researcher.clear()
    incarnation = world.node.session[0] + 1
    world.node = NodeMachine(NodeInfo(node_id="n1"), world.limits, incarnation=incarnation, earlier=earlier)
    world.passed.clear()
    return world.connect(world.token + b"+")


def finished(key, params=SMALL, **aux):
    return EarlierTasks(finished=[FinishedTask(TrainReply(key=key, sample_count=7, aux=tuple(aux)), params, aux)])


def test_row_03_a_node_killed_before_its_offer_offers_the_same_bytes_after_its_restart(world):
    key = world.give(aux=())
    restart(world, finished(key, LARGE, c=SMALL))
    assert world.kinds(world.at_researcher) == [NodeJoined, UpdateOffered]
    assert world.kinds(world.at_node) == [Connected]  # nothing is trained
    world.researcher.fetch(key, None, world.now)
    world.settle()
    update = world.at_researcher[-1]
    assert (update.params, dict(update.aux), update.reply.sample_count) == (LARGE, {"c": SMALL}, 7)
    world.researcher.commit(key, world.now)
    world.settle()
    assert world.at_node[-1] == UpdateCommitted(key)


def test_row_04_after_a_restart_in_the_middle_of_the_upload_only_missing_chunks_cross_again(world):
    key = world.give()
    world.finish(key, LARGE)
    world.researcher.fetch(key, None, world.now)
    world.settle(up=lambda header: not isinstance(header, h.Chunk) or header.index < 3)
    restart(world, finished(key, LARGE))
    crossed = [header.index for header in world.passed if isinstance(header, h.Chunk)]
    assert sorted(crossed) == [3, 4, 5, 6]
    assert world.at_researcher[-1].params == LARGE


def test_row_02_a_task_that_was_begun_and_cut_off_is_answered_with_interrupted_and_never_trained_again(world):
    key = world.give()
    restart(world, EarlierTasks(ends={key: "interrupted"}))
    assert world.kinds(world.at_node) == [Connected]
    failure = world.at_researcher[-1].failure
    assert (failure.key, failure.code) == (key, "interrupted")
    assert "restarted while it worked" in failure.text
    again = world.give(round_index=1)
    assert world.at_node[-1].request.key == again


def test_a_task_that_waited_in_the_queue_of_a_node_with_a_journal_is_given_out_again_under_its_own_key(world):
    key = world.give(LARGE)
    restart(world, EarlierTasks())
    assert world.kinds(world.at_researcher) == [NodeJoined]
    assert world.at_node[-1].request.key == key
    world.finish(key)
    assert world.kinds(world.at_researcher) == [NodeJoined, UpdateOffered]


def test_without_a_journal_nobody_knows_whether_it_was_begun(world):
    world.give()
    restart(world)
    assert world.at_researcher[-1].failure.code == "interrupted"
    assert world.kinds(world.at_node) == [Connected]


@pytest.mark.parametrize(
    ("how", "code"), [("committed", "update-lost"), ("expired", "update-lost"), ("plan-raised", "plan-raised")]
)
def test_row_06_both_were_restarted_and_the_node_remembers_how_a_task_ended(world, how, code):
    key = TaskKey(experiment_id="e", round=0, node_id="n1")
    world.researcher = ResearcherMachine(world.limits)
    restart(world, EarlierTasks(ends={key: how}))
    world.give()
    assert world.kinds(world.at_node) == [Connected]
    failure = world.at_researcher[-1].failure
    assert (failure.code, how in failure.text) == (code, True)


def test_row_06_both_were_restarted_and_the_update_is_offered_to_the_same_task(world):
    key = TaskKey(experiment_id="e", round=0, node_id="n1")
    world.researcher = ResearcherMachine(world.limits)
    restart(world, finished(key, LARGE))
    world.wait(1)
    assert world.give() == key
    assert world.kinds(world.at_node) == [Connected]
    assert world.kinds(world.at_researcher) == [NodeJoined, UpdateOffered]


def test_the_failure_of_a_task_is_remembered_by_its_code(world):
    key = world.give()
    world.node.fail(TaskFailure(key=key, code="plan-raised", text="no luck"), world.now)
    world.settle()
    assert world.at_researcher[-1].failure.text == "no luck"
    world.researcher = ResearcherMachine(world.limits)
    world.node.on(Closed(b"", "the researcher was killed"), world.now)
    world.connect(b"c9")
    world.give()
    assert world.at_researcher[-1].failure.code == "plan-raised"


@pytest.mark.parametrize("there", [True, False], ids=["connected", "away"])
def test_row_05_a_restarted_researcher_says_which_updates_it_has_already(world, there):
    key, other = world.give(), world.give(round_index=1)
    world.finish(key)
    world.finish(other)
    world.researcher.on(Closed(world.token, "killed"), world.now)
    world.researcher, world.at_researcher = ResearcherMachine(world.limits), []
    if not there:
        world.researcher.commit(key, world.now)
    world.connect(b"c2")
    if there:
        world.researcher.commit(key, world.now)
        world.settle()
    assert [event.key for event in world.at_node if isinstance(event, UpdateCommitted)] == [key]
    assert world.kinds(world.at_researcher) == [NodeJoined], "nothing is trained or fetched again"
    assert list(world.node._jobs) == [other], "the other one is kept until somebody asks for it, or moves on"


@pytest.mark.parametrize("first", ["the node is back", "the task is given out", "the node is back, and hears nothing"])
def test_row_05_what_was_being_fetched_from_a_researcher_that_was_killed_is_fetched_from_the_next_run_of_it(first):
    world = World()
    world.researcher = ResearcherMachine(LIMITS, epoch="1")
    world.connect()
    key = TaskKey(experiment_id="e", round=0, node_id="n1")
    world.researcher.train(TrainRequest(key=key, dataset_id="d", plan_class="Plan"), PLAN, LARGE, None, world.now)
    world.settle(down=lambda header: not isinstance(header, h.Chunk))
    world.researcher.on(Closed(world.token, "killed"), world.now)
    world.researcher, world.at_node = ResearcherMachine(LIMITS, epoch="2"), []
    if first.startswith("the node is back"):
        world.connect(b"c2", down=lambda header: first == "the node is back")
    world.researcher.train(TrainRequest(key=key, dataset_id="d", plan_class="Plan"), PLAN, LARGE, None, world.now)
    world.settle(down=lambda header: first != "the node is back, and hears nothing")
    if first != "the node is back":
        world.connect(b"c3")
    world.settle()
    (task,) = [event for event in world.at_node if isinstance(event, TaskReceived)]
    assert task.request.key == key
    assert bytes(task.params.buffer) == bytes(LARGE.buffer)


@pytest.mark.parametrize("huge", ["arrays", "plan"])
def test_row_29_a_node_refuses_a_huge_task_before_it_takes_memory_for_it(huge):
    taken = []

    def place(nbytes):
        taken.append(nbytes)
        return bytearray(nbytes)

    node = NodeMachine(NodeInfo(node_id="n1"), LIMITS, incarnation=1, place=place)
    node.connecting(1.0)
    node.on(Opened(b""), 1.0)
    welcome = h.Welcome(session=(1, 1), version=1, chunk=1, credit=4, heartbeat=1.0)
    node.on(Frame(b"", encode_header(welcome), memoryview(b"")), 1.0)
    size = 2**42
    table = ParamsSpec.build([("w", (size if huge == "arrays" else 4,), "uint8")])
    key = TaskKey(experiment_id="e", round=0, node_id="n1")
    task = h.Task(
        session=(1, 1),
        request=TrainRequest(key=key, dataset_id="d", plan_class="Plan"),
        plan=h.BlobRef("0" * 64, size if huge == "plan" else 10),
        params=h.BlobRef("1" * 64, table.nbytes, 0),
        tables=(msgspec.Raw(table.table),),
    )
    node.take()
    node.on(Frame(b"", encode_header(task), memoryview(b"")), 1.0)
    (answer,) = [decode_header(action.header) for action in node.take()]
    assert answer.failure.code == "bad-task"
    assert f"{size:,} bytes" in answer.failure.text
    assert taken == []
