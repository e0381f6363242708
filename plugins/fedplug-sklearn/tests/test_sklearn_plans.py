"""Plans of linear models, from their arguments to the estimator that comes out; the gradients have their own tests."""

from __future__ import annotations

import pickle
import random
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import joblib
import numpy as np
import pytest
import safetensors.numpy
import scipy.sparse as sp
import skops.io
from scipy.special import expit, softmax
from sklearn import metrics as reference
from sklearn.base import clone
from sklearn.linear_model import Perceptron, SGDClassifier, SGDRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_info

from fedplug import DataManager, Experiment, Params
from fedplug.core.data import LoaderArgs
from fedplug.core.errors import (
    FedplugWarning,
    ParamsError,
    PlanError,
    PlanRunError,
    RoundError,
    UnknownNameError,
    UsageError,
)
from fedplug.core.plan_source import bundle_plan
from fedplug.core.rng import SeedTree
from fedplug.core.trainer import Trainer
from fedplug.core.training_args import TrainingArgs
from fedplug.core.training_plan import PlanSetup
from fedplug.simulation import Federation
from fedplug_sklearn import FedPerceptron, FedSGDClassifier, FedSGDRegressor, SkLearnDataManager, sgd_plans
from fedplug_sklearn import plan as plan_module
from fedplug_sklearn.data import Rows, wrap
from fedplug_sklearn.losses import LOSSES

RNG = np.random.default_rng(7)
X = RNG.normal(size=(64, 5))
Y = (X[:, 0] - X[:, 1] + 0.5 * RNG.normal(size=64) > 0).astype(np.int64)
THREE = np.digitize(X[:, 0] + 0.3 * RNG.normal(size=64), [-0.5, 0.5])
NUMBERS = X @ np.array([1.0, -2.0, 0.5, 0.0, 3.0]) + 1.5 + 0.1 * RNG.normal(size=64)

BINARY = {"n_features": 5, "n_classes": 2}
LOGISTIC = {**BINARY, "loss": "log_loss", "alpha": 0.01}


class Classifier(FedSGDClassifier):
    def training_data(self):
        return DataManager(self.dataset)


class Regressor(FedSGDRegressor):
    def training_data(self):
        return DataManager(self.dataset)


class Neuron(FedPerceptron):
    def training_data(self):
        return DataManager(self.dataset)


class AdamClassifier(Classifier):
    """For what happens outside of a federation; `AdamPlan` travels."""

    def init_optimizer(self, optimizer_args):
        from fedplug_declearn import Optimizer

        return Optimizer(lr=optimizer_args["lr"], modules=["adam"])


class AdamPlan(FedSGDClassifier):
    def training_data(self):
        return DataManager(self.dataset)

    def init_optimizer(self, optimizer_args):
        return Optimizer(lr=optimizer_args["lr"], modules=["adam"])  # noqa: F821 - init_dependencies has it

    def init_dependencies(self):
        return ["from fedplug_declearn import Optimizer"]


KINDS = {SGDClassifier: Classifier, SGDRegressor: Regressor, Perceptron: Neuron}


def sizes_of(plan_class, classes=2):
    return {"n_features": 5} | ({} if plan_class is Regressor else {"n_classes": classes})


def ready(plan_class=Classifier, model_args: Mapping | None = None, **args):
    made = plan_class()
    sizes = sizes_of(plan_class) if model_args is None else model_args
    made.setup(PlanSetup(model_args=sizes, training_args=TrainingArgs.from_dict(args)))
    return made


def trainer_of(made, x=X, y=Y, **options):
    return Trainer(made.make_backend(), {"train": (x, y), "test": (x, y)}, args=made.training_args(), seed=1, **options)


def in_order(batch_size=64, lr=0.1, **args):
    """Arguments of a training whose batches are known."""
    return {"loader_args": {"batch_size": batch_size, "shuffle": False}, "optimizer_args": {"lr": lr}, **args}


def federation(plan_class, parts, model_args, rounds=1, before=None, **args) -> Experiment:
    with Experiment(
        tags="simulation", transport=Federation(parts), training_plan_class=plan_class, model_args=model_args,
        training_args=args, seed=1, progress="quiet",
    ) as exp:  # fmt: skip
        if before is not None:
            before(exp)
        exp.run(rounds)
    return exp


def logistic_gradient(w, b, x=X, y=Y, alpha=0.01):
    """Of logistic regression, written out."""
    error = expit(x @ w + b) - y
    return x.T @ error / len(x) + alpha * w, error.mean()


