"""A node, whole, over real transports: it searches, trains, fails, is cancelled, and comes back."""

from __future__ import annotations

import logging
import os
import uuid

import numpy as np
import pytest

from fedplug.core.data import DataManager
from fedplug.core.errors import AddressError, StoreError, UsageError
from fedplug.core.messages import TaskKey, TrainRequest
from fedplug.core.numpy_plan import NumpyTrainingPlan
from fedplug.core.params import Params
from fedplug.core.plan_source import bundle_plan
from fedplug.core.plugins import default_host
from fedplug.core.pool import DatasetsFound, NodeJoined, NodeLost, TaskFailed, UpdateFetched, UpdateOffered
from fedplug.node import MemoryDataset, Node, NodeStore
from fedplug.node.approval.approvals import Approvals
from fedplug.node.datasets.registry import inspect_file
from fedplug.node.policy.file import save_policy
from fedplug.node.policy.schema import OPEN
from fedplug.node.policy.template import policy_text
from fedplug.node.status import read_status
from fedplug.protocol import ResearcherEndpoint
from fedplug.transports.registry import open_transport


class Line(NumpyTrainingPlan):
    def init_dependencies(self):
        return ["import numpy as np", "import os", "import time"]

    def init_model(self, model_args):
        return {"slope": np.zeros(1), "offset": np.zeros(1)}

    def training_data(self):
        return DataManager(self.dataset.table(["x"]), self.dataset.column("y").astype(np.float64))

    def training_step(self, data, target):
        trouble = self.model_args().get("trouble")
        if trouble == "raise":
            raise ValueError("on purpose")
        if trouble == "die":
            os._exit(9)
        if trouble == "hang":
            time.sleep(600)  # noqa: F821 - imported by init_dependencies
        error = data @ self.model()["slope"] + self.model()["offset"] - target
        return float((error**2).mean()), {"slope": 2 * error @ data / len(data), "offset": np.array([2 * error.mean()])}


START = Params.from_arrays({"slope": np.zeros(1), "offset": np.zeros(1)})
ARGS = {"epochs": 2, "loader_args": {"batch_size": 4}, "optimizer_args": {"lr": 0.05}, "log_interval": 1}


class Researcher:
    """The other end, one step at a time."""

    def __init__(self, url):
        self.open(url)

    def open(self, url):
        self.pool = ResearcherEndpoint(open_transport(url, default_host()), url)
        self.url = self.pool.address
        self.signs = []
        self.queries = 0

    def wait(self, kind):
        while True:
            event = self.pool.next_event(30, lambda sign, node: self.signs.append(sign))
            assert event is not None, f"no {kind.__name__} came"
            if isinstance(event, kind):
                return event
            assert not isinstance(event, TaskFailed), event

    def find(self, *tags):
        self.queries += 1
        self.pool.search(self.queries, tags)
        return self.wait(DatasetsFound).cards

    def train(self, node_id, dataset_id, number=0, **model_args):
        request = TrainRequest(
            key=TaskKey(experiment_id="exp", round=number, node_id=node_id),
            dataset_id=dataset_id,
            plan_class="Line",
            model_args=model_args,
            training_args=ARGS,
            seed=7,
            data_seed=7,
        )
        self.pool.train(request, bundle_plan(Line), START)
        return request.key

    def result(self):
        offer = self.wait(UpdateOffered)
        self.pool.fetch(offer.reply.key)
        fetched = self.wait(UpdateFetched)
        self.pool.commit(fetched.reply.key)
        return fetched

    def close(self):
        self.pool.close()


@pytest.fixture(params=["inproc", "zmq"])
def researcher(request):
    url = f"inproc://{uuid.uuid4().hex}" if request.param == "inproc" else "zmq://127.0.0.1:0"
    researcher = Researcher(url)
    yield researcher
    researcher.close()


@pytest.fixture
def folder(tmp_path):
    """A node's folder with one data set: y = 2 x + 1."""
    path = tmp_path / "line.csv"
    path.write_text("x,y\n" + "".join(f"{x / 10},{2 * x / 10 + 1}\n" for x in range(20)))
    with NodeStore.create(tmp_path / "node", name="clinic") as store:
        save_policy(tmp_path / "node", policy_text(approval="off"))
        store.add_dataset(inspect_file(path, tags=["line", "demo"], target="y")[0])
    return tmp_path / "node"


def test_it_is_found_trains_and_the_update_arrives(researcher, folder):
    with Node(folder, researcher.url, retry=0.05) as node:
        assert node.wait_connected(60)
        joined = researcher.wait(NodeJoined).node
        assert joined.name == "clinic"
        assert joined.version
        (card,) = researcher.find("line")
        assert (card.name, card.shape, card.columns) == ("line", (20, 2), ("x", "y"))
        researcher.train(joined.node_id, card.dataset_id)
        fetched = researcher.result()
        assert fetched.reply.sample_count == 20
        assert fetched.reply.steps == 10
        assert fetched.params["slope"][0] > 0.5
        assert any(sign.metrics for sign in researcher.signs)
        assert [plan.bundle.class_name for plan in Approvals(node.store, OPEN).plans()] == ["Line"]


