"""Signatures and names of a plan's methods are checked when it is bundled."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import pytest

from fedplug import DataManager, FedplugWarning, NumpyTrainingPlan
from fedplug.core.errors import PlanSourceError
from fedplug.core.plan_methods import check_methods
from fedplug.core.training_args import TrainingArgs
from fedplug.core.training_plan import PlanSetup


class Plain(NumpyTrainingPlan):
    def init_model(self):
        return {"w": np.zeros(1)}

    def training_data(self):
        return DataManager(np.zeros(4), np.zeros(4))

    def training_step(self, data, target):
        return 0.0, {"w": np.zeros(1)}


def plan_with(text: str) -> tuple[type, str]:
    source = "class Plan(Plain):\n" + "".join(f"    {line}\n" for line in text.splitlines())
    namespace = {"Plain": Plain, "functools": functools, "DataManager": DataManager, "np": np, "swapped": swapped}
    exec(source, namespace)
    return namespace["Plan"], source


def swapped(function):
    @functools.wraps(function)
    def call(self, data, target):
        return function(self, (data, target))

    return call


@pytest.mark.parametrize(
    ("text", "problem", "cure"),
    [
        ("def training_data(self, dataset): ...", "training_data may take batch_size only, not 'dataset'.",
         "Write def training_data(self). The node's data is self.dataset."),
        ("def training_data(self, batch_size, dataset): ...",
         "training_data may take batch_size only, not 'dataset'.", "self.dataset"),
        ("def training_data(self, *, dataset): ...", "training_data may take batch_size only, not 'dataset'.", ""),
        ("def training_data(): ...", "training_data lacks self.", "Write def training_data(self)."),
        ("def training_step(self, batch): ...", "training_step is called with (data, target), but takes batch.",
         "Write def training_step(self, data, target). A batch comes in two parts."),
        ("def training_step(data, target): ...", "training_step is called with (data, target), but takes target.", ""),
        ("def training_step(self, a, b, c): ...", "but takes a, b, c.", ""),
        ("def testing_step(self): ...", "testing_step is called with (data, target), but takes nothing.",
         "Write def testing_step(self, data, target)."),
        ("def init_model(self, model_args, extra): ...", "init_model may take model_args only, not 'extra'.",
         "Write def init_model(self)."),
        ("@staticmethod\ndef init_model(model_args, extra): ...", "init_model may take model_args only", ""),
        ("@classmethod\ndef init_optimizer(cls, a, b): ...", "init_optimizer may take optimizer_args only, not 'b'.",
         "The model is self.model()."),
        ("def init_dependencies(self, more): ...", "init_dependencies takes no argument, not 'more'.", ""),
        ("def tag_parameters(self): ...", "tag_parameters is called with (name), but takes nothing.", ""),
        ("def postprocess(self): ...", "postprocess is called with (params), but takes nothing.", ""),
    ],
)  # fmt: skip
def test_a_signature_that_the_library_cannot_call_is_refused(text, problem, cure):
    with pytest.raises(PlanSourceError) as caught:
        check_methods(*plan_with(text))
    assert caught.value.message.startswith("Training plan 'Plan': ")
    assert problem in caught.value.message
    assert cure in caught.value.cure


@pytest.mark.parametrize(
    "text",
    [
        "def training_data(self, batch_size): ...",
        "def training_data(self, batch_size=3, scaled=True): ...",
        "def training_data(self, *, batch_size): ...",
        "def training_data(self, *args): ...",
        "def training_step(self, *batch): ...",
        "def training_step(self, inputs, labels, weight=1.0): ...",
        "@staticmethod\ndef testing_step(data, target): ...",
        "@swapped\ndef training_step(self, batch): ...",
        "training_step = functools.partialmethod(Plain.training_step, target=1)",
        "def init_model(self, sizes=(3, 2)): ...",
        "def init_optimizer(self): ...",
        "def scale(self, x): ...\ndef preprocess(self, batches): ...\ndef init_weights(self): ...",
        "def test_step(self, x): ...\ndef testing_step(self, data, target): return self.test_step(data)",
        "def train_step(self, x): ...\ndef f(self): return getattr(self, 'train_step')",
        "def init_optimizers(self): ...\ndef init_optimizer(self): ...",
    ],
)
def test_what_can_be_called_passes(text):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_methods(*plan_with(text))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("init_optimiser", "init_optimizer"),
        ("init_dependancies", "init_dependencies"),
        ("test_step", "testing_step"),
        ("post_process", "postprocess"),
        ("init_schedular", "init_scheduler"),
    ],
)
def test_a_misspelt_method_is_told(name, meant):
    with pytest.warns(FedplugWarning) as caught:
        check_methods(*plan_with(f"def {name}(self): ..."))
    assert [str(each.message) for each in caught] == [
        f"Training plan 'Plan' defines {name}, which is never called; did you mean {meant}?"
    ]


@pytest.mark.parametrize("name", ["tag_parameter", "tags_parameters", "tag_params"])
def test_misspelt_tags_are_refused_since_parameters_would_leave_the_node(name):
    with pytest.raises(PlanSourceError, match=f"defines {name}, .* did you mean tag_parameters"):
        check_methods(*plan_with(f"def {name}(self, name): return {{'local'}}"))


@pytest.mark.parametrize(
    ("signature", "asked", "expected"),
    [
        ("batch_size", {}, 32),
        ("batch_size", {"batch_size": 5}, 5),
        ("batch_size=7", {}, 7),
        ("batch_size=7", {"batch_size": 5}, 5),
        ("*, batch_size", {}, 32),
        ("scaled=True, batch_size=7", {"batch_size": 5}, 5),
        ("batch_size=9, *rest", {"batch_size": 5}, 5),
    ],
)
def test_the_batch_size_goes_to_the_argument_of_that_name(signature, asked, expected):
    plan_class, _ = plan_with(
        f"def training_data(self, {signature}): return DataManager(np.zeros(4), batch_size=batch_size)"
    )
    plan = plan_class()
    plan.setup(PlanSetup(training_args=TrainingArgs.from_dict({"loader_args": asked})))
    assert plan.make_data().loader_args == {"batch_size": expected}


def test_an_argument_of_another_name_keeps_its_default():
    plan_class, _ = plan_with("def training_data(self, rows=4): return DataManager(np.zeros(rows))")
    plan = plan_class()
    plan.setup(PlanSetup(training_args=TrainingArgs.from_dict({"loader_args": {"batch_size": 48}})))
    assert plan.make_data().dataset.shape == (4,)
