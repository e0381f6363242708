"""Statistics of nodes and batches, put together by a weighted mean, give the model of all rows in one place."""

from __future__ import annotations

import pickle

import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.naive_bayes import GaussianNB
from sklearn.utils.validation import check_is_fitted

from fedplug.core.errors import DatasetError, UsageError
from fedplug_sklearn import gaussian
from fedplug_sklearn.gaussian import Statistics, write

EPS = float(np.finfo(np.float64).eps)
SETS = {"breast cancer": load_breast_cancer, "digits": load_digits, "iris": load_iris}
every_set = pytest.mark.parametrize("name", sorted(SETS))


def class_means(x, y, n_classes):
    return np.stack([x[y == c].mean(axis=0) if (y == c).any() else x.mean(axis=0) for c in range(n_classes)])


def federate(make, x, y, n_classes, location, nodes, weight=None, batches=3):
    """The weighted mean of what the nodes send, each after some batches, and the sum of its weights.

    Args:
        nodes: The number of the node of each row; a node may have none, and sends nothing then.
    """
    sent = []
    for node in np.unique(nodes):
        statistics = make(n_classes, location)
        for batch in np.array_split(np.flatnonzero(nodes == node), batches):
            statistics.add(x[batch], y[batch], None if weight is None else weight[batch])
        sent.append((statistics.total, statistics.arrays()))
    total = sum(n for n, _ in sent)
    return {name: sum(n * arrays[name] for n, arrays in sent) / total for name in sent[0][1]}, total


def law_of_pooling(make, finish, x, y, n_classes, location, nodes, rel=1e-9, slack=0.0, **options):
    """Means, variances and priors are those of scikit-learn on the rows in one place.

    Args:
        slack: For locations far from the means of the classes, compared to the features' variation: by how many
            units in the last place of the squared distance a variance may be wrong, beyond ``rel``.
    """
    pooled = GaussianNB(**options).fit(x, y)
    arrays, total = federate(make, x, y, n_classes, location, nodes)
    federated = GaussianNB(**options)
    finish(federated, arrays, total)
    seen = pooled.classes_
    away = np.abs(pooled.theta_ - (location[seen] if location.ndim == 2 else location))
    # A mean near zero comes of sums that are not.
    size = np.abs(x).max(axis=0) + slack * away
    assert (np.abs(federated.theta_[seen] - pooled.theta_) <= rel * np.abs(pooled.theta_) + 4 * EPS * size).all()
    lost = slack * EPS * np.square(away)
    lost_epsilon = pooled.var_smoothing * lost.max()
    assert (np.abs(federated.var_[seen] - pooled.var_) <= rel * pooled.var_ + lost + lost_epsilon).all()
    assert federated.class_prior_[seen] == pytest.approx(pooled.class_prior_, rel=rel)
    assert federated.class_count_[seen] == pytest.approx(pooled.class_count_, rel=rel)
    assert abs(federated.epsilon_ - pooled.epsilon_) <= rel * pooled.epsilon_ + lost_epsilon
    return federated, pooled


def load(name):
    x, y = SETS[name](return_X_y=True)
    return x, y, int(y.max()) + 1


def uneven(n, seed=0):
    """Four nodes, of some 60, 30, 10 and 0.3 percent of the rows; at least one row each."""
    nodes = np.random.default_rng(seed).choice(4, size=n, p=[0.6, 0.3, 0.097, 0.003])
    nodes[:4] = range(4)
    return nodes


# ------------------------------------------------------------------------------------------------------ they hold


@every_set
def test_real_data_with_a_location_of_zero(name):
    x, y, n_classes = load(name)
    federated, pooled = law_of_pooling(Statistics, write, x, y, n_classes, np.zeros(x.shape[1]), uneven(len(x)))
    np.testing.assert_array_equal(federated.predict(x), pooled.predict(x))
    assert federated.predict_log_proba(x) == pytest.approx(pooled.predict_log_proba(x), rel=1e-6, abs=1e-6)


@every_set
def test_real_data_with_the_location_at_the_mean_of_each_class(name):
    x, y, n_classes = load(name)
    law_of_pooling(Statistics, write, x, y, n_classes, class_means(x, y, n_classes), uneven(len(x)))


