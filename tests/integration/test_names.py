"""Names of the Experiment and Training-Plan pages do what `docs/names.md` says of them, in a whole federation."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedplug import (
    DataManager,
    DefaultStrategy,
    Experiment,
    FederatedDataset,
    FedplugWarning,
    NodePayload,
    NumpyTrainingPlan,
    Params,
    QuorumStrategy,
    RandomStrategy,
    TrainingArgs,
)
from fedplug.core.errors import DatasetError, SettingsError, UnknownNameError, UsageError
from fedplug.node import Node, NodeStore
from fedplug.node.datasets.registry import inspect_file
from fedplug.node.policy.file import save_policy
from fedplug.node.policy.template import policy_text
from fedplug.researcher.breakpoints import breakpoints_of
from fedplug.researcher.folders import experiments_root
from fedplug.simulation import Federation
from fedplug_scaffold import FedAverage


class Line(NumpyTrainingPlan):
    """Least squares. The model starts at random, and remembers which samples its last step saw and a draw."""

    def init_model(self, model_args):
        self.places = model_args.get("batch", 4)
        seen = {"rows": np.zeros(self.places), "draw": np.zeros(1)}
        return {"w": np.random.normal(size=2), **(seen if model_args.get("watch") else {})}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def testing_step(self, data, target):
        return float(abs(data[:, :2] @ self.model()["w"] - target).mean())

    def training_step(self, data, target):
        model = self.model()
        error = data[:, :2] @ model["w"] - target
        gradients = {name: np.zeros_like(array) for name, array in model.items()}
        gradients["w"] = 2 * error @ data[:, :2] / len(data)
        if "rows" in model:
            model["rows"][...] = data[:, 2]
            model["draw"][...] = np.random.random()
        return (error**2).mean(), gradients


def federation(tags: Any = "simulation", **sizes: int) -> Federation:
    nodes = {}
    for name, size in (sizes or {"a": 12, "b": 12}).items():
        rng = np.random.default_rng(ord(name))
        x = np.column_stack([rng.normal(size=(size, 2)), np.arange(size)])
        nodes[name] = (x, rng.normal(size=size))
    return Federation(nodes, tags=tags)


ARGS = {"loader_args": {"batch_size": 4}, "optimizer_args": {"lr": 0.02}}


def experiment(**settings: Any) -> Experiment:
    given = {
        "tags": "simulation", "training_plan_class": Line, "training_args": ARGS, "round_limit": 2, "seed": 1,
        "progress": "quiet", "transport": federation(),
    }  # fmt: skip
    return Experiment(**{**given, **settings})


# the data ------------------------------------------------------------------------------------------------------


def test_tags_search_at_once_and_data_by_hand_forgets_them() -> None:
    with Experiment(transport=federation(tags=["#MNIST", "#dataset"]), progress="quiet") as exp:
        assert exp.tags() is exp.training_data() is None
        assert exp.set_tags(tags="#MNIST") == exp.tags() == ["#MNIST"]
        assert exp.training_data().node_ids() == ["a", "b"]
        assert exp.set_tags(["#MNIST", "#dataset"]) == exp.tags() == ["#MNIST", "#dataset"]
        cards = exp.training_data().data()
        found = exp.set_training_data(FederatedDataset({"b": cards["b"]}))
        assert found is exp.training_data()
        assert exp.tags() is None
        assert exp.set_training_data({"a": [cards["a"]]}).node_ids() == ["a"]
        for wrong in ((None, False), (cards, True)):
            with pytest.raises(UsageError, match="either training_data or from_tags"):
                exp.set_training_data(wrong[0], from_tags=wrong[1])
        with pytest.raises(DatasetError, match="was given 2"):
            exp.set_training_data({"a": [cards["a"], cards["a"]]})
        assert exp.training_data().node_ids() == ["a"]


def test_after_other_nodes_are_set_the_data_has_to_be_searched_anew() -> None:
    with experiment(nodes=["a"]) as exp:
        assert exp.training_data().node_ids() == ["a"]
        assert exp.set_nodes(None) is None
        assert exp.training_data().node_ids() == ["a"]
        exp.set_training_data(training_data=None, from_tags=True)
        assert exp.training_data().node_ids() == ["a", "b"]


def test_the_folder_of_all_experiments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEDPLUG_DIR", str(tmp_path))
    with experiment() as exp:
        assert exp.experimentation_path() == tmp_path / "var" / "experiments" / "Experiment_0001"
    monkeypatch.delenv("FEDPLUG_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert experiments_root() == tmp_path / "fedplug" / "var" / "experiments"


def test_the_nodes_that_are_connected_can_be_looked_at() -> None:
    with experiment() as exp:
        assert {node: info.name for node, info in exp.pool().nodes.items()} == {"a": "a", "b": "b"}


class FromPath(NumpyTrainingPlan):
    """Reads the file of its data set by itself, in batches of the size that it is told."""

    def init_dependencies(self):
        return ["import numpy as np"]

    def init_model(self):
        return {"size": np.zeros(1), "sum": np.zeros(1)}

    def training_data(self, batch_size):
        self.batch_size = batch_size
        with np.load(self.dataset_path) as file:
            return DataManager(file["x"], file["y"], batch_size=batch_size)

    def training_step(self, data, target):
        self.model()["size"][...] = self.batch_size
        self.model()["sum"][...] += data.sum()
        return 0.0, {"size": np.zeros(1), "sum": np.zeros(1)}


def test_a_plan_may_read_the_file_of_its_node_by_itself(inproc_url: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.ones((30, 2)), y=np.zeros(30))
    with NodeStore.create(tmp_path / "node", name="nice", node_id="nice") as store:
        save_policy(tmp_path / "node", policy_text(approval="off"))
        store.add_dataset(inspect_file(tmp_path / "data.npz", tags=["real"])[0])
    with (
        experiment(tags=None, transport=inproc_url, training_plan_class=FromPath) as exp,
        Node(tmp_path / "node", exp.pool().address, retry=0.05) as node,
    ):
        assert node.wait_connected(60)
        exp.set_tags("real")
        exp.set_training_args({"loader_args": {"batch_size": 7}})
        exp.run(1)
        assert exp.training_replies()[0]["nice"]["steps"] == 5
        assert (exp.params()["size"].tolist(), exp.params()["sum"].tolist()) == ([7.0], [60.0])


# components ----------------------------------------------------------------------------------------------------


def test_none_means_the_default_component() -> None:
    with experiment(aggregator=FedAverage(weighting="uniform")) as exp:
        assert exp.aggregator().weighting == "uniform"
        assert exp.set_aggregator(None) is exp.aggregator()
        assert isinstance(exp.aggregator(), FedAverage)
        assert exp.aggregator().weighting == "samples"
        assert exp.set_strategy(node_selection_strategy=None) is exp.strategy()
        assert type(exp.strategy()) is DefaultStrategy
        assert exp.set_agg_optimizer(None) is exp.agg_optimizer() is None
        exp.run()
        assert [sorted(replies) for replies in exp.training_replies().values()] == [["a", "b"]] * 2
    with Experiment(transport=federation(), progress="quiet") as exp:
        assert exp.set_strategy(None) is exp.strategy()  # before there is any data to select from
        assert exp.training_data() is None


class Demanding(FedAverage):
    """Needs num_updates, as Scaffold does; sends node b an array and a training argument of its own."""

    def check(self, training_args: Mapping[str, Any]) -> None:
        if training_args["num_updates"] is None:
            raise UsageError("Demanding needs num_updates.")

    def node_payload(self, node_id: str, ctx: Any) -> NodePayload:
        own = {"num_updates": 5} if node_id == "b" else {}
        return NodePayload({"start": Params.from_arrays({"w": np.full(2, float(ctx.round))})}, own)


class FromAux(NumpyTrainingPlan):
    """Its result is what the aggregator has sent along."""

    def init_model(self):
        return {"w": np.full(2, -1.0)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        self.model()["w"][...] = self.aux()["start"]["w"]
        return 0.0, {"w": np.zeros(2)}


def test_an_aggregator_checks_the_arguments_and_sends_each_node_its_own() -> None:
    with experiment(aggregator=Demanding(), training_plan_class=FromAux) as exp:
        with pytest.raises(SettingsError, match=r"Demanding needs num_updates. set_training_args\(...\)"):
            exp.run()
        assert exp.training_replies() == {}
        exp.set_training_args({**ARGS, "num_updates": 2})
        exp.run()
        assert {node: reply["steps"] for node, reply in exp.training_replies()[1].items()} == {"a": 2, "b": 5}
        assert exp.params()["w"].tolist() == [1.0, 1.0]


def test_an_aggregator_that_is_not_there_is_answered_with_those_that_are() -> None:
    with experiment() as exp:
        with pytest.raises(UnknownNameError) as caught:
            exp.set_aggregator("scaffolding")
        assert "Did you mean 'scaffold'?" in str(caught.value)


# training arguments --------------------------------------------------------------------------------------------


def steps(**training_args: Any) -> dict[str, int]:
    with experiment(training_args={**ARGS, **training_args}, transport=federation(a=8, b=33)) as exp:
        exp.run(1)
        return {node: reply["steps"] for node, reply in exp.training_replies()[0].items()}


@pytest.mark.parametrize(
    ("training_args", "expected"),
    [
        ({"epochs": 2}, {"a": 4, "b": 18}),
        ({"num_updates": 5}, {"a": 5, "b": 5}),
        ({"num_updates": 5, "epochs": 3}, {"a": 5, "b": 5}),
        ({"epochs": 2, "batch_maxnum": 3}, {"a": 4, "b": 6}),
        ({"epochs": 2, "batch_maxnum": 0}, {"a": 4, "b": 18}),
        ({"num_updates": 5, "batch_maxnum": 1}, {"a": 5, "b": 5}),
        ({"epochs": 2, "dry_run": True}, {"a": 1, "b": 1}),
        ({}, {"a": 2, "b": 9}),
        ({"loader_args": {"batch_size": 1}}, {"a": 8, "b": 33}),
        ({"loader_args": {}}, {"a": 1, "b": 2}),  # batches of 32
        ({"loader_args": {"batch_size": 4, "drop_last": True}}, {"a": 2, "b": 8}),
        ({"test_ratio": 0.3}, {"a": 2, "b": 6}),  # floor(0.3 n) are held out: 6 and 24 are left
    ],
    ids=str,
)
def test_the_number_of_steps_at_nodes_of_different_size(training_args, expected) -> None:
    assert steps(**training_args) == expected


def test_shuffle_has_no_say_in_what_is_held_out() -> None:
    found = []
    for shuffle in (True, False):
        args = {"loader_args": {"batch_size": 4, "shuffle": shuffle}, "test_ratio": 0.25}
        with experiment(training_args=args) as exp:
            tested = exp.evaluate().metrics
            exp.run(1)
            found.append((tested, exp.params()))
    assert found[0][0] == found[1][0]
    assert found[0][1] != found[1][1]


def rounds_with(*random_seeds: int | None, seed: int) -> tuple[Params, list[tuple[list[float], float]]]:
    """The initial parameters; and after each round of one node the samples of its last batch, and a draw."""
    with experiment(
        training_args={**ARGS, "random_seed": random_seeds[0]}, model_args={"watch": True}, seed=seed,
        nodes=["a"], round_limit=None,
    ) as exp:  # fmt: skip
        start, seen = exp.params(), []
        for random_seed in random_seeds:
            exp.set_training_args({**ARGS, "random_seed": random_seed})
            exp.run(1)
            seen.append((exp.params()["rows"].tolist(), float(exp.params()["draw"][0])))
        return start, seen


def test_random_seed_is_reset_in_every_round_and_rules_all_that_is_random() -> None:
    start, (first, second) = rounds_with(42, 42, seed=1)
    assert first == second
    assert rounds_with(42, 42, seed=2) == (start, [first, first])
    np.testing.assert_array_equal(start["w"], np.random.RandomState(42).normal(size=2))
    other_start, (_, changed) = rounds_with(43, 44, seed=1)
    assert other_start != start
    assert changed[0] != first[0]
    assert changed[1] != first[1]
    assert rounds_with(42, 44, seed=1)[1] == [first, changed]


def test_without_random_seed_every_round_and_node_draws_its_own() -> None:
    start, (first, second) = rounds_with(None, None, seed=1)
    assert first[0] != second[0]
    assert first[1] != second[1]
    assert rounds_with(None, None, seed=1) == (start, [first, second])
    assert rounds_with(None, None, seed=2)[0] != start


def test_random_seed_has_no_say_in_who_trains_and_what_is_held_out() -> None:
    tested, starts, chosen = [], [], []
    for seed, random_seed in ((1, 42), (2, 42), (1, None), (1, 42)):
        args = {**ARGS, "random_seed": random_seed, "test_ratio": 0.25}
        with experiment(
            training_args=args, seed=seed, round_limit=6, node_selection_strategy=RandomStrategy(count=1)
        ) as exp:
            starts.append(exp.params())
            tested.append(exp.evaluate().metrics)
            exp.run()
            chosen.append([list(replies) for replies in exp.training_replies().values()])
    assert starts[0] == starts[1] == starts[3] != starts[2]
    assert tested[0] == tested[3] != tested[1]  # of the same model, on other samples
    assert chosen[0] == chosen[2] == chosen[3] != chosen[1]
    assert len({tuple(nodes) for nodes in chosen[0]}) == 2  # and not the same node in every round


def test_with_random_seed_the_nodes_go_through_their_samples_in_one_order() -> None:
    for random_seed, differ in ((3, False), (None, True)):
        args = {**ARGS, "random_seed": random_seed, "num_updates": 1, "optimizer_args": {"lr": 0.0}}
        orders = []
        for node in ("a", "b"):
            with experiment(training_args=args, model_args={"watch": True}, nodes=[node]) as exp:
                exp.run(1)
                orders.append(exp.params()["rows"].tolist())
        assert (orders[0] != orders[1]) is differ


def test_training_args_are_told_back_with_all_defaults_and_may_be_an_object() -> None:
    args = TrainingArgs.from_dict({"num_updates": 100, "dp_args": {"type": "local", "sigma": 0.4, "clip": 0.005}})
    with experiment(training_args=args) as exp:
        assert exp.training_args() == args.dict()
        exp.training_args()["num_updates"] = 1
        assert exp.training_args()["num_updates"] == 100
        assert exp.set_training_args(None) == exp.training_args() == TrainingArgs().dict()
        assert set(TrainingArgs.default_scheme()) == set(exp.training_args())


# rounds --------------------------------------------------------------------------------------------------------


def global_tests(exp: Experiment) -> list[dict[str, Any]]:
    return [record for record in exp.history.records() if record["phase"] == "test_global"]


def test_a_round_can_be_tested_after_it() -> None:
    with experiment(test_ratio=0.25) as exp:
        assert exp.run_once(test_after=True) == 1
        assert len(global_tests(exp)) == 3  # two nodes, and both together
        assert exp.run_once() == 1
        assert exp.run_once(test_after=True) == 0  # the limit is reached: nothing is run, nothing is tested
        assert len(global_tests(exp)) == 3
    with experiment(test_ratio=0.25, test_on_global_updates=True, round_limit=1) as exp:
        exp.run_once(test_after=True)  # run() tests after the last round by itself, and once is enough
        assert len(global_tests(exp)) == 6
    with experiment() as exp:
        with pytest.raises(UsageError, match="nothing to test on after the round"):
            exp.run_once(test_after=True)
        with pytest.raises(UsageError, match="test_after must be True or False"):
            exp.run_once(test_after="yes")
        assert exp.round_current() == 0


class NoTest(Line):
    def init_dependencies(self):
        return ["from fedplug import NumpyTrainingPlan as Line"]

    def init_model(self):
        return {"w": np.zeros(2)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        return 0.0, {"w": np.zeros(2)}

    def testing_step(self, data, target):
        return float("none")


def test_a_test_after_a_round_that_fails_does_not_undo_the_round() -> None:
    with experiment(test_ratio=0.25, training_plan_class=NoTest) as exp:
        with pytest.warns(FedplugWarning, match="could not be tested"):
            done = exp.run_once(test_after=True)
        assert (done, exp.round_current()) == (1, 1)


def test_what_a_reply_says() -> None:
    with experiment() as exp:
        exp.run()
        replies = exp.training_replies()
        assert sorted(replies) == [0, 1]
        reply = replies[1]["b"]
        assert (reply["node_id"], reply["round"], reply["sample_count"], reply["state"]) == ("b", 1, 12, "none")
        assert set(reply) == {
            "node_id", "round", "attempt", "sample_count", "steps", "metrics", "timing", "state",
        }  # fmt: skip
        assert reply["metrics"]["loss"] > 0
        assert set(exp.aggregated_params()) == {1}
        assert exp.aggregated_params()[1]["params"] == exp.params()


class FailsOnB(NumpyTrainingPlan):
    def init_model(self):
        return {"w": np.zeros(2)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        if self.node_id() == "b":
            raise ValueError("no such scanner")
        return 0.0, {"w": np.zeros(2)}


def test_a_node_that_failed_has_no_reply() -> None:
    with experiment(training_plan_class=FailsOnB, node_selection_strategy=QuorumStrategy(1)) as exp:
        exp.run(1)
        assert list(exp.training_replies()[0]) == ["a"]
        assert "no such scanner" in exp.report().read_text()


def test_what_a_breakpoint_says() -> None:
    with experiment(
        save_breakpoints=True, retain_full_history=True, model_args={"batch": 3}, experimentation_folder="told",
        aggregator=FedAverage(),
    ) as exp:  # fmt: skip
        exp.run(1)
        folder = exp.experimentation_path()
        (place,) = breakpoints_of(folder, first=1)
        said = json.loads((place / "breakpoint.json").read_text())
        expected = {
            "experiment_id": exp.id, "version": 1, "folder": "told", "tags": ["simulation"], "nodes": None,
            "acked": {node: {"round": 0, "state_id": ""} for node in "ab"},
            "model_args": {"batch": 3}, "training_args": exp.training_args(),
            "round_current": 1, "round_limit": 2,
        }  # fmt: skip
        assert {name: said[name] for name in expected} == expected
        assert sorted(said["training_data"]) == ["a", "b"]
        assert said["plan"]["class_name"] == "Line"
        assert said["plan"]["source"] in (place / "training_plan.py").read_text()
        assert said["aggregator"]["name"] == "scaffold:fedaverage"
        assert said["strategy"]["type"].endswith("DefaultStrategy")
        assert said["agg_optimizer"] is None
        assert (folder / "history" / said["rounds"]["file"]).stat().st_size == said["rounds"]["nbytes"]
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        assert files == [
            *(f"breakpoint_{n:04d}/{name}" for n in range(2) for name in (
                "breakpoint.json", "params.safetensors", "training_plan.py")),
            "history/params_0001.safetensors", "history/rounds.jsonl", "journal.sqlite", "journal.sqlite.lock",
            "model.safetensors", "status.json",
        ]  # fmt: skip
        assert not re.search(re.escape(str(folder)), json.dumps(said))  # the folder may be moved


def test_a_breakpoint_that_was_moved_can_be_loaded(fedplug_dir: Path) -> None:
    with experiment(save_breakpoints=True) as exp:
        exp.run(1)
        moved = exp.experimentation_path().rename(fedplug_dir / "elsewhere")
        params = exp.params()
    with Experiment.load_breakpoint(moved, transport=federation(), progress="quiet") as exp:
        assert (exp.round_current(), exp.params()) == (1, params)


class Remembers(FedAverage):
    """Keeps the means of all rounds."""

    def __init__(self) -> None:
        super().__init__()
        self.means: list[Params] = []

    def finalize(self, state: Any) -> Params:
        self.means.append(super().finalize(state))
        return self.means[-1]

    def state_dict(self) -> dict[str, Any]:
        return {"means": list(self.means)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.means = list(state["means"])


def test_the_state_of_an_aggregator_comes_back_with_a_breakpoint(fedplug_dir: Path) -> None:
    with experiment(save_breakpoints=True, aggregator=Remembers()) as exp:
        exp.run()
        means = exp.aggregator().means
        assert len(means) == 2
    with Experiment.load_breakpoint(aggregator=Remembers, transport=federation(), progress="quiet") as exp:
        assert exp.aggregator().means == means
        exp.run(1, increase=True)
        assert exp.aggregator().means == [*means, exp.params()]


# the model -----------------------------------------------------------------------------------------------------


def test_a_model_that_the_plan_imports_is_the_experiments_too(tmp_path: Path) -> None:
    with experiment() as exp:
        exp.run(1)
        trained = exp.params()
        exp.training_plan().export_model(tmp_path / "model.npz")
    with experiment(seed=2, training_args={**ARGS, "optimizer_args": {"lr": 1e-300}}) as exp:
        exp.run(1)
        old = exp.training_plan()
        old.import_model(tmp_path / "model.npz")
        assert exp.params() == trained
        exp.run(1)
        np.testing.assert_array_equal(exp.params()["w"], trained["w"])
        with pytest.raises(UsageError, match="do not fit the new model"):  # what was imported is worth keeping
            exp.set_model_args({"watch": True})
        exp.set_model_args({}, keep_weights=False)
        fresh = exp.params()
        old.import_model(tmp_path / "model.npz")  # a plan that the experiment has done with
        assert exp.params() == fresh != trained


STEP = """
import numpy as np
from fedplug import DataManager, NumpyTrainingPlan


class Plan(NumpyTrainingPlan):
    def init_model(self):
        return {"w": np.zeros(2)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        return 0.0, {"w": np.zeros(2)}

    def testing_step(self, data, target):
        return RETURNED
"""


@pytest.mark.parametrize(
    ("returned", "names"),
    [("0.5", ["metric"]), ("[0.5, 1]", ["metric_1", "metric_2"]), ('{"mine": 0.5}', ["mine"])],
)
def test_a_testing_step_may_return_a_number_a_list_or_a_dict(returned: str, names: list[str], tmp_path: Path) -> None:
    file = tmp_path / "plan.py"
    file.write_text(STEP.replace("RETURNED", returned))
    with experiment(training_plan_class=None, training_plan_path=file, test_ratio=0.25) as exp:
        assert sorted(exp.evaluate().metrics) == [f"test_global_{name}" for name in names]
