"""The node's secret, and the keys that come of it."""

from __future__ import annotations

import stat

import numpy as np
import pytest
from msgspec.structs import replace

from fedplug import DataManager, NumpyTrainingPlan
from fedplug.core.dataset_type import DatasetRecord
from fedplug.core.errors import ParamsError, UsageError
from fedplug.core.link import TaskReceived
from fedplug.core.messages import TaskKey, TrainRequest
from fedplug.core.node_dataset import NodeDataset
from fedplug.core.params import Params
from fedplug.core.plan_source import PlanBundle, bundle_plan
from fedplug.core.plugins import PluginHost
from fedplug.core.privacy import update_norm
from fedplug.node.datasets.memory import MemoryDataset
from fedplug.node.jobs import Job
from fedplug.node.privacy import node_secret, noise_key, simulated_noise_key
from fedplug.node.store import NodeStore
from fedplug.node.training import run_task

LOCAL = {"dp_args": {"type": "local", "sigma": 1.0, "clip": 1.0, "delta": 1e-5, "poisson": True}}
PLAN = PlanBundle("P", "class P: ...")
PARAMS = Params.from_arrays({"w": np.zeros(3)})
MEMORY = MemoryDataset("d", {"x": [1.0]})


def task(args=LOCAL, **more) -> TaskReceived:
    key = TaskKey(experiment_id="e", round=0, node_id="n")
    request = TrainRequest(key=key, dataset_id="d", plan_class="P", training_args=args, **more)
    return TaskReceived(request, PLAN, PARAMS)


def test_the_secret_is_drawn_once_and_outlives_the_process(tmp_path):
    store = NodeStore.create(tmp_path / "n", node_id="node-1")
    with store:
        first = node_secret(store)
        assert node_secret(store) == first
    with NodeStore.open(tmp_path / "n") as again:
        assert node_secret(again) == first
    assert len(first) == 32
    for file in (tmp_path / "n").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file.name
    with NodeStore.in_memory() as other:
        assert node_secret(other) != first


def test_a_store_of_before_gets_room_for_a_secret(tmp_path, old_store):
    with NodeStore.open(old_store(tmp_path / "n", "CREATE TABLE secret")) as store:
        assert len(node_secret(store)) == 32
        assert store.identity.node_id == "node-1"


def test_no_secret_is_drawn_before_it_is_needed():
    with NodeStore.in_memory() as store:
        assert noise_key(store, task({}), MEMORY, None) == b""
        for args in (None, {}, "local", 7, {"type": "central"}, {**LOCAL["dp_args"], "type": ["local"]}):
            assert noise_key(store, task({"dp_args": args}), MEMORY, None) == b""
        with store.transaction() as db:
            assert db.execute("SELECT COUNT(*) FROM secret").fetchone() == (0,)


def test_a_repeated_request_has_the_same_key_on_the_same_node_only():
    with NodeStore.in_memory() as store, NodeStore.in_memory() as other:
        first = noise_key(store, task(), MEMORY, None)
        again = TaskReceived(replace(task().request, key=replace(task().request.key, attempt=4)), PLAN, PARAMS)
        assert noise_key(store, again, MEMORY, None) == first
        assert noise_key(other, task(), MEMORY, None) != first
        assert noise_key(store, task(seed=1), MEMORY, None) != first
        nudged = TaskReceived(task().request, PLAN, Params.from_arrays({"w": np.array([0, 0, 1e-300])}))
        assert noise_key(store, nudged, MEMORY, None) != first
        assert node_secret(store) not in (first, noise_key(store, nudged, MEMORY, None))


def test_a_file_that_was_changed_changes_the_key(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("a\n1\n")
    record = DatasetRecord(dataset_id="d", name="d", type="csv", path=str(path), tags=("t",))
    with NodeStore.in_memory() as store:
        first = noise_key(store, task(), record, None)
        assert noise_key(store, task(), record, None) == first
        path.write_text("a\n1\n2\n")
        assert noise_key(store, task(), record, None) != first


def test_in_a_simulation_the_key_follows_from_the_seed_and_not_from_the_id():
    def key(experiment="e", data_seed=3, args=LOCAL, number=0):
        name = TaskKey(experiment_id=experiment, round=number, node_id="n")
        request = TrainRequest(key=name, dataset_id="d", plan_class="P", training_args=args, data_seed=data_seed)
        return simulated_noise_key(request, PLAN, PARAMS, {}, None)

    assert key() == key(experiment="another")
    assert len({key(), key(data_seed=4), key(number=1)}) == 3
    assert key(args={}) == b""


def test_a_job_does_not_show_its_key():
    job = Job(task().request, PLAN, PARAMS, {}, MEMORY, noise_key=b"very-secret-key-of-32-bytes-long")
    assert "very-secret" not in repr(job)


# training ----------------------------------------------------------------------------------------------------


class Pull(NumpyTrainingPlan):
    def init_model(self):
        return {"w": np.zeros(3), "v": np.zeros((), np.float32)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("x"))

    def training_step(self, data, target):
        return 1.0, {"w": np.full(3, float(self.model_args().get("pull", 1.0))), "v": np.float32(2)}


def run(args, **model_args):
    bundle = bundle_plan(Pull)
    request = TrainRequest(
        key=TaskKey(experiment_id="e", round=0, node_id="n"), dataset_id="d", plan_class="Pull", training_args=args,
        model_args=model_args,
    )  # fmt: skip
    start = Params.from_arrays({"w": np.zeros(3), "v": np.zeros((), np.float32)})
    dataset: NodeDataset = MemoryDataset("d", {"x": np.zeros(4)})
    return start, run_task(request, bundle, start, {}, dataset, PluginHost.discover(), [].append)[1]


def test_with_central_privacy_the_update_that_leaves_is_clipped():
    base = {"optimizer_args": {"lr": 10.0}}
    start, free = run(base)
    assert update_norm(start, free) == pytest.approx(10 * np.sqrt(7))
    _, clipped = run({**base, "dp_args": {"sigma": 1.0, "clip": 0.5}})
    assert 0.5 * (1 - 1e-6) < update_norm(start, clipped) <= 0.5
    assert clipped["w"] == pytest.approx(free["w"] * 0.5 / update_norm(start, free))


def test_an_update_that_is_not_finite_does_not_leave():
    with pytest.raises(ParamsError, match="cannot be clipped"):
        run({"dp_args": {"sigma": 1.0, "clip": 0.5}}, pull=float("inf"))


def test_a_numpy_plan_refuses_local_privacy_before_it_trains():
    with pytest.raises(UsageError, match="Plans of framework 'numpy' cannot train with local differential") as caught:
        run(LOCAL)
    assert "'central'" in caught.value.cure
