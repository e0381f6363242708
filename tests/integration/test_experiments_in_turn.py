"""One pool of nodes, used for long: experiments in turn, failed rounds, nodes that come and go, repetitions."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedplug import DataManager, Experiment, NumpyTrainingPlan
from fedplug.core.errors import RoundError, StoreError, TransportError
from fedplug.core.messages import TrainRequest
from fedplug.core.params import Params
from fedplug.node import Node, NodeStore
from fedplug.node import training as training_module
from fedplug.node.datasets.memory import MemoryDataset
from fedplug.protocol import ResearcherEndpoint
from fedplug.protocol.researcher import ResearcherMachine
from fedplug.transports.inproc import InprocTransport
from fedplug.wire import Blob

TAG = "#turn"


class SumPlan(NumpyTrainingPlan):
    def init_model(self, model_args):
        return {"w": np.zeros(model_args.get("size", 3))}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        return float(target.mean()), {"w": -np.ones_like(self.model()["w"]) * float(target.mean())}


class FailsOnNegative(NumpyTrainingPlan):
    def init_model(self, model_args):
        return {"w": np.zeros(3)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        if target[0] < 0:
            raise RuntimeError("bad day")
        return 1.0, {"w": np.ones(3)}


class Hospitals:
    """Nodes in threads of this process; each can be stopped, and started again with other data."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.running: dict[str, Node] = {}

    def start(self, name: str, value: float = 1.0, columns: int = 0) -> Node:
        place = self.folder / name
        if not place.exists():
            NodeStore.create(place, name=f"name-of-{name}", node_id=name).close()
        arrays = {"x": np.zeros((8, 2)), "y": np.full(8, value)}
        arrays |= {f"gene-{index}": np.zeros(8) for index in range(columns)}
        data = MemoryDataset("d", arrays, tags=(TAG,), target="y")
        node = Node(place, self.url, worker="inline", datasets=[data], retry=0.02).start()
        self.running[name] = node
        return node

    def stop(self, name: str) -> None:
        self.running.pop(name).stop()


@pytest.fixture
def pool(inproc_url: str) -> Iterator[ResearcherEndpoint]:
    with ResearcherEndpoint(InprocTransport(), inproc_url) as pool:
        yield pool


@pytest.fixture
def hospitals(pool: ResearcherEndpoint, tmp_path: Path, fedplug_dir: Path) -> Iterator[Hospitals]:
    hospitals = Hospitals(pool.address, tmp_path)
    yield hospitals
    for name in list(hospitals.running):
        hospitals.stop(name)


def experiment(pool: ResearcherEndpoint, **settings: Any) -> Experiment:
    given = {
        "tags": TAG,
        "training_plan_class": SumPlan,
        "training_args": {"epochs": 1, "loader_args": {"batch_size": 8}, "optimizer_args": {"lr": 1.0}},
        "round_limit": 2,
        "seed": 3,
        "progress": "quiet",
        "transport": pool,
        "min_nodes": 2,
    }
    return Experiment(**{**given, **settings})


def test_two_experiments_on_one_pool(pool: ResearcherEndpoint, hospitals: Hospitals) -> None:
    hospitals.start("aa")
    hospitals.start("bb")
    finals = []
    for _ in range(2):
        with experiment(pool, connect_timeout=5.0) as exp:
            assert exp.run() == 2
            finals.append(exp.params())
    assert finals[0] == finals[1]
    assert finals[0]["w"].tolist() == [2.0, 2.0, 2.0]


def test_a_failed_round_is_run_again_when_the_cause_is_mended(pool: ResearcherEndpoint, hospitals: Hospitals) -> None:
    hospitals.start("aa")
    hospitals.start("bb", -1.0)
    with experiment(pool, training_plan_class=FailsOnNegative) as exp:
        for _ in range(2):
            with pytest.raises(RoundError, match=r"(?s)'bb' failed.*bad day"):
                exp.run()
        assert exp.round_current() == 0
        hospitals.stop("bb")
        hospitals.start("bb", 1.0)
        assert exp.run() == 2
        assert {record["attempt"] for record in exp.training_replies()[0].values()} == {2}
        assert {record["attempt"] for record in exp.training_replies()[1].values()} == {0}


def test_a_node_that_leaves_while_the_search_goes_on_and_returns_is_asked_again(
    pool: ResearcherEndpoint, hospitals: Hospitals
) -> None:
    hospitals.start("aa")
    exp = experiment(pool, tags=None, connect_timeout=20.0)
    answered = threading.Event()
    runtime = hospitals.running["aa"]._runtime
    assert runtime is not None
    original = runtime.cards

    def noted(tags: Any) -> Any:
        found = original(tags)
        answered.set()
        return found

    runtime.cards = noted  # type: ignore[method-assign]

    def come_and_go() -> None:
        assert answered.wait(10)
        hospitals.stop("aa")
        hospitals.start("aa")
        hospitals.start("bb")

    thread = threading.Thread(target=come_and_go)
    thread.start()
    with exp:
        exp.set_tags(TAG)
        assert exp.training_data().node_ids() == ["aa", "bb"]
    thread.join()


