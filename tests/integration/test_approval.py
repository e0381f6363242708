"""Approval over a real node process and ZeroMQ: nothing runs before its owner has read it, and every byte counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from node_kit import Node

from fedplug import DataManager, Experiment, NumpyTrainingPlan
from fedplug.core.errors import PlanError, RoundError
from fedplug.core.messages import TaskKey, TrainRequest
from fedplug.core.params import Params
from fedplug.core.plan_source import PlanBundle, bundle_plan
from fedplug.core.plugins import default_host
from fedplug.core.pool import NodeJoined, PlanAnswered, TaskFailed, UpdateOffered
from fedplug.core.transport import TransportOptions
from fedplug.protocol.endpoint_researcher import ResearcherEndpoint
from fedplug.transports.registry import open_transport


class Mean(NumpyTrainingPlan):
    def init_model(self, model_args):
        return {"w": np.zeros(1)}

    def init_dependencies(self):
        return ["import numpy as np"]

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        error = self.model()["w"] - target.mean()
        return float(error[0] ** 2), {"w": 2 * error}


@pytest.fixture
def owner(make_node: Callable[[str], Node], tmp_path: Path) -> Node:
    """A node with the data set ``patients``, whose owner approves nothing unread."""
    np.savez(tmp_path / "patients.npz", x=np.zeros((12, 1)), y=np.arange(12.0))
    node = make_node("clinic").init()
    node.type("dataset", "add", tmp_path / "patients.npz", "--tags", "wards")
    return node


def experiment(**settings: Any) -> Experiment:
    given = {
        "training_plan_class": Mean,
        "training_args": {"epochs": 1, "loader_args": {"batch_size": 4}, "optimizer_args": {"lr": 0.1}},
        "round_limit": 2,
        "transport": "zmq://127.0.0.1:0",
        "min_nodes": 1,
        "connect_timeout": 60,
        "progress": "quiet",
        "seed": 1,
    }
    return Experiment(**{**given, **settings})


def test_from_the_first_request_to_the_update_with_a_node_that_never_stops(owner):
    with experiment() as exp:
        owner.start(exp.pool().description)
        exp.set_tags("wards")
        assert exp.check_training_plan_status()["clinic"].status == "unknown"
        with pytest.raises(RoundError) as caught:
            exp.run()
        for words in ("waits for the approval", "training_plan_approve", "fedplug node plan show"):
            assert words in str(caught.value)
        found = exp.training_plan_approve("The mean age on each ward.")["clinic"]
        assert (found.status, found.is_allowed) == ("pending", False)
        with pytest.raises(PlanError, match="Not every owner has approved"):
            exp.wait_for_approval(0)

        listed = owner.type("plan", "list", "--pending")
        assert exp.training_plan_bundle().hash[:12] in listed
        assert "The mean age on each ward." in listed
        shown = owner.type("plan", "show", "Mean")
        assert "def training_step(self, data, target):" in shown
        assert {"fedplug.DataManager", "numpy"} <= set(shown.partition("It imports: ")[2].splitlines()[0].split(", "))
        assert "advice only" in shown
        owner.type("plan", "approve", "Mean", "--dataset", "patients", "--until", "2999-01-31", "--note", "Go on.")

        found = exp.wait_for_approval(30, interval=0.05)["clinic"]
        assert (found.status, found.note, found.until[:10]) == ("approved", "Go on.", "2999-01-31")
        assert exp.run() == 2

        owner.type("plan", "reject", "Mean", "--note", "No more.")
        with pytest.raises(PlanError, match=r"rejected it\. Its owner says: No more\."):
            exp.wait_for_approval(30)
        exp.set_round_limit(3)
        with pytest.raises(RoundError, match="was rejected by the node's owner"):
            exp.run()
    verdict = owner.type("audit", "verify")
    assert "are as they were written" in verdict
    events = owner.type("audit", "show")
    for event in ("plan-received", "training-refused", "plan-approved", "training-finished", "plan-rejected"):
        assert event in events


class Bench:
    """A researcher's end of the wire, without the experiment that would keep it honest."""

    def __init__(self) -> None:
        self.pool = ResearcherEndpoint(
            open_transport("zmq://127.0.0.1:0", default_host()), "zmq://127.0.0.1:0", TransportOptions()
        )
        self.rounds = 0

    def wait(self, kind: type) -> Any:
        while not isinstance(event := self.pool.next_event(60), kind):
            assert event is not None
        return event

    def train(self, plan: PlanBundle, dataset_id: str) -> Any:
        key = TaskKey(experiment_id="e", round=self.rounds, node_id="clinic")
        self.rounds += 1
        request = TrainRequest(key=key, dataset_id=dataset_id, plan_class=plan.class_name)
        self.pool.train(request, plan, Params.from_arrays({"w": np.zeros(1)}))
        while not isinstance(event := self.pool.next_event(60), TaskFailed | UpdateOffered):
            assert event is not None
        return event


def test_one_byte_changed_after_approval_is_another_plan_and_both_hashes_are_named(owner):
    bench = Bench()
    with bench.pool:
        owner.start(bench.pool.address)
        bench.wait(NodeJoined)
        plan = bundle_plan(Mean)
        dataset_id = owner.ask("dataset", "show", "patients")["dataset_id"]
        bench.pool.ask_plan(1, plan, {"clinic": dataset_id}, "why")
        assert bench.wait(PlanAnswered).answer.status == "pending"
        owner.type("plan", "approve", plan.hash)
        bench.pool.ask_plan(2, plan, {"clinic": dataset_id})
        assert bench.wait(PlanAnswered).answer.status == "approved"
        assert isinstance(bench.train(plan, dataset_id), UpdateOffered)

        for changed in (
            PlanBundle(plan.class_name, plan.source.replace("2 * error", "3 * error"), plan.dependencies),
            PlanBundle(plan.class_name, plan.source, (*plan.dependencies, "import os")),
            PlanBundle(plan.class_name, plan.source, plan.dependencies, {"extra": ""}),
        ):
            failed = bench.train(changed, dataset_id)
            assert failed.failure.code == "not-approved"
            assert plan.hash in failed.failure.text
            assert changed.hash in failed.failure.text
            bench.pool.ask_plan(bench.rounds + 10, changed, {"clinic": dataset_id})
            assert bench.wait(PlanAnswered).answer.status == "pending"
        assert isinstance(bench.train(plan, dataset_id), UpdateOffered)


def test_a_plan_too_large_to_ride_along_is_pulled(owner):
    bench = Bench()
    with bench.pool:
        owner.start(bench.pool.address)
        bench.wait(NodeJoined)
        plan = PlanBundle("Big", "class Big:\n    x = 1\n" + "# remark\n" * 200_000)
        bench.pool.ask_plan(1, plan, {"clinic": "x"}, "Long.")
        assert bench.wait(PlanAnswered).answer.status == "pending"
        assert plan.hash[:12] in owner.type("plan", "list")


def test_two_researchers_ask_for_one_plan_and_one_decision_serves_both(owner):
    with experiment() as first, experiment() as second:
        owner.start(first.pool().description, second.pool().description)
        for exp, why in ((first, "mine"), (second, "mine too")):
            exp.set_tags("wards")
            assert exp.training_plan_approve(why)["clinic"].status == "pending"
        shown = owner.type("plan", "show", "Mean")
        assert f"{first.pool().description}" in shown
        assert "mine too" in shown
        owner.type("plan", "approve", "Mean")
        for exp in (first, second):
            assert exp.wait_for_approval(30, interval=0.05)["clinic"].is_allowed
            assert exp.run(rounds=1) == 1
