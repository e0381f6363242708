"""`FedPartialFit`: at a node it is `partial_fit` and nothing else, over nodes it is the mean of the named arrays."""

from __future__ import annotations

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
from sklearn import metrics as reference
from sklearn.base import BaseEstimator
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.datasets import load_digits, make_blobs
from sklearn.decomposition import IncrementalPCA
from sklearn.linear_model import LogisticRegression, SGDClassifier, SGDRegressor
from sklearn.naive_bayes import MultinomialNB
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from fedplug import DataManager, Experiment, Params
from fedplug.core.data import LoaderArgs
from fedplug.core.errors import CodecError, DatasetError, ParamsError, PlanError, RoundError, UsageError
from fedplug.core.trainer import Hook, Trainer
from fedplug.core.training_args import TrainingArgs
from fedplug.core.training_plan import PlanSetup
from fedplug.simulation import Federation
from fedplug_scaffold import FedAverage
from fedplug_sklearn import FedPartialFit, SkLearnDataManager
from fedplug_sklearn.data import wrap

RNG = np.random.default_rng(5)
X = RNG.normal(size=(64, 4))
THREE = np.digitize(X[:, 0] + X[:, 1], [-0.7, 0.7])
COUNTS = RNG.poisson(np.array([[1, 2, 6, 1], [5, 1, 1, 2], [2, 7, 1, 1]])[THREE])
NUMBERS = X @ np.array([1.0, -2.0, 0.5, 3.0]) + 0.1 * RNG.normal(size=64)
SIZES = {"n_features": 4, "n_classes": 3}


class Net(FedPartialFit):
    parameters = ("coefs_", "intercepts_")

    def init_model(self, model_args):
        net = MLPClassifier((8,), learning_rate_init=0.02, random_state=0)
        rows = np.zeros((model_args["n_classes"], model_args["n_features"]))
        return net.partial_fit(rows, np.arange(len(rows)), classes=np.arange(len(rows)))

    def training_data(self):
        return DataManager(self.dataset)

    def init_dependencies(self):
        return ["from sklearn.neural_network import MLPClassifier"]


class WordCounts(FedPartialFit):
    parameters = ("feature_count_", "class_count_")

    def init_model(self, model_args):
        classes = np.arange(model_args["n_classes"])
        rows = np.zeros((len(classes), model_args["n_features"]))
        return MultinomialNB(alpha=0.5).partial_fit(rows, classes, classes=classes)

    def parameters_changed(self, estimator):
        counts = estimator.feature_count_ + estimator.alpha
        estimator.feature_log_prob_ = np.log(counts) - np.log(counts.sum(axis=1, keepdims=True))
        estimator.class_log_prior_ = np.log(estimator.class_count_) - np.log(estimator.class_count_.sum())

    def training_data(self):
        return DataManager(self.dataset)

    def init_dependencies(self):
        return ["from sklearn.naive_bayes import MultinomialNB"]


class Centres(FedPartialFit):
    """Has no target."""

    parameters = ("cluster_centers_", "_counts")

    def init_model(self, model_args):
        start = np.eye(3, model_args["n_features"])
        return MiniBatchKMeans(3, init=start, n_init=1, reassignment_ratio=0, random_state=0).partial_fit(start)

    def training_data(self):
        return DataManager(self.dataset.column("x"))

    def init_dependencies(self):
        return ["from sklearn.cluster import MiniBatchKMeans"]


class Line(FedPartialFit):
    parameters = ("coef_", "intercept_")

    def init_model(self, model_args):
        rate = self.optimizer_args()["lr"]
        line = SGDRegressor(learning_rate="constant", eta0=rate, random_state=0)
        return line.partial_fit(np.zeros((1, model_args["n_features"])), [0.0])

    def training_data(self):
        return DataManager(self.dataset)

    def init_dependencies(self):
        return ["from sklearn.linear_model import SGDRegressor"]


class Svm(FedPartialFit):
    parameters = ("coef_", "intercept_")

    def init_model(self, model_args):
        classes = np.arange(model_args["n_classes"])
        svm = SGDClassifier(random_state=0)
        return svm.partial_fit(np.zeros((len(classes), model_args["n_features"])), classes, classes=classes)

    def training_data(self):
        return DataManager(self.dataset)


