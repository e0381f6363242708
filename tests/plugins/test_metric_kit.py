"""The conformance kit for metrics: ours pass, and each law is broken by somebody."""

from __future__ import annotations

import numpy as np
import pytest

from fedplug import Component, Metric, MetricTypes
from fedplug.core.components import Offer
from fedplug.core.errors import PlanError, UpdateRejectedError
from fedplug.core.metrics import make_metrics
from fedplug.testing import LawBrokenError, check_metric, check_offer


@pytest.mark.parametrize("name", list(MetricTypes))
def test_ours_pass(name):
    (metric,) = make_metrics([name]).values()
    assert {result.outcome for result in check_metric(metric)} == {"pass"}


class Right(Metric):
    def state(self, outputs, targets):
        return np.array([np.sum(outputs), len(targets)], float)

    def value(self, state):
        return {"right": state[0] / state[1]}


class MeanOfBatch(Right):
    def state(self, outputs, targets):
        return np.array([np.mean(outputs), 1])


class AsLongAsTheBatch(Right):
    def state(self, outputs, targets):
        return np.ones(len(targets))


class NoVector(Right):
    def state(self, outputs, targets):
        return 3.0


class Scribbler(Right):
    def state(self, outputs, targets):
        targets[:] = 0
        return super().state(outputs, targets)


class Nameless(Right):
    def value(self, state):
        return state[0]


class Eater(Right):
    def value(self, state):
        state[0] = 0
        return {"eaten": 1}


class Strict(Right):
    def check(self, state):
        if state[1] > 100:
            raise UpdateRejectedError("too many")


class Picky(Right):
    def state(self, outputs, targets):
        raise PlanError("for other samples")


@pytest.mark.parametrize(
    ("metric", "law", "words"),
    [
        (MeanOfBatch, "additive", "add up to"),
        (AsLongAsTheBatch, "additive", "the same length for every batch"),
        (NoVector, "additive", "must be a vector of numbers"),
        (Scribbler, "additive", "read-only"),
        (Nameless, "value", "must return a dict"),
        (Eater, "value", "has changed the state"),
        (Strict, "own-states", "too many"),
    ],
)
def test_every_law_can_be_broken(metric, law, words):
    broken = next(result for result in check_metric(metric(), on_fail="report") if result.outcome == "fail")
    assert broken.check == law
    assert words in broken.reason
    with pytest.raises((LawBrokenError, UpdateRejectedError)):
        check_metric(metric())


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MetricTypes))
def test_ours_pass_on_many_more_samples(name):
    (metric,) = make_metrics([name]).values()
    assert {result.outcome for result in check_metric(metric, profile="full")} == {"pass"}


def test_a_failure_can_be_expected():
    batches = "it is the mean of means on purpose"
    results = check_metric(MeanOfBatch(), expected_failures={"additive": batches})
    assert [(result.outcome, result.reason) for result in results] == [("xfail", batches), ("pass", ""), ("pass", "")]


def test_offers_are_checked_as_far_as_they_can_be():
    class Needs(Right):
        def __init__(self, margin):
            self.margin = margin

    found = {
        target: {result.outcome for result in check_offer(Offer("metric", "mine", Component("thing", target)))}
        for target in (Right, Metric, dict, Needs, Picky)
    }
    assert found == {
        Right: {"pass"},
        Metric: {"fail"},
        dict: {"fail"},
        Needs: {"pass", "skip"},
        Picky: {"pass", "skip"},
    }