# model_args ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", KINDS)
def test_every_argument_of_the_estimator_is_either_taken_or_refused(estimator):
    known = KINDS[estimator].settings | set(sgd_plans._REFUSED)
    assert set(estimator().get_params()) <= known
    assert KINDS[estimator].settings <= set(estimator().get_params())


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("learning_rate", "the optimizer's"),
        ("eta0", "the optimizer's"),
        ("power_t", "the optimizer's"),
        ("max_iter", "epochs or num_updates"),
        ("tol", "epochs or num_updates"),
        ("n_iter_no_change", "epochs or num_updates"),
        ("early_stopping", "no node can stop for all"),
        ("validation_fraction", "test_ratio"),
        ("shuffle", "loader_args"),
        ("random_state", "random_seed"),
        ("warm_start", "goes on from the global model"),
        ("average", "the aggregator"),
        ("n_jobs", "threads"),
        ("verbose", "log_interval"),
    ],
)
@pytest.mark.parametrize("plan_class", KINDS.values())
def test_what_makes_no_sense_in_a_federation_is_refused_with_the_reason(plan_class, argument, reason):
    with pytest.raises(PlanError, match=f"model_args have '{argument}', which makes no sense here: .*{reason}"):
        ready(plan_class, {**sizes_of(plan_class), argument: 1})


@pytest.mark.parametrize(
    ("plan_class", "given", "words", "cure"),
    [
        (Classifier, {"aplha": 0.1}, "argument of SGDClassifier for model_args named 'aplha'", "'alpha'"),
        (Classifier, {"n_class": 2}, "argument of SGDClassifier for model_args named 'n_class'", "'n_classes'"),
        (Regressor, {"class_weights": 2}, "argument of SGDRegressor", "Known: alpha"),
        (Neuron, {"loss": "hinge"}, "argument of Perceptron for model_args named 'loss'", "Known: alpha"),
        (Classifier, {"loss": "log"}, "loss of SGDClassifier named 'log'", "log_loss"),
        (Classifier, {"loss": "hing"}, "loss of SGDClassifier named 'hing'", "Did you mean 'hinge'"),
        (Classifier, {"loss": ["hinge"]}, "loss of SGDClassifier", "hinge"),
        (Regressor, {"loss": "log_loss"}, "loss of SGDRegressor named 'log_loss'", "squared_error"),
        (Classifier, {"penalty": "elastic_net"}, "penalty of SGDClassifier named 'elastic_net'", "'elasticnet'"),
        (Regressor, {"penalty": "L2"}, "penalty of SGDRegressor named 'L2'", "l2"),
    ],
)
def test_unknown_names_are_told_with_those_that_exist(plan_class, given, words, cure):
    with pytest.raises(UnknownNameError, match=words) as caught:
        ready(plan_class, {**sizes_of(plan_class), **given})
    assert cure in caught.value.cure


@pytest.mark.parametrize(
    ("plan_class", "given", "words"),
    [
        (Classifier, {"n_classes": 2}, "model_args lack n_features, which SGDClassifier needs before it has seen"),
        (Classifier, {"n_features": 5}, "model_args lack n_classes"),
        (Neuron, {"n_features": 5}, "model_args lack n_classes, which Perceptron needs"),
        (Regressor, {}, "model_args lack n_features"),
        (Regressor, BINARY, "n_classes, but SGDRegressor has no classes"),
        (Classifier, {"n_features": 0, "n_classes": 2}, "n_features in model_args must be .* at least 1, got 0"),
        (Classifier, {"n_features": 5, "n_classes": 1}, "n_classes in model_args must be .* at least 2, got 1"),
        (Classifier, {"n_features": 5, "n_classes": True}, "got True"),
        (Classifier, {"n_features": 5.0, "n_classes": 2}, "got 5.0"),
        (Classifier, {"n_features": "5", "n_classes": 2}, "got '5'"),
    ],
)
def test_sizes_are_needed_and_whole_numbers(plan_class, given, words):
    with pytest.raises(PlanError, match=words):
        ready(plan_class, given)


def test_sizes_may_be_numpys():
    made = ready(Classifier, {"n_features": np.int64(5), "n_classes": THREE.max() + 1})
    assert made.model().coef_.shape == (3, 5)


@pytest.mark.parametrize("given", [{"alpha": -1.0}, {"l1_ratio": 7.0, "penalty": "elasticnet"}, {"epsilon": "much"}])
def test_values_that_scikit_learn_refuses_are_refused_at_once(given):
    with pytest.raises(UsageError, match=f"cannot train this SGDClassifier batch by batch: .*{next(iter(given))}"):
        ready(Classifier, {**BINARY, **given})


