"""What a plan does to batches before training and to parameters after it, and what it knows of its rounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedplug import DataManager, FedplugError, NumpyTrainingPlan, Params, ProcessTypes
from fedplug.core.data import ArrayData, LoaderArgs
from fedplug.core.errors import PlanError, PlanRunError
from fedplug.core.messages import TaskKey, TrainRequest
from fedplug.core.node_dataset import NodeDataset
from fedplug.core.plan_source import PlanBundle, bundle_plan
from fedplug.core.plugins import PluginHost
from fedplug.core.processes import ProcessedSource
from fedplug.core.rng import SeedTree
from fedplug.node.training import run_task

START = Params.from_arrays({"w": np.zeros(2), "own": np.full(1, 7.0)})
HOST = PluginHost.discover()
EPS = np.finfo(np.float64).eps  # sums of at most 16 terms of one size: 64 EPS is ample


class Points(NodeDataset):
    def __init__(self):
        self.path, self.type, self.name, self.target = Path("data.csv"), "csv", "points", "y"
        rng = np.random.default_rng(4)
        self._arrays = {"a": rng.normal(size=20), "b": rng.normal(size=20)}
        self._arrays["y"] = self._arrays["a"] - self._arrays["b"]

    def arrays(self):
        return self._arrays


class Line(NumpyTrainingPlan):
    def init_model(self):
        return {"w": np.zeros(2), "own": np.full(1, 7.0)}

    def training_data(self):
        return DataManager(self.dataset.table(["a", "b"]), self.dataset.column("y"))

    def training_step(self, data, target):
        error = data @ self.model()["w"] - target
        return (error**2).mean(), {"w": 2 * data.T @ error / len(data), "own": np.zeros(1)}


SOURCE = bundle_plan(Line).source


def run(*methods: str, register: str = "", start=START, total=0, **args):
    body = SOURCE.replace("        return DataManager", f"        {register}\n        return DataManager")
    bundle = PlanBundle("Line", body + "".join(f"\n    {each}\n" for each in methods), bundle_plan(Line).dependencies)
    request = TrainRequest(
        key=TaskKey(experiment_id="e", round=2, node_id="paris"), dataset_id="d", plan_class="Line",
        training_args={"loader_args": {"batch_size": 8}, **args}, seed=1, data_seed=1, total_rounds=total,
    )  # fmt: skip
    heard = []
    reply, params, _ = run_task(request, bundle, start, {}, Points(), HOST, heard.append)
    return reply, params, heard


DOUBLED = "def doubled(self, batches):\n        for x, y in batches:\n            yield 2 * x, 2 * y"
ADDED = "def added(self, batches):\n        return ((x + 1, y) for x, y in batches)"
TESTED = {"test_ratio": 0.4, "test_on_global_updates": True, "test_on_local_updates": True}


# batches ---------------------------------------------------------------------------------------------------


def test_training_batches_go_through_the_methods_in_order_and_test_batches_do_not():
    both = "self.add_preprocess(self.doubled); self.add_preprocess(self.added, ProcessTypes.DATA_LOADER)"
    reply, params, _ = run(DOUBLED, ADDED, register=both, num_updates=1, optimizer_args={"lr": 0.1}, **TESTED)
    plain, *_ = run(num_updates=1, optimizer_args={"lr": 0.1}, **TESTED)
    assert reply.metrics["test_global_loss"] == plain.metrics["test_global_loss"]
    # The first batch of 8: x -> 2 x + 1 and y -> 2 y, and one step from w = 0.
    seeds = SeedTree.root(1)
    points = Points().arrays()
    x, y = np.column_stack([points["a"], points["b"]]), points["y"]
    kept = np.sort(SeedTree.root(1).child("split").generator().permutation(20)[8:])
    order = seeds.child("order").child("epoch", 0).generator().permutation(12)[:8]
    x, y = 2 * x[kept][order] + 1, 2 * y[kept][order]
    assert params["w"] == pytest.approx(0.1 * 2 * x.T @ y / 8, rel=64 * EPS)


def test_they_are_called_once_an_epoch():
    counted = (
        "def counted(self, batches):\n"
        "        self.epochs = getattr(self, 'epochs', 0) + 1\n"
        "        return batches"
    )  # fmt: skip
    told = (
        "def postprocess(self, params):\n        params['own'] = np.full(1, float(self.epochs))\n        return params"
    )
    reply, params, _ = run(counted, told, register="self.add_preprocess(self.counted)", epochs=3)
    assert params["own"] == 3
    assert reply.steps == 9


def test_counts_are_those_of_the_samples_that_were_drawn():
    halved = "def halved(self, batches):\n        return ((x[::2], y[::2]) for x, y in batches)"
    reply, _, heard = run(halved, register="self.add_preprocess(self.halved)", epochs=1, log_interval=1)
    assert (reply.sample_count, reply.steps) == (20, 3)
    assert [sign.samples for sign in heard] == [8, 16, 20]


def test_batches_may_be_collected_first():
    late = "def late(self, batches):\n        return list(batches)[::-1]"
    assert run(late, register="self.add_preprocess(self.late)", num_updates=2)[0].steps == 2


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("pass", "f, registered .*, must return an iterable of batches, but returned nothing"),
        ("return 3", "but returned a int"),
        ("return [x for x, y in batches]", r"must give \(data, target\) pairs, but gave a ndarray"),
        ("return list(batches)[1:]", "gave 2 batches of an epoch that has 3"),
        ("raise KeyError('no luck')", r"failed in f, line \d+: raise KeyError"),
    ],
)
def test_a_method_that_gives_something_else_is_named(body, words):
    with pytest.raises(PlanRunError, match=words):
        run(f"def f(self, batches):\n        {body}", register="self.add_preprocess(self.f)")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("self.add_preprocess(self.forward)", "no attribute 'forward'"),
        ("self.add_preprocess(3)", "needs a method, but got a int"),
        ("self.add_preprocess(print, 'data_loader')", "'data_loader' is no type of process"),
    ],
)
def test_a_registration_that_is_wrong_is_told(call, words):
    with pytest.raises(PlanRunError, match=words):
        run(register=call)


def test_a_part_of_a_processed_source_is_processed_too():
    source = ProcessedSource(ArrayData(np.arange(4.0), np.arange(4)), [lambda batches: ((-x, y) for x, y in batches)])
    part = source.subset(np.array([1, 3]))
    args = LoaderArgs(2, shuffle=False)
    (batch,) = part.epoch(args, SeedTree.root(0))
    assert batch[0].tolist() == [-1, -3]
    assert [b[0].tolist() for b in part.batches(args, None)] == [[1, 3]]
    assert part.labels().tolist() == [1, 3]
    assert len(source) == 4


# parameters ------------------------------------------------------------------------------------------------


def test_what_postprocess_returns_is_tested_and_sent():
    post = "def postprocess(self, params):\n        return {name: np.full_like(a, 2.0) for name, a in params.items()}"
    reply, params, _ = run(post, **TESTED)
    assert params["w"].tolist() == [2, 2]
    points = Points().arrays()
    held_out = SeedTree.root(1).child("split").generator().permutation(20)[:8]
    error = (2 * points["a"] + 2 * points["b"] - points["y"])[held_out]
    assert reply.metrics["test_local_loss"] == pytest.approx((error**2).mean(), rel=64 * EPS)


def test_methods_for_parameters_come_before_postprocess_and_get_copies():
    spoil = "def spoil(self, params):\n        params['w'] += 1\n        return {**params, 'own': params['own'] + 1}"
    post = (
        "def postprocess(self, params):\n        assert params['own'] == 8\n        return {**params, 'w': np.zeros(2)}"
    )
    _, params, _ = run(spoil, post, register="self.add_preprocess(self.spoil, ProcessTypes.PARAMS)")
    assert (params["own"], params["w"].tolist()) == (8, [0, 0])


def test_a_postprocess_that_keeps_a_reference_changes_nothing():
    post = "def postprocess(self, params):\n        params['w'] += 5\n        return dict(self.model())"
    assert run(post)[1] == run()[1]


def test_local_parameters_are_not_shown():
    tags = "def tag_parameters(self, name):\n        return {'local'} if name == 'own' else set()"
    post = "def postprocess(self, params):\n        assert list(params) == ['w']\n        return params"
    start = Params.from_arrays({"w": np.zeros(2)})
    assert list(run(tags, post, start=start)[1]) == ["w"]


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ("None", "postprocess must return a dict of parameters by name, but returned nothing"),
        ("{'w': params['w']}", "postprocess left out 'own'"),
        ("{**params, 'z': params['w']}", "postprocess returned, without the model having it, 'z'"),
        ("{**params, 'w': params['w'][:1]}", r"returned 'w' as ndarray of shape \(1,\).* the model has shape \(2,\)"),
        ("{**params, 'w': params['w'].astype('float32')}", "and dtype float32; the model has shape"),
        ("{**params, 'w': [1.0, 2.0]}", "returned 'w' as list"),
        ("1 / 0", r"failed in postprocess, line \d+: return 1 / 0"),
    ],
)
def test_a_postprocess_that_returns_something_else_is_told(result, words):
    with pytest.raises(PlanRunError, match=words):
        run(f"def postprocess(self, params):\n        return {result}")


def test_process_types_are_what_the_page_says():
    assert [each.name for each in ProcessTypes] == ["DATA_LOADER", "PARAMS"]


# rounds and helpers ----------------------------------------------------------------------------------------


def test_a_plan_knows_how_many_rounds_there_are():
    post = "def postprocess(self, params):\n        return {**params, 'own': np.full(1, float(self.total_rounds()))}"
    assert run(post, total=30)[1]["own"] == 30
    assert run(post)[1]["own"] == 0
    with pytest.raises(PlanError, match=r"node, round\) is not available yet"):
        Line().total_rounds()


def test_an_error_in_a_helper_module_is_the_plans_own():
    step = "        from my_maths import gradient\n        return gradient(data)\n"
    source = SOURCE[: SOURCE.index("        error = data")] + step
    helper = "def gradient(data):\n    return _inner(data)\n\n\ndef _inner(data):\n    raise ValueError('no luck')\n"
    bundle = PlanBundle("Line", source, bundle_plan(Line).dependencies, {"my_maths": helper})
    request = TrainRequest(key=TaskKey(experiment_id="e", round=0, node_id="a"), dataset_id="d", plan_class="Line")
    with pytest.raises(FedplugError) as caught:
        run_task(request, bundle, START, {}, Points(), HOST, lambda sign: None)
    assert isinstance(caught.value, PlanRunError)
    assert caught.value.message == (
        "Training plan 'Line' failed in my_maths._inner, line 6: raise ValueError('no luck') "
        "(called by training_step)\nValueError: no luck"
    )
    assert "return gradient(data)" in caught.value.details
    assert "return _inner(data)" in caught.value.details
