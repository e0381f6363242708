"""`FedGaussianNB` in federations: after one round it is what `GaussianNB().fit` of all rows in one place would be."""

from __future__ import annotations

from functools import cache

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.special import softmax
from sklearn import metrics as reference
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.naive_bayes import GaussianNB

from fedplug import DataManager, Experiment, hookimpl
from fedplug.core.errors import FedplugError, ParamsError, PlanError, RoundError, UnknownNameError, UsageError
from fedplug.core.plugins import PluginHost
from fedplug.core.trainer import Hook, Phase, Trainer
from fedplug.core.training_args import TrainingArgs
from fedplug.core.training_plan import PlanSetup
from fedplug.simulation import Federation
from fedplug_declearn import Optimizer
from fedplug_sklearn import FedGaussianNB, SkLearnDataManager

DATA = {"cancer": load_breast_cancer, "digits": load_digits, "iris": load_iris}


class Bayes(FedGaussianNB):
    def training_data(self):
        return DataManager(self.dataset)


@cache
def data(name):
    """The rows in a random order, so that each part of them has all classes."""
    x, y = DATA[name](return_X_y=True)
    order = np.random.default_rng(1).permutation(len(x))
    return x[order], y[order]


def uneven(x, y):
    """Four nodes of different sizes."""
    cuts = [len(x) // 12, len(x) // 4, len(x) // 2]
    return {f"node-{i}": part for i, part in enumerate(zip(np.split(x, cuts), np.split(y, cuts), strict=True))}


def by_class(x, y):
    """Three or four nodes, each of which lacks at least one class; some have a single one."""
    place = np.where(y == 0, np.arange(len(y)) % 2, 2 + np.arange(len(y)) % 2)
    place[(y == 1) & (place == 2)] = 3
    parts = {f"node-{i}": (x[place == i], y[place == i]) for i in range(4)}
    return {node: part for node, part in parts.items() if len(part[1])}


def sizes_of(x, y):
    return {"n_features": x.shape[1], "n_classes": int(y.max()) + 1}


def federation(parts, rounds=1, plan_class=Bayes, agg_optimizer=None, host=None, before=None, more=None, **args):
    x, y = (np.concatenate(each) for each in zip(*parts.values(), strict=True))
    with Experiment(
        tags="simulation", transport=Federation(parts, host=host), training_plan_class=plan_class,
        model_args={**sizes_of(x, y), **(more or {})}, training_args=args, agg_optimizer=agg_optimizer, seed=1,
        progress="quiet",
    ) as exp:  # fmt: skip
        if before is not None:
            before(exp)
        exp.run(rounds)
    return exp


def model_of(parts, rounds=1, **options):
    return federation(parts, rounds, **options).training_plan().model()


def ready(x, y, plan_class=Bayes, more=None, **args):
    made = plan_class()
    made.setup(PlanSetup(model_args={**sizes_of(x, y), **(more or {})}, training_args=TrainingArgs.from_dict(args)))
    return made


def trainer_of(made, x, y):
    return Trainer(made.make_backend(), {"train": (x, y), "test": (x, y)}, args=made.training_args(), seed=1)


def assert_same(model, pooled, x, bound=1e-9):
    assert model.classes_.tolist() == pooled.classes_.tolist()
    np.testing.assert_allclose(model.theta_, pooled.theta_, rtol=bound, atol=bound)
    np.testing.assert_allclose(model.var_, pooled.var_, rtol=bound)
    np.testing.assert_allclose(model.class_prior_, pooled.class_prior_, rtol=bound)
    np.testing.assert_allclose(model.predict_proba(x), pooled.predict_proba(x), rtol=0, atol=bound)
    np.testing.assert_array_equal(model.predict(x), pooled.predict(x))


class Spy:
    """Keeps the batches of all nodes by phase and node."""

    def __init__(self):
        self.batches = {}

    @hookimpl
    def fedplug_trainer_hooks(self, info):
        def keep(phase):
            return lambda ctx: self.batches.setdefault((phase, info.node_id), []).append(ctx.data_batch)

        return [Hook(keep(phase), "on_batch_end", (phase,), "keep") for phase in (Phase.TRAIN, Phase.EVAL)]

    def rows(self, phase, *nodes):
        found = [batch for node in nodes for batch in self.batches[phase, node]]
        return np.concatenate([x for x, _ in found]), np.concatenate([y for _, y in found])


# one round ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("batch_size", [7, 32, 10_000])
@pytest.mark.parametrize("split", [uneven, by_class])
def test_one_round_gives_the_model_of_all_rows_in_one_place(name, batch_size, split):
    x, y = data(name)
    parts = split(x, y)
    model = model_of(parts, loader_args={"batch_size": batch_size})
    assert type(model) is GaussianNB
    assert_same(model, GaussianNB().fit(x, y), x)
    if split is by_class:
        assert all(len(np.unique(labels)) < y.max() + 1 for _, labels in parts.values())


@pytest.mark.parametrize("name", DATA)
def test_with_held_out_rows_it_is_the_model_of_all_others(name):
    x, y = data(name)
    host, spy = PluginHost.discover(), Spy()
    host.register(spy, "spy")
    parts = uneven(x, y)
    model = model_of(parts, host=host, test_ratio=0.3)
    rows, labels = spy.rows(Phase.TRAIN, *parts)
    assert len(rows) == sum(len(part) - int(len(part) * 0.3) for part, _ in parts.values())
    assert_same(model, GaussianNB().fit(rows, labels), x)


@pytest.mark.parametrize("more", [{"priors": [0.2, 0.5, 0.3]}, {"var_smoothing": 0.1}, {"var_smoothing": 0}])
def test_priors_and_smoothing_are_scikit_learns(more):
    x, y = data("iris")
    assert_same(model_of(uneven(x, y), more=more), GaussianNB(**more).fit(x, y), x)


def test_a_class_without_rows_is_never_predicted():
    x, y = data("iris")
    model = model_of(uneven(x, y), more={"n_classes": 5})
    pooled = GaussianNB().fit(x, y)
    np.testing.assert_array_equal(model.predict(x), pooled.predict(x))
    np.testing.assert_allclose(model.predict_proba(x)[:, :3], pooled.predict_proba(x), atol=1e-9)
    assert not model.predict_proba(x)[:, 3:].any()


class SparseBayes(FedGaussianNB):
    def init_dependencies(self):
        return ["import scipy.sparse as sp"]

    def training_data(self):
        return DataManager(sp.csr_array(self.dataset.column("x")), self.dataset.column("y"))


def test_sparse_rows_give_the_bits_of_dense_rows():
    x, y = data("digits")
    args = {"test_ratio": 0.2, "test_on_global_updates": True, "test_metric": "accuracy"}
    one, other = (federation(uneven(x, y), 2, plan_class=each, **args) for each in (Bayes, SparseBayes))
    assert one.params() == other.params()
    told = [{node: reply["metrics"] for node, reply in exp.training_replies()[1].items()} for exp in (one, other)]
    assert told[0] == told[1]
    assert all(metrics["test_global_accuracy"] > 0.5 for metrics in told[0].values())


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float16, np.float32, np.bool_])
def test_numbers_of_every_type_count_as_float64(dtype):
    x, y = data("digits")
    x = (x > 8).astype(dtype) if dtype is np.bool_ else x.astype(dtype)
    made = ready(x, y)
    trainer_of(made, x, y).train()
    made.refresh()
    assert_same(made.model(), GaussianNB().fit(x.astype(np.float64), y), x.astype(np.float64))


