"""The plans of the page: linear models that are trained by stochastic gradient descent.

The gradient of a batch is that of the objective itself (`fedplug_sklearn.linear`), and the plan's optimizer makes the
step. So all of the estimator's settings about *how* it is trained belong elsewhere, and are refused with a word about
where.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sklearn.linear_model import Perceptron, SGDClassifier, SGDRegressor

from fedplug.core.errors import PlanError, UnknownNameError
from fedplug.core.params import Array
from fedplug_sklearn.data import parts_of
from fedplug_sklearn.linear import LinearObjective, prepare
from fedplug_sklearn.losses import LOSSES
from fedplug_sklearn.plan import SKLearnTrainingPlan, is_number, take_count

_RATE = "the learning rate is the optimizer's: training_args={'optimizer_args': {'lr': 0.01}}, or init_optimizer"
_LENGTH = "how long a node trains is said by epochs or num_updates in training_args"
_REFUSED = {
    "learning_rate": _RATE,
    "eta0": _RATE,
    "power_t": _RATE,
    "max_iter": _LENGTH,
    "tol": _LENGTH,
    "n_iter_no_change": _LENGTH,
    "early_stopping": f"no node can stop for all; {_LENGTH}",
    "validation_fraction": "test_ratio in training_args holds data out for tests",
    "shuffle": "it belongs into loader_args, as {'shuffle': False}",
    "random_state": "the order of samples follows the experiment's seed, or random_seed in training_args",
    "warm_start": "each round goes on from the global model anyway",
    "average": "it averages a node's own steps, which the aggregator does over nodes",
    "n_jobs": "threads in training_args says how many threads a training may use",
    "verbose": "log_interval in training_args says how often progress is told",
}
_PENALTIES = ("l2", "l1", "elasticnet")


class LinearPlan(SKLearnTrainingPlan):
    """What the three plans share."""

    estimator: ClassVar[type[Any]]
    """The class of scikit-learn's."""

    settings: ClassVar[frozenset[str]] = frozenset({"penalty", "alpha", "l1_ratio", "fit_intercept"})
    """Arguments of it that ``model_args`` may have."""

    losses: ClassVar[tuple[str, ...]] = ()
    """What ``loss`` may be; empty where there is no choice."""

    _objective: LinearObjective

    def init_model(self, model_args: dict[str, Any]) -> Any:
        """The estimator with all coefficients zero, as ``model_args`` describe it.

        Raises:
            PlanError: They lack ``n_features`` or ``n_classes``, or have something that makes no sense.
            UnknownNameError: There is no such argument, loss or penalty.
            UsageError: scikit-learn knows an argument, but not its value.
        """
        given = dict(model_args)
        name = self.estimator.__name__
        features = take_count(given, "n_features", 1, name)
        classes = take_count(given, "n_classes", 2, name) if self._is_classifier else None
        if not self._is_classifier and "n_classes" in given:
            raise PlanError(f"model_args have n_classes, but {name} has no classes.", cure="Leave it out.")
        for key in given:
            if key in _REFUSED and key not in self.settings:
                raise PlanError(
                    f"model_args have {key!r}, which makes no sense here: {_REFUSED[key]}.", cure="Leave it out."
                )
            if key not in self.settings:
                raise UnknownNameError(f"argument of {name} for model_args", key, {*self.settings, *_sizes(self)})
        if self.losses and given.get("loss", self.losses[0]) not in self.losses:
            raise UnknownNameError(f"loss of {name}", str(given["loss"]), self.losses)
        if given.get("penalty") is not None and given["penalty"] not in _PENALTIES:
            raise UnknownNameError(
                f"penalty of {name}",
                str(given["penalty"]),
                _PENALTIES,
            )
        if "class_weight" in given:
            given["class_weight"] = _class_weight(given["class_weight"], classes or 0)
        # Its own rate, so that a partial_fit of the finished model goes on as the federation did.
        lr = self._state.training_args.optimizer_args["lr"]
        own: dict[str, Any] = {"eta0": float(lr) if isinstance(lr, int | float) and lr > 0 else 0.01}
        if "learning_rate" in self.estimator().get_params():
            own["learning_rate"] = "constant"
        model = self.estimator(**given, **own)
        prepare(model, features, classes)
        return model

    def training_step(self, data: Any, target: Any) -> tuple[float, Mapping[str, Array]]:
        """The objective of a batch, penalty included, and its exact gradients."""
        rows, weight = parts_of(data)
        return self._objective(rows, target, weight)

    def forward(self, data: Any) -> Array:
        """Decision scores of shape ``(samples, classes)`` (two classes: 0 and the score); a regressor's predictions."""
        return self._objective.scores(parts_of(data)[0])

    def arrays(self) -> dict[str, Array]:
        """``coef_`` and ``intercept_``, live."""
        return {"coef_": self.model().coef_, "intercept_": self.model().intercept_}

    def _build_model(self, model_args: Mapping[str, Any]) -> Any:
        made = super()._build_model(model_args)
        self._objective = LinearObjective(made)
        return made

    @property
    def _is_classifier(self) -> bool:
        return self.estimator is not SGDRegressor