@pytest.mark.parametrize(
    "given", [[1, 2.5], (1.0, 2.5), {1: 2.5}, {0: 1, 1: np.float64(2.5)}, {"0": 1.0, "1": 2.5}, {"1": 2.5}]
)
@pytest.mark.parametrize("plan_class", [Classifier, Neuron])
def test_a_class_weight_in_every_form_weighs_the_rows_of_its_class(plan_class, given):
    weighted, plain = ready(plan_class, {**BINARY, "class_weight": given}), ready(plan_class)
    loss, gradients = weighted.training_step(X, Y)
    by_row = Rows(X, Y, np.where(Y == 1, 2.5, 1.0))
    expected, others = plain.training_step(*next(by_row.batches(LoaderArgs(64), None)))
    assert loss == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(gradients["coef_"], others["coef_"], rtol=1e-12)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("balanced", "classes 0 to 1, got 'balanced'. A node would weigh by its own classes"),
        ([1.0], "a weight for each of the classes 0 to 1"),
        ([1.0, 2.0, 3.0], "a weight for each of the classes 0 to 1"),
        ({2: 1.0}, "a weight for each of the classes 0 to 1"),
        ({-1: 1.0}, "a weight for each of the classes 0 to 1"),
        ({"benign": 1.0}, "a weight for each of the classes 0 to 1"),
        (np.array([1.0, 2.0]), "a weight for each of the classes 0 to 1"),
        ([1.0, -1.0], "a number from zero up, got -1.0"),
        ([1.0, float("nan")], "a number from zero up, got nan"),
        ([1.0, float("inf")], "a number from zero up, got inf"),
        ([1.0, "2"], "a number from zero up, got '2'"),
        ([1.0, True], "a number from zero up, got True"),
    ],
)
def test_what_cannot_be_a_class_weight_is_refused(given, words):
    with pytest.raises(PlanError, match=words):
        ready(Classifier, {**BINARY, "class_weight": given})


def test_no_class_weight_is_none():
    assert ready(Classifier, {**BINARY, "class_weight": None}).model().class_weight is None


# the estimator before training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("plan_class", [Classifier, Neuron])
def test_a_new_classifier_is_a_fitted_estimator_that_predicts_class_0(plan_class, classes):
    model = ready(plan_class, sizes_of(plan_class, classes)).model()
    assert model.classes_.tolist() == list(range(classes))
    assert model.n_features_in_ == 5
    assert model.predict(X).tolist() == [0] * 64
    assert model.coef_.shape == (1 if classes == 2 else classes, 5)


def test_a_new_regressor_is_a_fitted_estimator_that_predicts_0():
    model = ready(Regressor).model()
    assert model.n_features_in_ == 5
    assert model.predict(X).tolist() == [0.0] * 64


def test_settings_are_those_of_model_args_and_the_rate_is_the_optimizers():
    given = {"loss": "huber", "penalty": "elasticnet", "alpha": 0.5, "l1_ratio": 0.25, "epsilon": 2.0}
    model = ready(Regressor, {"n_features": 5, "fit_intercept": False, **given}, optimizer_args={"lr": 0.125}).model()
    expected = {**given, "fit_intercept": False, "eta0": 0.125, "learning_rate": "constant"}
    assert expected.items() <= model.get_params().items()
    model.partial_fit(X, NUMBERS)
    assert model.coef_.any()


def test_two_plans_have_models_of_their_own():
    one, two = ready(), ready()
    trainer_of(one).train()
    assert one.model().coef_.any()
    assert not two.model().coef_.any()


@pytest.mark.parametrize("plan_class", KINDS.values())
def test_parameters_are_copied_in_and_out_under_scikit_learns_names(plan_class):
    made = ready(plan_class)
    before = made.get_params()
    assert list(before) == ["coef_", "intercept_"]
    moved = Params.from_arrays({name: array + 1.5 for name, array in before.items()})
    made.set_params(moved)
    assert made.get_params() == moved != before
    assert (made.model().coef_ == 1.5).all()
    with pytest.raises(ParamsError, match="'intercept_' has shape"):
        made.set_params(Params.from_arrays({"coef_": moved["coef_"], "intercept_": np.zeros(9)}))


# training ----------------------------------------------------------------------------------------------------------


def test_training_is_gradient_descent_in_the_order_of_the_seed():
    made = ready(Classifier, LOGISTIC, epochs=3, loader_args={"batch_size": 10}, optimizer_args={"lr": 0.2})
    result = trainer_of(made).train()
    w, b, losses = np.zeros(5), 0.0, []
    for epoch in range(3):
        order = SeedTree.root(1).child("epoch", epoch).generator().permutation(64)
        for rows in np.split(order, range(10, 64, 10)):
            margin = (X[rows] @ w + b) * (2 * Y[rows] - 1)
            losses += [np.log1p(np.exp(-margin)).mean() + 0.005 * w @ w] * len(rows)
            dw, db = logistic_gradient(w, b, X[rows], Y[rows])
            w, b = w - 0.2 * dw, b - 0.2 * db
    np.testing.assert_allclose(made.model().coef_[0], w, rtol=1e-10)
    np.testing.assert_allclose(made.model().intercept_, [b], rtol=1e-10)
    assert result.loss == pytest.approx(np.mean(losses), rel=1e-12)


@pytest.mark.parametrize("plan_class", KINDS.values())
def test_sparse_rows_train_the_model_that_dense_rows_train(plan_class):
    x = np.where(np.abs(X) > 0.7, X, 0.0)
    y = NUMBERS if plan_class is Regressor else Y
    found = []
    for data in (x, sp.csc_matrix(x)):
        made = ready(plan_class, **in_order(7, epochs=2))
        trainer_of(made, data, y).train()
        found.append(made.get_params())
    assert np.abs(found[0]["coef_"]).max() > 0.01
    for name in found[0]:
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=1e-9, atol=1e-12)


