"""`FedPartialFit`: any scikit-learn estimator that has ``partial_fit`` and keeps what it learns in arrays."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from sklearn.base import is_classifier, is_regressor
from sklearn.metrics import log_loss

from fedplug.core.errors import ParamsError, PlanError
from fedplug.core.params import Array
from fedplug_sklearn.data import Rows, parts_of
from fedplug_sklearn.no_gradients import RowsPlan


class FedPartialFit(RowsPlan):
    """Federated averaging of any estimator with ``partial_fit``: each batch is one call of it.

    You write ``init_model``, which returns an estimator that has all of its parameters already, and name these::

        class Net(FedPartialFit):
            parameters = ("coefs_", "intercepts_")

            def init_model(self, model_args):
                net = MLPClassifier((32,), random_state=0)
                rows = np.zeros((model_args["n_classes"], model_args["n_features"]))
                return net.partial_fit(rows, np.arange(len(rows)), classes=np.arange(len(rows)))

            def init_dependencies(self):
                return ["from sklearn.neural_network import MLPClassifier"]

    A parameter is an array, or a list of arrays. Nodes send these, and their mean becomes the global model, so it must
    make sense: for parameters of a network, for counts (with ``FedAverage(weighting="uniform")``, as a large node's are
    large already), but not for the indices of a tree. What else the estimator remembers (momentum, moments, how many
    steps it has made) begins anew in each round. Where something follows from the parameters, let
    ``parameters_changed(estimator)`` bring it up to them.

    ``model_args`` are yours. Labels are checked against ``n_classes`` among them if there is one, columns against
    ``n_features``. ``self.optimizer_args()`` may be used in ``init_model``.
    """

    parameters: ClassVar[tuple[str, ...]] = ()
    """The names of the attributes that are shared."""

    def parameters_changed(self, estimator: Any) -> None:
        """The estimator's parameters have others' values now. Does nothing by default."""

    def batch_loss(self, data: Any, target: Any) -> float:
        """The loss of a batch before it is learnt: may be overridden. It changes nothing in the training.

        Log loss where there is ``predict_proba``, else the share of wrong classes; the mean squared error of a
        regressor; the negative mean ``score`` of what has no target. Weights of rows have no part in it.

        Raises:
            PlanError: The estimator has none of these methods.
        """
        model, (rows, _) = self.model(), parts_of(data)
        if is_classifier(model) and hasattr(model, "predict_proba"):
            return float(log_loss(target, model.predict_proba(rows), labels=model.classes_))
        if is_classifier(model):
            return float(np.mean(model.predict(rows) != target))
        if is_regressor(model):
            return float(np.mean((model.predict(rows) - target) ** 2))
        if not hasattr(model, "score"):
            raise PlanError(
                f"A {type(model).__name__} has no score, so there is no loss to report.",
                cure="Define batch_loss(self, data, target), which returns a number; 0.0 will do.",
            )
        return float(-model.score(rows) / rows.shape[0])

    def learn(self, data: Any, target: Any) -> None:
        """One call of ``partial_fit``."""
        rows, weight = parts_of(data)
        weighted = {} if weight is None else {"sample_weight": weight}
        self.model().partial_fit(rows, *([] if target is None else [target]), **weighted)

    def forward(self, data: Any) -> Array:
        """Logarithms of chances, or scores, of shape ``(samples, classes)``; otherwise what ``predict`` gives."""
        model, (rows, _) = self.model(), parts_of(data)
        if is_classifier(model) and hasattr(model, "predict_proba"):
            # metrics take several columns for scores before a softmax, which brings the chances back
            return np.asarray(np.log(np.maximum(model.predict_proba(rows), np.finfo(np.float64).tiny)))
        if is_classifier(model) and hasattr(model, "decision_function"):
            scores = np.asarray(model.decision_function(rows))
            return np.column_stack([np.zeros_like(scores), scores]) if scores.ndim == 1 else scores
        return np.asarray(model.predict(rows))

    def arrays(self) -> dict[str, Array]:
        """The parameters by name; those of a list by the list's name and their place, as ``coefs_.0``."""
        return _arrays(self.model(), self.parameters)

    def check_rows(self, rows: Rows) -> None:
        """As for every plan; weights are for estimators that take them.

        Raises:
            DatasetError: The rows do not fit the model.
            PlanError: They have weights, which its ``partial_fit`` does not take.
        """
        super().check_rows(rows)
        model = self.model()
        if rows.weight is not None and "sample_weight" not in inspect.signature(model.partial_fit).parameters:
            raise PlanError(
                f"The partial_fit of a {type(model).__name__} takes no sample_weight.", cure="Leave it out."
            )

    def arrays_of(self, estimator: Any, path: str | Path) -> Mapping[str, Array]:
        """The parameters of another estimator of the model's class.

        Raises:
            ParamsError: It has not been fitted.
        """
        try:
            return _arrays(estimator, self.parameters)
        except AttributeError as error:
            raise ParamsError(f"The estimator in {path} has not been fitted: {error}.") from None

    def _build_model(self, model_args: Mapping[str, Any]) -> Any:
        made = super()._build_model(model_args)
        named: Any = self.parameters
        if isinstance(named, str) or not named:
            raise PlanError(
                f"{type(self).__name__} does not say what is shared.",
                cure='Name the attributes of the estimator: parameters = ("coef_", "intercept_").',
            )
        if not hasattr(made, "partial_fit"):
            raise PlanError(
                f"A {type(made).__name__} has no partial_fit, so it cannot be trained batch by batch.",
                cure="Use an estimator that has one, e.g. an MLPClassifier.",
            )
        missing = [name for name in named if not hasattr(made, name)]
        if missing:
            raise PlanError(
                f"The {type(made).__name__} of init_model has no {missing[0]!r} yet.",
                cure="Call its partial_fit on a few rows of zeros in init_model, so that all nodes begin alike.",
            )
        found: dict[str, Any] = dict(_arrays(made, named))
        for name, array in found.items():
            if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf" or not array.flags.writeable:
                raise PlanError(
                    f"The parameter {name!r} of the {type(made).__name__} is a {type(array).__name__}, no array of "
                    "numbers that can be changed.",
                    cure="Name attributes that are arrays, or lists of arrays.",
                )
        return made

    def _arrays_changed(self) -> None:
        self.parameters_changed(self.model())


def _arrays(estimator: Any, names: Sequence[str]) -> dict[str, Array]:
    found = dict[str, Array]()
    for name in names:
        value = getattr(estimator, name)
        if isinstance(value, list | tuple):
            found |= {f"{name}.{place}": each for place, each in enumerate(value)}
        else:
            found[name] = value
    return found