# further rounds ----------------------------------------------------------------------------------------------------


def test_a_second_round_takes_away_the_rounding_errors_of_rows_far_from_zero():
    x, y = data("iris")
    far = x + 1e6
    pooled = GaussianNB(var_smoothing=0).fit(far - 1e6, y)  # the difference is exact: what is lost was lost before
    wrong = []
    for rounds in (1, 2, 3):
        model = model_of(uneven(far, y), rounds, more={"var_smoothing": 0})
        wrong.append(np.abs(model.var_ / pooled.var_ - 1).max())
    assert wrong[0] > 1e-5
    assert wrong[1] < 1e-10
    assert wrong[2] < 1e-10


def test_further_rounds_change_nothing_but_rounding():
    x, y = data("cancer")
    assert_same(model_of(uneven(x, y), 4), GaussianNB().fit(x, y), x)


def test_an_optimizer_of_the_researcher_leaves_sums_alone():
    x, y = data("iris")
    plain = federation(uneven(x, y), 2)
    adam = federation(uneven(x, y), 2, agg_optimizer=Optimizer(0.1, modules=["adam"]))
    assert adam.params() == plain.params()


# losses and tests --------------------------------------------------------------------------------------------------


def test_the_loss_is_the_log_loss_of_the_model_that_was_sent():
    x, y = data("iris")
    parts = uneven(x, y)
    model = model_of(parts)
    replies = federation(parts, 2).training_replies()
    for node, (rows, labels) in parts.items():
        assert replies[0][node]["metrics"]["loss"] == pytest.approx(np.log(3), rel=1e-12)
        expected = reference.log_loss(labels, model.predict_proba(rows), labels=[0, 1, 2])
        assert replies[1][node]["metrics"]["loss"] == pytest.approx(expected, rel=1e-9)