def test_weights_of_rows_stand_for_repeated_rows_at_another_rate_and_penalty():
    """The loss is divided by the number n of rows, and not by the sum N of their weights.

    With A the sum of the weighted losses, the weighted objective is A / n + alpha R, that of repeated rows is
    A / N + alpha' R. With alpha' = alpha n / N they differ by the factor N / n only, which a rate N / n times as large
    makes up for.
    """
    weight = np.where(np.arange(64) % 2, 3, 1)
    n, total = 64, weight.sum()
    weighted = ready(Classifier, LOGISTIC, **in_order(64, 0.1, epochs=20))
    source = wrap(SkLearnDataManager(X, Y, sample_weight=weight))
    Trainer(weighted.make_backend(), {"train": source}, args=weighted.training_args()).train()

    args = in_order(int(total), 0.1 * total / n, epochs=20)
    repeated = ready(Classifier, {**LOGISTIC, "alpha": 0.01 * n / total}, **args)
    trainer_of(repeated, np.repeat(X, weight, axis=0), np.repeat(Y, weight)).train()
    np.testing.assert_allclose(weighted.model().coef_, repeated.model().coef_, rtol=1e-10)
    np.testing.assert_allclose(weighted.model().intercept_, repeated.model().intercept_, rtol=1e-10)


class WeightedPlan(FedSGDClassifier):
    def training_data(self):
        weight = self.dataset.column("weight")
        return SkLearnDataManager(
            self.dataset.table(without=["y", "weight"]), self.dataset.column("y"), sample_weight=weight
        )


def test_weights_of_rows_travel_nowhere_and_count_at_their_node():
    frame = {f"x{i}": X[:, i] for i in range(5)} | {"y": Y, "weight": np.full(64, 2.0)}
    weighted = federation(WeightedPlan, {"a": frame}, {**LOGISTIC, "alpha": 0.0}, **in_order(64, 0.25, num_updates=1))
    plain = federation(Classifier, {"a": (X, Y)}, {**LOGISTIC, "alpha": 0.0}, **in_order(64, 0.5, num_updates=1))
    assert weighted.params() == plain.params()  # twice the gradient at half the rate, in powers of two


def test_nodes_that_lack_classes_make_the_step_of_all_rows_together():
    order = np.argsort(THREE)
    by_label = np.split(order, np.searchsorted(THREE[order], [1, 2]))
    parts = {f"node-{label}": (X[rows], THREE[rows]) for label, rows in enumerate(by_label)}
    assert [set(y) for _, y in parts.values()] == [{0}, {1}, {2}]
    sizes = {"n_features": 5, "n_classes": 3, "loss": "log_loss"}
    apart = federation(Classifier, parts, sizes, 3, **in_order(64, 0.5, num_updates=1))
    together = ready(Classifier, sizes, **in_order(64, 0.5, num_updates=3))
    trainer_of(together, X, THREE).train()
    model = apart.training_plan().model()
    np.testing.assert_allclose(model.coef_, together.model().coef_, rtol=1e-10)
    np.testing.assert_allclose(model.intercept_, together.model().intercept_, rtol=1e-10)
    assert model.score(X, THREE) > 0.75


@pytest.mark.parametrize("mu", [0.0, 0.7])
@pytest.mark.parametrize("limit", [0.0, 0.2])
def test_fedprox_and_gradient_clipping_make_the_steps_of_a_written_out_loop(mu, limit):
    start = Params.from_arrays({"coef_": np.full((1, 5), 0.3), "intercept_": np.array([-0.2])})
    made = ready(Classifier, LOGISTIC, **in_order(16, 0.5, epochs=2, fedprox_mu=mu, grad_clip=limit))
    made.set_params(start)
    trainer_of(made).train()
    w0, b0 = start["coef_"][0], start["intercept_"][0]
    w, b, clipped = w0.copy(), b0, 0
    for low in [*range(0, 64, 16)] * 2:
        dw, db = logistic_gradient(w, b, X[low : low + 16], Y[low : low + 16])
        dw, db = dw + mu * (w - w0), db + mu * (b - b0)
        norm = np.sqrt(dw @ dw + db * db)
        factor = limit / norm if 0 < limit < norm else 1.0
        clipped += factor < 1
        w, b = w - 0.5 * factor * dw, b - 0.5 * factor * db
    assert (clipped > 0) == (limit > 0)
    np.testing.assert_allclose(made.model().coef_[0], w, rtol=1e-11)
    np.testing.assert_allclose(made.model().intercept_, [b], rtol=1e-11)


class OwnIntercept(FedSGDClassifier):
    def training_data(self):
        return DataManager(self.dataset)

    def tag_parameters(self, name):
        return {"local", "persistent"} if name == "intercept_" else set()


