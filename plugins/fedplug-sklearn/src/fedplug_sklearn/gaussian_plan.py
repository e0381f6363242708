"""`FedGaussianNB`: Gaussian naive Bayes, exactly as if all data lay in one place."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from sklearn.naive_bayes import GaussianNB

from fedplug.core.errors import PlanError, UnknownNameError
from fedplug.core.params import Array
from fedplug.core.plan_optimizer import PlanOptimizer
from fedplug.core.trainer import Backend, Phase
from fedplug.core.training_args import TrainingArgs
from fedplug_sklearn.backend import RowsBackend
from fedplug_sklearn.data import Rows, parts_of
from fedplug_sklearn.gaussian import Statistics, write
from fedplug_sklearn.no_gradients import NoOptimizer, refuse_gradient_args
from fedplug_sklearn.plan import SKLearnTrainingPlan


class FedGaussianNB(SKLearnTrainingPlan):
    """Gaussian naive Bayes with scikit-learn's ``GaussianNB``. You write ``training_data`` only.

    Nodes send sums over their rows (`fedplug_sklearn.gaussian`), so one round is all it takes: the global model is what
    ``GaussianNB().fit`` of all nodes' rows together would be, up to rounding, if the aggregator weighs nodes by their
    numbers of samples, as FedAverage does. A second round only takes rounding errors away from data whose means are
    far larger than their spread.

    ``model_args``: ``n_features``, ``n_classes``, and of its own arguments ``var_smoothing`` and ``priors``.

    The loss of a training is the log loss of the model that it was sent: of equal chances for all classes, in the
    first round. ``class_count_`` of the model are shares, as no single number of rows is known.
    """

    _seen: Statistics
    _dirty = False

    def init_model(self, model_args: dict[str, Any]) -> Any:
        """An estimator that has seen nothing.

        Raises:
            PlanError: ``model_args`` lack ``n_features`` or ``n_classes``.
            UnknownNameError: There is no such argument.
        """
        given = dict(model_args)
        for name, least in (("n_features", 1), ("n_classes", 2)):
            value = given.pop(name, None)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise PlanError(
                    f"model_args must have {name}, a whole number of at least {least}, got {value!r}.",
                    cure="model_args={'n_features': 30, 'n_classes': 2}.",
                )
        for name in given:
            if name not in ("var_smoothing", "priors"):
                known = ("n_features", "n_classes", "var_smoothing", "priors")
                raise UnknownNameError("argument of GaussianNB for model_args", name, known)
        return GaussianNB(**given)

    def arrays(self) -> dict[str, Array]:
        """``share``, ``first``, ``second`` and ``location``, live; see `fedplug_sklearn.gaussian`."""
        return self._statistics

    def batch_loss(self, data: Any, target: Any) -> float:
        """Log loss of the model as it is; before it has seen anything, all classes have the same chance."""
        if not hasattr(self.model(), "theta_"):
            return math.log(self._statistics["share"].size)
        chances = self.model().predict_log_proba(_dense(data))
        # a class that no other node has: as unlikely as can be told, and not infinitely so
        return float(-np.maximum(chances[np.arange(len(target)), target], math.log(np.finfo(np.float64).tiny)).mean())

    def learn(self, data: Any, target: Any) -> None:
        """Add a batch to the sums."""
        self._seen.add(parts_of(data)[0], target)
        for name, array in self._seen.arrays().items():
            np.copyto(self._statistics[name], array)
        self._dirty = True

    def training_step(self, data: Any, target: Any) -> Any:
        """The loss of a batch; `learn` learns it."""
        return self.batch_loss(data, target)

    def forward(self, data: Any) -> Array:
        """Joint log-probabilities, of shape ``(samples, classes)``."""
        rows = _dense(data)
        if not hasattr(self.model(), "theta_"):
            return np.zeros((len(rows), self._statistics["share"].size))
        return np.asarray(self.model().predict_joint_log_proba(rows))

    def make_backend(self) -> Backend:
        """This plan's sums, for the loop."""
        return _GaussianBackend.for_plan(self)

    def buffer_names(self) -> frozenset[str]:
        """All: sums are no parameters that an optimizer could move."""
        return frozenset(self._statistics)

    def check_args(self, args: TrainingArgs) -> None:
        """Refuse what does not go with a single pass over all rows."""
        super().check_args(args)
        refuse_gradient_args(self, args)
        if args.epochs != 1 or args.num_updates is not None or args.batch_maxnum:
            raise PlanError(
                "FedGaussianNB reads each row once, so it knows neither epochs nor num_updates nor batch_maxnum.",
                cure="Leave them out of training_args.",
            )
        if args.loader_args.get("drop_last"):
            raise PlanError("FedGaussianNB reads every row, so drop_last makes no sense.", cure="Leave it out.")

    def _check_rows(self, rows: Rows) -> None:
        super()._check_rows(rows)
        if rows.weight is not None:
            raise PlanError(
                "FedGaussianNB takes no sample_weight: the mean over nodes counts samples.", cure="Leave it out."
            )

    def _build_model(self, model_args: Any) -> Any:
        made = super()._build_model(model_args)
        classes, features = model_args["n_classes"], model_args["n_features"]
        self._statistics = {
            "share": np.zeros(classes), "first": np.zeros((classes, features)),
            "second": np.zeros((classes, features)), "location": np.zeros(features),
        }  # fmt: skip
        self._seen = Statistics(classes, self._statistics["location"])
        return made

    def _build_optimizer(self, optimizer_args: Any) -> PlanOptimizer:
        return NoOptimizer.of(self, SKLearnTrainingPlan)

    def _arrays_changed(self) -> None:
        """A model of others' sums; what is seen from now on is measured from the mean of their rows."""
        known = self._statistics
        self._seen = Statistics(known["share"].size, known["location"] + known["first"].sum(axis=0))
        self._dirty = True
        self.refresh()

    def refresh(self) -> None:
        """Bring the estimator up to the sums."""
        if self._dirty and self._statistics["share"].any():
            write(self.model(), self._statistics)
        self._dirty = False


def _dense(data: Any) -> Array:
    """The rows of a batch; GaussianNB takes no sparse ones."""
    rows, _ = parts_of(data)
    return np.asarray(rows.toarray() if hasattr(rows, "toarray") else rows)


class _GaussianBackend(RowsBackend):
    def prepare(self, phase: Phase) -> None:
        """A test is of the sums as they are; a training reports the loss of the model that it was sent."""
        super().prepare(phase)
        if phase is Phase.EVAL:
            self._plan.refresh()  # type: ignore[union-attr] # for_plan has set it
