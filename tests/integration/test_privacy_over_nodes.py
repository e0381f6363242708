"""Differential privacy from the experiment to the nodes and back: it is in force, it is told, and it still learns."""

from __future__ import annotations

import hashlib
import math
import runpy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_breast_cancer
from torch import nn

from fedplug import DataManager, Decision, DefaultStrategy, Experiment, NumpyTrainingPlan, ProcessTypes
from fedplug.core.errors import PlanError, RoundError, UsageError
from fedplug.core.messages import TaskKey, TrainReply
from fedplug.core.monitor import Monitor
from fedplug.core.params import Params
from fedplug.core.privacy_ledger import gaussian_epsilon
from fedplug.node import Node, NodeStore
from fedplug.node.datasets.memory import MemoryDataset
from fedplug.node.datasets.registry import inspect_file
from fedplug.node.policy.file import save_policy
from fedplug.node.policy.template import policy_text
from fedplug.node.privacy import node_secret
from fedplug.simulation import Federation
from fedplug.transports import inproc
from fedplug_torch import TorchTrainingPlan
from fedplug_torch.privacy import spent_epsilon

NODES = ("lyon", "nice", "paris")
LOCAL = {"type": "local", "sigma": 1.5, "clip": 1.0}
MEDIAN = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "fedplug-median" / "fedplug_median.py"))["Median"]


class Cancer(TorchTrainingPlan):
    def init_model(self):
        return nn.Sequential(nn.Linear(30, 8), nn.Tanh(), nn.Linear(8, 2))

    def init_optimizer(self, optimizer_args):
        return torch.optim.SGD(self.model().parameters(), **optimizer_args)

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        return F.cross_entropy(self.forward(data), target)