PLANS = {
    Net: (X, THREE, SIZES),
    WordCounts: (COUNTS, THREE, SIZES),
    Centres: (X, THREE, {"n_features": 4}),
    Line: (X, NUMBERS, {"n_features": 4}),
}
every_plan = pytest.mark.parametrize("plan_class", PLANS)


def ready(plan_class, model_args=None, **args):
    made = plan_class()
    sizes = PLANS[plan_class][2] if model_args is None else model_args
    made.setup(PlanSetup(model_args=sizes, training_args=TrainingArgs.from_dict(args)))
    return made


def federation(plan_class, parts, model_args=None, rounds=1, aggregator="fedaverage", before=None, **args):
    with Experiment(
        tags="simulation", transport=Federation(parts), training_plan_class=plan_class, training_args=args,
        model_args=PLANS[plan_class][2] if model_args is None else model_args, aggregator=aggregator, seed=1,
        progress="quiet",
    ) as exp:  # fmt: skip
        if before is not None:
            before(exp)
        exp.run(rounds)
    return exp


def by_hand(plan_class, x, y, size=16, epochs=1):
    """The estimator of a new plan after scikit-learn's own partial_fit over the batches."""
    with plan_class.seeded(0, threads=1):
        estimator = ready(plan_class).model()
        for low in [*range(0, len(x), size)] * epochs:
            target = [] if plan_class is Centres else [y[low : low + size]]
            estimator.partial_fit(x[low : low + size], *target)
    return estimator


def arrays_of(plan_class, estimator):
    """Copies of the shared arrays by name, found here without the plan's help."""
    found = {}
    for name in plan_class.parameters:
        value = getattr(estimator, name)
        each = {f"{name}.{i}": part for i, part in enumerate(value)} if isinstance(value, list) else {name: value}
        found |= {key: np.array(array) for key, array in each.items()}
    return found


def in_order(size=16, **args):
    return {"loader_args": {"batch_size": size, "shuffle": False}, **args}


def trainer_of(made, x, y, **options):
    data = {"train": (x, y), "test": (x, y)}
    return Trainer(made.make_backend(), data, args=made.training_args(), seed=1, **options)


# at one node -------------------------------------------------------------------------------------------------------


@every_plan
def test_one_node_in_one_round_does_what_partial_fit_does_to_the_bit(plan_class):
    # 64 rows: the mean over a single node multiplies and divides by a power of two
    x, y, _ = PLANS[plan_class]
    exp = federation(plan_class, {"a": (x, y)}, **in_order(16, epochs=3))
    expected = arrays_of(plan_class, by_hand(plan_class, x, y, epochs=3))
    assert {name: array.tolist() for name, array in exp.params().items()} == {
        name: array.tolist() for name, array in expected.items()
    }
    start = arrays_of(plan_class, ready(plan_class).model())
    assert any((start[name] != expected[name]).any() for name in start)


@every_plan
def test_the_researchers_estimator_predicts_as_the_one_by_hand(plan_class):
    x, y, _ = PLANS[plan_class]
    model = federation(plan_class, {"a": (x, y)}, **in_order()).training_plan().model()
    np.testing.assert_allclose(model.predict(x), by_hand(plan_class, x, y).predict(x), rtol=1e-12)


def test_what_follows_from_the_parameters_is_brought_up_to_them():
    exp = federation(WordCounts, {"a": (COUNTS, THREE)}, **in_order())
    model, expected = exp.training_plan().model(), by_hand(WordCounts, COUNTS, THREE)
    np.testing.assert_allclose(model.feature_log_prob_, expected.feature_log_prob_, rtol=1e-13)
    np.testing.assert_allclose(model.class_log_prior_, expected.class_log_prior_, rtol=1e-13)


def test_the_rate_of_the_optimizer_args_is_there_for_init_model():
    assert ready(Line, optimizer_args={"lr": 0.125}).model().eta0 == 0.125