def test_a_worker_process_and_an_inline_worker_give_the_same_bits(researcher, folder):
    results = []
    for kind in ("process", "inline"):
        with Node(folder, researcher.url, worker=kind, retry=0.05) as node:
            researcher.wait(NodeJoined)
            (card,) = researcher.find("line")
            researcher.train(node.identity.node_id, card.dataset_id, number=len(results))
            results.append(researcher.result().params.fingerprint())
        researcher.wait(NodeLost)
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("trouble", "code", "said"),
    [("raise", "plan-raised", "ValueError: on purpose"), ("die", "worker-died", "exit code 9")],
)
def test_a_plan_that_fails_is_an_answer_and_the_node_goes_on(researcher, folder, trouble, code, said):
    with Node(folder, researcher.url, retry=0.05) as node:
        researcher.wait(NodeJoined)
        (card,) = researcher.find("line")
        researcher.train(node.identity.node_id, card.dataset_id, trouble=trouble)
        failure = researcher.wait(TaskFailed).failure
        assert failure.code == code
        assert said in failure.text
        researcher.train(node.identity.node_id, card.dataset_id, number=1)
        assert researcher.result().reply.sample_count == 20


def test_a_training_that_hangs_is_cancelled_and_the_next_one_runs(researcher, folder):
    with Node(folder, researcher.url, retry=0.05) as node:
        researcher.wait(NodeJoined)
        (card,) = researcher.find("line")
        key = researcher.train(node.identity.node_id, card.dataset_id, trouble="hang")
        researcher.find("line")  # answered by then: the task came first
        researcher.pool.cancel(key, "took too long")
        researcher.train(node.identity.node_id, card.dataset_id, number=1)
        assert researcher.result().reply.key.round == 1


def test_a_data_set_that_was_removed_is_refused_by_name(researcher, folder):
    with Node(folder, researcher.url, retry=0.05) as node:
        researcher.wait(NodeJoined)
        (card,) = researcher.find("line")
        with NodeStore.open(folder) as other:
            other.remove_dataset("line")
        researcher.train(node.identity.node_id, card.dataset_id)
        failure = researcher.wait(TaskFailed).failure
        assert failure.code == "dataset-removed"
        assert "It has: none." in failure.text


def test_a_finished_training_is_kept_for_a_researcher_who_was_away(researcher, folder, caplog):
    caplog.set_level(logging.INFO, "fedplug.node")
    with Node(folder, researcher.url, retry=0.05) as node:
        researcher.wait(NodeJoined)
        (card,) = researcher.find("line")
        key = researcher.train(node.identity.node_id, card.dataset_id)
        researcher.wait(UpdateOffered)
        url = researcher.url
        researcher.close()
        researcher.open(url)
        researcher.wait(NodeJoined)
        researcher.train(node.identity.node_id, card.dataset_id)
        fetched = researcher.result()
        assert fetched.reply.key == key
        trained = [record for record in caplog.records if "trained in" in record.getMessage()]
        assert len(trained) == 1, "the same task is not trained twice"


def test_a_node_that_starts_first_waits_for_its_researcher(folder, caplog):
    caplog.set_level(logging.INFO, "fedplug.node")
    url = f"inproc://{uuid.uuid4().hex}"
    with Node(folder, url, retry=0.05) as node:
        assert not node.wait_connected(0)
        researcher = Researcher(url)
        assert node.wait_connected(60)
        assert node.status.links[0].connection == "connected"
        researcher.close()


def test_data_in_memory_needs_no_folder_and_no_process(researcher):
    data = MemoryDataset("toy", {"x": np.arange(8.0), "y": np.arange(8.0)}, tags=["toy"], target="y")
    with (
        NodeStore.in_memory("toy") as store,
        Node(store, researcher.url, worker="inline", datasets=[data], retry=0.05) as node,
    ):
        researcher.wait(NodeJoined)
        (card,) = researcher.find("toy")
        assert card.type == "memory"
        researcher.train(node.identity.node_id, card.dataset_id)
        assert researcher.result().reply.sample_count == 8


def test_stopping_in_the_middle_of_a_training_takes_no_time_and_leaves_no_process(researcher, folder):
    node = Node(folder, researcher.url, retry=0.05).start()
    researcher.wait(NodeJoined)
    (card,) = researcher.find("line")
    researcher.train(node.identity.node_id, card.dataset_id, trouble="hang")
    while node.status.task is None:
        researcher.find("line")
    pid = node._worker.pid
    node.stop()
    node.stop()
    assert isinstance(researcher.wait(NodeLost), NodeLost)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert read_status(folder).links[0].connection == "stopped"


def test_only_one_node_runs_in_a_folder(researcher, folder):
    with Node(folder, researcher.url, retry=0.05), pytest.raises(StoreError, match="is running"):
        Node(folder, researcher.url).start()
    with Node(folder, researcher.url, retry=0.05) as again:
        assert again.wait_connected(60)


def test_wrong_settings_are_refused_before_anything_runs(folder):
    with pytest.raises(AddressError, match="not an address"):
        Node(folder, "nonsense").start()
    with pytest.raises(UsageError, match="inline"):
        Node(folder, datasets=[MemoryDataset("m", {"x": [1.0]})])
    with pytest.raises(UsageError, match="not a node"):
        Node(folder / "nothing")
    with Node(folder, f"inproc://{uuid.uuid4().hex}") as node:  # nothing of the failed start is left
        assert node.status.running
        with pytest.raises(UsageError, match="started already"):
            node.start()
