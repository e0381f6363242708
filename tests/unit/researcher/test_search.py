"""Finding nodes and data: whom the search waits for, and what it says when it waits in vain."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from fedplug.core.errors import DatasetError, FedplugError, TransportError, UsageError
from fedplug.core.keys import Refusal
from fedplug.core.messages import DatasetCard, NodeInfo, TaskKey, TrainRequest
from fedplug.core.params import Params
from fedplug.core.plan_source import PlanBundle
from fedplug.core.pool import Allocate, DatasetsFound, NodeJoined, NodeLost, NodePool, PoolEvent, Watcher
from fedplug.researcher import search as search_module
from fedplug.researcher.federated_dataset import FederatedDataset
from fedplug.researcher.search import NodeSearch, await_nodes, list_datasets, usable_nodes


class Clock:
    """Monotonic time that passes only while the search waits."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class ScriptedPool(NodePool):
    """Nodes that come and go at given times."""

    def __init__(self, clock: Clock, script: Sequence[tuple[float, str, str, Sequence[DatasetCard]]]) -> None:
        self.clock = clock
        self.script = deque(sorted(script, key=lambda entry: entry[0]))
        self.present: dict[str, NodeInfo] = {}
        self.pending: deque[PoolEvent] = deque()
        self.query = 0

    @property
    def nodes(self) -> Mapping[str, NodeInfo]:
        return self.present

    @property
    def description(self) -> str:
        return "zmq://127.0.0.1:7400"

    def search(self, query: int, tags: tuple[str, ...], node_ids: tuple[str, ...] | None = None) -> None:
        self.query = query

    def ask_plan(
        self, query: int, plan: PlanBundle, datasets: Mapping[str, str], description: str | None = None
    ) -> None: ...

    def next_event(self, timeout: float | None, watch: Watcher | None = None) -> PoolEvent | None:
        if self.pending:
            return self.pending.popleft()
        until = self.clock.now + (timeout or 0.0)
        if self.script and 100.0 + self.script[0][0] <= until:
            at, what, node, cards = self.script.popleft()
            self.clock.now = max(self.clock.now, 100.0 + at)
            if what == "leave":
                del self.present[node]
                return NodeLost(node, "silence")
            self.present[node] = NodeInfo(node_id=node, name=f"name-of-{node}")
            if what == "join silently":
                return NodeJoined(self.present[node])
            self.pending.append(DatasetsFound(node, self.query, tuple(cards)))
            return NodeJoined(self.present[node])
        self.clock.now = until
        return None

    def train(
        self, request: TrainRequest, plan: PlanBundle, params: Params, aux: Mapping[str, Params] | None = None
    ) -> None: ...

    def fetch(
        self, key: TaskKey, allocate: Allocate | None = None, settle: Callable[[], None] | None = None
    ) -> None: ...

    def commit(self, key: TaskKey) -> None: ...

    def cancel(self, key: TaskKey, reason: str) -> None: ...

    def close(self) -> None: ...


def card(name: str, *tags: str) -> DatasetCard:
    return DatasetCard(dataset_id=f"id-{name}", name=name, type="csv", tags=tags, shape=(10, 3))


CANCER = card("cancer", "#breast", "#csv")
OTHER = card("other", "#breast", "#old")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(search_module, "time", clock)
    return clock


def find(
    clock: Clock,
    script: Sequence[tuple[float, str, str, Sequence[DatasetCard]]],
    tags: Sequence[str] = ("#breast", "#csv"),
    nodes: Sequence[str] | None = None,
    min_nodes: int | None = None,
    said: list[str] | None = None,
) -> FederatedDataset:
    say = (said if said is not None else []).append
    return NodeSearch(ScriptedPool(clock, script), tags, nodes, min_nodes, 30.0, say).run(1)