def test_sparse_rows_and_weights_are_handed_on():
    weight = np.where(THREE == 1, 3.0, 0.5)
    made, expected = ready(WordCounts, **in_order()), ready(WordCounts).model()
    source = wrap(SkLearnDataManager(sp.csr_array(COUNTS), THREE, sample_weight=weight))
    Trainer(made.make_backend(), {"train": source}, args=made.training_args()).train()
    expected.partial_fit(COUNTS, THREE, sample_weight=weight)
    np.testing.assert_allclose(made.model().feature_count_, expected.feature_count_, rtol=1e-13)


# over nodes --------------------------------------------------------------------------------------------------------


@every_plan
def test_the_global_model_is_the_mean_of_the_nodes_arrays(plan_class):
    x, y, _ = PLANS[plan_class]
    exp = federation(plan_class, {"a": (x[:32], y[:32]), "b": (x[32:], y[32:])}, **in_order())
    one, other = (arrays_of(plan_class, by_hand(plan_class, x[rows], y[rows])) for rows in np.split(np.arange(64), 2))
    for name, array in exp.params().items():
        np.testing.assert_array_equal(array, (one[name] + other[name]) / 2)


def test_counts_of_nodes_of_any_size_add_up_in_a_uniform_mean():
    """With a mean of K nodes all counts are K times too small, which a smoothing K times as large would make up for."""
    parts = {f"node-{i}": part for i, part in enumerate(zip(
        np.split(COUNTS, [6, 20, 25]), np.split(THREE, [6, 20, 25]), strict=True))}  # fmt: skip
    exp = federation(WordCounts, parts, aggregator=FedAverage(weighting="uniform"), **in_order())
    pooled = MultinomialNB(alpha=4 * 0.5).fit(COUNTS, THREE)
    model = exp.training_plan().model()
    np.testing.assert_allclose(4 * model.feature_count_, pooled.feature_count_, rtol=1e-13)
    np.testing.assert_allclose(model.feature_log_prob_, pooled.feature_log_prob_, rtol=1e-13)


@pytest.mark.slow  # test_sklearn_federation.py learns at four nodes
def test_a_network_learns_digits_at_four_nodes():
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    test, parts = order[:400], np.array_split(order[400:], 4)
    exp = federation(
        Net, {f"node-{i}": (x[rows] / 16, y[rows]) for i, rows in enumerate(parts)},
        {"n_features": 64, "n_classes": 10}, 5, epochs=5,
    )  # fmt: skip
    assert exp.training_plan().model().score(x[test] / 16, y[test]) > 0.85


def test_centres_that_nodes_agree_on_are_those_of_all_rows():
    x, label = make_blobs(400, centers=np.array([[8, 0, 0, 0], [0, 8, 0, 0], [0, 0, 8, 0]]), random_state=1)
    parts = {f"node-{i}": (x[i::4], label[i::4]) for i in range(4)}
    model = federation(Centres, parts, rounds=5).training_plan().model()
    pooled = KMeans(3, init=np.eye(3, 4), n_init=1).fit(x)
    assert reference.adjusted_rand_score(label, model.predict(x)) == 1.0
    assert -model.score(x) < 1.05 * pooled.inertia_


def test_parameters_of_a_list_can_stay_at_a_node_one_by_one():
    class OwnOutput(Net):
        def tag_parameters(self, name):
            return {"local", "persistent"} if self.matches(name, "*.1") else set()

    assert list(ready(OwnOutput, SIZES).get_params()) == ["coefs_.0", "intercepts_.0"]


def test_what_follows_from_parameters_that_a_node_has_kept_is_brought_up_to_them():
    class OwnWords(WordCounts):
        def tag_parameters(self, name):
            return {"local", "persistent"} if name == "feature_count_" else set()

    made = ready(OwnWords, SIZES)
    counts = np.arange(12.0).reshape(3, 4)
    made.write_persistent(Params.from_arrays({"feature_count_": counts}))
    expected = (counts + 0.5) / (counts + 0.5).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(made.model().feature_log_prob_), expected, rtol=1e-13)


# losses and tests --------------------------------------------------------------------------------------------------


