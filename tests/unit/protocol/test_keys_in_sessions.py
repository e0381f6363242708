"""Who may have a session when connections have keys, what is said of those who may not, and when they try again."""

from __future__ import annotations

import random

import pytest

from fedplug.core.keys import KeyPair, Refusal
from fedplug.core.link import Disconnected
from fedplug.core.messages import NodeInfo
from fedplug.core.pool import NodeJoined, NodeLost
from fedplug.core.transport import Closed, Frame, Opened, TransportOptions, TurnedAway
from fedplug.protocol.actions import Deliver, Drop, Reconnect, Say, Send
from fedplug.protocol.handshakes import Handshakes, refusal_words
from fedplug.protocol.node import NodeMachine
from fedplug.protocol.researcher import ResearcherMachine
from fedplug.wire import decode_header, encode_header
from fedplug.wire import headers as h

KEY, OTHER = "a" * 64, "b" * 64
OPTIONS = TransportOptions(keys=KeyPair(KEY, "c" * 64), peer_key=OTHER)


def hello(node_id="n1", session=(10, 1), versions=(1, 1)):
    return encode_header(h.Hello(session=session, versions=versions, node=NodeInfo(node_id=node_id)))


class Desk:
    """A researcher's machine, and what it does about what comes."""

    def __init__(self, enrolled):
        self.machine = ResearcherMachine(enrolled=enrolled)
        self.now = 100.0
        self.machine.tick(self.now)
        self.machine.take()

    def hears(self, peer, header, key=KEY):
        self.machine.on(Opened(peer, key), self.now)
        return self.does(Frame(peer, header, memoryview(b""), key))

    def does(self, item):
        self.machine.on(item, self.now)
        return self.machine.take()


def said(actions, peer):
    return [decode_header(action.header) for action in actions if isinstance(action, Send) and action.peer == peer]


def events(actions):
    return [action.event for action in actions if isinstance(action, Deliver)]


@pytest.fixture
def enrolled():
    return {KEY: "n1", OTHER: "n2"}


@pytest.fixture
def desk(enrolled):
    return Desk(lambda key: enrolled.get(key, ""))


def test_a_node_is_who_its_key_is_enrolled_for(desk):
    actions = desk.hears(b"p", hello("n1"))
    assert isinstance(said(actions, b"p")[0], h.Welcome)
    assert events(actions) == [NodeJoined(NodeInfo(node_id="n1"))]


def test_a_node_cannot_pass_for_another_one(desk):
    refuse = said(desk.hears(b"p", hello("n2")), b"p")[0]
    assert (refuse.code, desk.machine.nodes) == ("wrong-id", {})
    assert "'n1'" in refuse.text
    assert f"fedplug researcher deny {KEY}" in refuse.text
    assert f"fedplug researcher allow n2 {KEY}" in refuse.text


def test_a_node_cannot_become_another_one_in_a_session(desk):
    desk.hears(b"p", hello("n1"))
    refuse = said(desk.hears(b"p", hello("n2", (10, 2))), b"p")[0]
    assert refuse.code == "wrong-id"
    assert list(desk.machine.nodes) == ["n1"]


@pytest.mark.parametrize("enrolled_for", [lambda key: "", lambda key: 1 / 0, None])
def test_a_key_that_nobody_knows_has_no_session(enrolled_for):
    refuse = said(Desk(enrolled_for).hears(b"p", hello("n1")), b"p")[0]
    assert refuse.code == "unknown-key"
    assert f"fedplug researcher allow n1 {KEY}" in refuse.text


def test_two_keys_of_one_node_are_one_node_while_they_change(desk, enrolled):
    enrolled[OTHER] = "n1"
    desk.hears(b"old", hello(session=(10, 1)), KEY)
    actions = desk.hears(b"new", hello(session=(10, 2)), OTHER)
    assert isinstance(said(actions, b"new")[0], h.Welcome)
    assert events(actions) == []
    assert Drop(b"old") in actions


def test_row_35_the_younger_of_two_processes_with_one_key_wins_and_the_older_is_told(desk):
    desk.hears(b"old", hello(session=(10, 7)))
    actions = desk.hears(b"new", hello(session=(20, 1)))
    assert isinstance(said(actions, b"new")[0], h.Welcome)
    refuse = said(actions, b"old")[0]
    assert (refuse.code, refuse.session) == ("copied-key", (10, 7))
    assert "fedplug node rotate" in refuse.text
    assert actions.index(Drop(b"old")) > next(i for i, a in enumerate(actions) if isinstance(a, Send))
    assert events(actions) == []  # the node is there all the time
    assert desk.does(Frame(b"old", encode_header(h.Hb(session=(10, 7))), memoryview(b""), KEY)) == [
        Send(b"old", encode_header(h.Rehello(session=(10, 7))))
    ]