def test_it_waits_until_no_more_nodes_come(clock: Clock) -> None:
    said: list[str] = []
    found = find(clock, [(3.0, "join", "a", [CANCER]), (5.0, "join", "b", [CANCER, OTHER])], said=said)
    assert found.node_ids() == ["a", "b"]
    assert found.data()["b"] == CANCER, "the data set that carries all tags, not the other"
    assert 107.5 < clock.now < 108.5, "2.6 s after the last node"
    assert len(said) == 1
    assert "zmq://127.0.0.1:7400" in said[0]


def test_a_number_of_nodes_ends_the_wait_at_once(clock: Clock) -> None:
    found = find(clock, [(3.0, "join", "a", [CANCER]), (5.0, "join", "b", [CANCER])], min_nodes=2)
    assert found.node_ids() == ["a", "b"]
    assert clock.now == 105.0


def test_a_node_without_such_data_does_not_count(clock: Clock) -> None:
    script = [(0.0, "join", "a", [CANCER]), (1.0, "join", "b", [OTHER]), (9.0, "join", "c", [CANCER])]
    assert find(clock, script, min_nodes=2).node_ids() == ["a", "c"]


def test_named_nodes_are_waited_for_by_id_or_name(clock: Clock) -> None:
    script = [(0.0, "join", "a", [CANCER]), (1.0, "join", "b", [CANCER]), (20.0, "join", "c", [CANCER])]
    assert find(clock, script, nodes=["a", "name-of-c"]).node_ids() == ["a", "c"]


def test_a_node_that_leaves_while_searching_is_not_taken(clock: Clock) -> None:
    script = [(0.0, "join", "a", [CANCER]), (1.0, "leave", "a", []), (2.0, "join", "b", [CANCER])]
    assert find(clock, script).node_ids() == ["b"]


@pytest.mark.parametrize(
    ("script", "options", "error", "words"),
    [
        ([], {}, TransportError, ["No node connected to zmq://127.0.0.1:7400 within 30 s", "fedplug node start"]),
        (
            [(0.0, "join", "a", [CANCER])],
            {"nodes": ["a", "x"]},
            TransportError,
            ["'x' did not connect", "'name-of-a' (a)"],
        ),
        (
            [(0.0, "join", "a", [OTHER]), (0.1, "join", "b", [])],
            {},
            DatasetError,
            ["['#breast', '#csv']", "'other' ['#breast', '#old']", "no data set", "fedplug node dataset add"],
        ),
        (
            [(0.0, "join", "a", [CANCER, OTHER])],
            {"tags": ["#breast"]},
            DatasetError,
            ["match 2 data sets", "'name-of-a' (a)", "'cancer' ['#breast', '#csv']", "'other' ['#breast', '#old']"],
        ),
        ([(0.0, "join", "a", [CANCER])], {"min_nodes": 2}, TransportError, ["Only 1 of 2 nodes", "lower min_nodes"]),
        (
            [(0.0, "join", "a", [CANCER]), (0.1, "join", "b", [OTHER])],
            {"nodes": ["a", "b"]},
            DatasetError,
            ["'name-of-b' (b)", "'other'"],
        ),
    ],
)
def test_a_search_in_vain_says_what_is_missing_and_what_to_do(
    clock: Clock,
    script: Sequence[tuple[float, str, str, Sequence[DatasetCard]]],
    options: dict[str, Any],
    error: type[FedplugError],
    words: list[str],
) -> None:
    with pytest.raises(error) as caught:
        find(clock, script, **options)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("counter", "said"),
    [
        ("refused_version", "since it speaks another version of the protocol: upgrade FedPlug on the older side."),
        ("refused_duplicate-node", "since its id is that of a node that is connected: a copied node folder needs a"),
        ("refused_wrong-id", "its key is allowed for a node with another id"),
        ("turned_away_unknown-key", "its key is not allowed: the log says how to allow it."),
        ("turned_away_wrong-key", "it trusts another key than yours"),
        ("turned_away_plaintext-node", "by 'fedplug node trust'"),
        ("turned_away_plaintext-researcher", "make them with 'fedplug researcher init'"),
        ("turned_away_no-answer", "'fedplug researcher list' says why"),
    ],
)
def test_a_node_that_was_refused_is_told_of(clock: Clock, counter: str, said: str) -> None:
    class Refusing(ScriptedPool):
        def traffic(self) -> Mapping[str, int]:
            return {"bytes_sent": 3, counter: 2}

    for script in ([], [(0.0, "join", "a", [CANCER])]):
        search = NodeSearch(Refusing(clock, script), ["#breast"], None, 2, 3.0, lambda text: None)
        with pytest.raises(TransportError) as caught:
            search.run(1)
        sentence, _, rest = caught.value.cure.partition(" Start a node with: ")
        assert said in sentence
        assert rest


