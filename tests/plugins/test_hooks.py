"""Each hook fires, through its method of the host."""

from __future__ import annotations

import types

import numpy as np
import pytest

from fedplug import Component, DataManager, Params, RoundContext, RoundResult, hookimpl
from fedplug.core.cohort import NotStacked
from fedplug.core.data import ArrayData
from fedplug.core.errors import DatasetError, PluginError, UsageError
from fedplug.core.hookspecs import HOOK_KINDS, Deny
from fedplug.core.messages import DatasetCard, TaskKey, TrainRequest
from fedplug.core.plan_source import PlanBundle
from fedplug.core.plugins import PluginHost
from fedplug.core.trainer import TrainerInfo, hook
from fedplug.core.training_args import TrainingArgs


@pytest.fixture
def host(monkeypatch):
    monkeypatch.delenv("FEDPLUG_PLUGINS", raising=False)
    return PluginHost.discover(found=[])


def add(host, name="mine", **functions):
    record = host.register(types.SimpleNamespace(**functions), name)
    assert record.state == "ok", record.error


def offers(host, hook, kind):
    """What ``host`` knows after a plugin answered ``hook`` with a component."""
    add(host, **{hook: hookimpl(lambda: [Component("thing", int, "A thing.", {"base": "of the number"})])})
    return host.component(kind, "thing")


def test_hook_fedplug_register_training_plans(host):
    assert offers(host, "fedplug_register_training_plans", "training_plan") is int


def test_hook_fedplug_register_aggregators(host):
    assert offers(host, "fedplug_register_aggregators", "aggregator") is int


def test_hook_fedplug_register_agg_optimizers(host):
    assert offers(host, "fedplug_register_agg_optimizers", "agg_optimizer") is int


def test_hook_fedplug_register_strategies(host):
    assert offers(host, "fedplug_register_strategies", "strategy") is int


def test_hook_fedplug_register_data_managers(host):
    assert offers(host, "fedplug_register_data_managers", "data_manager") is int


def test_hook_fedplug_register_dataset_types(host):
    assert offers(host, "fedplug_register_dataset_types", "dataset_type") is int


def test_hook_fedplug_register_transports(host):
    assert offers(host, "fedplug_register_transports", "transport") is int


def test_hook_fedplug_register_metrics(host):
    assert offers(host, "fedplug_register_metrics", "metric") is int


def test_hook_fedplug_register_engines(host):
    assert offers(host, "fedplug_register_engines", "engine") is int


def test_hook_fedplug_trainer_hooks(host):
    @hook("on_fit_end")
    def noise(ctx):
        pass

    asked = []
    add(host, "zebra", fedplug_trainer_hooks=hookimpl(lambda info: [asked.append(info), noise][1:]))
    add(host, "ape", fedplug_trainer_hooks=hookimpl(lambda: [noise]))
    info = TrainerInfo("torch", round=3)
    assert host.trainer_hooks(info) == {"ape": [noise], "zebra": [noise]}
    assert asked == [info]
    assert list(host.trainer_hooks(info, plugin="ape")) == ["ape"]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (lambda: 1 / 0, "raised ZeroDivisionError: division by zero in fedplug_trainer_hooks"),
        (lambda: [print], "gave a builtin_function_or_method that is no Hook"),
    ],
)
def test_a_training_does_not_go_on_without_the_hooks_of_a_plugin_that_fails(host, answer, problem):
    add(host, "wrong", fedplug_trainer_hooks=hookimpl(answer))
    with pytest.raises(PluginError, match=problem) as caught:
        host.trainer_hooks(TrainerInfo())
    assert caught.value.plugin == "wrong"


def test_hook_fedplug_wrap_model(host):
    class Net:
        pass

    bundle = PlanBundle("Plan", "class Plan: pass")
    add(host, fedplug_wrap_model=hookimpl(lambda model: bundle if model is Net else None))
    assert host.wrap_model(Net) is bundle
    with pytest.raises(UsageError, match=r"builtins\.dict is no training plan"):
        host.wrap_model(dict)


def test_hook_fedplug_wrap_data(host):
    source = ArrayData(np.zeros((4, 2)))
    add(host, fedplug_wrap_data=hookimpl(lambda manager, framework: source if framework == "mine" else None))
    assert host.wrap_data(DataManager([1]), "mine") is source
    with pytest.raises(UsageError, match=r"'torch' training plans\.\n.*pip install 'fedplug\[torch\]'"):
        host.wrap_data(DataManager([1]), "torch")