@every_plan
def test_the_loss_of_a_training_is_that_of_each_batch_before_it_is_learnt(plan_class):
    x, y, _ = PLANS[plan_class]
    found = trainer_of(ready(plan_class, **in_order()), x, y).train().loss
    losses = []
    for low in range(0, 64, 16):
        model, rows, target = by_hand(plan_class, x[:low], y[:low]), x[low : low + 16], y[low : low + 16]
        if plan_class is Centres:
            distances = np.linalg.norm(rows[:, np.newaxis] - model.cluster_centers_, axis=2)
            losses.append(np.mean(distances.min(axis=1) ** 2))
        elif plan_class is Line:
            losses.append(reference.mean_squared_error(target, model.predict(rows)))
        else:
            losses.append(reference.log_loss(target, model.predict_proba(rows), labels=[0, 1, 2]))
    assert found == pytest.approx(np.mean(losses), rel=1e-12)


def test_the_loss_of_a_classifier_without_probabilities_is_its_share_of_errors():
    made = ready(Svm, SIZES, **in_order())
    trainer = trainer_of(made, X, THREE)
    trainer.train()
    assert trainer.evaluate().metrics == {"loss": pytest.approx(1 - made.model().score(X, THREE))}


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("plan_class", [Net, Svm])
def test_metrics_of_classes_are_scikit_learns_own(plan_class, classes):
    y = np.minimum(THREE, classes - 1)
    made = ready(plan_class, {"n_features": 4, "n_classes": classes}, epochs=9, test_metric=["accuracy", "auc"])
    trainer = trainer_of(made, X, y)
    trainer.train()
    found, model = trainer.evaluate().metrics, made.model()
    assert found["accuracy"] == model.score(X, y)
    if plan_class is Net:
        chances = model.predict_proba(X)
        area = reference.roc_auc_score(y, chances[:, 1] if classes == 2 else chances, multi_class="ovr")
        assert abs(found["auc"] - area) <= found["auc_error_bound"] + 1e-12


def test_metrics_of_a_regression_are_scikit_learns_own():
    made = ready(Line, test_metric=["mean_squared_error", "r2_score"])
    found = trainer_of(made, X, NUMBERS).evaluate().metrics
    assert found["r2_score"] == pytest.approx(made.model().score(X, NUMBERS))


def test_a_chance_of_zero_is_no_reason_to_warn():
    made = ready(Net, test_metric="auc")
    made.model().coefs_[1][...] *= 1e6
    assert trainer_of(made, X, THREE).evaluate().metrics.keys() == {"auc", "auc_error_bound"}


def test_a_plan_may_have_a_loss_of_its_own():
    class Own(Line):
        def batch_loss(self, data, target):
            return float(len(data))

    assert trainer_of(ready(Own, {"n_features": 4}, **in_order()), X, NUMBERS).train().loss == 16.0


def plan_of(estimator, *names, **methods):
    """A plan of an estimator that is made here, so it cannot travel."""
    methods = {"init_model": lambda self: estimator, "training_data": lambda self: DataManager(X), **methods}
    return type("Own", (FedPartialFit,), {"parameters": names, **methods})


def test_an_estimator_without_a_score_needs_a_loss():
    scaler = StandardScaler().partial_fit(np.zeros((2, 4)))
    with pytest.raises(PlanError, match="A StandardScaler has no score") as caught:
        trainer_of(ready(plan_of(scaler, "mean_", "var_"), {}), X, None).train()
    assert "batch_loss(self, data, target)" in caught.value.cure
    trainer_of(ready(plan_of(scaler, "mean_", "var_", batch_loss=lambda *_: 0.0), {}), X, None).train()


# the loop ----------------------------------------------------------------------------------------------------------


def test_hooks_see_the_arrays_as_they_are_now():
    made, seen = ready(Line, **in_order()), []
    trainer = trainer_of(made, X, NUMBERS)
    trainer.add_hook(Hook(lambda ctx: seen.append(ctx.model["intercept_"].copy()), "on_batch_end", name="look"))
    trainer.train()
    rows = [16, 32, 48, 64]
    np.testing.assert_array_equal(seen, [by_hand(Line, X[:n], NUMBERS[:n]).intercept_ for n in rows])


def test_a_copy_of_the_trainers_model_is_independent():
    made = ready(Net)
    before = made.get_params()
    twin = made.make_backend().clone()
    Trainer(twin, {"train": (X, THREE)}).train()
    assert made.get_params() == before != twin.get_params()


