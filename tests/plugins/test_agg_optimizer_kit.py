"""The kit for optimizers of the researcher: correct ones keep the laws, and each planted bug breaks these laws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedplug import Params
from fedplug.core.agg_optimizer import AggOptimizer
from fedplug.core.components import Component, Offer
from fedplug.core.errors import UpdateRejectedError
from fedplug.testing import AGG_OPTIMIZER_CHECKS, Subject, check_agg_optimizer, check_offer, parametrize_with_checks


class Plain(AggOptimizer):
    """Correct: a part of the way."""

    def __init__(self, lr=0.5):
        self.lr = lr

    def advance(self, start, aggregated, ctx):
        return start.map(lambda a, b: a + (self.step(a, b) if a.dtype.kind == "f" else b - a), aggregated)

    def step(self, start, aggregated):
        return self.lr * (aggregated - start)


class Momentum(AggOptimizer):
    """Correct: goes on in the direction in which it went."""

    def __init__(self, beta=0.5):
        self.beta = beta
        self.velocity = None

    def advance(self, start, aggregated, ctx):
        moved = aggregated - start
        self.velocity = moved if self.velocity is None else self.velocity * self.beta + moved
        return start + self.velocity

    def state_dict(self):
        return {"velocity": self.velocity}

    def load_state_dict(self, state):
        self.velocity = state["velocity"]


class Counts(Plain):
    """Correct: takes counts that nodes send, and sends them back in the next round."""

    def __init__(self):
        super().__init__()
        self.sum = 0

    def begin_round(self, ctx):
        self.came = 0
        return {"counts": Params.from_arrays({"sum": self.sum})}

    def check_update(self, update, start):
        if "counts" not in update.aux:
            raise UpdateRejectedError("it brings no counts")

    def take(self, update):
        self.came += int(update.aux["counts"]["count"])

    def advance(self, start, aggregated, ctx):
        self.sum += self.came
        return start.map(lambda a, b: a + (b - a) / (1 + self.sum) if a.dtype.kind == "f" else b, aggregated)

    def state_dict(self):
        return {"sum": self.sum}

    def load_state_dict(self, state):
        self.sum, self.came = state["sum"], 0


def counted(update, case):
    assert "counts" in case.payloads[update.node_id].aux
    return replace(update, aux={"counts": Params.from_arrays({"count": update.steps})})


CORRECT = [Plain(), Plain(1.0), Momentum(), Subject(Counts(), complete=counted)]


class Upcasts(Plain):
    def advance(self, start, aggregated, ctx):
        found = super().advance(start, aggregated, ctx)
        return Params.from_arrays({name: np.asarray(array, np.float64) for name, array in found.items()})


class ReturnsNothing(Plain):
    def advance(self, start, aggregated, ctx):
        super().advance(start, aggregated, ctx)


class InPlace(Plain):
    def advance(self, start, aggregated, ctx):
        found = super().advance(start, aggregated, ctx)
        array = next(iter(start.values()))
        array.flags.writeable = True
        array += 1
        return found


class DividesByNothing(Plain):
    """Steps of the same length whatever the gradient: 0 / 0 where there is none."""

    def step(self, start, aggregated):
        gradient = aggregated - start
        with np.errstate(invalid="ignore"):
            return 0.1 * gradient / np.abs(gradient)


class Overflows(Plain):
    def step(self, start, aggregated):
        gradient = np.asarray(aggregated - start, np.float32)
        with np.errstate(over="ignore"):
            return np.sign(gradient) * np.sqrt(np.float16(gradient) ** 2).astype(start.dtype)


class Noisy(Plain):
    def step(self, start, aggregated):
        return super().step(start, aggregated) + np.float32(1e-6) * np.random.normal(size=start.shape).astype(
            start.dtype
        )


class Decays(Plain):
    def step(self, start, aggregated):
        return super().step(start, aggregated) - 0.01 * start


class SendsAList(Plain):
    def begin_round(self, ctx):
        return [Params.from_arrays({"lr": self.lr})]


class HidesItsArgument(Plain):
    def __init__(self, rate=0.5):
        super().__init__(rate)


class ForgetsVelocity(Momentum):
    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class NeverBeginsAgain(Momentum):
    """Takes a state over, but not that there is none."""

    def load_state_dict(self, state):
        self.velocity = state["velocity"] or self.velocity


class SavesArrays(Momentum):
    def state_dict(self):
        return {"velocity": None if self.velocity is None else dict(self.velocity)}

    def load_state_dict(self, state):
        self.velocity = None if state["velocity"] is None else Params.from_arrays(state["velocity"])


CAUGHT_BY = {
    Upcasts: {"layout"},
    ReturnsNothing: {"layout"},
    InPlace: {"inputs"},
    DividesByNothing: {"finite", "still"},
    Overflows: {"finite"},
    Noisy: {"repeatable", "config", "resume", "undone", "still"},
    Decays: {"still"},
    SendsAList: {"payload"},
    HidesItsArgument: {"config"},
    ForgetsVelocity: {"resume", "undone"},
    NeverBeginsAgain: {"undone"},
    SavesArrays: {"resume"},
}


def outcomes(optimizer, **options):
    return {result.check: result for result in check_agg_optimizer(optimizer, on_fail="report", **options)}


@parametrize_with_checks(CORRECT)
def test_correct_optimizers_keep_the_laws(component, check):
    check(component)


@pytest.mark.slow
@parametrize_with_checks(CORRECT, profile="full")
def test_correct_optimizers_keep_the_laws_on_many_more_cases(component, check):
    check(component)


@pytest.mark.parametrize("mutant", CAUGHT_BY, ids=lambda mutant: mutant.__name__)
def test_each_planted_bug_is_caught_by_these_laws(mutant):
    results = outcomes(mutant())
    assert {name for name, result in results.items() if result.outcome == "fail"} == CAUGHT_BY[mutant]


def test_each_law_catches_a_planted_bug():
    assert {check.id for check in AGG_OPTIMIZER_CHECKS} == set().union(*CAUGHT_BY.values())


@pytest.mark.parametrize(
    ("mutant", "law", "words"),
    [
        (ReturnsNothing, "layout", "advance must return Params, but returned NoneType"),
        (DividesByNothing, "finite", "Where nothing has moved, 'w' of the result is not finite"),
        (Overflows, "finite", "Where steps are large, 'w' of the result is not finite"),
        (Decays, "still", "The aggregate is the global model, so the result must be it: w[0] must be"),
        (SendsAList, "payload", "begin_round must return a mapping of names to Params"),
        (ForgetsVelocity, "resume", "The run was saved after round 1 and resumed with a new optimizer"),
        (NeverBeginsAgain, "undone", "After round 0, another round was begun, failed, and was undone"),
    ],
)
def test_what_is_wrong_is_told(mutant, law, words):
    assert words in outcomes(mutant())[law].reason


def test_what_nodes_send_beside_the_parameters_must_be_told():
    refused = outcomes(Counts())
    assert {result.outcome for result in refused.values()} == {"pass", "skip"}
    assert "(it brings no counts)" in refused["resume"].reason


def test_weight_decay_is_a_failure_that_can_be_expected():
    results = outcomes(Decays(), expected_failures={"still": "weight decay moves the model by itself"})
    assert (results["still"].outcome, results["still"].reason) == ("xfail", "weight decay moves the model by itself")
    assert {result.outcome for result in results.values()} == {"pass", "xfail"}


def test_an_optimizer_is_checked_by_name():
    results = check_offer(Offer("agg_optimizer", "mine", Component("thing", Momentum)))
    assert [result.check for result in results] == ["loads", *(check.id for check in AGG_OPTIMIZER_CHECKS)]
    assert {result.outcome for result in results} == {"pass"}
