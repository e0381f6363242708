"""A node that part 1 made is upgraded by today's code: it stays who it is, keeps what it has, and trains."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import uuid
from pathlib import Path

import numpy as np
import pytest

from fedplug.core.messages import TaskKey, TrainRequest
from fedplug.core.params import Params
from fedplug.core.plugins import default_host
from fedplug.core.pool import DatasetsFound, NodeJoined, TaskFailed, UpdateOffered
from fedplug.node import Node, NodeStore
from fedplug.node.approval.approvals import Approvals
from fedplug.node.audit.log import AuditLog
from fedplug.node.migrations import MIGRATIONS
from fedplug.node.policy.schema import Policy
from fedplug.node.store import STORE_FILE
from fedplug.protocol import ResearcherEndpoint
from fedplug.transports.registry import open_transport

GOLDEN = Path(__file__).parent / "node_store_v1"
PLAN = "55c593df7e67eeec5bc1cd2dfedff6ceb751f3d401a4c08659452cfbcaf974a1"


@pytest.fixture
def folder(tmp_path):
    """The node's folder, whose table lies here and not in /srv/data."""
    folder, table = tmp_path / "clinic", tmp_path / "patients.csv"
    folder.mkdir(mode=0o700)
    shutil.copy(GOLDEN / STORE_FILE, folder / STORE_FILE)
    shutil.copy(GOLDEN / table.name, table)
    with contextlib.closing(sqlite3.connect(folder / STORE_FILE, isolation_level=None)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        db.execute(
            "UPDATE datasets SET record = json_set(record, '$.path', ?, '$.mtime_ns', ?)",
            (str(table), table.stat().st_mtime_ns),
        )
    return folder


def content(path):
    with contextlib.closing(sqlite3.connect(path)) as db:
        return list(db.iterdump())


def test_it_is_upgraded_and_keeps_identity_data_sets_and_plans(folder):
    before = content(folder / STORE_FILE)
    with NodeStore.open(folder) as store:
        assert store.version == len(MIGRATIONS)
        who = store.identity
        assert (who.node_id, who.name, who.created) == ("clinic-1", "Clinic of part 1", "2026-11-26T11:08:42+00:00")
        assert who.researchers == ("inproc://golden",)
        others, patients = store.datasets()
        assert (patients.dataset_id, patients.tags, patients.target) == ("ds-82a49d39dade", ("demo", "1"), "dose")
        assert (others.name, others.description, others.columns) == ("others", "Grüße", ("age", "dose"))
        (plan,) = Approvals(store, Policy()).plans()
        assert (plan.hash, plan.bundle.class_name) == (PLAN, "Line")
        assert plan.bundle.hash == PLAN
        assert Approvals(store, Policy()).standing(PLAN).status == "pending"
        assert AuditLog(store).verify().ok
    assert content(folder / "node.sqlite.v1.backup") == before


def test_it_trains_the_plan_that_it_had_once_its_owner_has_approved_it(folder):
    with NodeStore.open(folder) as store:
        approvals = Approvals(store, Policy())
        bundle = approvals.plan(PLAN).bundle
        approvals.approve(PLAN)
    url = f"inproc://{uuid.uuid4().hex}"
    start = Params.from_arrays({"slope": np.zeros(1), "offset": np.zeros(1)})
    with ResearcherEndpoint(open_transport(url, default_host()), url) as pool, Node(folder, url):

        def wait(kind):
            while not isinstance(event := pool.next_event(60), kind):
                assert event is not None
                assert not isinstance(event, TaskFailed), event
            return event

        assert wait(NodeJoined).node.node_id == "clinic-1"
        pool.search(1, ("1",))
        (card,) = wait(DatasetsFound).cards
        assert card.dataset_id == "ds-82a49d39dade"
        request = TrainRequest(
            key=TaskKey(experiment_id="golden", round=0, node_id="clinic-1"), dataset_id=card.dataset_id,
            plan_class="Line", training_args={"epochs": 1}, seed=1, data_seed=1,
        )  # fmt: skip
        pool.train(request, bundle, start)
        assert wait(UpdateOffered).reply.sample_count == 20
    with NodeStore.open(folder) as store:
        assert [each.outcome for each in AuditLog(store).trainings()] == ["finished"]
