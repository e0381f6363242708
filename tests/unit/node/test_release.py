from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from fedplug.core.errors import RefusedError
from fedplug.core.messages import TrainReply
from fedplug.core.metrics import TEST_AUX
from fedplug.core.params import Params
from fedplug.node.jobs import Trained
from fedplug.node.policy.schema import OPEN, Policy, TrainingRules
from fedplug.node.release import MOST_METRICS, SMALL, check_outgoing

MODEL = {"w": np.zeros((100, 100)), "b": np.zeros(100)}


@pytest.fixture
def trained(job):
    """Makes the outcome of a training of ``MODEL``, and checks what it may send."""

    def check(params=MODEL, extra=None, policy=OPEN, train=True, **reply):
        asked = job(params=Params.from_arrays(MODEL))
        if not train:
            asked = replace(asked, request=msgspec.structs.replace(asked.request, train=False))
        aux = {name: Params.from_arrays(arrays) for name, arrays in (extra or {}).items()}
        reply = {"sample_count": 3, "aux": tuple(aux), **reply}
        check_outgoing(asked, Trained(TrainReply(key=asked.key, **reply), Params.from_arrays(params), aux), policy)

    return check


def refused(check, said, **more):
    with pytest.raises(RefusedError, match=said) as caught:
        check(**more)
    assert caught.value.code == "policy"


def test_the_models_tensors_and_arrays_of_its_method_may_leave(trained):
    trained(metrics={"loss": 0.5}, extra={"control": {"w": MODEL["w"], "b": MODEL["b"]}, "scaffold": {"n": np.ones(3)}})


@pytest.mark.parametrize(
    "params",
    [
        {"w": MODEL["w"]},
        {**MODEL, "rows": np.ones(3)},
        {**MODEL, "b": np.zeros(101)},
        {**MODEL, "b": np.zeros(100, np.float32)},
        {"w": MODEL["w"], "c": MODEL["b"]},
    ],
)
def test_other_tensors_may_not(trained, params):
    refused(trained, "other tensors than those of the model", params=params)


def test_a_test_sends_no_tensors(trained):
    trained(train=False, params={})
    refused(trained, "other tensors", train=False)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"rows": {"r": np.zeros(SMALL + 1)}}, "shaped like no tensor"),
        ({"many": {f"t{n}": np.zeros((100, 100)) for n in range(20)}}, "bytes of extra arrays"),
        ({"tiny": {f"row {n}": np.zeros(1) for n in range(80)}}, "in a number"),
        ({"named": {"a" * 300: np.zeros(1)}}, "with a name that is none"),
        ({"x\x00y": {"a": np.zeros(1)}}, "with a name"),
    ],
)
def test_extra_arrays_are_bounded_in_shape_size_number_and_name(trained, extra, said):
    refused(trained, said, extra=extra)


def test_only_extra_arrays_that_a_rule_names_may_leave_if_there_is_one(trained):
    policy = Policy(training=TrainingRules(extra_arrays=("scaffold*",)))
    trained(policy=policy, extra={"scaffold.c": {"a": np.zeros(3)}, TEST_AUX: {"counts": np.zeros(3)}})
    refused(trained, "no rule allows", policy=policy, extra={"else": {"a": np.zeros(3)}})


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ({"metrics": {f"m{n}": 1.0 for n in range(MOST_METRICS + 1)}}, "too large a number"),
        ({"metrics": {"a" * 1000: 1.0}}, "with a name that is none"),
        ({"timing": {"\x1b[2J": 1.0}}, "with a name that is none"),
        ({"sample_count": 4}, "a number of samples, 4"),
        ({"sample_count": -1}, "a number of samples, -1"),
        ({"state": "x" * 1000}, "not what its arrays are"),
        ({"aux": ("ghost",)}, "not what its arrays are"),
    ],
)
def test_figures_are_bounded_in_number_and_name_and_samples_by_the_data(trained, reply, said):
    refused(trained, said, **reply)