def test_an_intercept_may_stay_at_its_node_from_round_to_round():
    parts = {"a": (X[:32], Y[:32]), "b": (X[32:] + 1, Y[32:])}
    exp = federation(OwnIntercept, parts, LOGISTIC, 3, **in_order(32, 0.5, num_updates=1))
    w, own = np.zeros(5), dict.fromkeys(parts, 0.0)
    for _ in range(3):
        gradients = {node: logistic_gradient(w, own[node], *data) for node, data in parts.items()}
        own = {node: own[node] - 0.5 * gradients[node][1] for node in parts}
        w = np.mean([w - 0.5 * gradients[node][0] for node in parts], axis=0)
    assert list(exp.params()) == ["coef_"]
    np.testing.assert_allclose(exp.params()["coef_"][0], w, rtol=1e-11)
    assert [reply["state"] for reply in exp.training_replies()[2].values()] == ["kept", "kept"]


def test_hooks_see_gradients_by_name_and_may_change_them():
    made = ready(Classifier, LOGISTIC, **in_order(64, 0.5, num_updates=1))
    trainer = trainer_of(made)
    seen = {}

    def halve(ctx):
        seen.update({name: array.copy() for name, array in ctx.backend.gradients().items()})
        ctx.backend.gradients()["coef_"][...] *= 0.5

    trainer.add_hook(halve, "on_batch_backward", before="step")
    trainer.train()
    dw, db = logistic_gradient(np.zeros(5), 0.0)
    np.testing.assert_allclose(seen["coef_"], [dw], rtol=1e-12)
    np.testing.assert_allclose(seen["intercept_"], [db], rtol=1e-12)
    np.testing.assert_allclose(made.model().coef_[0], -0.25 * dw, rtol=1e-12)


def test_a_trainer_that_was_saved_goes_on_with_model_and_optimizer(tmp_path):
    args = in_order(16, 0.1, epochs=1)
    whole, first, second = (trainer_of(ready(AdamClassifier, LOGISTIC, **args), optimizer_state="keep") for _ in "abc")
    whole.train(), whole.train()
    first.train()
    first.save_model(tmp_path / "trainer", cur_round=3)
    assert second.load_model(tmp_path / "trainer") == 3
    second.train()
    assert second.get_params() == whole.get_params()


@pytest.mark.parametrize("plan_class", KINDS.values())
def test_a_copy_of_the_trainers_model_is_independent_and_learns_the_same(plan_class):
    made, y = ready(plan_class, **in_order(16)), NUMBERS if plan_class is Regressor else Y
    twin, before = made.make_backend().clone(), made.get_params()
    Trainer(twin, {"train": (X, y)}, args=made.training_args()).train()
    assert made.get_params() == before != twin.get_params()
    trainer_of(made, X, y).train()
    assert made.get_params() == twin.get_params()


def test_the_global_random_streams_are_left_alone():
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2]

    before = states()
    trainer_of(ready(Classifier, {**BINARY, "penalty": "elasticnet"}, epochs=2)).train()
    federation(Classifier, {"a": (X, Y)}, BINARY, epochs=2)
    assert states() == before


class Threads(FedSGDClassifier):
    def init_dependencies(self):
        return ["from threadpoolctl import threadpool_info"]

    def training_data(self):
        found = {pool["num_threads"] for pool in threadpool_info()}
        if found != {self.training_args()["threads"]}:
            raise RuntimeError(f"{found} threads")
        return DataManager(self.dataset)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_training_uses_as_many_threads_as_it_is_told(threads):
    plan_module._pools.cache_clear()  # other tests may have loaded more libraries since
    before = threadpool_info()
    assert before
    federation(Threads, {"a": (X, Y)}, BINARY, threads=threads)
    assert threadpool_info() == before


# the optimizer -----------------------------------------------------------------------------------------------------


def test_plain_gradient_descent_takes_a_rate_and_nothing_else():
    with pytest.raises(PlanError, match="takes only lr, but optimizer_args has 'momentum', 'nesterov'") as caught:
        ready(optimizer_args={"lr": 0.1, "nesterov": True, "momentum": 0.9})
    assert "fedplug_declearn.Optimizer" in caught.value.cure


class TorchLike:
    def step(self, closure=None):
        """Moves what it was made with."""


@pytest.mark.parametrize(
    ("made", "kind"), [(None, "nothing"), (TorchLike(), "a TorchLike"), (TorchLike, "a type"), (0.1, "a float")]
)
def test_an_optimizer_of_a_framework_is_refused_with_the_cure(made, kind):
    class Wrong(Classifier):
        def init_optimizer(self, optimizer_args):
            return made

    with pytest.raises(PlanError, match=f"an optimizer that knows no framework, but returned {kind}") as caught:
        ready(Wrong)
    assert "from fedplug_declearn import Optimizer" in caught.value.cure


def test_an_optimizer_of_declearn_moves_the_model():
    exp = federation(AdamPlan, {"a": (X, Y)}, LOGISTIC, **in_order(64, 0.1, num_updates=1))
    dw, db = logistic_gradient(np.zeros(5), 0.0)
    # the first step of Adam: moments over their corrections are the gradient and its square; epsilon is 1e-7
    np.testing.assert_allclose(exp.params()["coef_"], [-0.1 * dw / (np.abs(dw) + 1e-7)], rtol=1e-9)
    np.testing.assert_allclose(exp.params()["intercept_"], [-0.1 * db / (np.abs(db) + 1e-7)], rtol=1e-9)