def test_a_trainer_that_was_saved_holds_the_same_model_and_can_train(tmp_path):
    first, second = (trainer_of(ready(WordCounts, **in_order()), COUNTS, THREE) for _ in "ab")
    first.train()
    first.save_model(tmp_path / "trainer")
    second.load_model(tmp_path / "trainer")
    assert second.get_params() == first.get_params()
    assert second.evaluate().metrics == pytest.approx(first.evaluate().metrics, rel=1e-13)
    first.train(), second.train()
    assert second.get_params() == first.get_params()


# refusals ----------------------------------------------------------------------------------------------------------


class Frozen(BaseEstimator):
    """Keeps what it learns where nobody can change it."""

    def __init__(self):
        self.total_ = np.zeros(4)
        self.total_.flags.writeable = False

    def partial_fit(self, rows, target=None):
        return self


FITTED = SGDRegressor().partial_fit(X, NUMBERS)


@pytest.mark.parametrize(
    ("plan_class", "words", "cure"),
    [
        (plan_of(FITTED), "Own does not say what is shared", "parameters = ("),
        (type("Text", (plan_of(FITTED),), {"parameters": "coef_"}), "does not say what is shared", "parameters = ("),
        (plan_of(LogisticRegression(), "coef_"), "A LogisticRegression has no partial_fit", "MLPClassifier"),
        (plan_of(DecisionTreeClassifier().fit(X, THREE), "tree_"), "has no partial_fit", "MLPClassifier"),
        (plan_of(SGDRegressor(), "coef_"), "SGDRegressor of init_model has no 'coef_' yet", "rows of zeros"),
        (plan_of(FITTED, "coef_", "coefs_"), "has no 'coefs_' yet", "rows of zeros"),
        (plan_of(FITTED, "coef_", "t_"), "parameter 't_' of the SGDRegressor is a float, no array", "are arrays"),
        (plan_of(FITTED, "loss"), "parameter 'loss' of the SGDRegressor is a str", "are arrays"),
        (
            plan_of(Frozen(), "total_"),
            "parameter 'total_' of the Frozen is a ndarray, no array .* changed",
            "are arrays",
        ),
        (plan_of(None, "coef_"), "must return a scikit-learn estimator, but returned nothing", ""),
        (plan_of(SGDRegressor, "coef_"), "must return a scikit-learn estimator, but returned a ", "call it"),
        (plan_of({"w": X}, "w"), "must return a scikit-learn estimator, but returned a dict", ""),
    ],
)
def test_what_cannot_be_shared_is_refused_with_a_cure(plan_class, words, cure):
    with pytest.raises(PlanError, match=words) as caught:
        ready(plan_class, {})
    assert cure in caught.value.cure


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"fedprox_mu": 0.1}, "have fedprox_mu, but Net is not trained by gradients"),
        ({"grad_clip": 1.0}, "have grad_clip, but Net is not trained by gradients"),
        ({"keep_optimizer_state": True}, "keep_optimizer_state is set, but Net has no optimizer"),
        ({"dp_args": {"type": "local", "sigma": 1.0, "clip": 1.0}}, "local differential privacy"),
    ],
)
def test_training_arguments_that_make_no_sense_are_refused_before_anything_is_sent(args, words):
    with pytest.raises((PlanError, UsageError), match=words) as caught:
        federation(Net, {"a": (X, THREE)}, **args)
    assert not isinstance(caught.value, RoundError)
    assert caught.value.cure


@pytest.mark.parametrize("method", ["init_optimizer", "training_step"])
def test_methods_that_would_never_be_called_are_refused(method):
    own = {"init_optimizer": lambda self: None, "training_step": lambda self, data, target: 0.0}
    with pytest.raises(PlanError, match=f"Own defines {method}, but its estimator learns by itself"):
        ready(plan_of(FITTED, "coef_", **{method: own[method]}), {})


def test_weights_for_an_estimator_that_takes_none_are_refused():
    pca = IncrementalPCA(2).partial_fit(X)
    made = plan_of(pca, "components_", training_data=lambda self: SkLearnDataManager(X, sample_weight=np.ones(64)))
    with pytest.raises(PlanError, match="partial_fit of a IncrementalPCA takes no sample_weight"):
        ready(made, {}).make_data()


