"""Metrics obey their law: however samples lie in batches and nodes, the value is that of the pooled samples.

Oracles are written from the definitions, on whole numbers and fractions; scikit-learn is a second one.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn import metrics as sk

from fedplug.core.metrics import make_metrics, merged
from fedplug.core.metrics.regression import UNIT

EPS = 2.0**-52
COUNTING = ("accuracy", "precision", "recall", "f1_score", "confusion_matrix", "auc")
SCORES = st.integers(0, 40).map(lambda step: step / 40)  # coarse, so that there are ties
NUMBERS = st.floats(-1e6, 1e6, width=32)


@st.composite
def labelled(draw, least=1):
    """Outputs with one column per class, targets, and where each sample lies."""
    classes = draw(st.integers(2, 4))
    rows = st.tuples(
        st.lists(SCORES, min_size=classes, max_size=classes), st.integers(0, classes - 1), st.integers(0, 5)
    )
    samples = draw(st.lists(rows, min_size=least, max_size=25))
    outputs, targets, places = zip(*samples, strict=True)
    return np.array(outputs, np.float32), np.array(targets), np.array(places)


@st.composite
def measured(draw):
    """Real outputs and targets, and where each sample lies."""
    samples = draw(st.lists(st.tuples(NUMBERS, NUMBERS, st.integers(0, 5)), min_size=2, max_size=25))
    outputs, targets, places = zip(*samples, strict=True)
    return np.array(outputs), np.array(targets), np.array(places)


def pieces(metric, outputs, targets, places):
    """The states of the pieces; those of places 0 to 2 and 3 to 5 are batches of two nodes, merged in another order."""
    batches = {p: metric.state(outputs[places == p], targets[places == p]) for p in sorted({*places.tolist()})}
    nodes = [merged({"": batches[p]} for p in batches if p // 3 == node) for node in (1, 0)]
    return merged(node for node in nodes if node)[""]


@pytest.mark.parametrize("name", COUNTING)
@given(labelled())
def test_counts_of_any_partition_are_those_of_the_pooled_samples(name, data):
    outputs, targets, places = data
    metric = make_metrics([name])[name]
    pooled = metric.state(outputs, targets)
    found = pieces(metric, outputs, targets, places)
    np.testing.assert_array_equal(found, pooled)
    np.testing.assert_equal(metric.value(found), metric.value(pooled))  # NaN equals NaN here
    order = np.argsort(places, kind="stable")[::-1]
    np.testing.assert_array_equal(metric.state(outputs[order], targets[order]), pooled)
    metric.check(found)


@given(labelled())
def test_accuracy_and_the_confusion_matrix_are_the_exact_ones(data):
    outputs, targets, _ = data
    made = make_metrics(["accuracy", "confusion_matrix"])
    predicted = [row.index(max(row)) for row in outputs.tolist()]
    right = sum(p == t for p, t in zip(predicted, targets.tolist(), strict=True))
    accuracy = made["accuracy"].value(made["accuracy"].state(outputs, targets))
    assert accuracy == {"accuracy": float(Fraction(right, len(targets)))}
    matrix = made["confusion_matrix"].value(made["confusion_matrix"].state(outputs, targets))["confusion_matrix"]
    labels = list(range(outputs.shape[1]))
    assert matrix == sk.confusion_matrix(targets, predicted, labels=labels).tolist()
    assert all(isinstance(cell, int) for row in matrix for cell in row)


def exact_ratio(name, predicted, true, label):
    """Precision, recall or F1 of one class, from the definition; zero where nothing is divided by nothing."""
    right = sum(p == t == label for p, t in zip(predicted, true, strict=True))
    all_predicted, all_true = predicted.count(label), true.count(label)
    over = {"precision": all_predicted, "recall": all_true, "f1_score": Fraction(all_predicted + all_true, 2)}[name]
    return Fraction(right) / over if over else Fraction(0)


@pytest.mark.parametrize("name", ["precision", "recall", "f1_score"])
@given(labelled())
def test_averages_are_the_exact_ones(name, data):
    outputs, targets, _ = data
    true, predicted = targets.tolist(), [row.index(max(row)) for row in outputs.tolist()]
    labels = range(outputs.shape[1])
    each = {label: exact_ratio(name, predicted, true, label) for label in labels}
    occurring = {*true, *predicted}
    right = sum(p == t for p, t in zip(predicted, true, strict=True))
    expected = {
        "macro": sum(each[label] for label in occurring) / len(occurring),
        "weighted": sum(each[label] * true.count(label) for label in labels) / len(true),
        "micro": Fraction(right, len(true)),
    }
    oracle = {"precision": sk.precision_score, "recall": sk.recall_score, "f1_score": sk.f1_score}[name]
    for average, value in expected.items():
        metric = make_metrics([name], {"average": average})[name]
        found = metric.value(metric.state(outputs, targets))[name]
        # a quotient, a product and a fused sum for each of at most four classes, and one quotient at the end
        assert abs(Fraction(found) - value) <= 8 * EPS
        assert abs(found - oracle(targets, predicted, average=average, zero_division=0)) <= 16 * EPS


@pytest.mark.parametrize("name", ["precision", "recall", "f1_score"])
@given(st.lists(st.tuples(SCORES, st.integers(0, 1)), min_size=1, max_size=25))
@example([(0.9, 0), (0.2, 0)])  # no positive sample
@example([(0.1, 1), (0.2, 1)])  # none predicted
def test_binary_ones_describe_the_positive_class(name, samples):
    scores, targets = (np.array(column) for column in zip(*samples, strict=True))
    predicted, true = [int(score > 0.5) for score in scores.tolist()], targets.tolist()
    for args, label in (({}, 1), ({"pos_label": 1}, 1), ({"pos_label": 0}, 0), ({"average": "binary"}, 1)):
        metric = make_metrics([name], args)[name]
        for outputs in (scores, scores[:, None]):
            assert metric.value(metric.state(outputs, targets)) == {
                name: float(exact_ratio(name, predicted, true, label))
            }


def exact_auc(scores, targets, label=1):
    """The share of pairs that are ordered right, a tie counting one half; None if there is no pair."""
    positive = [Fraction(s) for s, t in zip(scores, targets, strict=True) if t == label]
    negative = [Fraction(s) for s, t in zip(scores, targets, strict=True) if t != label]
    if not positive or not negative:
        return None
    wins = sum(Fraction(p > n) + Fraction(p == n) / 2 for p in positive for n in negative)
    return wins / (len(positive) * len(negative))


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=25),
    st.sampled_from([2, 3, 7, 64, 1024]),
)
@example([(0.0, 1), (1.0, 0), (0.5, 1), (0.5, 0)], 2)
def test_auc_lies_within_its_bound_of_the_exact_one(samples, bins):
    scores, targets = (np.array(column) for column in zip(*samples, strict=True))
    metric = make_metrics(["auc"], {"bins": bins})["auc"]
    found = metric.value(metric.state(scores, targets))
    exact = exact_auc(scores.tolist(), targets.tolist())
    if exact is None:
        assert math.isnan(found["auc"])
        assert math.isnan(found["auc_error_bound"])
        return
    assert abs(Fraction(found["auc"]) - exact) <= Fraction(found["auc_error_bound"]) + 2 * Fraction(EPS)
    assert abs(exact - Fraction(float(sk.roc_auc_score(targets, scores)))) <= Fraction(1, 10**9)


@given(st.lists(st.tuples(st.integers(0, 1023), st.integers(0, 1)), min_size=2, max_size=25))
def test_auc_is_exact_where_equal_bins_mean_equal_scores(samples):
    places, targets = (np.array(column) for column in zip(*samples, strict=True))
    metric = make_metrics(["auc"])["auc"]
    scores = places / 1024
    exact = exact_auc(scores.tolist(), targets.tolist())
    if exact is not None:
        assert abs(Fraction(metric.value(metric.state(scores, targets))["auc"]) - exact) <= 2 * Fraction(EPS)


@given(labelled(), st.sampled_from([4, 64, 1024]))
def test_auc_of_several_classes_lies_within_its_bound(data, bins):
    outputs, targets, _ = data
    metric = make_metrics(["auc"], {"bins": bins})["auc"]
    found = metric.value(metric.state(outputs, targets))
    chances = metric.probabilities(outputs)
    columns = [1] if outputs.shape[1] == 2 else range(outputs.shape[1])
    scores = {k: chances.tolist() if chances.ndim == 1 else chances[:, k].tolist() for k in columns}
    each = [exact_auc(scores[k], targets.tolist(), k) for k in columns]
    known = [area for area in each if area is not None]
    if not known:
        assert math.isnan(found["auc"])
        return
    exact = sum(known) / len(known)
    assert abs(Fraction(found["auc"]) - exact) <= Fraction(found["auc_error_bound"]) + 8 * Fraction(EPS)


REGRESSION = ("mean_squared_error", "mean_absolute_error", "r2_score", "explained_variance")


def exact_regression(outputs, targets):
    """Each value as a fraction, None where it does not exist, and the bound that the module states for it."""
    y = [Fraction(t) for t in targets.tolist()]
    e = [Fraction(t) - Fraction(o) for o, t in zip(outputs.tolist(), targets.tolist(), strict=True)]
    n = len(y)
    squares, spread = sum(x * x for x in e), sum(x * x for x in y) - sum(y) ** 2 / n
    rest = squares - sum(e) ** 2 / n
    found = {
        "mean_squared_error": squares / n,
        "mean_absolute_error": sum(abs(x) for x in e) / n,
        "r2_score": 1 - squares / spread if spread else None,
        "explained_variance": 1 - rest / spread if spread else None,
    }
    return found, n, squares, sum(x * x for x in y), spread


@pytest.mark.parametrize("name", REGRESSION)
@given(measured())
@example((np.array([1.0, 2.0]), np.array([5.0, 5.0]), np.array([0, 3])))  # targets without spread
@example((np.array([1e6, 2.0]), np.array([1e6, 1e6 + 0.0625]), np.array([0, 3])))  # spread of a billionth
def test_regression_of_any_partition_is_the_exact_one_within_its_bound(name, data):
    outputs, targets, places = data
    metric = make_metrics([name])[name]
    exact, n, squares, squared_targets, spread = exact_regression(outputs, targets)
    for state in (metric.state(outputs, targets), pieces(metric, outputs, targets, places)):
        metric.check(state)
        found = metric.value(state)[name]
        unit = Fraction(UNIT)
        if name.startswith("mean"):
            # Each error is off by one rounding, its square by two more, then n terms are added and divided once.
            assert abs(Fraction(found) - exact[name]) <= (n + 4) * unit * exact[name] + Fraction(2) ** -1070
            continue
        doubt = 4 * (n + 4) * unit * squared_targets
        if math.isnan(found):
            assert spread <= 2 * doubt
            continue
        # Numerator and denominator are each off by their own bound; what is left of the spread is divided by.
        bound = (4 * (n + 4) * unit * squares + doubt * (1 + squares / spread)) / (spread - doubt)
        assert abs(Fraction(found) - exact[name]) <= bound + 4 * unit * (1 + squares / spread)


@given(measured())
def test_regression_agrees_with_scikit_learn(data):
    outputs, targets, places = data
    oracles = {
        "mean_squared_error": sk.mean_squared_error,
        "mean_absolute_error": sk.mean_absolute_error,
        "r2_score": sk.r2_score,
        "explained_variance": sk.explained_variance_score,
    }
    if np.ptp(targets) < 1:
        return
    for name, metric in make_metrics(REGRESSION).items():
        found = metric.value(pieces(metric, outputs, targets, places))[name]
        expected = oracles[name](targets, outputs)
        # both are off by their bounds; with a spread of at least 1/2, and squares below 25e12, that is:
        scale = 1 + np.sum(targets**2) / 0.5 if name in ("r2_score", "explained_variance") else 1
        share = 1 + np.sum((targets - outputs) ** 2)
        assert abs(found - expected) <= 64 * 30 * UNIT * scale * share


@given(st.lists(st.tuples(*[st.integers(-1000, 1000)] * 4), min_size=2, max_size=10))
def test_columns_are_measured_one_by_one(rows):
    table = np.array(rows)  # whole numbers: all sums are exact
    outputs, targets = table[:, :2], table[:, 2:]
    for name, metric in make_metrics(REGRESSION).items():
        found = metric.value(metric.state(outputs, targets))
        single = [metric.value(metric.state(outputs[:, k], targets[:, k]))[name] for k in range(2)]
        np.testing.assert_equal(found[f"{name}_by_output"], single)
        np.testing.assert_equal(found[name], math.fsum(single) / 2)