def test_row_35_the_older_one_coming_back_raises_an_alarm_once(desk):
    desk.hears(b"old", hello(session=(10, 7)))
    desk.hears(b"new", hello(session=(20, 1)))
    alarms = []
    for number in range(5):
        actions = desk.hears(b"back%d" % number, hello(session=(10, 8 + number)))
        assert [each.code for each in said(actions, b"back%d" % number)] == ["copied-key"]
        alarms += [action.text for action in actions if isinstance(action, Say)]
        desk.now += desk.machine._limits.silence / 2
        desk.does(Frame(b"new", encode_header(h.Hb(session=(20, 1))), memoryview(b""), KEY))
    assert len(alarms) == 1
    assert "n1" in alarms[0]
    assert "fedplug researcher deny n1" in alarms[0]


def test_a_node_that_restarts_behind_a_dead_line_raises_no_alarm(desk):
    desk.hears(b"old", hello(session=(10, 7)))
    actions = desk.hears(b"new", hello(session=(20, 1)))
    assert not [action for action in actions if isinstance(action, Say)]


def test_a_clock_that_was_put_back_while_a_node_restarted_behind_a_dead_line_raises_no_alarm(desk):
    """Its incarnation is smaller then, and it is kept out until the dead line is given up; nothing comes over that."""
    desk.hears(b"dead", hello(session=(20, 1)))
    for number in range(3):
        actions = desk.hears(b"back%d" % number, hello(session=(10, 1 + number)))
        assert [each.code for each in said(actions, b"back%d" % number)] == ["copied-key"]
        assert not [action for action in actions if isinstance(action, Say)]
        desk.now += 1


def test_an_older_process_takes_over_when_the_younger_one_is_silent(desk):
    desk.hears(b"new", hello(session=(20, 1)))
    desk.now += desk.machine._limits.silence + 1
    assert isinstance(said(desk.hears(b"old", hello(session=(10, 8))), b"old")[0], h.Welcome)


def test_without_keys_the_first_one_stays():
    desk = Desk(None)
    desk.hears(b"first", hello(session=(10, 1)), "")
    actions = desk.hears(b"second", hello(session=(20, 1)), "")
    assert [each.code for each in said(actions, b"second")] == ["duplicate-node"]
    assert Drop(b"first") not in actions


@pytest.mark.parametrize(
    ("versions", "answer"), [((0, 0), h.Refuse), ((2, 9), h.Refuse), ((1, 1), h.Welcome), ((0, 9), h.Welcome)]
)
def test_row_36_versions_are_agreed_on_or_refused_with_what_to_upgrade(desk, versions, answer):
    got = said(desk.hears(b"p", hello(versions=versions)), b"p")[0]
    assert isinstance(got, answer)
    if isinstance(got, h.Refuse):
        assert f"{versions[0]} to {versions[1]}" in got.text
        assert "Upgrade FedPlug on the older side" in got.text
    else:
        assert got.version == 1


def test_row_36_a_wrong_version_is_reported_before_a_wrong_key(desk):
    assert said(desk.hears(b"p", hello("n2", versions=(7, 7))), b"p")[0].code == "version"


def test_row_34_a_node_whose_key_is_denied_is_lost_with_the_reason(desk):
    desk.hears(b"p", hello())
    lost = events(desk.does(Closed(b"p", "its key is not enrolled any more", Refusal.UNKNOWN_KEY)))
    assert lost == [NodeLost("n1", "its key is not enrolled any more")]


# who was turned away -----------------------------------------------------------------------------------------------


def lines(actions):
    return [action.text for action in actions if isinstance(action, Say)]


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (Refusal.UNKNOWN_KEY, f"fedplug researcher allow NODE {OTHER}"),
        (Refusal.WRONG_KEY, "fedplug keys show"),
        (Refusal.PLAINTEXT_NODE, "fedplug node trust KEY"),
        (Refusal.PLAINTEXT_RESEARCHER, "fedplug researcher init"),
        (Refusal.NO_ANSWER, "fedplug researcher list"),
        (Refusal.FULL, "ulimit -n"),
    ],
)
def test_row_33_the_researcher_is_told_once_of_each_visitor_and_how_to_let_it_in(desk, refusal, words):
    visitor = TurnedAway(refusal, OTHER, "192.0.2.7")
    said_of = lines(desk.does(visitor))
    assert len(said_of) == 1
    assert words in said_of[0]
    for _ in range(3):
        assert lines(desk.does(visitor)) == []
    assert desk.machine.stats[f"turned_away_{refusal}"] == 4
    desk.now += 3601
    assert lines(desk.does(visitor)) == said_of