def test_labels_and_features_are_checked_where_their_numbers_are_told():
    with pytest.raises(RoundError, match=r"holds the class 3 .*n_classes=3"):
        federation(Net, {"a": (X, THREE + 1)})
    with pytest.raises(RoundError, match="The data has 4 features, but model_args say n_features=5"):
        federation(Net, {"a": (X, THREE)}, {"n_features": 5, "n_classes": 3})
    with pytest.raises(DatasetError, match="no target to learn"):
        trainer_of(ready(Net), X, None).train()


# files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".joblib", ".skops", ".npz", ".safetensors"])
@every_plan
def test_a_model_comes_back_from_its_file(plan_class, suffix, tmp_path):
    x, y, _ = PLANS[plan_class]
    made, other = ready(plan_class, **in_order()), ready(plan_class)
    trainer_of(made, x, y).train()
    other.import_model(made.export_model(tmp_path / f"m{suffix}"), trusted=suffix == ".joblib")
    assert other.get_params() == made.get_params() != ready(plan_class).get_params()
    np.testing.assert_allclose(other.model().predict(x), made.model().predict(x), rtol=1e-12)


def test_an_experiment_goes_on_from_a_model_that_plain_scikit_learn_has_fitted(tmp_path):
    fitted = MLPClassifier((8,), random_state=3, max_iter=3, early_stopping=False)
    fitted.partial_fit(X, THREE, classes=[0, 1, 2])
    joblib.dump(fitted, tmp_path / "m.joblib")
    exp = federation(
        Net, {"a": (X, THREE)}, before=lambda exp: exp.import_model(tmp_path / "m.joblib", trusted=True), **in_order()
    )
    expected = ready(Net)
    expected.import_model(tmp_path / "m.joblib", trusted=True)
    trainer_of(expected, X, THREE, loader=LoaderArgs(16, shuffle=False)).train()
    assert exp.params() == expected.get_params()


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            MLPClassifier((5,)).partial_fit(X, THREE, classes=[0, 1, 2]),
            r"different: coefs_\.0 \(float64 \[4, 5\] in the file",
        ),
        (MLPClassifier((8, 8)).partial_fit(X, THREE, classes=[0, 1, 2]), r"unexpected: coefs_\.2, intercepts_\.2"),
        (
            MLPClassifier((8,)).partial_fit(X, THREE + 1, classes=[1, 2, 3]),
            r"are \[1 2 3\], those of this plan's model \[0 1 2\]",
        ),
        (MLPClassifier((8,)), "has not been fitted"),
        (FITTED, "holds a SGDRegressor, but this plan's model is a MLPClassifier"),
    ],
)
def test_another_model_is_refused_and_changes_nothing(found, words, tmp_path):
    joblib.dump(found, tmp_path / "m.joblib")
    made = ready(Net)
    before = made.get_params()
    with pytest.raises((ParamsError, UsageError), match=words):
        made.import_model(tmp_path / "m.joblib", trusted=True)
    assert made.get_params() == before


class Halved(SGDRegressor):
    """A class of a user's own."""


def test_a_skops_file_of_a_class_that_nobody_knows_needs_trust(tmp_path):
    plan_class = plan_of(Halved().partial_fit(X, NUMBERS), "coef_")
    made = ready(plan_class, {})
    before, path = made.get_params(), made.export_model(tmp_path / "m.skops")
    made.model().coef_[...] = 0
    with pytest.raises(UsageError, match=r"holds types of which nobody knows .*Halved") as caught:
        made.import_model(path)
    assert "trusted=True" in caught.value.cure
    made.import_model(path, trusted=True)
    assert made.get_params() == before


@pytest.mark.parametrize("suffix", [".joblib", ".skops", ".npz", ".safetensors"])
@pytest.mark.parametrize("trusted", [False, True])
def test_a_damaged_file_ends_in_one_error(suffix, trusted, tmp_path):
    (tmp_path / f"m{suffix}").write_bytes(b"<html>not found</html>")
    error = UsageError if suffix == ".joblib" and not trusted else CodecError
    with pytest.raises(error, match="m\\" + suffix):
        ready(Line).import_model(tmp_path / f"m{suffix}", trusted=trusted)
