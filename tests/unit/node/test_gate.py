"""The gate asks the plugins of the node after the owner's rules, and before anything is charged."""

from __future__ import annotations

import types

import numpy as np
import pytest

from fedplug import hookimpl
from fedplug.core.errors import RefusedError
from fedplug.core.hookspecs import Deny
from fedplug.core.link import TaskReceived
from fedplug.core.messages import TaskKey, TrainRequest
from fedplug.core.params import Params
from fedplug.core.plan_source import PlanBundle
from fedplug.core.plugins import PluginHost
from fedplug.node.datasets.memory import MemoryDataset
from fedplug.node.gate import Gate
from fedplug.node.policy.budget import Accounted, Budget
from fedplug.node.policy.file import parse_policy
from fedplug.node.store import NodeStore

DATASET = MemoryDataset("patients", {"x": np.zeros(100)}, tags=["wards"])
LOCAL = {"type": "local", "sigma": 5.0, "clip": 1.0}
OFF = '[approval]\nmode = "off"\n'


@pytest.fixture
def store():
    with NodeStore.in_memory() as store:
        yield store


def gate(store, text="", answer=None):
    policy, problems = parse_policy(OFF + text)
    assert problems == []
    host = PluginHost()
    if answer:
        plugin = types.SimpleNamespace(fedplug_authorise_training=hookimpl(answer))
        assert host.register(plugin, "hours").state == "ok"
    return Gate(store, lambda: policy, host)


def task(**args):
    key = TaskKey(experiment_id="e", round=0, node_id="n")
    request = TrainRequest(key=key, dataset_id="patients", plan_class="P", training_args=args)
    return TaskReceived(request, PlanBundle("P", "class P: pass"), Params.from_arrays({"w": np.zeros(1)}))


def test_a_plugin_sees_the_request_the_plan_and_the_card_and_its_reason_is_told(store):
    seen = []

    def answer(request, plan, dataset):
        seen.append((request, plan, dataset))
        return Deny("At night only.")

    asked = task()
    with pytest.raises(RefusedError, match="Plugin 'hours' of this node refuses this: At night only") as caught:
        gate(store, answer=answer).admit(asked, DATASET)
    assert caught.value.code == "policy"
    assert seen == [(asked.request, asked.plan, DATASET.card())]
    assert store.read("SELECT count(*) FROM charges") == [(0,)]


def test_what_a_plugin_raises_refuses_and_stays_in_the_log(store, caplog):
    def answer():
        raise OSError("/srv/secret/patients.csv is gone")

    with pytest.raises(RefusedError, match="counts as a no") as caught:
        gate(store, answer=answer).admit(task(), DATASET)
    assert "secret" not in str(caught.value)
    assert "/srv/secret/patients.csv" in caplog.text


def test_a_plugin_can_undo_no_rule(store):
    asked = []
    with pytest.raises(RefusedError, match="minimum_rows"):
        gate(store, "[training]\nminimum_rows = 101\n", answer=lambda: asked.append(1)).admit(task(), DATASET)
    assert asked == []


def test_what_was_checked_and_what_was_charged_both_bind_the_plan(store):
    text = "[training]\nminimum_rows = 10\n[training.arguments]\nepochs = { max = 3 }\n[privacy]\nepsilon = 50.0\n"
    terms = gate(store, text).admit(task(dp_args=LOCAL), DATASET)
    assert [limit.name for limit in terms.limits] == ["epochs"]
    assert terms.minimum_rows == 10
    assert terms.account == Accounted(32, 100, "rule privacy.epsilon")
    assert Budget(store, parse_policy(text)[0]).report()[0].rounds == 1


def test_what_cannot_begin_is_not_charged(store):
    def refuse():
        raise RefusedError("This node has begun this task before.", code="interrupted")

    with pytest.raises(RefusedError, match="begun this task before"):
        gate(store).admit(task(), DATASET, refuse)
    assert store.read("SELECT count(*) FROM charges") == [(0,)]
    begun = []
    gate(store).admit(task(), DATASET, lambda: begun.append(store.read("SELECT count(*) FROM charges")))
    assert begun == [[(1,)]]
