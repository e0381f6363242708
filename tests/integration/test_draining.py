"""Stopping a node process in order: what it trains ends and is handed over, and nothing new begins."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from fedplug.core.data import DataManager
from fedplug.core.messages import TaskKey, TrainRequest
from fedplug.core.numpy_plan import NumpyTrainingPlan
from fedplug.core.params import Params
from fedplug.core.plan_source import bundle_plan
from fedplug.core.plugins import default_host
from fedplug.core.pool import DatasetsFound, NodeJoined, TaskFailed, UpdateFetched, UpdateOffered
from fedplug.node.audit.log import AuditLog
from fedplug.node.status import read_status
from fedplug.node.store import NodeStore
from fedplug.protocol import ResearcherEndpoint
from fedplug.transports.registry import open_transport

ARRAYS = {"x": np.ones((100, 1)), "y": np.ones(100)}
START = Params.from_arrays({"w": np.zeros(1)})


class Slow(NumpyTrainingPlan):
    def init_dependencies(self):
        return ["import numpy as np", "import time"]

    def init_model(self):
        return {"w": np.zeros(1)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        time.sleep(0.02)  # noqa: F821 - imported by init_dependencies
        return 1.0, {"w": -np.ones(1)}


class Researcher:
    def __init__(self, url):
        self.pool = ResearcherEndpoint(open_transport(url, default_host()), url)
        self.signs = []

    def wait(self, *kinds, signs=False):
        """The next event of one of these kinds; with ``signs``, the first sign of life."""
        while not (signs and self.signs):
            event = self.pool.next_event(0.1 if signs else 60, lambda sign, _: self.signs.append(sign))
            if isinstance(event, kinds):
                return event
            assert signs or event is not None
        return None

    def train(self, dataset_id, number):
        request = TrainRequest(
            key=TaskKey(experiment_id="exp", round=number, node_id="clinic"), dataset_id=dataset_id, plan_class="Slow",
            training_args={"num_updates": 250, "loader_args": {"batch_size": 1}, "log_interval": 1},
            seed=1, data_seed=1,
        )  # fmt: skip
        self.pool.train(request, bundle_plan(Slow), START)


@pytest.fixture
def training(start_node, zmq_url):
    """A researcher, and a node process that trains its round 1."""
    researcher = Researcher(zmq_url)
    node = start_node("clinic", researcher.pool.address, ARRAYS)
    researcher.wait(NodeJoined)
    researcher.pool.search(1, ("#data",))
    (card,) = researcher.wait(DatasetsFound).cards
    researcher.dataset = card.dataset_id
    researcher.train(card.dataset_id, 0)
    researcher.wait(signs=True)
    yield researcher, node
    researcher.pool.close()


def stop(node, *options):
    command = [sys.executable, "-m", "fedplug", "node", "-C", str(node.place), "stop", *options]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def outcomes(node):
    with NodeStore.open(node.place) as store:
        return {each.task.split("/")[1]: each.outcome for each in AuditLog(store).trainings()}


def test_a_training_under_way_ends_and_is_handed_over_and_nothing_new_begins(training, cli):
    researcher, node = training
    stopping = stop(node)
    told = stopping.stdout.readline()
    assert "Round 1 of experiment exp is still trained: step" in told
    status = read_status(node.place)
    assert (status.draining, status.signals, status.running) == (True, True, True)
    researcher.train(researcher.dataset, 1)
    refused = researcher.wait(TaskFailed, UpdateOffered)
    assert (refused.failure.code, refused.failure.key.round) == ("node-stops", 1)
    offer = researcher.wait(TaskFailed, UpdateOffered)
    assert offer.reply.steps == 250
    assert stopping.poll() is None
    researcher.pool.fetch(offer.reply.key)
    researcher.pool.commit(researcher.wait(UpdateFetched).reply.key)
    assert stopping.communicate(timeout=60)[0].endswith("The node has stopped.\n")
    assert stopping.returncode == 0
    assert node.wait() == 0
    assert outcomes(node) == {"0": "finished", "1": "refused"}
    log = cli("node", "-C", node.place, "logs").stdout
    assert "takes no new training" in log
    assert "head of the audit log" in log
    assert cli("node", "-C", node.place, "stop").stdout == "The node does not run.\n"


def test_who_has_no_time_is_told_that_it_goes_on_and_how_to_end_it_at_once(training):
    _, node = training
    stopping = stop(node, "--timeout", "0.1")
    out = stopping.communicate(timeout=60)[0]
    assert stopping.returncode == 1
    assert "it still will" in out
    assert "stop --now" in out
    assert node.process.poll() is None
    stopping = stop(node, "--now")
    assert stopping.communicate(timeout=60)[0].endswith("The node has stopped.\n")
    assert stopping.returncode == 0
    assert node.wait() == 0
    assert outcomes(node) == {"0": "cancelled"}