def test_each_reason_why_somebody_is_turned_away_is_told_of() -> None:
    assert {f"turned_away_{refusal}" for refusal in Refusal} <= set(search_module._REFUSALS)


def test_an_unmatched_tag_is_told_as_soon_as_no_more_nodes_come(clock: Clock) -> None:
    with pytest.raises(DatasetError):
        find(clock, [(0.0, "join", "a", [OTHER])])
    assert clock.now < 104.0, "not only after the time-out"


def test_nodes_that_are_away_get_time_to_come_back(clock: Clock) -> None:
    pool = ScriptedPool(clock, [(4.0, "join", "a", [])])
    said: list[str] = []
    await_nodes(pool, ["a"], 30.0, said.append, lambda sign, node: None)
    assert clock.now == 104.0
    assert said == ["Waiting for a to connect again ..."]
    await_nodes(pool, ["a", "gone"], 5.0, said.append, lambda sign, node: None)
    assert clock.now == 109.0, "then the strategy decides"


def test_a_node_that_is_gone_for_good_holds_up_one_round_only(clock: Clock) -> None:
    pool = ScriptedPool(clock, [(0.0, "join", "a", []), (90.0, "join", "gone", []), (95.0, "leave", "gone", [])])
    given_up: set[str] = set()

    def wait() -> float:
        began = clock.now
        await_nodes(pool, ["a", "gone"], 30.0, lambda text: None, lambda sign, node: None, given_up)
        return clock.now - began

    assert [wait(), wait(), wait()] == [30.0, 0.0, 0.0]
    assert given_up == {"gone"}
    clock.now = 190.0
    assert pool.next_event(0) == NodeJoined(NodeInfo(node_id="gone", name="name-of-gone"))
    assert wait() == 0.0
    assert given_up == set(), "it was back, so it is waited for when it leaves again"
    clock.now = 195.0
    assert isinstance(pool.next_event(0), NodeLost)
    assert wait() == 30.0


def test_a_node_that_does_not_answer_is_named(clock: Clock) -> None:
    script = [(0.0, "join", "a", [CANCER]), (0.0, "join silently", "mute", [])]
    with pytest.raises(TransportError, match=r"'name-of-mute' \(mute\) did not say what data it has") as caught:
        find(clock, script)
    assert "None" not in str(caught.value)
    with pytest.raises(TransportError, match="mute"):
        find(clock, script, nodes=["mute"])


@pytest.mark.parametrize("settings", [{"nodes": ["nobody"]}, {"min_nodes": 3}])
def test_in_a_simulation_nobody_is_waited_for(clock: Clock, settings: dict[str, Any]) -> None:
    class Fixed(ScriptedPool):
        is_fixed = True

    pool = Fixed(clock, [])
    pool.present = {"a": NodeInfo(node_id="a", name="a")}
    pool.pending.append(DatasetsFound("a", 1, (CANCER,)))
    began = clock.now
    wanted, least = settings.get("nodes"), settings.get("min_nodes")
    with pytest.raises(TransportError, match=r"nobody|Only 1 of 3"):
        NodeSearch(pool, ["#breast"], wanted, least, 30.0, lambda text: None).run(1)
    assert clock.now == began
    await_nodes(pool, ["a", "gone"], 30.0, lambda text: None, lambda sign, node: None)
    assert clock.now == began