def test_a_kept_optimizer_goes_through_rounds_as_through_one_unbroken_training():
    # 64 rows: the mean over a single node multiplies and divides by a power of two
    args = in_order(16, 0.1)
    unbroken = federation(AdamPlan, {"a": (X, Y)}, LOGISTIC, 1, epochs=2, **args)
    kept = federation(AdamPlan, {"a": (X, Y)}, LOGISTIC, 2, epochs=1, keep_optimizer_state=True, **args)
    forgotten = federation(AdamPlan, {"a": (X, Y)}, LOGISTIC, 2, epochs=1, **args)
    assert kept.params() == unbroken.params() != forgotten.params()


# privacy -----------------------------------------------------------------------------------------------------------


def test_local_privacy_is_refused_before_anything_is_sent():
    dp_args = {"type": "local", "sigma": 1.0, "clip": 1.0}
    with pytest.raises(UsageError, match="Plans of framework 'sklearn' cannot train with local differential privacy"):
        federation(Classifier, {"a": (X, Y)}, BINARY, dp_args=dp_args)


def test_central_privacy_bounds_what_a_node_can_do():
    plain = federation(Classifier, {"a": (X, Y)}, LOGISTIC, **in_order(64, 1.0, num_updates=1))
    dp_args = {"type": "central", "sigma": 1e-6, "clip": 0.01}
    private = federation(Classifier, {"a": (X, Y)}, LOGISTIC, **in_order(64, 1.0, num_updates=1, dp_args=dp_args))
    moved = {name: np.concatenate([exp.params()[name].ravel() for name in ("coef_", "intercept_")]) for name, exp in
             {"plain": plain, "private": private}.items()}  # fmt: skip
    assert np.linalg.norm(moved["private"]) == pytest.approx(0.01, rel=1e-5)
    np.testing.assert_allclose(moved["private"], 0.01 * moved["plain"] / np.linalg.norm(moved["plain"]), atol=1e-7)


# tests -------------------------------------------------------------------------------------------------------------

CLASS_METRICS = ["accuracy", "precision", "recall", "f1_score", "confusion_matrix", "auc"]


def classifiers():
    for classes in (2, 3):
        yield from (pytest.param(Classifier, {"loss": loss}, classes, id=f"{loss}-{classes}") for loss in LOSSES)
        yield pytest.param(Neuron, {}, classes, id=f"perceptron-{classes}")


@pytest.mark.parametrize(("plan_class", "given", "classes"), list(classifiers()))
@pytest.mark.parametrize("batch_size", [None, 10])
def test_metrics_of_classes_are_scikit_learns_own(plan_class, given, classes, batch_size):
    y = Y if classes == 2 else THREE
    args = in_order(8, 0.05, epochs=2, test_metric=CLASS_METRICS, test_batch_size=batch_size)
    made = ready(plan_class, {**sizes_of(plan_class, classes), **given}, **args)
    trainer = trainer_of(made, X, y)
    trainer.train()
    model, found = made.model(), trainer.evaluate()
    predicted, average = model.predict(X), "binary" if classes == 2 else "weighted"
    assert found.metrics["accuracy"] == model.score(X, y)
    assert found.values["confusion_matrix"] == reference.confusion_matrix(y, predicted).tolist()
    for name in ("precision_score", "recall_score", "f1_score"):
        expected = getattr(reference, name)(y, predicted, average=average, zero_division=0)
        assert found.metrics[name.removesuffix("_score") if name != "f1_score" else name] == pytest.approx(expected)
    scores = model.decision_function(X)
    chances = expit(scores) if classes == 2 else softmax(scores, axis=1)
    area = reference.roc_auc_score(y, chances, multi_class="ovr")
    assert abs(found.metrics["auc"] - area) <= found.metrics["auc_error_bound"] + 1e-12
    assert found.metrics["auc_error_bound"] < 0.02


@pytest.mark.parametrize("loss", FedSGDRegressor.losses)
def test_metrics_of_a_regression_are_scikit_learns_own(loss):
    names = ["mean_squared_error", "mean_absolute_error", "r2_score", "explained_variance"]
    made = ready(Regressor, {"n_features": 5, "loss": loss}, **in_order(8, 0.05, epochs=4, test_metric=names))
    trainer = trainer_of(made, X, NUMBERS)
    trainer.train()
    found, predicted = trainer.evaluate().metrics, made.model().predict(X)
    for name in names:
        function = getattr(reference, name if name != "explained_variance" else "explained_variance_score")
        assert found[name] == pytest.approx(function(NUMBERS, predicted), rel=1e-10)