@every_set
def test_real_data_with_the_location_at_the_mean_of_all(name):
    x, y, n_classes = load(name)
    # Digits have pixels that are constant in a class, but not 0: nothing but epsilon_ is left of their variance.
    slack = 16.0 if name == "digits" else 0.0
    law_of_pooling(Statistics, write, x, y, n_classes, x.mean(axis=0), uneven(len(x)), slack=slack)


@every_set
def test_nodes_with_one_class_each(name):
    x, y, n_classes = load(name)
    law_of_pooling(Statistics, write, x, y, n_classes, np.zeros(x.shape[1]), y)


@settings(max_examples=400)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(2, 60),
    d=st.integers(1, 5),
    n_classes=st.integers(1, 5),
    n_nodes=st.integers(1, 6),
    distance=st.floats(0.0, 1e4, allow_subnormal=False),
    smoothing=st.sampled_from([1e-9, 1e-3, 1.0]),
)
def test_any_data_on_any_nodes(seed, n, d, n_classes, n_nodes, distance, smoothing):
    """Also classes with one row or with none, features that are constant, and integers."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, size=n)
    x = rng.normal(size=(n_classes, d))[y] * rng.choice([0.0, 1.0, 100.0]) + rng.normal(size=(n, d)) * rng.uniform(0, 3)
    x[:, rng.random(d) < 0.2] = 1.5
    x = np.round(x) if rng.random() < 0.3 else x
    x[0, 0] += 1.0  # something varies, or scikit-learn would divide by variances of 0
    location = rng.normal(size=d) * distance + x.mean(axis=0)
    nodes = rng.integers(0, n_nodes, size=n)
    law_of_pooling(Statistics, write, x, y, n_classes, location, nodes, slack=32.0, var_smoothing=smoothing)


def test_a_large_offset_wants_a_location():
    rng = np.random.default_rng(4)
    x, y = 1e6 + rng.normal(size=(900, 3)), rng.integers(0, 2, size=900)
    nodes = uneven(900)
    for location in (x.mean(axis=0), np.full(3, 1e6 + 10.0), class_means(x, y, 2)):
        law_of_pooling(Statistics, write, x, y, 2, location, nodes)
    law_of_pooling(Statistics, write, x, y, 2, np.zeros(3), nodes, rel=1e-2)
    with pytest.raises(AssertionError):
        law_of_pooling(Statistics, write, x, y, 2, np.zeros(3), nodes, rel=1e-6)


@every_set
def test_sparse_data_have_the_statistics_of_dense_data(name):
    x, y, n_classes = load(name)
    x = np.where(x > x.mean(axis=0), x, 0.0)
    location = x.mean(axis=0)
    dense = Statistics(n_classes, location)
    dense.add(x, y)
    for form in (sparse.csr_array, sparse.csc_matrix, sparse.coo_array):
        other = Statistics(n_classes, location)
        other.add(form(x), y)
        for key, array in dense.arrays().items():
            np.testing.assert_array_equal(other.arrays()[key], array)


@pytest.mark.parametrize("dtype", ["int16", "uint8", "bool", "float16", "float32"])
def test_any_type_of_number_is_taken_as_float64(dtype):
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 200, size=(50, 4)).astype(dtype), rng.integers(0, 3, size=50)
    ours, exact = Statistics(3, np.full(4, 0.1)), Statistics(3, np.full(4, 0.1))
    ours.add(x, y.astype("float32")[:, None])
    exact.add(x.astype(np.float64), y)
    for key, array in exact.arrays().items():
        assert array.dtype == np.float64
        np.testing.assert_array_equal(ours.arrays()[key], array)


def test_the_size_of_the_pieces_changes_nothing_but_rounding(monkeypatch):
    x, y, n_classes = load("digits")
    location = np.zeros(64)
    whole = federate(Statistics, x, y, n_classes, location, uneven(len(x)))[0]
    monkeypatch.setattr(gaussian, "PIECE", 7 * 64)
    pieces = federate(Statistics, x, y, n_classes, location, uneven(len(x)))[0]
    for key, array in whole.items():
        assert pieces[key] == pytest.approx(array, rel=1e-13)


def test_weights_are_repetitions_of_rows():
    x, y, _ = load("iris")
    weight = np.random.default_rng(2).integers(0, 4, size=len(x))
    arrays, total = federate(Statistics, x, y, 3, x.mean(axis=0), uneven(len(x)), weight)
    assert total == weight.sum()
    weighted = GaussianNB()
    write(weighted, arrays, total)
    repeated = GaussianNB().fit(np.repeat(x, weight, axis=0), np.repeat(y, weight))
    for name in ("theta_", "var_", "class_prior_", "class_count_", "epsilon_"):
        assert getattr(weighted, name) == pytest.approx(getattr(repeated, name), rel=1e-9), name


def test_weights_are_those_of_scikit_learn_but_for_its_epsilon():
    x, y, _ = load("iris")
    weight = np.random.default_rng(3).uniform(0, 2, size=len(x))
    arrays, total = federate(Statistics, x, y, 3, x.mean(axis=0), uneven(len(x)), weight)
    ours, theirs = GaussianNB(var_smoothing=0.0), GaussianNB(var_smoothing=0.0).fit(x, y, sample_weight=weight)
    write(ours, arrays, total)
    for name in ("theta_", "var_", "class_prior_", "class_count_"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-9), name


# --------------------------------------------------------------------------------------------- what a model can do


def two_of_four_classes():
    rng = np.random.default_rng(6)
    y = rng.choice([1, 3], size=80)
    return rng.normal(size=(80, 3)) + y[:, None], y


@pytest.mark.parametrize("priors", [None, [0.4, 0.2, 0.3, 0.1], [0.0, 0.5, 0.0, 0.5]])
def test_a_class_without_rows_is_never_predicted_and_makes_no_nan(priors):
    x, y = two_of_four_classes()
    arrays, total = federate(Statistics, x, y, 4, np.zeros(3), uneven(80))
    model = GaussianNB(priors=priors)
    write(model, arrays, total)
    far = np.vstack([x, -1e6 * x, 1e9 * x, np.zeros((1, 3))])
    assert set(model.predict(far)) <= {1, 3}
    assert (model.predict_proba(far)[:, [0, 2]] == 0.0).all()
    assert model.predict_proba(far).sum(axis=1) == pytest.approx(np.ones(len(far)))
    assert np.isneginf(model.predict_log_proba(far)[:, [0, 2]]).all()
    own = None if priors is None else np.array(priors)[[1, 3]] / (priors[1] + priors[3])
    pooled = GaussianNB(priors=own).fit(x, y)
    assert model.predict_proba(far)[:, [1, 3]] == pytest.approx(pooled.predict_proba(far), rel=1e-6, abs=1e-12)
    assert model.class_prior_.sum() == pytest.approx(1.0, rel=1e-15)


def test_rows_of_a_new_class_count_in_full_afterwards():
    x, y = two_of_four_classes()
    arrays, total = federate(Statistics, x, y, 4, np.zeros(3), uneven(80))
    model = GaussianNB(var_smoothing=0.0)
    write(model, arrays, total)
    more = np.random.default_rng(7).normal(size=(60, 3))
    labels = np.repeat([0, 2, 3], 20)
    model.partial_fit(more, labels)
    pooled = GaussianNB(var_smoothing=0.0).fit(np.vstack([x, more]), np.concatenate([y, labels]))
    for name in ("theta_", "var_", "class_prior_", "class_count_"):
        assert getattr(model, name) == pytest.approx(getattr(pooled, name), rel=1e-9), name


def test_it_is_a_fitted_model_and_survives_round_trips(tmp_path):
    x, y, _ = load("iris")
    arrays, total = federate(Statistics, x, y, 3, np.zeros(4), uneven(len(x)))
    model = GaussianNB()
    model.fit(np.ones((2, 2)) * [[1], [2]], [0, 1])
    model.feature_names_in_ = np.array(["a", "b"], dtype=object)
    write(model, arrays, total)
    check_is_fitted(model)
    assert vars(model).keys() == vars(GaussianNB().fit(x, y)).keys()
    assert not hasattr(clone(model), "theta_")
    joblib.dump(model, tmp_path / "model.joblib")
    for other in (pickle.loads(pickle.dumps(model)), joblib.load(tmp_path / "model.joblib")):
        np.testing.assert_array_equal(other.predict_proba(x), model.predict_proba(x))


def test_the_total_changes_no_prediction():
    x, y, _ = load("iris")
    arrays, total = federate(Statistics, x, y, 3, np.zeros(4), uneven(len(x)))
    known, unknown = GaussianNB(), GaussianNB()
    write(known, arrays, total)
    write(unknown, arrays)
    np.testing.assert_array_equal(known.predict_proba(x), unknown.predict_proba(x))
    assert unknown.class_count_.sum() == pytest.approx(1.0)


def test_own_priors_replace_the_shares():
    x, y, _ = load("iris")
    law_of_pooling(Statistics, write, x, y, 3, np.zeros(4), uneven(len(x)), priors=[0.2, 0.5, 0.3])


def test_what_a_node_sends_is_a_copy():
    statistics = Statistics(2, location := np.zeros(2))
    statistics.add(np.ones((3, 2)), [0, 1, 1])
    arrays = statistics.arrays()
    for array in arrays.values():
        array += 9.0
    location += 5.0
    assert statistics.arrays()["share"] == pytest.approx([1 / 3, 2 / 3])
    assert not statistics.arrays()["location"].any()


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("label", [-1, 3])
def test_a_class_that_the_model_has_not_is_refused(label):
    with pytest.raises(DatasetError, match=r"classes .*, the model has 0 to 2\.\nNumber the classes from 0"):
        Statistics(3, np.zeros(2)).add(np.ones((2, 2)), [0, label])


def test_no_rows_have_no_mean():
    statistics = Statistics(3, np.zeros(2))
    statistics.add(np.ones((0, 2)), np.ones(0))
    statistics.add(np.ones((1, 2)), [1], [0.0])
    assert statistics.total == 0.0
    with pytest.raises(DatasetError, match="no rows"):
        statistics.arrays()
    nothing = {"share": np.zeros(3), "first": np.zeros((3, 2)), "second": np.zeros((3, 2)), "location": np.zeros(2)}
    with pytest.raises(UsageError, match=r"of no rows(.|\n)*Run a round first"):
        write(GaussianNB(), nothing)


@pytest.mark.parametrize("priors", [[0.5, 0.5], [0.5, 0.6, 0.1], [1.5, -0.5, 0.0]])
def test_priors_that_are_no_probabilities_are_refused(priors):
    x, y, _ = load("iris")
    statistics = Statistics(3, np.zeros(4))
    statistics.add(x, y)
    model = GaussianNB(priors=priors)
    with pytest.raises(UsageError, match="are no probabilities of 3 classes"):
        write(model, statistics.arrays())
    assert not hasattr(model, "theta_")


# --------------------------------------------------------------------------------------------------- planted bugs


class MeansOfClasses(Statistics):
    """Divides by the number of rows of the class: what users expect to see, but no mean over all rows."""

    def arrays(self):
        arrays = super().arrays()
        share = np.maximum(arrays["share"], 1e-300)[:, None]
        return {**arrays, "first": arrays["first"] / share, "second": arrays["second"] / share}


class CentredAtEachNode(Statistics):
    """Second moments around the node's own means: the distances between the nodes' means are lost."""

    def arrays(self):
        arrays = super().arrays()
        share = np.maximum(arrays["share"], 1e-300)[:, None]
        return {**arrays, "second": arrays["second"] - np.square(arrays["first"]) / share}


class CountsNodesOnce(Statistics):
    """Gives every node the same weight."""

    @property
    def total(self):
        return 1.0

    def arrays(self):
        share = self._share.sum()
        sums = {"share": self._share, "first": self._first, "second": self._second}
        return {**{name: array / share for name, array in sums.items()}, "location": self._location}


def unbiased(estimator, arrays, total):
    write(estimator, arrays, total)
    counts = np.maximum(estimator.class_count_, 2.0)[:, None]
    estimator.var_ = (estimator.var_ - estimator.epsilon_) * counts / (counts - 1) + estimator.epsilon_


def without_smoothing(estimator, arrays, total):
    write(estimator, arrays, total)
    estimator.var_ = estimator.var_ - estimator.epsilon_


@pytest.mark.parametrize(
    ("make", "finish"),
    [
        (MeansOfClasses, write),
        (CentredAtEachNode, write),
        (CountsNodesOnce, write),
        (Statistics, unbiased),
        (Statistics, without_smoothing),
    ],
)
@every_set
def test_a_planted_bug_breaks_the_law(name, make, finish):
    x, y, n_classes = load(name)
    with pytest.raises(AssertionError):
        law_of_pooling(make, finish, x, y, n_classes, np.zeros(x.shape[1]), uneven(len(x)))
