"""`FedPartialFit`: any scikit-learn estimator that has ``partial_fit`` and keeps what it learns in arrays."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn.base import is_classifier, is_regressor
from sklearn.metrics import log_loss

from fedplug.core.errors import PlanError
from fedplug.core.params import Array
from fedplug.core.plan_optimizer import PlanOptimizer
from fedplug.core.trainer import Backend
from fedplug.core.training_args import TrainingArgs
from fedplug_sklearn.backend import RowsBackend
from fedplug_sklearn.data import parts_of
from fedplug_sklearn.no_gradients import NoOptimizer, refuse_gradient_args
from fedplug_sklearn.plan import SKLearnTrainingPlan


class FedPartialFit(SKLearnTrainingPlan):
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
    make sense: for parameters of a network, for counts, but not for the indices of a tree. What else the estimator
    remembers (momentum, moments) begins anew in each round. Where something follows from the parameters, let
    ``parameters_changed(estimator)`` bring it up to them.

    Labels are checked against ``n_classes`` in ``model_args`` if there is one, columns against ``n_features``.
    """

    parameters: ClassVar[tuple[str, ...]] = ()
    """The names of the attributes that are shared."""

    def parameters_changed(self, estimator: Any) -> None:
        """The estimator's parameters have others' values now. Does nothing by default."""

    def batch_loss(self, data: Any, target: Any) -> float:
        """The loss of a batch before it is learnt: may be overridden.

        Log loss where there is ``predict_proba``, else the share of wrong classes; the mean squared error of a
        regressor; the negative mean ``score`` of what has no target.
        """
        model, (rows, _) = self.model(), parts_of(data)
        if is_classifier(model) and hasattr(model, "predict_proba"):
            chances = model.predict_proba(rows)
            return float(log_loss(target, chances, labels=model.classes_))
        if is_classifier(model):
            return float(np.mean(model.predict(rows) != target))
        if is_regressor(model):
            return float(np.mean((model.predict(rows) - target) ** 2))
        return float(-model.score(rows) / rows.shape[0])

    def learn(self, data: Any, target: Any) -> None:
        """One call of ``partial_fit``."""
        rows, weight = parts_of(data)
        weighted = {} if weight is None else {"sample_weight": weight}
        self.model().partial_fit(rows, *([] if target is None else [target]), **weighted)

    def training_step(self, data: Any, target: Any) -> Any:
        """The loss of a batch; `learn` learns it."""
        return self.batch_loss(data, target)

    def forward(self, data: Any) -> Array:
        """Chances or scores of classes; otherwise what ``predict`` gives."""
        model, (rows, _) = self.model(), parts_of(data)
        if is_classifier(model) and hasattr(model, "predict_proba"):
            return np.asarray(model.predict_proba(rows))
        if is_classifier(model) and hasattr(model, "decision_function"):
            scores = np.asarray(model.decision_function(rows))
            return np.column_stack([np.zeros_like(scores), scores]) if scores.ndim == 1 else scores
        return np.asarray(model.predict(rows))

    def arrays(self) -> dict[str, Array]:
        """The parameters by name; those of a list by the list's name and their place, as ``coefs_.0``."""
        model, found = self.model(), dict[str, Array]()
        for name in self.parameters:
            value = getattr(model, name)
            if isinstance(value, list | tuple):
                found |= {f"{name}.{place}": each for place, each in enumerate(value)}
            else:
                found[name] = value
        return found

    def make_backend(self) -> Backend:
        """This plan's estimator, for the loop."""
        return RowsBackend.for_plan(self)

    def check_args(self, args: TrainingArgs) -> None:
        """Refuse what is about gradients, or about the state of an optimizer."""
        super().check_args(args)
        refuse_gradient_args(self, args)
        if args.keep_optimizer_state:
            raise PlanError(
                "keep_optimizer_state is set, but what an estimator remembers beside its parameters is not kept.",
                cure="Leave it out.",
            )

    def _build_model(self, model_args: Any) -> Any:
        made = super()._build_model(model_args)
        named: Any = self.parameters
        if not isinstance(named, tuple | list) or not named:
            raise PlanError(
                f"{type(self).__name__} does not say what is shared.",
                cure='Name the attributes of the estimator: parameters = ("coef_", "intercept_").',
            )
        if not hasattr(made, "partial_fit"):
            raise PlanError(f"A {type(made).__name__} has no partial_fit, so it cannot be trained batch by batch.")
        missing = [name for name in self.parameters if not hasattr(made, name)]
        if missing:
            raise PlanError(
                f"The {type(made).__name__} of init_model has no {missing[0]!r} yet.",
                cure="Call its partial_fit on a few rows of zeros in init_model, so that all nodes begin alike.",
            )
        self._model = made  # what arrays() reads
        for name, array in self.arrays().items():
            if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf" or not array.flags.writeable:
                raise PlanError(
                    f"The parameter {name!r} of the {type(made).__name__} is a {type(array).__name__}, no array of "
                    "numbers that can be changed.",
                    cure="Name attributes that are arrays, or lists of arrays.",
                )
        return made

    def _build_optimizer(self, optimizer_args: Any) -> PlanOptimizer:
        return NoOptimizer.of(self, SKLearnTrainingPlan)

    def arrays_of(self, estimator: Any, path: Any) -> dict[str, Array]:
        """The parameters of another estimator of the model's class."""
        mine, self._model = self._model, estimator
        try:
            return self.arrays()
        except AttributeError as error:
            raise PlanError(f"The estimator in {path} has not been fitted: {error}.") from None
        finally:
            self._model = mine

    def _arrays_changed(self) -> None:
        self.parameters_changed(self.model())
