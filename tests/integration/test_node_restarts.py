"""A node that is stopped and started again, in one process with its researcher: what it owes is still there."""

from __future__ import annotations

import contextlib
import logging

import numpy as np
import pytest

from fedplug.cli import main
from fedplug.core.data import DataManager
from fedplug.core.messages import TaskKey, TrainRequest
from fedplug.core.numpy_plan import NumpyTrainingPlan
from fedplug.core.params import Params
from fedplug.core.plan_source import bundle_plan
from fedplug.core.plugins import default_host
from fedplug.core.pool import DatasetsFound, NodeJoined, NodeLost, TaskFailed, UpdateFetched, UpdateOffered
from fedplug.core.transport import TransportOptions
from fedplug.node import Node, NodeStore
from fedplug.node.audit.log import AuditLog
from fedplug.node.datasets.registry import inspect_file
from fedplug.node.journal.updates import FOLDER
from fedplug.protocol import ResearcherEndpoint
from fedplug.transports.registry import open_transport

HEARTBEAT = TransportOptions(heartbeat=0.2)


class Plan(NumpyTrainingPlan):
    def init_model(self):
        return {"w": np.zeros(self.model_args()["size"])}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        return 1.0, {"w": np.random.normal(size=self.model_args()["size"])}


class Researcher:
    def __init__(self, url):
        self.pool = ResearcherEndpoint(open_transport(url, default_host()), url, HEARTBEAT)
        self.signs = []

    def wait(self, *kinds):
        """The next event, which is of one of these kinds."""
        event = self.pool.next_event(60, lambda sign, _: self.signs.append(sign))
        assert isinstance(event, kinds), event
        return event

    def train(self, number=0, size=4, attempt=0):
        key = TaskKey(experiment_id="e", round=number, node_id="clinic", attempt=attempt)
        request = TrainRequest(
            key=key, dataset_id=self.dataset, plan_class="Plan", seed=1, data_seed=1, model_args={"size": size},
            training_args={"num_updates": 3, "loader_args": {"batch_size": 1}, "optimizer_args": {"lr": 0.1}},
        )  # fmt: skip
        self.pool.train(request, bundle_plan(Plan), Params.from_arrays({"w": np.zeros(size)}))
        return key

    def fetch(self, key):
        self.pool.fetch(key)
        update = self.wait(UpdateFetched)
        assert update.reply.key == key
        return update.params.fingerprint()


class World:
    def __init__(self, folder, url):
        self.folder, self.url = folder, url
        np.savez(folder.parent / "x.npz", x=np.ones((8, 1)), y=np.ones(8))
        with NodeStore.create(folder, name="clinic", node_id="clinic") as store:
            store.add_dataset(inspect_file(folder.parent / "x.npz", name="x", tags=["#x"])[0])
        self.researcher = Researcher(url)
        self.node = None

    def start(self):
        self.node = Node(self.folder, self.url, worker="inline", options=HEARTBEAT, retry=0.2).start()
        self.researcher.wait(NodeJoined)

    def search(self):
        self.researcher.pool.search(1, ("#x",))
        (card,) = self.researcher.wait(DatasetsFound).cards
        self.researcher.dataset = card.dataset_id

    def stop(self):
        self.node.stop()
        self.researcher.wait(NodeLost)

    def close(self):
        if self.node is not None:
            self.node.stop()
        self.researcher.pool.close()

    def read(self, query):
        with NodeStore.open(self.folder) as store:
            return store.read(query)

    def outcomes(self):
        with NodeStore.open(self.folder) as store:
            return [(each.task, each.outcome) for each in AuditLog(store).trainings()]


@pytest.fixture
def world(tmp_path, inproc_url):
    world = World(tmp_path / "clinic", inproc_url)
    world.start()
    world.search()
    yield world
    world.close()


@pytest.mark.parametrize("size", [4, 100_000])
def test_row_03_a_finished_update_is_offered_after_the_restart_and_paid_for_once(world, size, capsys):
    key = world.researcher.train(size=size)
    offer = world.researcher.wait(UpdateOffered)
    assert len(list((world.folder / FOLDER).iterdir())) == (size > 1000)
    world.stop()
    assert main(["node", "-C", str(world.folder), "status"]) == 0
    assert "updates      1 kept until taken by the researcher" in capsys.readouterr().out
    world.start()
    digest = world.researcher.fetch(key)
    assert digest != Params.from_arrays({"w": np.zeros(size)}).fingerprint()
    again = world.researcher.train(1, size)
    assert world.researcher.wait(UpdateOffered).reply.key == again
    assert world.researcher.fetch(again) == digest
    for each in (key, again):
        world.researcher.pool.commit(each)
    world.node.drain()  # which waits until the last one is known to be taken
    assert world.node.status.kept == 0
    world.stop()
    assert offer.reply.steps == 3
    assert world.read("SELECT task FROM charges ORDER BY number") == [(str(key),), (str(again),)]
    assert [what for _, what in world.outcomes()] == ["finished", "finished"]
    world.start()  # nothing is offered
    world.stop()
    assert world.read("SELECT 1 FROM updates") == []
    assert list((world.folder / FOLDER).iterdir()) == []


