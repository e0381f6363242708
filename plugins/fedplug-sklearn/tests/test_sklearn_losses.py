"""Every loss has scikit-learn's slope, and a value that this slope is the derivative of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import SGDClassifier, SGDRegressor

from fedplug.core.errors import UsageError
from fedplug_sklearn.linear import prepare
from fedplug_sklearn.losses import LOSSES, MarginLoss, loss_named

REGRESSION = ["squared_error", "huber", "epsilon_insensitive", "squared_epsilon_insensitive"]
# Where a loss changes its formula: margins (t s), or residuals (s - t) in units of epsilon.
BENDS = {
    "hinge": [1.0],
    "squared_hinge": [1.0],
    "log_loss": [],
    "modified_huber": [-1.0, 1.0],
    "perceptron": [0.0],
    "squared_error": [],
    "huber": [-1.0, 1.0],
    "epsilon_insensitive": [-1.0, 1.0],
    "squared_epsilon_insensitive": [-1.0, 1.0],
}
SCORES = st.one_of(st.sampled_from([-1.0, 0.0, 1.0]), st.floats(-50, 50), st.floats(-1e6, 1e6))
EPSILONS = st.one_of(st.just(0.0), st.floats(1e-3, 3))
SIGNS = st.sampled_from([-1.0, 1.0])
all_losses = pytest.mark.parametrize("name", sorted(LOSSES))


def slope_in_scikit_learn(estimator, score, target):
    """The slope that one step of scikit-learn's own SGD takes, without any rounding.

    The first feature makes the score, and the second, whose coefficient is 0, takes up the step.
    """
    classifier = isinstance(estimator, SGDClassifier)
    estimator.set_params(penalty=None, learning_rate="constant", eta0=1.0, fit_intercept=False)
    prepare(estimator, 2, 2 if classifier else None)
    estimator.coef_.ravel()[0] = score
    estimator.partial_fit([[1.0, 1.0]], [int(target > 0)] if classifier else [target])
    return -estimator.coef_.ravel()[1]


def test_they_are_those_of_scikit_learn():
    assert set(LOSSES) == set(SGDClassifier.loss_functions)
    assert set(REGRESSION) == set(SGDRegressor.loss_functions)


@all_losses
@settings(max_examples=60)
@given(score=SCORES, target=SIGNS, epsilon=EPSILONS)
@example(score=1.0, target=1.0, epsilon=0.1)
@example(score=0.0, target=-1.0, epsilon=0.1)
@example(score=-1.0, target=1.0, epsilon=0.1)
@example(score=0.5, target=1.0, epsilon=0.5)
def test_a_classifier_takes_the_same_slope_in_scikit_learn_kinks_included(name, score, target, epsilon):
    expected = slope_in_scikit_learn(SGDClassifier(name, epsilon=epsilon), score, target)
    slope = LOSSES[name].slope(np.array([score]), np.array([target]), epsilon)[0]
    if name == "log_loss":  # two ways of writing it, each right to the last digits
        assert slope == pytest.approx(expected, rel=1e-15, abs=1e-300)
    else:
        assert slope == expected


@pytest.mark.parametrize("name", REGRESSION)
@settings(max_examples=60)
@given(score=SCORES, target=SCORES, epsilon=EPSILONS)
def test_a_regressor_takes_the_same_slope_in_scikit_learn(name, score, target, epsilon):
    expected = slope_in_scikit_learn(SGDRegressor(name, epsilon=epsilon), score, target)
    assert LOSSES[name].slope(np.array([score]), np.array([target]), epsilon)[0] == expected


@all_losses
@settings(max_examples=100)
@given(score=st.floats(-50, 50), sign=SIGNS, shift=st.floats(-5, 5), epsilon=st.floats(1e-3, 3))
def test_the_slope_is_the_derivative_of_the_value(name, score, sign, shift, epsilon):
    loss, h = LOSSES[name], 1e-4
    margin = isinstance(loss, MarginLoss)
    target = sign if margin else shift
    argument, bend = (score * target, 1.0) if margin else (score - target, epsilon)
    assume(all(abs(argument - at * bend) > 2 * h for at in BENDS[name]))
    right, left = (loss.value(np.array([score + step]), np.array([target]), epsilon)[0] for step in (h, -h))
    slope = loss.slope(np.array([score]), np.array([target]), epsilon)[0]
    assert (right - left) / (2 * h) == pytest.approx(slope, rel=1e-8, abs=1e-8)


@all_losses
def test_the_value_has_no_constant_too_much(name):
    if name == "log_loss":
        assert loss_named(name).value(np.zeros(1), np.ones(1))[0] == pytest.approx(np.log(2.0))
    else:
        score, target = (5.0, 1.0) if isinstance(LOSSES[name], MarginLoss) else (5.0, 5.0)
        assert loss_named(name).value(np.array([score]), np.array([target]))[0] == 0.0


@all_losses
def test_no_number_is_too_large(name):
    scores = np.array([0.0, 40.0, 800.0, 1e10, 1e160, 1e300])
    scores = np.concatenate([scores, -scores])
    for target in (np.ones(12), -np.ones(12)):
        value, slope = loss_named(name).value(scores, target), loss_named(name).slope(scores, target)
        assert (value >= 0.0).all()  # and no NaN; a square may be infinite
        assert np.isfinite(slope).all()
        assert np.isfinite(value).all() or name in ("squared_hinge", "squared_error", "squared_epsilon_insensitive")


def test_log_loss_keeps_the_digits_of_small_probabilities():
    value = LOSSES["log_loss"].value(np.array([40.0, 700.0]), np.ones(2))
    assert value == pytest.approx(np.exp([-40.0, -700.0]), rel=1e-14, abs=0.0)
    assert LOSSES["log_loss"].slope(np.array([40.0, 700.0]), np.ones(2)) == pytest.approx(-value, rel=1e-14, abs=0.0)


@all_losses
def test_arrays_of_any_shape_are_taken_element_by_element(name):
    rng = np.random.default_rng(1)
    scores, targets = rng.normal(size=(4, 3)), rng.choice([-1.0, 1.0], size=(4, 3))
    for formula in (LOSSES[name].value, LOSSES[name].slope):
        single = [formula(np.array([s]), np.array([t]))[0] for s, t in zip(scores.flat, targets.flat, strict=True)]
        np.testing.assert_array_equal(formula(scores, targets), np.reshape(single, (4, 3)))


def test_an_unknown_loss_is_refused_with_those_that_there_are():
    with pytest.raises(UsageError, match=r"no loss named 'log'(.|\n)*hinge.*log_loss.*squared_hinge"):
        loss_named("log")