def test_a_key_that_was_let_in_and_is_denied_again_is_news(desk):
    visitor = TurnedAway(Refusal.UNKNOWN_KEY, KEY, "192.0.2.7")
    assert lines(desk.does(visitor))
    desk.hears(b"p", hello())
    assert lines(desk.does(visitor))
    assert not lines(desk.does(visitor))


def test_row_31_strangers_who_make_up_keys_neither_fill_the_memory_nor_the_log(desk):
    said_of = 0
    for number in range(5000):
        desk.now += 0.001
        said_of += len(lines(desk.does(TurnedAway(Refusal.UNKNOWN_KEY, f"{number:064x}", "192.0.2.7"))))
    assert said_of == 1024
    assert len(desk.machine._visitors._told) == 1024
    desk.now += 3601
    assert lines(desk.does(TurnedAway(Refusal.UNKNOWN_KEY, "f" * 64, "192.0.2.7")))


# the node's side ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (Refusal.UNKNOWN_KEY, f"fedplug researcher allow n1 {KEY}"),
        (Refusal.WRONG_KEY, "fedplug node trust KEY"),
        (Refusal.PLAINTEXT_NODE, "fedplug node trust KEY"),
        (Refusal.PLAINTEXT_RESEARCHER, "fedplug researcher init"),
        (Refusal.NO_ANSWER, "nothing to do here"),
        (Refusal.FULL, "nothing to do here"),
    ],
)
def test_row_33_the_nodes_owner_is_told_what_to_do(refusal, words):
    assert words in refusal_words(refusal, "n1", OPTIONS)


def test_row_33_each_refusal_has_its_own_words():
    assert len({refusal_words(refusal, "n1", OPTIONS) for refusal in Refusal}) == len(Refusal)


def test_row_01_one_event_per_change_and_not_per_try():
    machine = NodeMachine(NodeInfo(node_id="n1"))
    told = []
    tries = [Closed(b"", "nobody listens there")] * 5
    tries += [Closed(b"", refusal_words(Refusal.UNKNOWN_KEY, "n1", OPTIONS), Refusal.UNKNOWN_KEY)] * 5
    tries += [Closed(b"", "nobody listens there")] * 5
    for number, closed in enumerate(tries):
        machine.connecting(float(number))
        machine.on(closed, float(number))
        told += events(machine.take())
    assert [(type(event), event.refused) for event in told] == [(Disconnected, kind) for kind in (False, True, False)]


def test_a_refused_node_waits_longer_and_longer_and_then_no_longer():
    chance = random.Random(1)
    most = []
    for _ in range(300):
        tries = Handshakes("n1", 2.0, chance)
        waits = []
        for _ in range(8):
            tries.ended(Closed(b"", "x", Refusal.UNKNOWN_KEY), OPTIONS)
            waits.append(tries.wait())
        most = waits if not most else [max(pair) for pair in zip(most, waits, strict=True)]
    bounds = [2, 4, 8, 16, 30, 30, 30, 30]
    assert all(0.9 * bound < worst <= bound for worst, bound in zip(most, bounds, strict=True))


@pytest.mark.parametrize("end", ["opened", "lost"])
def test_waits_are_short_again_when_something_else_happens(end):
    tries = Handshakes("n1", 2.0, random.Random(1))
    for _ in range(6):
        tries.ended(Closed(b"", "x", Refusal.UNKNOWN_KEY), OPTIONS)
    if end == "opened":
        tries.opened()
    else:
        assert tries.ended(Closed(b"", "nobody listens there"), OPTIONS) == Closed(b"", "nobody listens there")
    assert all(1.5 <= tries.wait() <= 2.5 for _ in range(100))


def test_a_handshake_that_broke_off_once_may_be_chance():
    tries = Handshakes("n1", 2.0, random.Random(1))
    broken = Closed(b"", "the other side broke off the handshake", Refusal.WRONG_KEY)
    assert tries.ended(broken, OPTIONS) is None
    told = tries.ended(broken, OPTIONS)
    assert told is not None
    assert "does not have the key that this node trusts" in told.reason
    tries.opened()
    assert tries.ended(broken, OPTIONS) is None


def test_a_refused_session_is_tried_again_after_the_time_that_was_named():
    machine = NodeMachine(NodeInfo(node_id="n1"), incarnation=10)
    machine.connecting(0.0)
    machine.on(Opened(b"", OTHER), 0.0)
    machine.take()
    refuse = h.Refuse(session=machine.session, code="copied-key", text="why", retry_after=6.0)
    machine.on(Frame(b"", encode_header(refuse), memoryview(b""), OTHER), 0.0)
    actions = machine.take()
    assert events(actions) == [Disconnected("why", refused=True)]
    assert Reconnect(6.0) in actions