class FedSGDClassifier(LinearPlan):
    """Linear classifiers with scikit-learn's ``SGDClassifier``.

    ``model_args``: ``n_features``, ``n_classes``, and of its own arguments ``loss`` (default ``"hinge"``, a linear
    SVM; ``"log_loss"`` is logistic regression), ``penalty`` (``"l2"``, ``"l1"``, ``"elasticnet"`` or None), ``alpha``
    (0.0001), ``l1_ratio`` (0.15), ``fit_intercept``, ``epsilon`` and ``class_weight`` (a list with the weight of each
    class, or a dict such as ``{"1": 3.0}``, where the others weigh 1). With more than two classes it is one model per
    class, each against the rest.
    """

    estimator = SGDClassifier
    settings = LinearPlan.settings | {"loss", "epsilon", "class_weight"}
    losses = ("hinge", *(name for name in LOSSES if name != "hinge"))


class FedSGDRegressor(LinearPlan):
    """Linear regression with scikit-learn's ``SGDRegressor``.

    ``model_args``: ``n_features``, and of its own arguments ``loss`` (default ``"squared_error"``; ``"huber"``,
    ``"epsilon_insensitive"``, ``"squared_epsilon_insensitive"``), ``penalty``, ``alpha``, ``l1_ratio``,
    ``fit_intercept`` and ``epsilon``, as for `FedSGDClassifier`.
    """

    estimator = SGDRegressor
    settings = LinearPlan.settings | {"loss", "epsilon"}
    losses = ("squared_error", "huber", "epsilon_insensitive", "squared_epsilon_insensitive")


class FedPerceptron(LinearPlan):
    """Rosenblatt's perceptron with scikit-learn's ``Perceptron``.

    ``model_args``: ``n_features``, ``n_classes``, and of its own arguments ``penalty`` (default None), ``alpha``,
    ``l1_ratio``, ``fit_intercept`` and ``class_weight``, as for `FedSGDClassifier`.
    """

    estimator = Perceptron
    settings = LinearPlan.settings | {"class_weight"}


def _sizes(plan: LinearPlan) -> set[str]:
    return {"n_features", "n_classes"} if plan._is_classifier else {"n_features"}


def _class_weight(given: Any, classes: int) -> dict[int, float] | None:
    """Weights of classes as scikit-learn takes them."""
    if given is None:
        return None
    if isinstance(given, list | tuple) and len(given) == classes:
        given = dict(enumerate(given))
    # the keys of a dict are text where it has come as JSON
    if not isinstance(given, Mapping) or not all(str(key).isdecimal() and int(key) < classes for key in given):
        reason = ""
        if isinstance(given, str) and given == "balanced":
            reason = " A node would weigh by its own classes, so that no two minimised the same objective."
        raise PlanError(
            f"class_weight must hold a weight for each of the classes 0 to {classes - 1}, got {given!r}.{reason}",
            cure="Give a list of all, such as [1.0, 3.0]; or a dict with some, such as {'1': 3.0}.",
        )
    wrong = [weight for weight in given.values() if not is_number(weight) or not 0 <= weight < 1e300]
    if wrong:
        raise PlanError(f"A weight in class_weight must be a number from zero up, got {wrong[0]!r}.")
    return {int(key): float(value) for key, value in given.items()}
