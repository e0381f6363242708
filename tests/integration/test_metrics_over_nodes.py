"""Metrics over whole federations: merged by sums, safe against nodes that lie, with and without training."""

from __future__ import annotations

import dataclasses
import types
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedplug import DataManager, Experiment, NumpyTrainingPlan, hookimpl
from fedplug.core.errors import RoundError, UnknownNameError, UsageError
from fedplug.core.messages import LogLine, Progress
from fedplug.core.metrics import TEST_AUX
from fedplug.core.params import Params
from fedplug.core.plan_source import bundle_plan
from fedplug.core.plugins import PluginHost, default_host
from fedplug.core.pool import DatasetsFound, NodeJoined, UpdateFetched
from fedplug.core.rng import SeedTree
from fedplug.core.strategy import Decision, DefaultStrategy
from fedplug.core.trainer.hooks import make_hook
from fedplug.core.training_args import TrainingArgs
from fedplug.node import Node, NodeStore
from fedplug.node.datasets.registry import inspect_file
from fedplug.node.policy.file import save_policy
from fedplug.node.policy.template import policy_text
from fedplug.protocol import ResearcherEndpoint
from fedplug.researcher.evaluation import Evaluation, evaluate
from fedplug.researcher.schedule import Schedule
from fedplug.researcher.spool import Spool
from fedplug.simulation import Federation
from fedplug.transports.registry import open_transport


class Chance(NumpyTrainingPlan):
    """A logistic regression; each node counts its rounds."""

    def init_model(self):
        return {"w": np.array([2.0, -1.0]), "b": np.zeros(1)}

    def training_data(self):
        return DataManager(self.dataset.table(["u", "v"]), self.dataset.column("y").astype(np.int64))

    def forward(self, data):
        return 1 / (1 + np.exp(-(data @ self.model()["w"] + self.model()["b"])))

    def training_step(self, data, target):
        error = self.forward(data) - target
        kept = self.node_state().values("count").get("rounds", 0)
        self.node_state().keep("count", None, {"rounds": kept + 1})
        return float(np.mean(error**2)), {"w": data.T @ error / len(data), "b": np.array([error.mean()])}


class Own(NumpyTrainingPlan):
    """The same model with a test of its own."""

    def init_model(self):
        return {"w": np.array([2.0, -1.0])}

    def training_data(self):
        return DataManager(self.dataset.table(["u", "v"]), self.dataset.column("y").astype(np.int64))

    def forward(self, data):
        return 1 / (1 + np.exp(-(data @ self.model()["w"])))

    def training_step(self, data, target):
        error = self.forward(data) - target
        return float(np.mean(error**2)), {"w": data.T @ error / len(data)}

    def testing_step(self, data, target):
        return {"accuracy": float(np.mean((self.forward(data) > 0.5) == target)), "ones": float(target.mean())}


SIZES = {"lyon": 400, "nice": 40, "paris": 10}
METRICS = ["accuracy", "f1_score", "auc", "confusion_matrix"]
ARGS: dict[str, Any] = {"test_ratio": 0.5, "test_on_global_updates": True, "test_metric": METRICS, "epochs": 2}


def samples(node: str) -> dict[str, Any]:
    """Return unequal data: the small nodes are the hard ones."""
    rng = np.random.default_rng(len(node) * SIZES[node])
    u, v = rng.normal(size=(2, SIZES[node]))
    noise = {"lyon": 0.1, "nice": 2.0, "paris": 5.0}[node]
    return {"u": u, "v": v, "y": (2 * u - v + noise * rng.normal(size=SIZES[node]) > 0).astype(np.int64)}


def parts() -> dict[str, dict[str, Any]]:
    return {node: samples(node) for node in SIZES}


def experiment(pool: Any = None, plan: Any = Chance, args: Mapping[str, Any] = ARGS, **more: Any) -> Experiment:
    return Experiment(
        tags="simulation", training_plan_class=plan, transport=pool or Federation(parts()), training_args=args, seed=3,
        progress="quiet", **more,
    )  # fmt: skip