def test_a_class_that_only_one_node_has_costs_much_and_not_infinitely_much():
    x, y = data("iris")
    made = ready(x, y)
    trainer_of(made, x[y < 2], y[y < 2]).train()
    found = trainer_of(made, x[y == 2], y[y == 2]).evaluate().metrics
    assert found == {"loss": pytest.approx(-np.log(np.finfo(float).tiny))}


def test_tests_are_of_the_global_model_before_and_of_the_nodes_own_sums_after_the_training():
    x, y = data("digits")
    host, spy = PluginHost.discover(), Spy()
    host.register(spy, "spy")
    parts = uneven(x, y)
    metrics = ["accuracy", "auc", "confusion_matrix", "f1_score"]
    args = {"test_ratio": 0.25, "test_on_global_updates": True, "test_metric": metrics}
    first = federation(parts, 1, host=host, **args)
    global_model = first.training_plan().model()
    spy.batches.clear()
    exp = federation(parts, 2, host=host, **args, test_on_local_updates=True)
    replies = exp.training_replies()
    for node in parts:
        train, test = spy.batches[Phase.TRAIN, node], spy.batches[Phase.EVAL, node]
        # tests: round 1 global and local, round 2 global and local; trainings: rounds 1 and 2
        (held_out, labels), rows = test[0], np.concatenate([batch[0] for batch in train[: len(train) // 2]])
        own = GaussianNB().fit(rows, np.concatenate([batch[1] for batch in train[: len(train) // 2]]))
        before, after = replies[0][node]["metrics"], replies[1][node]["metrics"]
        assert before["test_global_accuracy"] == np.mean(labels == 0)
        assert before["test_local_accuracy"] == after["test_local_accuracy"] == own.score(held_out, labels)
        assert after["test_global_accuracy"] == global_model.score(held_out, labels)
        f1 = reference.f1_score(labels, global_model.predict(held_out), average="weighted", zero_division=0)
        assert after["test_global_f1_score"] == pytest.approx(f1)


@pytest.mark.parametrize("name", ["cancer", "iris"])
def test_the_auc_is_scikit_learns_without_further_arguments(name):
    x, y = data(name)
    made = ready(x, y, test_metric="auc")
    trainer = trainer_of(made, x, y)
    trainer.train()
    found = trainer.evaluate().metrics
    chances = made.model().predict_proba(x)
    np.testing.assert_allclose(softmax(made.forward(x), axis=1), chances, rtol=1e-9, atol=1e-12)
    area = reference.roc_auc_score(y, chances[:, 1] if name == "cancer" else chances, multi_class="ovr")
    assert abs(found["auc"] - area) <= found["auc_error_bound"] < 0.05


class HasTest(FedGaussianNB):
    def training_data(self):
        return DataManager(self.dataset)

    def testing_step(self, data, target):
        return {"right": np.mean(self.model().predict(data) == target)}


def test_a_testing_step_sees_the_fitted_estimator():
    x, y = data("iris")
    exp = federation({"a": (x, y)}, plan_class=HasTest, test_ratio=0.5, test_on_local_updates=True)
    assert exp.training_replies()[0]["a"]["metrics"]["test_local_right"] > 0.9


# refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"epochs": 2}, "reads each row once"),
        ({"num_updates": 3}, "reads each row once"),
        ({"batch_maxnum": 3}, "reads each row once"),
        ({"loader_args": {"drop_last": True}}, "reads every row, so drop_last"),
        ({"fedprox_mu": 0.1}, "have fedprox_mu, but Bayes is not trained by gradients"),
        ({"grad_clip": 1.0}, "have grad_clip, but Bayes is not trained by gradients"),
        ({"keep_optimizer_state": True}, "Bayes has no optimizer"),
        ({"optimizer_args": {"lr": 0.1, "momentum": 0.9}}, "optimizer_args has 'momentum'"),
        ({"dp_args": {"type": "central", "sigma": 1.0, "clip": 1.0}}, "cannot be trained with dp_args"),
        ({"dp_args": {"type": "local", "sigma": 1.0, "clip": 1.0}}, "local differential privacy"),
    ],
)
def test_training_arguments_that_make_no_sense_are_refused_before_anything_is_sent(args, words):
    x, y = data("iris")
    with pytest.raises((PlanError, UsageError), match=words) as caught:
        federation(uneven(x, y), **args)
    assert not isinstance(caught.value, RoundError)
    assert caught.value.cure


class DropsRows(FedGaussianNB):
    def training_data(self):
        return DataManager(self.dataset, batch_size=7, drop_last=True)


class HasWeights(FedGaussianNB):
    def training_data(self):
        y = self.dataset.column("y")
        return SkLearnDataManager(self.dataset.column("x"), y, sample_weight=np.ones(len(y)))


@pytest.mark.parametrize(("plan_class", "words"), [(DropsRows, "drop_last"), (HasWeights, "takes no sample_weight")])
def test_what_training_data_may_not_return_is_told_by_the_node(plan_class, words):
    x, y = data("iris")
    with pytest.raises(RoundError, match=words):
        federation(uneven(x, y), plan_class=plan_class)


class HasOptimizer(FedGaussianNB):
    def training_data(self):
        return DataManager(self.dataset)

    def init_optimizer(self, optimizer_args):
        return None


class HasStep(FedGaussianNB):
    def training_data(self):
        return DataManager(self.dataset)

    def training_step(self, data, target):
        return 0.0


@pytest.mark.parametrize(("plan_class", "method"), [(HasOptimizer, "init_optimizer"), (HasStep, "training_step")])
def test_methods_that_would_never_be_called_are_refused_before_anything_is_sent(plan_class, method):
    x, y = data("iris")
    with pytest.raises(PlanError, match=f"{plan_class.__name__} defines {method}, but its estimator learns by itself"):
        federation(uneven(x, y), plan_class=plan_class)


@pytest.mark.parametrize(
    ("more", "error", "words"),
    [
        ({"var_smothing": 1e-9}, UnknownNameError, "argument of GaussianNB for model_args named 'var_smothing'"),
        ({"alpha": 1.0}, UnknownNameError, "named 'alpha'"),
        ({"n_classes": None}, PlanError, "n_classes in model_args must be a whole number of at least 2, got None"),
        ({"n_features": 0}, PlanError, "n_features in model_args must be a whole number of at least 1, got 0"),
        ({"var_smoothing": -1.0}, PlanError, "var_smoothing in model_args must be a number from zero up, got -1.0"),
        ({"var_smoothing": "small"}, PlanError, "got 'small'"),
        ({"priors": [0.5, 0.5]}, UsageError, "no probabilities of 3 classes"),
        ({"priors": [0.5, 0.2, 0.2]}, UsageError, "no probabilities of 3 classes"),
    ],
)
def test_model_args_that_make_no_sense_are_refused_at_once(more, error, words):
    with pytest.raises(error, match=words):
        ready(*data("iris"), more=more)


@pytest.mark.parametrize("missing", ["n_features", "n_classes"])
def test_sizes_are_needed(missing):
    sizes = sizes_of(*data("iris"))
    del sizes[missing]
    with pytest.raises(PlanError, match=f"model_args lack {missing}"):
        Bayes().setup(PlanSetup(model_args=sizes))


def test_a_label_out_of_range_is_refused():
    x, y = data("iris")
    with pytest.raises(FedplugError, match=r"holds the class 2 \(50 of 150 samples have such\)"):
        trainer_of(ready(x, y, more={"n_classes": 2}), x, y).train()


def test_hooks_that_want_gradients_are_told_that_there_are_none():
    x, y = data("iris")
    trainer = trainer_of(ready(x, y), x, y)
    trainer.add_hook(Hook(lambda ctx: ctx.backend.gradients(), "on_batch_backward", name="look"))
    with pytest.raises(PlanError, match="A hook wants the gradients of Bayes, whose estimator learns without any"):
        trainer.train()


# files -------------------------------------------------------------------------------------------------------------


def test_before_any_round_the_estimator_is_not_fitted():
    x, y = data("iris")
    with pytest.raises(NotFittedError):
        ready(x, y).model().predict(x)


def test_the_exported_estimator_is_the_model(tmp_path):
    x, y = data("cancer")
    exp = federation(uneven(x, y))
    model = joblib.load(exp.export_model(tmp_path / "bayes.joblib"))
    assert type(model) is GaussianNB
    np.testing.assert_array_equal(model.predict_proba(x), exp.training_plan().model().predict_proba(x))


@pytest.mark.parametrize("suffix", [".joblib", ".skops", ".npz", ".safetensors"])
def test_a_model_comes_back_from_its_file(suffix, tmp_path):
    x, y = data("digits")
    exp = federation(uneven(x, y))
    other = ready(x, y)
    other.import_model(exp.export_model(tmp_path / f"bayes{suffix}"), trusted=suffix == ".joblib")
    assert_same(other.model(), exp.training_plan().model(), x)


def test_an_experiment_goes_on_from_a_model_that_plain_scikit_learn_has_fitted(tmp_path):
    x, y = data("iris")
    fitted = GaussianNB().fit(x[:60], y[:60])
    joblib.dump(fitted, tmp_path / "m.joblib")
    other = ready(x, y)
    other.import_model(tmp_path / "m.joblib", trusted=True)
    assert_same(other.model(), fitted, x)
    exp = federation({"a": (x, y)}, before=lambda exp: exp.import_model(tmp_path / "m.joblib", trusted=True))
    expected = reference.log_loss(y, fitted.predict_proba(x))
    assert exp.training_replies()[0]["a"]["metrics"]["loss"] == pytest.approx(expected, rel=1e-9)
    assert_same(exp.training_plan().model(), GaussianNB().fit(x, y), x)


def test_an_estimator_that_was_not_fitted_is_refused(tmp_path):
    x, y = data("iris")
    path = ready(x, y).export_model(tmp_path / "m.joblib")
    with pytest.raises(ParamsError, match="has not been fitted"):
        ready(x, y).import_model(path, trusted=True)


@pytest.mark.parametrize(
    ("columns", "labels", "words"),
    [
        (2, [0, 1, 2], r"different: first \(float64 \[3, 2\] in the file"),
        (4, [1, 2, 3], r"The classes of the model in .* are \[1 2 3\], those of this plan's model \[0 1 2\]"),
        (4, [0, 1, 1], r"are \[0 1\], those of this plan's model \[0 1 2\]"),
    ],
)
def test_a_model_of_other_sizes_or_classes_is_refused(columns, labels, words, tmp_path):
    x, y = data("iris")
    joblib.dump(GaussianNB().fit(x[:, :columns], np.array(labels)[y]), tmp_path / "m.joblib")
    with pytest.raises(ParamsError, match=words):
        ready(x, y).import_model(tmp_path / "m.joblib", trusted=True)


def test_a_trainer_that_was_saved_holds_the_same_model(tmp_path):
    x, y = data("iris")
    first, second = ready(x, y), ready(x, y)
    trainer = trainer_of(first, x, y)
    trainer.train()
    trainer.save_model(tmp_path / "trainer")
    again = trainer_of(second, x, y)
    again.load_model(tmp_path / "trainer")
    assert again.evaluate().metrics == trainer.evaluate().metrics
    again.train()
    assert_same(second.model(), GaussianNB().fit(x, y), x)