class Normed(TorchTrainingPlan):
    def init_model(self):
        return nn.Sequential(nn.Linear(30, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        return F.cross_entropy(self.forward(data), target)


class Slope(NumpyTrainingPlan):
    def init_model(self):
        return {"w": np.zeros(30)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        error = 1 / (1 + np.exp(-data @ self.model()["w"])) - target
        return float((error**2).mean()), {"w": data.T @ error / len(target)}


def split() -> tuple[dict[str, tuple[Any, Any]], tuple[Any, Any]]:
    """Return the parts of three nodes, and what none of them has."""
    x, y = load_breast_cancer(return_X_y=True)
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(x))
    held_out, rest = order[:119], order[119:]
    cuts = np.array_split(rest, 3)
    return {node: (x[part], y[part]) for node, part in zip(NODES, cuts, strict=True)}, (x[held_out], y[held_out])


PARTS, (TEST_X, TEST_Y) = split()


def experiment(transport: Any = None, plan: type = Cancer, seed: int = 11, **args: Any) -> Experiment:
    more = {name: args.pop(name) for name in ("aggregator", "tags") if name in args}
    args = {"loader_args": {"batch_size": 25}, "optimizer_args": {"lr": 0.5}, **args}
    return Experiment(
        training_plan_class=plan, training_args=args, transport=transport or Federation(PARTS), seed=seed,
        progress="quiet", min_nodes=3, connect_timeout=60, **{"tags": "simulation", **more},
    )  # fmt: skip


def trained(rounds: int = 2, **args: Any) -> tuple[Params, Experiment]:
    with experiment(**args) as exp:
        exp.run(rounds)
        return exp.params(), exp


def accuracy(exp: Experiment) -> float:
    model = exp.training_plan().model().eval()
    with torch.no_grad():
        return float((model(torch.tensor(TEST_X)).argmax(1).numpy() == TEST_Y).mean())


# the same as without -----------------------------------------------------------------------------------------


def test_privacy_without_noise_clipping_and_sampling_changes_nothing():
    plain, _ = trained()
    central, _ = trained(dp_args={"type": "central", "sigma": 0, "clip": 1e9})
    local, _ = trained(dp_args={"type": "local", "sigma": 0, "clip": 1e9, "poisson": False})
    assert central == plain
    # Two rounds of 6 steps; the samples' gradients are added in another order. See test_torch_privacy.
    assert local.allclose(plain, atol=12 * 32 * 4 * 2.0**-24 * 0.5)


# it still learns ---------------------------------------------------------------------------------------------


def test_local_privacy_learns_and_tells_what_it_cost():
    _, exp = trained(rounds=4, epochs=2, dp_args=LOCAL)
    assert accuracy(exp) > 0.85  # 0.63 is the larger class; without privacy it is above 0.95
    report = exp.privacy()
    assert sorted(report) == list(NODES)
    for node, told in report.items():
        replies = [replies[node]["metrics"] for replies in exp.training_replies().values()]
        spent = [metrics["dp_epsilon"] for metrics in replies]
        assert spent == sorted(spent)
        assert told == {
            "type": "local", "epsilon": spent[-1], "delta": 1e-5, "sample_rate": 25 / len(PARTS[node][0]), "rounds": 4
        }  # fmt: skip
        assert 0 < spent[0] < spent[-1] < 10


def test_central_privacy_learns_and_tells_what_it_cost():
    args = {"dp_args": {"type": "central", "sigma": 1.0, "clip": 0.5}, "epochs": 2}
    _, exp = trained(rounds=4, **args)
    assert accuracy(exp) > 0.8
    for told in exp.privacy().values():
        assert told["epsilon"] == gaussian_epsilon([(1.0, 4)], 1e-5)
        assert (told["type"], told["sample_rate"], told["rounds"]) == ("central", 1.0, 4)


def test_central_privacy_needs_no_framework():
    args = {"plan": Slope, "seed": 3}
    plain, _ = trained(**args)
    noisy, exp = trained(**args, dp_args={"sigma": 1.0, "clip": 0.1})
    again, _ = trained(**args, dp_args={"sigma": 1.0, "clip": 0.1})
    assert noisy == again
    assert noisy != plain
    assert math.isfinite(exp.privacy()["lyon"]["epsilon"])


def test_a_simulation_repeats_with_its_seed():
    one, two = trained(dp_args=LOCAL), trained(dp_args=LOCAL)
    assert one[0] == two[0]
    assert one[1].privacy() == two[1].privacy()
    assert trained(dp_args=LOCAL, seed=12)[0] != one[0]


def test_turning_privacy_on_late_is_told():
    with experiment() as exp:
        exp.run(1)
        assert exp.privacy() == {}
        exp.set_training_args({**exp.training_args(), "dp_args": LOCAL})
        exp.run(1)
        told = exp.privacy()["lyon"]
    assert told["epsilon"] == math.inf
    assert "without differential privacy" in told["reason"]


# refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "error", "reason"),
    [
        ({"plan": Slope, "dp_args": LOCAL}, UsageError, "Plans of framework 'numpy' cannot"),
        ({"plan": Normed, "dp_args": LOCAL}, PlanError, "BatchNorm cannot support training with differential"),
        ({"plan": Normed, "dp_args": {"sigma": 1, "clip": 1}}, UsageError, "num_batches_tracked' is int64"),
        ({"aggregator": MEDIAN(), "dp_args": {"sigma": 1, "clip": 1}}, UsageError, "Median cannot be used"),
    ],
    ids=["numpy", "batch-norm", "integers", "aggregator"],
)
def test_what_cannot_be_protected_is_refused_before_anything_is_sent(args, error, reason):
    federation = Federation(PARTS)
    federation.train = lambda *_, **__: pytest.fail("a node was asked")  # type: ignore[method-assign]
    with experiment(federation, **args) as exp:
        before = exp.params()
        with pytest.raises(error, match=reason) as caught:
            exp.run(1)
        assert caught.value.cure
        assert exp.round_current() == 0
        assert exp.params() == before


# real nodes --------------------------------------------------------------------------------------------------


@contextmanager
def real_nodes(url: str, salt: str) -> Iterator[dict[str, NodeStore]]:
    """Start nodes whose secrets are drawn beforehand, so that the outcome of a test does not hang on luck."""
    with ExitStack() as stack:
        stores = {}
        for node in NODES:
            store = stores[node] = stack.enter_context(NodeStore.in_memory(node, node_id=node))
            with store.transaction() as db:
                db.execute("INSERT INTO secret VALUES (1, ?)", (hashlib.sha256(f"{salt}{node}".encode()).digest(),))
            data = MemoryDataset(
                f"{node}-data", {"x": PARTS[node][0], "y": PARTS[node][1]}, tags=["cancer"], target="y"
            )
            stack.enter_context(Node(store, url, worker="inline", datasets=[data], retry=0.1))
        yield stores


def on_real_nodes(url: str, salt: str = "", **args: Any) -> tuple[Params, Experiment, dict[str, bytes]]:
    with real_nodes(url, salt) as stores, experiment(url, tags="cancer", **args) as exp:
        exp.run(3)
        return exp.params(), exp, {node: node_secret(store) for node, store in stores.items()}


def test_real_nodes_draw_noise_that_the_researcher_cannot_know(inproc_url, monkeypatch):
    sent: list[bytes] = []
    send = inproc._send

    def noting(to: Any, way: Any, traffic: Any, frame: Any) -> bool:
        sent.append(bytes(frame.header) + bytes(frame.body))
        return send(to, way, traffic, frame)

    monkeypatch.setattr(inproc, "_send", noting)
    params, exp, secrets = on_real_nodes(inproc_url, epochs=2, dp_args=LOCAL)
    assert accuracy(exp) > 0.8
    told = exp.privacy()
    assert all(0 < each["epsilon"] < 10 and each["rounds"] == 3 for each in told.values())
    assert len(set(secrets.values())) == 3
    everything = b"".join(sent)
    assert b"dp_epsilon" in everything  # it is what went to and fro
    for secret in secrets.values():
        assert secret not in everything
        assert secret.hex().encode() not in everything
    # The same experiment with the same seed, elsewhere: all that the researcher knows gives other noise.
    assert params != on_real_nodes(f"{inproc_url}-2", "elsewhere", epochs=2, dp_args=LOCAL)[0]
    assert params != trained(rounds=3, epochs=2, dp_args=LOCAL)[0]


def test_central_privacy_on_real_nodes_is_the_same_as_in_a_simulation(inproc_url):
    args = {"epochs": 2, "dp_args": {"type": "central", "sigma": 0.5, "clip": 0.5}}
    params, exp, _ = on_real_nodes(inproc_url, **args)
    assert params == trained(rounds=3, **args)[0]
    assert exp.privacy()["nice"]["epsilon"] == gaussian_epsilon([(0.5, 3)], 1e-5)


def test_a_round_that_is_tried_again_ends_with_the_same_bits(monkeypatch):
    federation = Federation(PARTS)
    run, failing = federation._engine.run, ["paris"]

    def sometimes(task, emit):
        key = task.request.key
        if key.round == 1 and key.node_id in failing:
            failing.remove(key.node_id)
            raise UsageError("The power has failed.")
        return run(task, emit)

    monkeypatch.setattr(federation._engine, "run", sometimes)
    with experiment(federation, dp_args=LOCAL) as exp:
        with pytest.raises(RoundError, match="power"):
            exp.run(2)
        exp.run(1)
        undisturbed, other = trained(dp_args=LOCAL)
        assert exp.params() == undisturbed
        assert exp.privacy() == other.privacy()


# processes and restarts --------------------------------------------------------------------------------------


class Trapped(TorchTrainingPlan):
    """Dies once at the node and in the round for which there is a trap."""

    def init_dependencies(self) -> list[str]:
        return ["import os", "from pathlib import Path"]

    def init_model(self, model_args):
        return nn.Linear(30, 2)

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        trap = Path(self.model_args()["trap"], f"{self.node_id()}-{self.round()}")
        if trap.exists():
            trap.unlink()
            os._exit(5)  # noqa: F821
        return F.cross_entropy(self.forward(data), target)


class HearsAll(DefaultStrategy):
    """Gives a round up only when it has heard of every node."""

    def judge(self, ctx, state):
        return super().judge(ctx, state) if len(state.outcomes) == len(state.selected) else Decision("wait")


class Replies(Monitor):
    def __init__(self) -> None:
        self.heard: list[tuple[TaskKey, dict[str, float]]] = []

    def replied(self, node_id: str, reply: TrainReply) -> None:
        self.heard.append((reply.key, reply.metrics))


@pytest.mark.slow
def test_the_account_and_the_noise_survive_crashes_and_restarts(inproc_url, tmp_path):
    names = NODES[:2]
    for node in names:
        np.savez(tmp_path / f"{node}.npz", x=PARTS[node][0], y=PARTS[node][1])
        with NodeStore.create(tmp_path / node, name=node, node_id=node) as store:
            save_policy(tmp_path / node, policy_text(approval="off").replace('isolation = "best"', 'isolation = "off"'))
            store.add_dataset(inspect_file(tmp_path / f"{node}.npz", tags=["cancer"], target="y")[0])
    replies = Replies()
    with Experiment(
        training_plan_class=Trapped, model_args={"trap": str(tmp_path)}, transport=inproc_url, min_nodes=2, seed=1,
        progress="quiet", training_args={"loader_args": {"batch_size": 25}, "dp_args": LOCAL}, connect_timeout=60,
        node_selection_strategy=HearsAll,
    ) as exp:  # fmt: skip
        exp.add_monitor(replies)
        exp.pool()
        (tmp_path / "nice-1").touch()
        with ExitStack() as stack:
            for node in names:
                stack.enter_context(Node(tmp_path / node, inproc_url, retry=0.05))
            exp.set_tags("cancer")
            with pytest.raises(RoundError, match="exit code 5"):
                exp.run(2)
        with ExitStack() as stack:  # the nodes start anew, and with them their stores
            for node in names:
                assert stack.enter_context(Node(tmp_path / node, inproc_url, retry=0.05)).wait_connected(60)
            exp.run(1)
    first, again = [metrics for key, metrics in replies.heard if (key.node_id, key.round) == ("lyon", 1)]
    assert first == again  # the loss of noisy steps, to the last bit: the same request has the same noise
    rate = 25 / len(PARTS["lyon"][0])
    steps = math.ceil(1 / rate)
    assert exp.privacy()["lyon"]["epsilon"] == spent_epsilon([[1.5, rate, 2 * steps]], 1e-5)


# together with the rest --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dp_args", [LOCAL, {"type": "central", "sigma": 1.0, "clip": 0.5}])
def test_tests_and_breakpoints_go_together_with_privacy(dp_args: dict[str, Any]) -> None:
    args = {"dp_args": dp_args, "test_ratio": 0.2, "test_metric": "accuracy", "test_on_global_updates": True}
    with experiment(**args) as whole:
        whole.run(3)
        tested = whole.evaluate()
    assert 0.5 < tested.metrics["test_global_accuracy"] <= 1
    federation = Federation(PARTS)
    with experiment(transport=federation, **args) as first:
        first.set_save_breakpoints(True)
        first.run(2)
        spent = first.privacy()
    with Experiment.load_breakpoint(first.experimentation_path(), transport=federation, progress="quiet") as second:
        assert second.privacy() == spent
        second.run(1)
        assert second.params() == whole.params()
        assert second.privacy() == whole.privacy()


class Mixing(TorchTrainingPlan):
    def mix(self, batches):
        for data, target in batches:
            yield data - data.mean(0), target

    def init_model(self):
        return nn.Linear(30, 2)

    def training_data(self):
        self.add_preprocess(self.mix, ProcessTypes.DATA_LOADER)
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        return F.cross_entropy(self.forward(data), target)


def test_batches_that_a_plan_mixes_cannot_be_protected_sample_by_sample() -> None:
    with experiment(plan=Mixing, dp_args=LOCAL) as exp, pytest.raises(RoundError, match="may mix samples") as caught:
        exp.run(1)
    assert "Prepare the samples one by one in training_data" in str(caught.value)
    assert trained(plan=Mixing, rounds=1, dp_args={"sigma": 1.0, "clip": 1.0})[1].privacy()["lyon"]["rounds"] == 1


class Written(TorchTrainingPlan):
    """Sends rows of its data as weights."""

    def init_model(self):
        return nn.Linear(30, 2)

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        return F.cross_entropy(self.forward(data), target)

    def postprocess(self, params):
        return {**params, "weight": torch.tensor(self.dataset.column("x")[:2])}


class Registered(TorchTrainingPlan):
    def init_model(self):
        return nn.Linear(30, 2)

    def training_data(self):
        self.add_preprocess(self.write, ProcessTypes.PARAMS)
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        return F.cross_entropy(self.forward(data), target)

    def write(self, params):
        return params


@pytest.mark.parametrize(("plan", "method"), [(Written, "postprocess"), (Registered, "write")])
def test_parameters_that_a_plan_changes_after_training_are_refused_with_local_privacy_only(plan, method) -> None:
    with (
        experiment(plan=plan, dp_args=LOCAL) as exp,
        pytest.raises(RoundError, match=f"but {method} changes") as caught,
    ):
        exp.run(1)
    assert "type 'central'" in str(caught.value)
    assert exp.privacy() == {}
    assert math.isfinite(
        trained(plan=plan, rounds=1, dp_args={"sigma": 1.0, "clip": 1.0})[1].privacy()["lyon"]["epsilon"]
    )


# what was published stays published --------------------------------------------------------------------------


CENTRAL = {"type": "central", "sigma": 1.0, "clip": 0.5}


@pytest.mark.parametrize("dp_args", [LOCAL, CENTRAL], ids=["local", "central"])
def test_going_back_to_a_breakpoint_takes_nothing_back(dp_args: dict[str, Any]) -> None:
    federation = Federation(PARTS)
    with experiment(federation, dp_args=dp_args) as first:
        first.set_save_breakpoints(True)
        first.run(4)
        spent, params = first.privacy(), first.params()
    folder = first.experimentation_path()
    assert (folder / "privacy.json").is_file()

    # The same way again tells nothing new.
    with Experiment.load_breakpoint(folder / "breakpoint_0003", transport=federation, progress="quiet") as again:
        assert again.privacy() == spent
        again.run(1)
        assert again.params() == params
        assert again.privacy() == spent

    # Another way does.
    with Experiment.load_breakpoint(folder / "breakpoint_0003", transport=federation, progress="quiet") as other:
        other.set_training_args({**other.training_args(), "optimizer_args": {"lr": 0.1}})
        other.run(1)
        told = other.privacy()["lyon"]
        assert told["rounds"] == 5
        if dp_args is CENTRAL:
            assert told["epsilon"] == gaussian_epsilon([(1.0, 5)], 1e-5)
        else:
            assert told["epsilon"] == math.inf
            assert told["reason"] == "round 4 was run twice, with different results"
    with Experiment.load_breakpoint(folder / "breakpoint_0001", transport=federation, progress="quiet") as third:
        assert third.privacy()["lyon"] == told


def test_an_account_that_its_node_has_lost_says_so() -> None:
    with experiment(dp_args=LOCAL) as first:
        first.set_save_breakpoints(True)
        first.run(1)
    forgetful = Federation(PARTS)
    with Experiment.load_breakpoint(first.experimentation_path(), transport=forgetful, progress="quiet") as second:
        second.run(1)
        told = second.privacy()["lyon"]
    assert told["epsilon"] == math.inf
    assert told["reason"] == "the node's account was lost; see its log"


class Stopping(Monitor):
    """Presses Ctrl-C when the second reply of a round has come."""

    def __init__(self) -> None:
        self.left = 2

    def replied(self, node_id: str, reply: TrainReply) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("changed", [False, True])
def test_updates_of_a_round_that_was_stopped_are_not_forgotten(changed: bool) -> None:
    with experiment(dp_args=LOCAL) as exp:
        exp.add_monitor(Stopping())
        with pytest.raises(KeyboardInterrupt):
            exp.run(1)
        begun = exp.privacy()
        assert len(begun) == 2
        assert all(math.isfinite(each["epsilon"]) and each["rounds"] == 0 for each in begun.values())
        assert (exp.experimentation_path() / "privacy.json").is_file()
        if changed:
            exp.set_training_args({**exp.training_args(), "optimizer_args": {"lr": 0.1}})
        exp.run(1)
        told = exp.privacy()
    assert len(told) == 3
    for node in told:
        assert math.isinf(told[node]["epsilon"]) == (changed and node in begun)
    if changed:
        assert all("in a round that was not completed" in told[node]["reason"] for node in begun)
    else:
        assert told == trained(rounds=1, dp_args=LOCAL)[1].privacy()


def test_a_model_that_is_set_anew_takes_nothing_back() -> None:
    with experiment(dp_args=LOCAL) as exp:
        exp.run(1)
        spent = exp.privacy()
        exp.set_training_plan_class(Cancer, keep_weights=False)
        assert exp.privacy() == spent  # that of the model before, and still true
        exp.run(1)
        assert "set anew" in exp.privacy()["lyon"]["reason"]
    with experiment(dp_args=CENTRAL) as exp:
        exp.run(1)
        exp.set_training_plan_class(Cancer, keep_weights=False)
        exp.run(1)
        assert exp.privacy()["lyon"]["epsilon"] == gaussian_epsilon([(1.0, 2)], 1e-5)
