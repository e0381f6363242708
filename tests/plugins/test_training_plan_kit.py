"""The kit for training plans: a correct one keeps the laws, and each planted bug breaks these laws."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from fedplug import DataManager, NumpyTrainingPlan, Params
from fedplug.core.components import Component, Offer
from fedplug.testing import TRAINING_PLAN_CHECKS, PlanCase, check_offer, check_training_plan, parametrize_with_checks

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 2))
DATA = {"x": X, "y": X @ [1.0, -2.0] + 0.5}
ARGS = {"loader_args": {"batch_size": 5}, "optimizer_args": {"lr": 0.1}}


class Line(NumpyTrainingPlan):
    """Correct, with an optimizer that remembers; each planted bug below is this plan but for one thing."""

    def init_dependencies(self):
        return ["import numpy as np"]

    def init_model(self, model_args):
        return {"w": np.random.normal(size=2), "b": np.zeros(())}

    def init_optimizer(self, optimizer_args):
        return self.Momentum(optimizer_args["lr"])

    class Momentum:
        def __init__(self, lr):
            self.lr, self.velocity = lr, {}

        def step(self, params, gradients):
            for name, gradient in gradients.items():
                self.velocity[name] = 0.5 * self.velocity.get(name, 0.0) + gradient
                params[name] -= self.lr * self.velocity[name]

        def state(self):
            return self.velocity

        def set_state(self, state):
            self.velocity = dict(state)

    def training_data(self):
        return DataManager(np.array(self.dataset.column("x")), self.dataset.column("y"))

    def training_step(self, data, target):
        error = data @ self.model()["w"] + self.model()["b"] - target
        return (error**2).mean(), {"w": 2 * data.T @ error / len(data), "b": 2 * error.mean()}


class Plain(NumpyTrainingPlan):
    """Correct: plain gradient descent."""

    def init_model(self, model_args):
        return {"w": np.zeros(model_args["features"])}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        error = data @ self.model()["w"] - target
        return (error**2).mean(), {"w": 2 * data.T @ error / len(data)}


CORRECT = [PlanCase(Line, DATA, training_args=ARGS), PlanCase(Plain, (X, DATA["y"]), {"features": 2}, ARGS)]

FACTOR = 2.0


class UsesAName(NumpyTrainingPlan):
    def init_model(self):
        return {"w": np.zeros(2)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        error = data @ self.model()["w"] - target
        return (error**2).mean(), {"w": FACTOR * data.T @ error / len(data)}


class BeginsAnywhere(NumpyTrainingPlan):
    def init_model(self):
        return {"w": np.random.default_rng().normal(size=2)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        error = data @ self.model()["w"] - target
        return (error**2).mean(), {"w": 2 * data.T @ error / len(data)}


class DrawsUnseeded(NumpyTrainingPlan):
    def init_model(self):
        return {"w": np.zeros(2)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        data = data + np.random.default_rng().normal(0, 0.1, data.shape)
        error = data @ self.model()["w"] - target
        return (error**2).mean(), {"w": 2 * data.T @ error / len(data)}


class SeedsEverybody(NumpyTrainingPlan):
    """Seeds the global streams, and leaves them so."""

    def init_dependencies(self):
        return ["import contextlib"]

    @classmethod
    @contextlib.contextmanager
    def seeded(cls, seed, *, threads=1):
        np.random.seed(seed % 2**32)
        yield

    def init_model(self):
        return {"w": np.random.normal(size=2)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        error = data @ self.model()["w"] - target
        return (error**2).mean(), {"w": 2 * data.T @ error / len(data)}


class OneBufferForAll(NumpyTrainingPlan):
    """What was given out before is overwritten."""

    def init_dependencies(self):
        return ["from fedplug import Params"]

    def init_model(self):
        return {"w": np.zeros(2)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        error = data @ self.model()["w"] - target
        return (error**2).mean(), {"w": 2 * data.T @ error / len(data)}

    def get_params(self, allocate=None):
        found = super().get_params(allocate)
        if not hasattr(self, "memory"):
            self.memory = np.zeros(found.nbytes, np.uint8)
        self.memory[:] = np.frombuffer(found.buffer, np.uint8)
        return Params(found.spec, self.memory)


class KeepsItsBias(NumpyTrainingPlan):
    """Takes over only a part of what it is sent."""

    def init_model(self):
        return {"w": np.zeros(2), "b": np.zeros(())}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        error = data @ self.model()["w"] + self.model()["b"] - target
        return (error**2).mean(), {"w": 2 * data.T @ error / len(data), "b": 2 * error.mean()}

    def set_params(self, params):
        params.require(self.get_params().spec)
        self.model()["w"][:] = params["w"]


class Narrows(NumpyTrainingPlan):
    """Its model is another one after training."""

    def init_model(self):
        return {"w": np.zeros(2)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        error = data @ self.model()["w"] - target
        return (error**2).mean(), {"w": 2 * data.T @ error / len(data)}

    def process_params(self):
        self._model["w"] = self._model["w"].astype(np.float32)


class StandsStill(NumpyTrainingPlan):
    def init_model(self):
        return {"w": np.zeros(2)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        return 1.0, {"w": np.zeros(2)}


class Diverges(NumpyTrainingPlan):
    def init_model(self):
        return {"w": np.zeros(2)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        return 1.0, {"w": np.full(2, np.nan)}


class Centers(NumpyTrainingPlan):
    """In place, and so a bit more each time that it sees a sample."""

    def init_model(self):
        return {"w": np.zeros(2)}

    def training_data(self):
        return DataManager(np.array(self.dataset.column("x")), self.dataset.column("y"))

    def training_step(self, data, target):
        data -= data.mean(axis=0)
        error = data @ self.model()["w"] - target
        return (error**2).mean(), {"w": 2 * data.T @ error / len(data)}


class ForgetsVelocity(NumpyTrainingPlan):
    def init_model(self):
        return {"w": np.zeros(2)}

    def init_optimizer(self, optimizer_args):
        return self.Momentum(optimizer_args["lr"])

    class Momentum:
        def __init__(self, lr):
            self.lr, self.velocity = lr, np.zeros(2)

        def step(self, params, gradients):
            self.velocity = 0.5 * self.velocity + gradients["w"]
            params["w"] -= self.lr * self.velocity

        def state(self):
            return {}

        def set_state(self, state):
            pass

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        error = data @ self.model()["w"] - target
        return (error**2).mean(), {"w": 2 * data.T @ error / len(data)}


class ExportsRounded(NumpyTrainingPlan):
    def init_model(self):
        return {"w": np.zeros(2)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        error = data @ self.model()["w"] - target
        return (error**2).mean(), {"w": 2 * data.T @ error / len(data)}

    def _model_object(self):
        return {name: np.round(array, 3) for name, array in self.model().items()}


CAUGHT_BY = {
    UsesAName: {check.id for check in TRAINING_PLAN_CHECKS},
    BeginsAnywhere: {"initial"},
    DrawsUnseeded: {"repeatable", "keeps"},
    SeedsEverybody: {"streams"},
    OneBufferForAll: {"references"},
    KeepsItsBias: {"params", "references", "keeps"},
    Narrows: {"layout", "references", "keeps", "files"},
    StandsStill: {"trains"},
    Diverges: {"trains", "files"},
    Centers: {"samples"},
    ForgetsVelocity: {"keeps"},
    ExportsRounded: {"files"},
}


def outcomes(plan, **options):
    found = check_training_plan(plan, DATA, on_fail="report", training_args=ARGS, **options)
    return {result.check: result for result in found}


@parametrize_with_checks(CORRECT)
def test_correct_plans_keep_the_laws(component, check):
    check(component)


@pytest.mark.slow
@parametrize_with_checks(CORRECT, profile="full")
def test_correct_plans_keep_the_laws_with_other_seeds(component, check):
    check(component)


@pytest.mark.parametrize("mutant", CAUGHT_BY, ids=lambda mutant: mutant.__name__)
def test_each_planted_bug_is_caught_by_these_laws(mutant):
    results = outcomes(mutant)
    assert {name for name, result in results.items() if result.outcome == "fail"} == CAUGHT_BY[mutant]


def test_each_law_catches_a_planted_bug():
    assert {check.id for check in TRAINING_PLAN_CHECKS} == set().union(*CAUGHT_BY.values())


@pytest.mark.parametrize(
    ("mutant", "law", "words"),
    [
        (UsesAName, "travels", "uses 'FACTOR', not defined inside the class"),
        (BeginsAnywhere, "initial", "The same seed has given two first models: 'w' is"),
        (OneBufferForAll, "references", "What get_params gave before has changed while the model was trained"),
        (Narrows, "layout", "but 'w' has dtype float32, expected float64"),
        (StandsStill, "trains", "4 steps have changed no parameter at all"),
        (Centers, "samples", "The training has changed 20 samples"),
        (SeedsEverybody, "streams", "has moved the global random stream of numpy.random"),
    ],
)
def test_what_is_wrong_is_told(mutant, law, words):
    assert words in outcomes(mutant)[law].reason


class Offered(Plain):
    @classmethod
    def conformance_cases(cls):
        return [PlanCase(Plain, (X, DATA["y"]), {"features": 2}, ARGS)]


def test_plans_are_checked_by_name_where_they_bring_data():
    results = check_offer(Offer("training_plan", "mine", Component("plain", Plain)))
    assert [result.outcome for result in results] == ["pass"] + ["skip"] * len(TRAINING_PLAN_CHECKS)
    assert "conformance_cases() gives PlanCase(plan_class, data)" in results[1].reason
    Plain.conformance_cases = Offered.conformance_cases
    try:
        results = check_offer(Offer("training_plan", "mine", Component("plain", Plain)))
    finally:
        del Plain.conformance_cases
    assert {result.outcome for result in results} == {"pass"}
