"""Which parameters are shared, local or persistent, and how a plan says so."""

from __future__ import annotations

import numpy as np
import pytest

from fedplug import DataManager, NumpyTrainingPlan, Params
from fedplug.core.errors import ParamsError, PlanError
from fedplug.core.param_tags import ParamTags, matches
from fedplug.core.training_args import TrainingArgs
from fedplug.core.training_plan import PlanSetup

NAMES = {"body.w": False, "bn.w": False, "bn.mean": True, "subnet.w": False}


@pytest.mark.parametrize(
    ("name", "patterns", "expected"),
    [
        ("bn.w", ["bn"], False),
        ("bn.w", ["bn.*"], True),
        ("subnet.w", ["bn", "bn.*"], False),
        ("subnet.bn.w", ["bn.*"], False),
        ("subnet.bn.w", ["*.bn.*"], True),
        ("layers.10.w", ["layers.1.*"], False),
        ("layers.10.w", ["layers.1?.w"], True),
        ("BN.w", ["bn.*"], False),
        ("head.w", ["bn.*", "head.w"], True),
        ("head.w", [], False),
    ],
)
def test_check_32_a_name_matches_exactly_or_as_a_glob(name, patterns, expected):
    assert matches(name, *patterns) is expected


def test_tags_sort_the_names():
    tags = {"bn.w": {"local", "persistent"}, "bn.mean": {"local"}, "subnet.w": {"persistent"}}
    found = ParamTags.read(NAMES, lambda name: tags.get(name, set()))
    assert found.shared == ("body.w", "subnet.w")
    assert found.local == ("bn.w", "bn.mean")
    assert found.persistent == ("bn.w", "subnet.w")


def test_check_32_buffers_that_are_not_shared_stay_at_the_node():
    found = ParamTags.read(NAMES, lambda name: set(), share_buffers=False)
    assert found == ParamTags(("body.w", "bn.w", "subnet.w"), ("bn.mean",), ("bn.mean",))


@pytest.mark.parametrize("wrong", ["local", None, {"locl"}, 3, True])
def test_a_wrong_tag_is_named(wrong):
    with pytest.raises(PlanError, match=r"tag_parameters\('body.w'\) must return a set") as caught:
        ParamTags.read(NAMES, lambda name: wrong)
    assert repr(wrong) in caught.value.message


def test_a_model_without_anything_to_share_is_refused():
    with pytest.raises(PlanError, match="every parameter local"):
        ParamTags.read(NAMES, lambda name: ["local"])


class Parts(NumpyTrainingPlan):
    """Has an array of each kind."""

    def init_model(self):
        return {"shared": np.zeros(2), "own": np.ones(3), "fresh": np.full(2, 5.0), "both": np.full(2, 7.0)}

    def tag_parameters(self, name):
        tags = {"own": {"local", "persistent"}, "fresh": {"local"}, "both": {"persistent"}}
        return tags.get(name, set())

    def training_data(self):
        return DataManager(np.zeros((4, 2)), np.zeros(4))

    def training_step(self, data, target):
        return 0.0, {name: np.zeros_like(array) for name, array in self.model().items()}


def ready(plan_class=Parts, **args):
    plan = plan_class()
    plan.setup(PlanSetup(training_args=TrainingArgs.from_dict(args)))
    return plan


def test_the_global_model_has_only_what_is_shared():
    plan = ready()
    assert list(plan.get_params()) == ["shared", "both"]
    plan.set_params(Params.from_arrays({"shared": np.full(2, 9.0), "both": np.full(2, 8.0)}))
    assert {name: array[0] for name, array in plan.model().items()} == {"shared": 9, "own": 1, "fresh": 5, "both": 8}
    with pytest.raises(ParamsError, match="'own' is not part of the model"):
        plan.set_params(Params.from_arrays({**plan.get_params(), "own": np.ones(3)}))


def test_what_is_persistent_is_read_and_written_apart():
    plan, other = ready(), ready()
    plan.model()["own"] += 1
    kept = plan.read_persistent()
    assert list(kept) == ["own", "both"]
    other.write_persistent(kept)
    assert other.model()["own"].tolist() == [2, 2, 2]
    with pytest.raises(ParamsError, match="'both' is missing"):
        other.write_persistent(Params.from_arrays({"own": np.ones(3)}))


def test_a_plan_without_tags_shares_everything():
    class Plain(Parts):
        tag_parameters = NumpyTrainingPlan.tag_parameters

    plan = ready(Plain)
    assert list(plan.get_params()) == ["shared", "own", "fresh", "both"]
    assert plan.parameter_tags() == ParamTags((), (), ())