def test_hook_fedplug_authorise_training(host):
    request = TrainRequest(key=TaskKey(experiment_id="e", round=0, node_id="n"), dataset_id="ds-1", plan_class="Plan")
    plan = PlanBundle("Plan", "class Plan: pass")
    card = DatasetCard(dataset_id="ds-1", name="patients", type="csv", tags=(), shape=(9, 2))
    heard = []
    add(host, "ape", fedplug_authorise_training=hookimpl(lambda request, plan: heard.append((request, plan))))
    assert host.authorise_training(request, plan, card) is None
    add(host, "zebra", fedplug_authorise_training=hookimpl(lambda dataset: Deny(f"Not {dataset.name}.")))
    assert host.authorise_training(request, plan, card) == Deny("Not patients.", "zebra")
    assert heard == [(request, plan)]


def test_hook_fedplug_round_start(host):
    heard = []
    add(host, fedplug_round_start=hookimpl(lambda ctx, node_ids: heard.append((ctx, node_ids))))
    ctx = RoundContext("experiment", 3)
    host.round_start(ctx, ["a", "b"])
    assert heard == [(ctx, ("a", "b"))]


def test_hook_fedplug_round_end(host):
    heard = []
    add(host, fedplug_round_end=hookimpl(lambda result: heard.append(result) or None))
    result = RoundResult(Params.from_arrays({"w": 1.0}), {}, {}, {"loss": 0.5}, 1.0)
    host.round_end(RoundContext(), result)
    assert heard == [result]


def test_every_hook_has_such_a_test():
    assert {f"test_hook_{name}" for name in HOOK_KINDS} <= set(globals())


def test_the_core_is_asked_last(host):
    """A plugin can serve NumPy data itself; without one, the core does."""
    assert isinstance(host.wrap_data(DataManager(np.zeros((3, 1))), "numpy"), ArrayData)
    other = ArrayData(np.ones((2, 2)))
    add(host, fedplug_wrap_data=hookimpl(lambda framework: other))
    assert host.wrap_data(DataManager(np.zeros((3, 1))), "numpy") is other


def test_plugins_are_asked_in_the_order_of_their_names(fake_plugins):
    for name in ("b", "c", "a"):
        source = f"@hookimpl\ndef fedplug_round_start(ctx):\n    ctx.append({name!r})\n"
        fake_plugins.add(name, source)
    heard = []
    fake_plugins.host().round_start(heard, [])
    assert heard == ["a", "b", "c"]


def test_hook_fedplug_train_cohort(host):
    plan, args, asked = types.SimpleNamespace(framework="mine"), TrainingArgs(), []
    assert host.train_cohort(plan, args).reason == "no plugin trains several nodes of framework 'mine' at once"
    answer = NotStacked("it cannot be")
    add(
        host,
        fedplug_train_cohort=hookimpl(lambda plan, args, compiled: [asked.append((plan, args, compiled)), answer][1]),
    )
    assert host.train_cohort(plan, args, compiled=True) is answer
    assert asked == [(plan, args, True)]
    add(host, "wrong", fedplug_train_cohort=hookimpl(lambda plan: "no", tryfirst=True))
    with pytest.raises(PluginError, match="Plugin 'wrong' returned str, not CohortAnswer in fedplug_train_cohort"):
        host.train_cohort(plan, args)


def test_wrap_data_that_returns_nonsense_names_the_plugin(host):
    add(host, fedplug_wrap_data=hookimpl(lambda framework: [1, 2]))
    with pytest.raises(PluginError, match="Plugin 'mine' returned list, not BatchSource in fedplug_wrap_data"):
        host.wrap_data(DataManager([1]), "numpy")


def test_numpy_plans_get_pandas_data_as_arrays(host):
    import pandas as pd

    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    source = host.wrap_data(DataManager({"x": [frame, frame["a"]]}, frame["b"]), "numpy")
    assert isinstance(source.data["x"][0], np.ndarray)
    np.testing.assert_array_equal(source.data["x"][0], [[1.0, 3.0], [2.0, 4.0]])
    np.testing.assert_array_equal(source.labels(), [3.0, 4.0])


def test_numpy_plans_refuse_what_is_no_array(host):
    with pytest.raises(DatasetError, match="cannot draw batches from str"):
        host.wrap_data(DataManager("text"), "numpy")