def test_a_node_chosen_by_name_is_still_meant_while_it_is_away() -> None:
    there = {"a": NodeInfo(node_id="a", name="name-of-a"), "b": NodeInfo(node_id="b", name="name-of-b")}
    data = FederatedDataset({"a": CANCER, "b": CANCER, "c": CANCER}, {**there, "c": NodeInfo(node_id="c", name="no")})
    assert usable_nodes(data, ["name-of-a", "b"], {}) == ["a", "b"]
    assert usable_nodes(data, ["name-of-a"], {"b": there["b"]}) == ["a"]
    assert usable_nodes(data, None, {}) == ["a", "b", "c"]
    with pytest.raises(UsageError, match="None of the nodes"):
        usable_nodes(data, ["elsewhere"], there)


def test_a_wrong_name_is_met_with_the_nearest_right_one(clock: Clock) -> None:
    with pytest.raises(TransportError, match=r"'name-of-aa' did not connect.*\nDid you mean 'name-of-a'\?"):
        find(clock, [(0.0, "join", "a", [CANCER])], nodes=["name-of-aa"])
    data = FederatedDataset({"a": CANCER, "b": CANCER}, {"a": NodeInfo(node_id="a", name="hospital")})
    with pytest.raises(UsageError) as caught:
        usable_nodes(data, ["hospitl"], {})
    assert "It lies on 'hospital' (a), 'b'." in caught.value.message
    assert caught.value.cure.startswith("Did you mean 'hospital'? set_nodes(None)")


def test_a_named_node_without_data_is_told_with_the_cure(clock: Clock) -> None:
    with pytest.raises(DatasetError, match=r"'name-of-a' \(a\) has no data set") as caught:
        find(clock, [(0.0, "join", "a", [])], nodes=["a"])
    assert "fedplug node dataset add" in caught.value.cure


# looking ---------------------------------------------------------------------------------------------------


def test_all_data_sets_of_all_nodes_are_listed_by_name(clock: Clock) -> None:
    pool = ScriptedPool(
        clock, [(1.0, "join", "b", [OTHER, CANCER]), (2.0, "join", "a", []), (3.0, "join", "c", [OTHER])]
    )
    said: list[str] = []
    assert list_datasets(pool, 1, say=said.append) == {"a": (), "b": (CANCER, OTHER), "c": (OTHER,)}
    assert 105.5 < clock.now < 106.5, "2.6 s after the last node"
    assert said == ["Waiting at zmq://127.0.0.1:7400 for nodes ..."]


def test_a_list_can_be_narrowed(clock: Clock) -> None:
    script = [(0.0, "join", "a", [CANCER]), (1.0, "join", "b", [OTHER]), (2.0, "join", "c", [])]
    assert list_datasets(ScriptedPool(clock, script), 1, tags=["#csv"]) == {"a": (CANCER,), "b": (), "c": ()}
    assert list_datasets(ScriptedPool(clock, script), 1, nodes=["name-of-c", "b"]) == {"b": (OTHER,), "c": ()}


def test_a_number_of_nodes_ends_the_wait_for_a_list_even_if_they_have_no_data(clock: Clock) -> None:
    script = [(0.0, "join", "a", []), (1.0, "join", "b", []), (9.0, "join", "c", [])]
    assert list_datasets(ScriptedPool(clock, script), 1, min_nodes=2) == {"a": (), "b": ()}
    assert clock.now == 101.0


@pytest.mark.parametrize(
    ("script", "options", "words"),
    [
        ([], {}, "No node connected to zmq://127.0.0.1:7400 within 30 s"),
        ([(0.0, "join", "a", [])], {"nodes": ["b"]}, "'b' did not connect"),
        ([(0.0, "join", "a", [])], {"min_nodes": 2}, "Only 1 of 2 nodes connected"),
        ([(0.0, "join silently", "a", [])], {}, "did not say what data it has"),
    ],
)
def test_a_list_that_cannot_be_had_says_why(clock: Clock, script: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(TransportError, match=words):
        list_datasets(ScriptedPool(clock, script), 1, **options)