def held_out(exp: Experiment, node: str) -> tuple[Any, Any]:
    """Return the test samples of a node, split as the node does it."""
    data = samples(node)
    size = SIZES[node]
    seed = SeedTree.root(exp._seeds.child("data", node).seed63()).child("split")
    rows = np.sort(seed.generator().permutation(size)[: size // 2])
    return np.column_stack([data["u"], data["v"]])[rows], data["y"][rows]


def test_merged_metrics_are_those_of_the_pooled_samples() -> None:
    with experiment() as exp:
        start = {name: np.array(array) for name, array in exp.params().items()}
        result = exp._run_round()
        tests = {node: held_out(exp, node) for node in SIZES}
    predicted = {n: (x @ start["w"] + start["b"] > 0).astype(int) for n, (x, _) in tests.items()}
    right = {node: int(np.sum(predicted[node] == y)) for node, (_, y) in tests.items()}
    pooled = sum(right.values()) / sum(len(y) for _, y in tests.values())
    each = {node: right[node] / len(y) for node, (_, y) in tests.items()}
    assert result.metrics["test_global_accuracy"] == pooled
    assert abs(pooled - np.mean(list(each.values()))) > 0.05  # the mean of means is something else
    assert {n: reply.metrics["test_global_accuracy"] for n, reply in result.replies.items()} == each
    truth = np.concatenate([y for _, y in tests.values()])
    answer = np.concatenate([predicted[node] for node in tests])
    matrix = [[int(np.sum((truth == t) & (answer == p))) for p in (0, 1)] for t in (0, 1)]
    assert result.values == {"test_global_confusion_matrix": matrix}
    f1 = 2 * matrix[1][1] / (2 * matrix[1][1] + matrix[0][1] + matrix[1][0])
    assert result.metrics["test_global_f1_score"] == f1
    assert set(result.node_values) == set(SIZES)
    total = sum(np.array(values["test_global_confusion_matrix"]) for values in result.node_values.values())
    assert total.tolist() == matrix
    assert 0 <= result.metrics["test_global_auc_error_bound"] < 0.01
    weights = {node: reply.sample_count for node, reply in result.replies.items()}
    loss = sum(result.replies[n].metrics["loss"] * w for n, w in weights.items()) / sum(weights.values())
    assert abs(result.metrics["loss"] - loss) <= 4 * 2**-52 * abs(loss)  # still by training samples


def test_the_batch_size_of_tests_changes_nothing() -> None:
    found = []
    for size in (None, 1, 3, 1000):
        with experiment(args={**ARGS, "test_batch_size": size, "test_on_local_updates": True}) as exp:
            result = exp._run_round()
        found.append(({k: v for k, v in result.metrics.items() if k != "loss"}, result.values))
    assert all(each == found[0] for each in found[1:])
    assert "test_local_accuracy" in found[0][0]


def test_numbers_of_a_testing_step_are_merged_over_test_samples() -> None:
    with experiment(plan=Own, args={**ARGS, "test_metric": ["accuracy"]}) as exp:
        result = exp._run_round()
        targets = np.concatenate([held_out(exp, node)[1] for node in SIZES])
    assert abs(result.metrics["test_global_ones"] - targets.mean()) <= 8 * 2**-52
    both = result.metrics["test_global_accuracy"], result.metrics["test_global_testing_step_accuracy"]
    assert abs(both[0] - both[1]) <= 8 * 2**-52


def test_a_wrong_name_or_argument_is_told_when_it_is_set() -> None:
    wrong = [({"test_metric": "acuracy"}, "accuracy"), ({"test_metric_args": {"averge": "macro"}}, "average")]
    for change, meant in wrong:
        with pytest.raises(UnknownNameError, match=f"Did you mean '{meant}'"):
            experiment(Federation(parts()), args={**ARGS, **change})


class Liar(Federation):
    """Node nice changes its test results on the way."""

    forged: Any = staticmethod(lambda sums: sums)

    def next_event(self, timeout: float | None, watch: Any = None) -> Any:
        event = super().next_event(timeout, watch)
        if isinstance(event, UpdateFetched) and event.reply.key.node_id == "nice":
            sums = self.forged({name: np.array(array) for name, array in event.aux[TEST_AUX].items()})
            return UpdateFetched(event.reply, event.params, {TEST_AUX: Params.from_arrays(sums)})
        return event


class WithoutLiars(DefaultStrategy):
    def judge(self, ctx: Any, state: Any) -> Decision:
        return Decision("wait" if state.missing else "enough")


FORGERIES = {
    "more right than there are": (
        lambda s: {**s, "global/metric/accuracy": np.array([30.0, 20.0])},
        "it counts more right answers",
    ),
    "not finite": (lambda s: {**s, "global/metric/accuracy": np.array([np.nan, 20.0])}, "is not finite"),
    "other shape": (lambda s: {**s, "global/metric/accuracy": np.ones((2, 1))}, "is no vector of float64"),
    "other size": (lambda s: {**s, "global/metric/confusion_matrix": np.ones(9)}, "those of other nodes 4"),
    "too much": (lambda s: {**s, "global/mean/x": np.zeros(2**20)}, "at most"),
    "not asked": (lambda s: {**s, "local/metric/accuracy": np.ones(2)}, "was not asked for"),
    "left out": (lambda s: {k: v for k, v in s.items() if "auc" not in k}, "'global/metric/auc' is missing"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_node_that_sends_impossible_sums_is_rejected(forgery: str) -> None:
    change, problem = FORGERIES[forgery]
    pool = Liar(parts())
    pool.forged = change
    with experiment(pool, node_selection_strategy=WithoutLiars()) as exp:
        result = exp._run_round()
    assert set(result.replies) == {"lyon", "paris"}
    assert problem in result.dropped["nice"]
    with experiment(Federation({n: d for n, d in parts().items() if n != "nice"})) as exp:
        honest = exp._run_round()
    assert result.metrics == honest.metrics
    assert result.params == honest.params
    pool = Liar(parts())
    pool.forged = change
    with experiment(pool) as exp, pytest.raises(RoundError, match="node 'nice' rejected"):
        exp.run(1)


def test_a_hook_cannot_use_the_reserved_name() -> None:
    def send(ctx: Any) -> None:
        ctx.outbox["fedplug:test"] = Params.from_arrays({"x": 1.0})

    host = PluginHost.discover()
    offer = hookimpl(lambda: [make_hook(send, "on_fit_end")])
    host.register(types.SimpleNamespace(fedplug_trainer_hooks=offer), "sneaky")
    pool = Federation(parts(), host=host)
    with experiment(pool) as exp, pytest.raises(RoundError, match=r"ctx\.outbox\['fedplug:test'\], which is reserved"):
        exp.run(1)


# tests without training ------------------------------------------------------------------------------------------


def schedule(exp: Experiment, **changes: Any) -> Schedule:
    facts: dict[str, Any] = {
        "experiment_id": exp.id, "seeds": exp._seeds, "bundle": exp._bundle, "model_args": {},
        "training_args": exp._training_args, "acked": exp._acked, "attempt": exp._attempt, "total_rounds": 0,
        "datasets": {node: card.dataset_id for node, card in (exp.training_data() or {}).data().items()},
    }  # fmt: skip
    return Schedule(**{**facts, **changes})


def evaluated(exp: Experiment, tmp_path: Path, **more: Any) -> Evaluation:
    nodes, number = more.pop("nodes", list(SIZES)), exp.round_current()
    spool = Spool(tmp_path, 2**24)
    found = evaluate(exp.pool(), schedule(exp), nodes, exp.params(), number=number, spool=spool, **more)
    exp._attempt += 1
    return found


def test_an_evaluation_finds_what_the_next_round_finds_before_it_trains(tmp_path: Path) -> None:
    signs: list[Progress | LogLine] = []
    with experiment() as exp:
        exp.run(2)
        found = evaluated(exp, tmp_path, watch=lambda sign, node: signs.append(sign))
        later = exp._run_round()
    names = [name for name in later.metrics if name.startswith("test_global_")]
    assert {name: later.metrics[name] for name in names} == dict(found.metrics)
    assert found.values == later.values
    assert found.samples == {"lyon": 200, "nice": 20, "paris": 5}
    assert found.nodes["paris"]["test_global_accuracy"] == later.replies["paris"].metrics["test_global_accuracy"]
    assert found.nodes["paris"]["test_global_confusion_matrix"]
    assert (found.round, found.dropped) == (2, {})
    assert [sign.phase for sign in signs if isinstance(sign, Progress)] == ["test-global"] * 3


def test_an_evaluation_disturbs_nothing(tmp_path: Path) -> None:
    finals = []
    for disturbed in (False, True):
        pool = Federation(parts())
        with experiment(pool) as exp:
            for _ in range(3):
                exp.run(1)
                if disturbed:
                    evaluated(exp, tmp_path)
                    evaluated(exp, tmp_path)
            states = {reply["state"] for reply in exp.training_replies()[2].values()}
            kept = {
                node: store.load(  # type: ignore[union-attr]
                    exp.id, exp.training_data().data()[node].dataset_id, 2, exp._acked[node].state_id
                ).values
                for node, store in pool._states.items()
            }
            finals.append((exp.params().fingerprint(), kept, states, exp.training_replies()[2]["lyon"]["metrics"]))
            assert exp.training_replies()[2]["lyon"]["attempt"] == (2 if disturbed else 0)
    assert finals[0] == finals[1]
    assert finals[0][2] == {"kept"}


def test_an_evaluation_obeys_the_strategy(tmp_path: Path) -> None:
    pool = Liar(parts())
    pool.forged = FORGERIES["not finite"][0]
    with experiment(pool) as exp:
        with pytest.raises(RoundError, match="node 'nice' rejected"):
            evaluated(exp, tmp_path)
        exp._attempt += 1
        found = evaluated(exp, tmp_path, strategy=WithoutLiars())
        assert "is not finite" in found.dropped["nice"]
        assert set(found.nodes) == {"lyon", "paris"}


def test_an_evaluation_needs_samples(tmp_path: Path) -> None:
    with experiment(args={"epochs": 1}) as exp, pytest.raises(UsageError, match="test_ratio is 0"):
        evaluated(exp, tmp_path)
    one = {"lyon": samples("lyon"), "paris": {name: array[:1] for name, array in samples("paris").items()}}
    with experiment(Federation(one)) as exp, pytest.raises(RoundError, match="No sample is held out"):
        evaluated(exp, tmp_path, nodes=("lyon", "paris"))


@pytest.mark.parametrize("transport", ["inproc", "zmq"])
def test_a_real_node_tests_without_training(tmp_path: Path, transport: str) -> None:
    """The reply without parameters travels through the worker process and the wire."""
    data = samples("nice")
    rows = "".join(f"{u!r},{v!r},{y}\n" for u, v, y in zip(*(data[n].tolist() for n in "uvy"), strict=True))
    (tmp_path / "data.csv").write_text("u,v,y\n" + rows)
    with NodeStore.create(tmp_path / "node", name="nice") as store:
        save_policy(tmp_path / "node", policy_text(approval="off"))
        store.add_dataset(inspect_file(tmp_path / "data.csv", tags=["real"], target="y")[0])
    url = f"inproc://{uuid.uuid4().hex}" if transport == "inproc" else "zmq://127.0.0.1:0"
    pool = ResearcherEndpoint(open_transport(url, default_host()), url)
    with pool, Node(tmp_path / "node", pool.address, retry=0.05) as node:
        assert node.wait_connected(60)
        pool.search(1, ("real",))
        while not isinstance(event := pool.next_event(30), DatasetsFound):
            assert isinstance(event, NodeJoined)
        plan = Schedule(
            "e", SeedTree.root(3), bundle_plan(Chance), {}, TrainingArgs.from_dict(ARGS),
            {event.node_id: event.cards[0].dataset_id}, {}, 0, 0,
        )  # fmt: skip
        start = Params.from_arrays({"w": np.array([2.0, -1.0]), "b": np.zeros(1)})
        found = evaluate(pool, plan, [event.node_id], start, number=0, spool=Spool(tmp_path, 2**24))
        plan = dataclasses.replace(plan, attempt=1)
        again = evaluate(pool, plan, [event.node_id], start, number=0, spool=Spool(tmp_path, 2**24))
    assert found.samples == {event.node_id: 20}
    assert found.metrics == again.metrics
    assert sum(map(sum, found.values["test_global_confusion_matrix"])) == 20