def test_a_test_without_metrics_tells_the_objective():
    made = ready(Classifier, LOGISTIC, **in_order(8, 0.2, epochs=3))
    trainer = trainer_of(made)
    trainer.train()
    model = made.model()
    expected = reference.log_loss(Y, model.predict_proba(X)) + 0.005 * np.sum(model.coef_**2)
    assert trainer.evaluate().metrics == {"loss": pytest.approx(expected, rel=1e-12)}


class Measured(FedSGDClassifier):
    def training_data(self):
        return DataManager(self.dataset)

    def testing_step(self, data, target):
        return {"right": np.mean(self.model().predict(data) == target), "rows": len(data)}


def test_a_testing_step_says_what_is_told():
    exp = federation(
        Measured, {"a": (X, Y)}, LOGISTIC, test_ratio=0.25, test_on_global_updates=True, test_metric="accuracy"
    )
    (reply,) = exp.training_replies()[0].values()
    found = {name: value for name, value in reply["metrics"].items() if name.startswith("test_")}
    assert found.keys() == {"test_global_right", "test_global_rows", "test_global_accuracy"}
    assert found["test_global_rows"] == 16
    assert found["test_global_right"] == found["test_global_accuracy"]


def test_weights_of_rows_have_no_part_in_metrics_and_one_in_the_loss():
    weight = np.where(Y == 1, 4.0, 0.0)
    source = wrap(SkLearnDataManager(X, Y, sample_weight=weight))
    made = ready(Classifier, {**LOGISTIC, "alpha": 0.0}, test_metric="accuracy")
    trainer = Trainer(made.make_backend(), {"test": source}, args=made.training_args())
    assert trainer.evaluate().metrics == {"accuracy": pytest.approx(np.mean(Y == 0))}
    plain = Trainer(made.make_backend(), {"test": source})
    assert plain.evaluate().metrics == {"loss": pytest.approx(np.log(2) * weight.mean())}


# a plan as a text --------------------------------------------------------------------------------------------------


def test_a_misspelt_method_is_warned_of():
    class Misspelt(FedSGDClassifier):
        def training_data(self):
            return DataManager(self.dataset)

        def init_optimiser(self, optimizer_args):
            return None

    with pytest.warns(FedplugWarning, match="init_optimiser, which is never called; did you mean init_optimizer"):
        bundle_plan(Misspelt)


def test_a_plan_without_training_data_cannot_be_made():
    with pytest.raises(TypeError, match="training_data"):
        FedSGDClassifier()


def test_mistakes_in_model_args_are_told_where_the_experiment_is_made():
    with pytest.raises(PlanRunError, match="'Classifier': model_args lack n_classes"):
        federation(Classifier, {"a": (X, Y)}, {"n_features": 5})
    with pytest.raises(UnknownNameError, match="'hing'"):
        federation(Classifier, {"a": (X, Y)}, {**BINARY, "loss": "hing"})


def test_labels_that_are_no_classes_are_told_by_the_node():
    with pytest.raises(RoundError, match=r"holds the class 2 .*n_classes=2"):
        federation(Classifier, {"a": (X, Y), "b": (X, THREE)}, BINARY)


# what comes out ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained() -> Experiment:
    parts = {"a": (X[:40], Y[:40]), "b": (X[40:], Y[40:])}
    return federation(Classifier, parts, LOGISTIC, 5, epochs=3, optimizer_args={"lr": 0.5})


def test_the_researchers_model_is_a_fitted_estimator_of_scikit_learns_own(trained):
    model = trained.training_plan().model()
    assert type(model) is SGDClassifier
    assert model.score(X, Y) > 0.85
    np.testing.assert_array_equal(model.coef_, trained.params()["coef_"])
    np.testing.assert_allclose(model.predict_proba(X)[:, 1], expit(X @ model.coef_[0] + model.intercept_), rtol=1e-12)
    assert not hasattr(clone(model), "coef_")
    assert clone(model).get_params() == model.get_params()


def test_the_researchers_model_works_in_a_pipeline(trained):
    model = trained.training_plan().model()
    raw = X * 12 + 4
    pipeline = make_pipeline(StandardScaler().fit(raw), model)
    np.testing.assert_array_equal(pipeline.predict(raw), model.predict(StandardScaler().fit_transform(raw)))


@pytest.mark.parametrize("way", ["joblib", "skops", "pickle"])
def test_the_researchers_model_survives_every_way_to_keep_it(trained, way, tmp_path):
    model, path = trained.training_plan().model(), tmp_path / "model"
    if way == "joblib":
        joblib.dump(model, path)
        other = joblib.load(path)
    elif way == "skops":
        skops.io.dump(model, path)
        other = skops.io.load(path, trusted=[])
    else:
        other = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(other.decision_function(X), model.decision_function(X))
    other.partial_fit(X, Y)
    assert (other.coef_ != model.coef_).any()


# files -------------------------------------------------------------------------------------------------------------

SUFFIXES = [".joblib", ".skops", ".npz", ".safetensors"]


