"""A prepared model is a fitted one to all of scikit-learn, and preparing it leaves no trace elsewhere."""

from __future__ import annotations

import pickle
import warnings
from itertools import product

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Perceptron, SGDClassifier, SGDRegressor
from sklearn.utils.validation import check_is_fitted

from fedplug.core.errors import UsageError
from fedplug_sklearn.linear import prepare

MODELS = [(SGDClassifier, 2), (SGDClassifier, 5), (Perceptron, 2), (Perceptron, 3), (SGDRegressor, None)]
every_model = pytest.mark.parametrize(("kind", "n_classes"), MODELS)


def shapes(n_features, n_classes):
    if n_classes is None:
        return (n_features,), (1,)
    lines = 1 if n_classes == 2 else n_classes
    return (lines, n_features), (lines,)


def predictions(estimator, x):
    methods = ("predict", "decision_function", "predict_proba", "predict_log_proba")
    return [getattr(estimator, method)(x) for method in methods if hasattr(estimator, method)]


@every_model
def test_it_is_a_fitted_model_with_all_coefficients_zero(kind, n_classes):
    estimator = kind()
    prepare(estimator, 4, n_classes)
    check_is_fitted(estimator)
    assert (estimator.coef_.shape, estimator.intercept_.shape) == shapes(4, n_classes)
    for array in (estimator.coef_, estimator.intercept_):
        assert array.dtype == np.float64
        assert array.flags.writeable
        assert not array.any()
    assert estimator.t_ == 1.0
    assert estimator.n_features_in_ == 4
    if n_classes is not None:
        np.testing.assert_array_equal(estimator.classes_, np.arange(n_classes))
    for prediction in predictions(estimator, np.ones((3, 4))):
        assert np.isfinite(prediction).all()