def test_row_06_both_are_restarted_and_the_new_researcher_gets_the_update_of_the_old_one(world):
    key = world.researcher.train()
    world.researcher.wait(UpdateOffered)
    world.stop()
    world.researcher.pool.close()
    dataset = world.researcher.dataset
    world.researcher = Researcher(world.url)
    world.researcher.dataset = dataset
    world.start()
    assert world.researcher.train() == key
    world.researcher.wait(UpdateOffered)
    world.researcher.fetch(key)
    world.researcher.pool.commit(key)
    world.stop()
    assert world.outcomes() == [(str(key), "finished")]


def test_two_researchers_whose_tasks_have_one_name_get_what_is_theirs(world, inproc_url):
    world.stop()
    urls = [world.url, f"{inproc_url}-2"]
    both = [world.researcher, Researcher(urls[1])]
    sizes = [4, 100_000]

    @contextlib.contextmanager
    def joined():
        with Node(world.folder, urls, worker="inline", options=HEARTBEAT, retry=0.2):
            for each in both:
                each.wait(NodeJoined)
            yield

    try:
        both[1].dataset = both[0].dataset
        with joined():
            (key,) = {each.train(size=size) for each, size in zip(both, sizes, strict=True)}
            for each in both:
                each.wait(UpdateOffered)
        for each in both:
            each.wait(NodeLost)
        with joined():
            for each, size in zip(both, sizes, strict=True):
                each.pool.fetch(key)
                assert each.wait(UpdateFetched).params["w"].shape == (size,)
    finally:
        both[1].pool.close()


def no_space(*_):
    raise OSError(28, "No space left on device")


def test_row_38_a_full_disk_is_no_reason_to_lose_a_finished_update_or_the_node(world, monkeypatch, caplog):
    with monkeypatch.context() as full:
        full.setattr("fedplug.node.journal.updates.write_new", no_space)
        key = world.researcher.train(size=100_000)
        world.researcher.wait(UpdateOffered)
        world.researcher.fetch(key)
    warnings = [sign.text for sign in world.researcher.signs if getattr(sign, "level", "") == "warning"]
    assert any("lost if the node ends before you have it" in text for text in warnings)
    assert "kept in memory only" in caplog.text
    world.stop()
    world.start()  # what was in memory only is gone, and that is said
    failure = world.researcher.train(size=100_000, attempt=1)
    assert world.researcher.wait(UpdateOffered).reply.key == failure
    assert world.researcher.fetch(failure)


def test_row_38_a_training_whose_update_would_find_no_room_is_refused_and_costs_nothing(world, monkeypatch):
    with monkeypatch.context() as full:
        full.setattr("fedplug.node.journal.tasks.RESERVE", 2**60)
        world.researcher.train()
        failure = world.researcher.wait(TaskFailed).failure
    assert failure.code == "no-space"
    assert "no room" in failure.text
    again = world.researcher.train(attempt=1)
    assert world.researcher.wait(UpdateOffered).reply.key == again
    world.stop()
    assert world.read("SELECT task FROM charges") == [(str(again),)]


def test_row_38_a_store_that_cannot_be_written_lets_nothing_leave_and_does_not_end_the_node(world, caplog):
    """The limit of SQLite's own file stands for the disk."""
    (pages,) = world.node.store.read("PRAGMA page_count")[0]
    world.node.store.read(f"PRAGMA max_page_count = {pages}")
    caplog.set_level(logging.ERROR)
    for number in range(200):
        world.researcher.train(number)
        event = world.researcher.wait(UpdateOffered, TaskFailed)
        if isinstance(event, TaskFailed):
            break
    assert event.failure.code == "no-space"
    assert "The disk of this node is full" in event.failure.text
    assert "This is missing in the audit log: training-failed" in caplog.text
    world.node.store.read("PRAGMA max_page_count = 1000000")
    key = world.researcher.train(number=1000)
    assert world.researcher.wait(UpdateOffered).reply.key == key