def moved(plan_class=Classifier, model_args=None, by=1.0):
    made = ready(plan_class, model_args)
    for number, array in enumerate(made.arrays().values()):
        array += by * (np.arange(array.size).reshape(array.shape) + number)
    return made


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("plan_class", KINDS.values())
def test_a_model_comes_back_from_its_file(plan_class, suffix, tmp_path):
    made, other = moved(plan_class), ready(plan_class)
    path = made.export_model(tmp_path / f"model{suffix}")
    assert list(tmp_path.iterdir()) == [path]
    other.import_model(path, trusted=suffix == ".joblib")
    assert other.get_params() == made.get_params()


def test_other_software_reads_the_files(tmp_path):
    made = moved()
    for load in (joblib.load, skops.io.load):
        path = made.export_model(tmp_path / f"m.{load.__module__.partition('.')[0]}")
        np.testing.assert_array_equal(load(path).predict(X), made.model().predict(X))
    with np.load(made.export_model(tmp_path / "m.npz")) as arrays:
        np.testing.assert_array_equal(arrays["coef_"], made.model().coef_)
    arrays = safetensors.numpy.load_file(made.export_model(tmp_path / "m.safetensors"))
    np.testing.assert_array_equal(arrays["intercept_"], made.model().intercept_)


def test_a_joblib_file_needs_trust(tmp_path):
    path = moved().export_model(tmp_path / "m.joblib")
    with pytest.raises(UsageError, match="can run any code") as caught:
        ready().import_model(path)
    assert "trusted=True" in caught.value.cure


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Perceptron().fit(X, Y), "holds a Perceptron, but this plan's model is a SGDClassifier"),
        (make_pipeline(StandardScaler(), SGDClassifier()).fit(X, Y), "holds a Pipeline"),
        (SGDClassifier().fit(X[:, :3], Y), r"different: coef_ \(float64 \[1, 3\] in the file"),
        (
            SGDClassifier().fit(X, Y + 1),
            r"The classes of the model in .* are \[1 2\], those of this plan's model \[0 1\]",
        ),
        (SGDClassifier().fit(X, np.array(["no", "yes"])[Y]), r"are \['no' 'yes'\]"),
        (SGDClassifier().fit(X, THREE), r"are \[0 1 2\]"),
        (SGDClassifier(), "missing: coef_, intercept_"),
        ([1, 2], "holds a list, which is no estimator"),
        ({"coef_": np.zeros((1, 5))}, "missing: intercept_"),
        ({"coef_": np.full((1, 5), np.nan), "intercept_": np.zeros(1)}, "not finite .*: coef_"),
    ],
)
def test_another_model_is_refused_and_changes_nothing(found, words, tmp_path):
    joblib.dump(found, tmp_path / "m.joblib")
    made = moved()
    before = made.get_params()
    with pytest.raises((ParamsError, UsageError), match=words):
        made.import_model(tmp_path / "m.joblib", trusted=True)
    assert made.get_params() == before


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_model_that_has_diverged_is_refused(suffix, tmp_path):
    made, other = moved(), moved(by=2.0)
    made.model().coef_[0, 2] = np.inf
    before = other.get_params()
    with pytest.raises(ParamsError, match=r"not finite .*: coef_"):
        other.import_model(made.export_model(tmp_path / f"m{suffix}"), trusted=True)
    assert other.get_params() == before


def test_an_experiment_goes_on_from_a_model_that_plain_scikit_learn_has_fitted(tmp_path):
    fitted = SGDClassifier(loss="log_loss", random_state=0).fit(X.astype(np.float32), Y)
    skops.io.dump(fitted, tmp_path / "m.skops")
    exp = federation(
        Classifier, {"a": (X, Y)}, LOGISTIC, before=lambda exp: exp.import_model(tmp_path / "m.skops"),
        **in_order(64, 0.5, num_updates=1),
    )  # fmt: skip
    w, b = fitted.coef_[0].astype(np.float64), float(fitted.intercept_[0])
    dw, db = logistic_gradient(w, b)
    np.testing.assert_allclose(exp.params()["coef_"][0], w - 0.5 * dw, rtol=1e-11)
    np.testing.assert_allclose(exp.params()["intercept_"], [b - 0.5 * db], rtol=1e-11)


# the README --------------------------------------------------------------------------------------------------------


def test_the_first_program_of_the_readme_runs_and_learns(tmp_path):
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (tmp_path / "first.py").write_text(text.partition("```python\n")[2].partition("```")[0], encoding="utf-8")
    command = [sys.executable, "-W", "error", "first.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.rpartition(": ")[2]) > 0.9
    assert (tmp_path / "cancer.skops").is_file()


def test_the_table_of_the_readme_has_every_argument():
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    rows = {row.split("`")[1]: row.rpartition(" | ")[2] for row in text.splitlines() if row.startswith("| `")}
    whole = set(re.findall(r"`(\w+)`", rows["FedSGDClassifier"]))
    assert whole == FedSGDClassifier.settings | {"n_classes"}
    assert FedSGDRegressor.settings == whole - {"n_classes", "class_weight"}
    assert set(re.findall(r"`(\w+)`", rows["FedPerceptron"])) == FedPerceptron.settings | {"n_classes"}