@pytest.mark.parametrize("loss", ["log_loss", "modified_huber"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_probabilities_of_a_model_that_knows_nothing_are_equal(loss, n_classes):
    estimator = SGDClassifier(loss)
    prepare(estimator, 2, n_classes)
    assert estimator.predict_proba(np.ones((1, 2))) == pytest.approx(np.full((1, n_classes), 1 / n_classes))


@every_model
@pytest.mark.parametrize("trip", ["pickle", "joblib"])
def test_it_survives_a_round_trip(kind, n_classes, trip, tmp_path):
    rng = np.random.default_rng(1)
    estimator, x = kind(), rng.normal(size=(6, 4))
    prepare(estimator, 4, n_classes)
    estimator.coef_[...] = rng.normal(size=estimator.coef_.shape)
    if trip == "joblib":
        joblib.dump(estimator, tmp_path / "model.joblib")
        other = joblib.load(tmp_path / "model.joblib")
    else:
        other = pickle.loads(pickle.dumps(estimator))
    for ours, theirs in zip(predictions(estimator, x), predictions(other, x), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@every_model
def test_training_goes_on_from_its_coefficients_as_in_a_new_model(kind, n_classes):
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(40, 4)), rng.integers(0, n_classes or 9, size=40)
    prepared, new = kind(random_state=3), kind(random_state=3)
    prepare(prepared, 4, n_classes)
    prepared.partial_fit(x, y)
    new.partial_fit(x, y, **({} if n_classes is None else {"classes": np.arange(n_classes)}))
    np.testing.assert_array_equal(prepared.coef_, new.coef_)
    np.testing.assert_array_equal(prepared.intercept_, new.intercept_)
    assert prepared.t_ == new.t_ == 41.0


@every_model
def test_it_has_what_scikit_learn_gives_a_fitted_model(kind, n_classes):
    prepared, new = kind(), kind()
    prepare(prepared, 4, n_classes)
    options = {} if n_classes is None else {"classes": np.arange(n_classes)}
    new.partial_fit(np.ones((2, 4)), np.arange(2), **options)
    assert {name: type(value) for name, value in vars(prepared).items()} == {
        name: type(value) for name, value in vars(new).items()
    }


@every_model
def test_its_settings_stay_and_a_clone_of_it_is_unfitted(kind, n_classes):
    options = {"alpha": 0.5, "verbose": 2, "shuffle": False, "random_state": 4, "penalty": "elasticnet"}
    estimator = kind(**options)
    prepare(estimator, 3, n_classes)
    assert options.items() <= estimator.get_params().items()
    assert not hasattr(clone(estimator), "coef_")


@every_model
def test_a_model_that_was_fitted_before_starts_anew(kind, n_classes):
    estimator = kind(max_iter=2, tol=None)
    estimator.fit(np.ones((4, 7)), [0, 1, 2, 5])
    estimator.feature_names_in_ = np.array(list("abcdefg"), dtype=object)
    prepare(estimator, 4, n_classes)
    assert (estimator.coef_.shape, estimator.intercept_.shape) == shapes(4, n_classes)
    assert not estimator.coef_.any()
    assert not hasattr(estimator, "feature_names_in_")
    assert len(predictions(estimator, np.ones((1, 4)))[0]) == 1


@every_model
def test_no_random_state_is_touched_and_nothing_is_printed(kind, n_classes, capsys):
    own = np.random.RandomState(5)
    for estimator in (kind(random_state=None, verbose=1), kind(random_state=own, verbose=1)):
        states = [np.random.get_state()[1].tolist(), own.get_state()[1].tolist(), own.get_state()[2]]
        positions = np.random.get_state()[2]
        prepare(estimator, 3, n_classes)
        assert [np.random.get_state()[1].tolist(), own.get_state()[1].tolist(), own.get_state()[2]] == states
        assert np.random.get_state()[2] == positions
    assert estimator.random_state is own
    assert capsys.readouterr() == ("", "")


def test_no_setting_makes_scikit_learn_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        penalties, rates = [None, "l1", "l2", "elasticnet"], ["constant", "optimal", "invscaling", "adaptive"]
        for loss, penalty, rate in product(SGDClassifier.loss_functions, penalties, rates):
            for n_classes in (2, 3):
                prepare(SGDClassifier(loss, penalty=penalty, learning_rate=rate, max_iter=1), 2, n_classes)
        for loss, penalty, rate in product(SGDRegressor.loss_functions, penalties, rates):
            prepare(SGDRegressor(loss, penalty=penalty, learning_rate=rate, tol=None), 2)
        for penalty in penalties:
            prepare(Perceptron(penalty=penalty, class_weight={0: 2.0, 1: 3.0}, n_jobs=2), 2, 3)


def test_a_learning_rate_is_not_used_and_so_not_minded():
    estimator = SGDClassifier("log_loss", alpha=0.0, learning_rate="optimal")
    prepare(estimator, 2, 2)
    assert estimator.learning_rate == "optimal"
    prepare(SGDClassifier("log_loss", learning_rate="pa1", eta0=0.1), 2, 2)


@pytest.mark.parametrize(
    ("estimator", "numbers", "words"),
    [
        (LogisticRegression(), (3, 2), "LogisticRegression is no linear model"),
        (SGDClassifier(), (3, None), "at least two classes, but n_classes is None"),
        (Perceptron(), (3, 1), "at least two classes, but n_classes is 1"),
        (SGDRegressor(), (3, 2), "SGDRegressor has no classes"),
        (SGDRegressor(), (0, None), "n_features is 0"),
        (SGDRegressor(average=True), (3, None), "average=True"),
        (SGDClassifier(average=10), (3, 2), "average=10"),
        (SGDClassifier(class_weight="balanced"), (3, 2), "cannot train this SGDClassifier batch by batch: .*balanced"),
        (SGDClassifier(early_stopping=True), (3, 2), "batch by batch: early_stopping"),
        (SGDClassifier(alpha=-1.0), (3, 2), "batch by batch: .*alpha"),
        (SGDRegressor("log_loss"), (3, None), "batch by batch: .*loss"),
    ],
)
def test_what_cannot_be_trained_is_refused_and_left_alone(estimator, numbers, words):
    before = dict(vars(estimator))
    with pytest.raises(UsageError, match=words):
        prepare(estimator, *numbers)
    assert vars(estimator) == before
