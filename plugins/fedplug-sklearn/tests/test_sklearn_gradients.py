"""Gradients equal scikit-learn's own steps, and the numerical derivatives of an objective written row by row.

Each law is a function of the implementation, so that planted bugs can be shown to break it.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Perceptron, SGDClassifier, SGDRegressor

from fedplug.core.errors import DatasetError, UsageError
from fedplug_sklearn.linear import LinearObjective, prepare
from fedplug_sklearn.losses import LOSSES

REGRESSION = ["squared_error", "huber", "epsilon_insensitive", "squared_epsilon_insensitive"]
MARGIN = sorted(set(LOSSES) - set(REGRESSION))
MODELS = [
    *((SGDClassifier, loss, n_classes) for loss in sorted(LOSSES) for n_classes in (2, 4)),
    *((Perceptron, "perceptron", n_classes) for n_classes in (2, 3)),
    *((SGDRegressor, loss, None) for loss in REGRESSION),
]
SPARSE = [sparse.csr_array, sparse.csc_array, sparse.coo_array, sparse.csr_matrix, sparse.csc_matrix]
every_model = pytest.mark.parametrize(
    ("kind", "loss", "n_classes"), MODELS, ids=[f"{kind.__name__}-{loss}-{n}" for kind, loss, n in MODELS]
)


# ------------------------------------------------------------------------------------------------------- the cases


def make_model(kind, loss, n_classes, d, rng, **options):
    """A prepared estimator with random coefficients."""
    if n_classes is not None and rng.random() < 0.5:
        classes = rng.choice(n_classes, size=rng.integers(1, n_classes + 1), replace=False)
        options["class_weight"] = {int(label): float(rng.uniform(0.0, 3.0)) for label in classes}
    if kind is not Perceptron:
        options.update(loss=loss, epsilon=float(rng.uniform(0.05, 1.0)))
    estimator = kind(fit_intercept=bool(rng.random() < 0.8), **options)
    prepare(estimator, d, n_classes)
    estimator.coef_[...] = rng.normal(size=estimator.coef_.shape)
    if estimator.fit_intercept:
        estimator.intercept_[...] = rng.normal(size=estimator.intercept_.shape)
    return estimator


def make_data(estimator, n, rng):
    """Rows of numbers up to 10, their targets (often without some of the classes), and perhaps their weights."""
    d = estimator.n_features_in_
    form = rng.integers(3)
    if form == 0:
        x = np.clip(rng.normal(scale=rng.choice([0.1, 1.0, 3.0]), size=(n, d)), -10, 10)
    elif form == 1:
        x = rng.uniform(-10, 10, size=(n, d))
    else:
        x = rng.integers(-2, 3, size=(n, d)).astype(float)
    if isinstance(estimator, SGDRegressor):
        y = rng.normal(scale=3.0, size=n)
    else:
        y = rng.choice(rng.choice(estimator.classes_, size=rng.integers(1, len(estimator.classes_) + 1)), size=n)
    weight = rng.choice([0.0, 1.0, 2.5, rng.uniform(0, 2)], size=n) if rng.random() < 0.5 else None
    if weight is not None:
        weight[0] = 1.0  # scikit-learn refuses to train on rows that all weigh nothing
    return x, y, weight


def largest_safe_rate(estimator, x, weight):
    """The largest rate at which no step enlarges a distance between two models, and so no rounding error.

    For a convex loss whose slope changes by at most c per score, that is 2 / (c a |x, 1|^2), for the row where it is
    least. Beyond it, a loss that is not a parabola everywhere makes chaos of the last digits. Where slopes are constant
    but for jumps, any rate is safe.
    """
    curvature = {"log_loss": 0.25, "squared_error": 1.0, "huber": 1.0}
    c = curvature.get(estimator.loss, 2.0)
    if estimator.loss in KINKED:
        return 1.0
    heaviest = max([1.0, *(getattr(estimator, "class_weight", None) or {}).values()])
    heaviest *= 1.0 if weight is None else weight.max()
    return 2.0 / (c * heaviest * (1.0 + np.square(x).sum(axis=1).max()))


SEEDS = st.integers(0, 2**32 - 1)
KINKED = ("hinge", "perceptron", "epsilon_insensitive")


# -------------------------------------------------------------------------------------- an objective, row by row


def plain_loss(name, s, t, epsilon):
    """The loss of one score, and where it bends, by its textbook formula."""
    z, r = t * s, abs(s - t)
    if name in ("hinge", "perceptron", "squared_hinge"):
        c = 0.0 if name == "perceptron" else 1.0
        return max(0.0, c - z) ** (2 if name == "squared_hinge" else 1), [z - c]
    if name == "log_loss":
        return math.log1p(math.exp(-z)) if z > -30 else -z + math.exp(z), []
    if name == "modified_huber":
        return (max(0.0, 1 - z) ** 2 if z >= -1 else -4 * z), [z - 1, z + 1]
    if name == "squared_error":
        return r * r / 2, []
    if name == "huber":
        return (r * r / 2 if r <= epsilon else epsilon * r - epsilon * epsilon / 2), [r - epsilon]
    return max(0.0, r - epsilon) ** (2 if name.startswith("squared") else 1), [r - epsilon]


def plain_target(estimator, k, y):
    """The target of score k for a row of target y, and the class weight."""
    if isinstance(estimator, SGDRegressor):
        return y, 1.0
    weights = estimator.class_weight or {}
    if len(estimator.classes_) == 2:
        return (1.0 if y == 1 else -1.0), weights.get(y, 1.0)
    return (1.0, weights.get(k, 1.0)) if y == k else (-1.0, 1.0)


def plain_objective(estimator, coef, intercept, x, y, sample_weight):
    """The objective, and the distance to the nearest bend of a loss, by loops over rows and scores."""
    total, nearest = 0.0, math.inf
    for i in range(len(x)):
        for k in range(len(coef)):
            score = sum(coef[k][j] * x[i][j] for j in range(len(coef[k]))) + intercept[k]
            target, class_weight = plain_target(estimator, k, y[i])
            value, bends = plain_loss(estimator.loss, score, target, estimator.epsilon)
            total += (1.0 if sample_weight is None else sample_weight[i]) * class_weight * value
            nearest = min([nearest, *map(abs, bends)])
    l1, l2 = sum(abs(w) for row in coef for w in row), sum(w * w / 2 for row in coef for w in row)
    ratio = {None: 0.0, "l1": 1.0, "l2": 0.0, "elasticnet": estimator.l1_ratio}[estimator.penalty]
    penalty = 0.0 if estimator.penalty is None else ratio * l1 + (1 - ratio) * l2
    return total / len(x) + estimator.alpha * penalty, nearest


# -------------------------------------------------------------------------------------------------------- the laws


def law_of_single_steps(make, estimator, x, y, weight, eta):
    """Batches of one row, and the plainest of optimizers, are scikit-learn's own pass over these rows.

    Where a loss has a kink, rounding may decide on which side of it a score falls: such cases are assumed away. A
    coefficient may differ by 1e-12 of the largest that there has been, or of 1.
    """
    ours, theirs = clone(estimator), estimator
    prepare(ours, x.shape[1], None if isinstance(estimator, SGDRegressor) else len(estimator.classes_))
    ours.coef_[...], ours.intercept_[...] = theirs.coef_, theirs.intercept_
    objective = make(ours)
    largest = 1.0
    for i in range(len(x)):
        if ours.coef_.any():  # from all zeros, both get a score of exactly 0
            assume(not near_a_kink(ours, x[i], y[i]))
        _, gradients = objective(x[i : i + 1], y[i : i + 1], None if weight is None else weight[i : i + 1])
        ours.coef_ -= eta * gradients["coef_"]
        ours.intercept_ -= eta * gradients["intercept_"]
        largest = max(largest, np.abs(ours.coef_).max(), np.abs(ours.intercept_).max())
    # A Perceptron has no parameter learning_rate: it is constant.
    steps = {"learning_rate": "constant", "shuffle": False, "eta0": eta}
    theirs.set_params(**{name: value for name, value in steps.items() if name in theirs.get_params()})
    theirs.partial_fit(x, y, sample_weight=weight)
    assert np.abs(ours.coef_ - theirs.coef_).max() <= 1e-12 * largest
    assert np.abs(ours.intercept_ - theirs.intercept_).max() <= 1e-12 * largest


def near_a_kink(estimator, row, y):
    """Whether a loss whose slope jumps has a score within 1e-9 of the jump."""
    if estimator.loss not in KINKED:
        return False
    for k, (coef, intercept) in enumerate(zip(np.atleast_2d(estimator.coef_), estimator.intercept_, strict=True)):
        score = float(coef @ row + intercept)
        _, kinks = plain_loss(estimator.loss, score, plain_target(estimator, k, y)[0], estimator.epsilon)
        if min(map(abs, kinks)) < 1e-9 * max(1.0, abs(score)):
            return True
    return False


def law_of_derivatives(make, estimator, x, y, weight, h=1e-5):
    """Objective and gradients are those of the loops above, differentiated numerically.

    Near a bend of a loss a difference quotient means nothing: such cases are assumed away. At a coefficient of
    exactly 0 the central difference of |w| is 0, which is the subgradient that we take.
    """
    coef, intercept = np.atleast_2d(estimator.coef_), estimator.intercept_
    expected, nearest = plain_objective(estimator, coef.tolist(), intercept.tolist(), x.tolist(), y.tolist(), weight)
    assume(nearest > 100 * h)
    assume(((np.abs(coef) > 2 * h) | (coef == 0.0)).all())
    value, gradients = make(estimator)(x, y, weight)
    assert value == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert {name: (g.shape, g.dtype) for name, g in gradients.items()} == {
        "coef_": (estimator.coef_.shape, np.float64),
        "intercept_": (estimator.intercept_.shape, np.float64),
    }
    for name, array in (("coef_", coef), ("intercept_", intercept)):
        for at, slope in zip(np.ndindex(array.shape), gradients[name].ravel(), strict=True):
            if name == "intercept_" and not estimator.fit_intercept:
                assert slope == 0.0
                continue
            sides = []
            for step in (h, -h):
                moved = {"coef_": coef.copy(), "intercept_": intercept.copy()}
                moved[name][at] += step
                lists = moved["coef_"].tolist(), moved["intercept_"].tolist()
                sides.append(plain_objective(estimator, *lists, x.tolist(), y.tolist(), weight)[0])
            assert (sides[0] - sides[1]) / (2 * h) == pytest.approx(slope, rel=1e-7, abs=1e-8 * max(1.0, expected))


def law_of_sparse_data(make, estimator, x, y, weight):
    """Sparse data have the gradients of dense data."""
    value, gradients = make(estimator)(x, y, weight)
    for form in SPARSE:
        other_value, others = make(estimator)(form(x), y, weight)
        assert other_value == pytest.approx(value, rel=1e-13)
        for name, gradient in gradients.items():
            assert type(others[name]) is np.ndarray
            assert np.abs(others[name] - gradient).max() <= 1e-13 * max(1.0, np.abs(gradient).max())
        assert make(estimator).scores(form(x)) == pytest.approx(make(estimator).scores(x), rel=1e-13, abs=1e-13)


# ------------------------------------------------------------------------------------------------------ they hold


@every_model
@settings(max_examples=20)
@given(
    seed=SEEDS,
    n=st.integers(1, 200),
    d=st.integers(1, 6),
    rate=st.floats(1e-3, 1.0),
    decay=st.floats(0.0, 0.99),
    penalty=st.sampled_from([None, "l2"]),
)
def test_single_steps_are_those_of_scikit_learn(kind, loss, n_classes, seed, n, d, rate, decay, penalty):
    rng = np.random.default_rng(seed)
    estimator = make_model(kind, loss, n_classes, d, rng, penalty=penalty)
    if rng.random() < 0.3:
        estimator.coef_[...] = 0.0
        estimator.intercept_[...] = 0.0
    x, y, weight = make_data(estimator, n, rng)
    eta = rate * largest_safe_rate(estimator, x, weight)
    estimator.set_params(alpha=decay / eta)
    law_of_single_steps(LinearObjective, estimator, x, y, weight, eta)


@pytest.mark.parametrize(("kind", "n_classes"), [(SGDRegressor, None), (SGDClassifier, 2), (SGDClassifier, 3)])
@settings(max_examples=30)
@given(seed=SEEDS, n=st.integers(1, 20), d=st.integers(1, 6), rate=st.floats(1.0, 20.0))
def test_steps_that_diverge_are_those_of_scikit_learn(kind, n_classes, seed, n, d, rate):
    """With a parabola, errors grow as the coefficients do, and stay small beside the largest."""
    rng = np.random.default_rng(seed)
    estimator = make_model(kind, "squared_error", n_classes, d, rng, penalty=None)
    x, y, weight = make_data(estimator, n, rng)
    law_of_single_steps(LinearObjective, estimator, x, y, weight, rate * largest_safe_rate(estimator, x, weight))


@every_model
@settings(max_examples=15)
@given(seed=SEEDS, n=st.integers(1, 9), d=st.integers(1, 3), penalty=st.sampled_from([None, "l1", "l2", "elasticnet"]))
def test_gradients_are_derivatives(kind, loss, n_classes, seed, n, d, penalty):
    rng = np.random.default_rng(seed)
    options = {"penalty": penalty, "alpha": float(rng.uniform(0, 2)), "l1_ratio": float(rng.uniform(0, 1))}
    estimator = make_model(kind, loss, n_classes, d, rng, **options)
    estimator.coef_[rng.random(estimator.coef_.shape) < 0.3] = 0.0
    law_of_derivatives(LinearObjective, estimator, *make_data(estimator, n, rng))


@every_model
@settings(max_examples=8)
@given(seed=SEEDS, n=st.integers(1, 40), d=st.integers(1, 6))
def test_sparse_data_have_the_gradients_of_dense_data(kind, loss, n_classes, seed, n, d):
    rng = np.random.default_rng(seed)
    estimator = make_model(kind, loss, n_classes, d, rng, penalty="l2")
    x, y, weight = make_data(estimator, n, rng)
    law_of_sparse_data(LinearObjective, estimator, x * (rng.random(x.shape) < 0.3), y, weight)


@every_model
@pytest.mark.parametrize("dtype", ["int8", "uint16", "int64", "bool", "float16", "float32"])
def test_any_type_of_number_is_taken_as_float64(kind, loss, n_classes, dtype):
    rng = np.random.default_rng(7)
    objective = LinearObjective(make_model(kind, loss, n_classes, 5, rng))
    x, y = (rng.uniform(0, 9, size=(30, 5)) * (rng.random((30, 5)) < 0.5)).astype(dtype), rng.integers(0, 2, 30)
    exact = x.astype(np.float64)
    pairs = [(x, exact)]
    if dtype != "float16":  # which SciPy has no sparse matrices of
        pairs.append((sparse.csr_array(x), sparse.csr_array(exact)))
    for given_data, same in pairs:
        value, gradients = objective(given_data, y.astype("float32" if n_classes is None else "int16"))
        other_value, others = objective(same, y)
        assert value == other_value
        for name, gradient in gradients.items():
            np.testing.assert_array_equal(gradient, others[name])
        np.testing.assert_array_equal(objective.scores(given_data), objective.scores(same))


@every_model
def test_scores_are_those_of_scikit_learn(kind, loss, n_classes):
    rng = np.random.default_rng(3)
    estimator = make_model(kind, loss, n_classes, 4, rng)
    x = rng.normal(size=(20, 4))
    scores = LinearObjective(estimator).scores(x)
    if n_classes is None:
        assert scores == pytest.approx(estimator.predict(x), rel=1e-14)
        return
    assert scores.shape == (20, n_classes)
    np.testing.assert_array_equal(scores.argmax(axis=1), estimator.predict(x))
    own = estimator.decision_function(x)
    assert scores == pytest.approx(own if n_classes > 2 else np.stack([0 * own, own], axis=1), rel=1e-14, abs=1e-14)


def test_a_slope_is_clipped_as_in_scikit_learn():
    for target in (1e15, -1e15):
        estimator = SGDRegressor(penalty=None)
        prepare(estimator, 1)
        law_of_single_steps(LinearObjective, estimator, np.ones((1, 1)), np.array([target]), np.array([0.5]), 1.0)
        assert abs(estimator.coef_[0]) == 0.5e12


def test_what_diverges_shows_in_the_result_and_warns_of_nothing():
    estimator = SGDRegressor(penalty="l2")
    prepare(estimator, 2)
    estimator.coef_[...] = [1e300, 1e200]
    value, gradients = LinearObjective(estimator)(np.array([[1e10, 1.0], [-1e10, 1.0]]), np.zeros(2))
    assert value == math.inf
    assert np.isfinite(gradients["coef_"]).all()  # since slopes are clipped
    estimator.coef_[...] = math.nan
    assert math.isnan(LinearObjective(estimator)(np.ones((1, 2)), np.zeros(1))[0])


def test_coefficients_are_read_afresh_at_every_call():
    rng = np.random.default_rng(5)
    estimator = make_model(SGDClassifier, "log_loss", 3, 4, rng)
    objective = LinearObjective(estimator)
    x, y, _ = make_data(estimator, 12, rng)
    before = objective(x, y)[0]
    estimator.coef_ *= 2.0
    assert objective(x, y)[0] == LinearObjective(estimator)(x, y)[0] != before
    estimator.coef_ = estimator.coef_ * 2.0  # another array
    assert objective(x, y)[0] == LinearObjective(estimator)(x, y)[0]


def test_the_gradients_share_no_memory_with_the_model_or_with_later_ones():
    rng = np.random.default_rng(5)
    estimator = make_model(SGDClassifier, "squared_error", 3, 4, rng)
    objective = LinearObjective(estimator)
    x, y, _ = make_data(estimator, 12, rng)
    _, gradients = objective(x, y)
    copies = {name: array.copy() for name, array in gradients.items()}
    estimator.coef_[...] = 9.0
    objective(x, y)
    for name, array in gradients.items():
        np.testing.assert_array_equal(array, copies[name])
        assert array.flags.c_contiguous
        assert array.flags.writeable


def test_targets_may_be_a_column():
    rng = np.random.default_rng(6)
    estimator = make_model(SGDRegressor, "huber", None, 3, rng)
    x, y, _ = make_data(estimator, 8, rng)
    assert LinearObjective(estimator)(x, y[:, None])[0] == LinearObjective(estimator)(x, y)[0]


# ------------------------------------------------------------------------------------------------- what is refused


def test_a_model_of_another_kind_is_refused():
    with pytest.raises(UsageError, match="LogisticRegression is no linear model that is trained by gradients"):
        LinearObjective(LogisticRegression())


def test_a_model_without_coefficients_is_refused():
    with pytest.raises(UsageError, match="no coefficients yet"):
        LinearObjective(SGDClassifier())


def test_class_weights_that_depend_on_the_data_are_refused():
    estimator = SGDClassifier()
    prepare(estimator, 2, 2)
    with pytest.raises(UsageError, match=r"'balanced' depends on all the data(.|\n)*class_weight=\{0"):
        LinearObjective(estimator.set_params(class_weight="balanced"))


def test_a_batch_without_rows_is_refused():
    estimator = SGDClassifier()
    prepare(estimator, 2, 2)
    with pytest.raises(DatasetError, match="no rows"):
        LinearObjective(estimator)(np.zeros((0, 2)), np.zeros(0))


# --------------------------------------------------------------------------------------------------- planted bugs


class Changed(LinearObjective):
    """The right gradients, changed by one mistake."""

    def __init__(self, estimator, mistake):
        super().__init__(estimator)
        self.model, self.mistake = estimator, mistake

    def __call__(self, data, target, sample_weight=None):
        value, gradients = super().__call__(data, target, sample_weight)
        return value, self.mistake(self.model, data, target, gradients)


def forgets_the_mean(model, data, target, g):
    return {name: array * data.shape[0] for name, array in g.items()}


def pushes_away_from_zero(model, data, target, g):
    return {**g, "coef_": g["coef_"] - 2 * model.alpha * np.sign(model.coef_)}


def penalises_the_intercept(model, data, target, g):
    return {**g, "intercept_": g["intercept_"] + model.alpha * model.intercept_}


def decays_the_intercept_of_sparse_data(model, data, target, g):
    return {**g, "intercept_": g["intercept_"] * (0.01 if sparse.issparse(data) else 1.0)}


def doubles_the_l2_penalty(model, data, target, g):
    return {**g, "coef_": g["coef_"] + model.alpha * model.coef_}


def ignores_class_weights(model, data, target, g):
    return LinearObjective(clone_with(model, class_weight=None))(data, target)[1]


def mixes_up_two_class_weights(model, data, target, g):
    first, second = model.class_weight[0], model.class_weight[1]
    return LinearObjective(clone_with(model, class_weight={0: second, 1: first}))(data, target)[1]


def clone_with(model, **options):
    other = clone(model).set_params(**options)
    prepare(other, model.n_features_in_, len(model.classes_))
    other.coef_[...], other.intercept_[...] = model.coef_, model.intercept_
    return other


def planted_case(penalty):
    rng = np.random.default_rng(11)
    estimator = SGDClassifier("log_loss", penalty=penalty, alpha=0.3, class_weight={0: 0.5, 1: 3.0})
    prepare(estimator, 3, 2)
    estimator.coef_[...], estimator.intercept_[...] = rng.normal(size=(1, 3)), 0.7
    return estimator, rng.normal(size=(6, 3)), np.array([0, 1, 1, 0, 1, 1]), None


@pytest.mark.parametrize(
    ("law", "penalty", "mistake"),
    [
        (law_of_derivatives, "l1", forgets_the_mean),
        (law_of_derivatives, "l1", pushes_away_from_zero),
        (law_of_derivatives, "l2", penalises_the_intercept),
        (law_of_derivatives, "l2", doubles_the_l2_penalty),
        (law_of_derivatives, None, mixes_up_two_class_weights),
        (law_of_single_steps, "l2", penalises_the_intercept),
        (law_of_single_steps, "l2", doubles_the_l2_penalty),
        (law_of_single_steps, None, ignores_class_weights),
        (law_of_single_steps, None, mixes_up_two_class_weights),
        (law_of_sparse_data, "l2", decays_the_intercept_of_sparse_data),
    ],
)
@settings(max_examples=1)
@given(nothing=st.none())  # what the laws assume needs Hypothesis around it
def test_a_planted_bug_breaks_the_law(law, penalty, mistake, nothing):
    more = (0.1,) if law is law_of_single_steps else ()
    law(LinearObjective, *planted_case(penalty), *more)
    with pytest.raises(AssertionError):
        law(lambda estimator: Changed(estimator, mistake), *planted_case(penalty), *more)