def test_a_node_that_left_between_two_rounds_is_waited_for_and_trains(
    pool: ResearcherEndpoint, hospitals: Hospitals
) -> None:
    hospitals.start("aa")
    hospitals.start("bb")
    with experiment(pool, nodes=["name-of-aa", "name-of-bb"]) as exp:
        exp.run_once()
        hospitals.stop("bb")
        said: list[str] = []

        def told(text: str) -> None:
            said.append(text)
            hospitals.start("bb")

        exp._monitors.message = told  # type: ignore[method-assign]
        assert exp.run_once() == 1
        assert said == ["Waiting for bb to connect again ..."]
        assert sorted(exp.training_replies()[1]) == ["aa", "bb"]


def test_a_repeated_task_is_trained_once(
    pool: ResearcherEndpoint, hospitals: Hospitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The researcher says everything three times; each (round, node) is trained once, and counted once."""
    trained: Counter[tuple[int, str]] = Counter()
    run_task = training_module.run_task

    def counting(request: TrainRequest, *args: Any, **named: Any) -> Any:
        trained[request.key.round, request.key.node_id] += 1
        return run_task(request, *args, **named)

    send_task = ResearcherMachine._send_task

    def thrice(self: ResearcherMachine, node: Any, task: Any, now: float) -> None:
        for _ in range(3):
            send_task(self, node, task, now)

    monkeypatch.setattr(training_module, "run_task", counting)
    monkeypatch.setattr(ResearcherMachine, "_send_task", thrice)
    hospitals.start("aa", 1.0)
    hospitals.start("bb", 3.0)
    with experiment(pool) as exp:
        exp.run()
        assert exp.params()["w"].tolist() == [4.0, 4.0, 4.0]
    assert trained == {(number, name): 1 for number in (0, 1) for name in ("aa", "bb")}
    for node in hospitals.running.values():
        (link,) = node._links
        assert link.traffic()["tasks_duplicate"] == 4


@pytest.mark.parametrize("count", [1, 5])
def test_the_model_is_encoded_and_hashed_once_a_round(
    pool: ResearcherEndpoint, hospitals: Hospitals, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Whatever the number of nodes: one digest, one blob, one checksum for each byte of the global model."""
    size = 50_000
    sent: list[int] = []
    digests: Counter[str] = Counter()
    blobs: Counter[str] = Counter()
    checked: Counter[str] = Counter()
    send_task, crc = ResearcherMachine._send_task, Blob.crc

    def sending(self: ResearcherMachine, node: Any, task: Any, now: float) -> None:
        sent.append(id(task.blobs["params"]))
        send_task(self, node, task, now)

    monkeypatch.setattr(ResearcherMachine, "_send_task", sending)
    digest = Params._fingerprint.func

    def hashed(self: Params) -> str:
        name = digest(self)
        digests[name] += 1
        return name

    monkeypatch.setattr(Params._fingerprint, "func", hashed)

    def made(params: Params) -> Blob:
        blob = Blob(params.fingerprint(), params.buffer, params.spec.table)
        blobs[blob.id] += 1
        return blob

    monkeypatch.setattr(Blob, "of_params", made)

    def summed(self: Blob, index: int, size: int) -> int:
        checked[self.id] += 1
        return crc(self, index, size)

    monkeypatch.setattr(Blob, "crc", summed)
    for index in range(count):
        hospitals.start(f"n{index}")
    with experiment(pool, model_args={"size": size}, min_nodes=count, round_limit=1) as exp:
        start = exp.params().fingerprint()
        exp.run()
    assert len(sent) == count, "one task for each node"
    assert len(set(sent)) == 1, "which all carry the same blob"
    assert (digests[start], blobs[start], checked[start]) == (1, 1, 0)
    assert size * 8 > 64 * 1024, "so that the model does not ride along but is pulled in chunks"


@pytest.mark.parametrize("columns", [9_000, 30_000])
def test_a_table_with_too_many_columns_for_a_message_can_be_used(
    pool: ResearcherEndpoint, hospitals: Hospitals, columns: int
) -> None:
    """Its card comes without their names; the node goes on."""
    node = hospitals.start("aa", columns=columns)
    with experiment(pool, min_nodes=1) as exp:
        assert exp.training_data().data()["aa"].columns == ()
        assert exp.run() == 2
    assert node.status.running
    assert node.status.links[0].connection == "connected"


def test_a_store_that_cannot_be_read_for_a_moment_does_not_end_the_node(
    pool: ResearcherEndpoint, hospitals: Hospitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = hospitals.start("aa")
    read = node.store.datasets

    def locked(tags: Any = ()) -> Any:
        raise StoreError("the store is locked")

    monkeypatch.setattr(node.store, "datasets", locked)
    with pytest.raises(TransportError, match=r"'name-of-aa' \(aa\) did not say"):
        experiment(pool, min_nodes=1, connect_timeout=0.3)
    monkeypatch.setattr(node.store, "datasets", read)
    with experiment(pool, min_nodes=1) as exp:
        assert exp.run() == 2
