"""`FedGaussianNB`: Gaussian naive Bayes, exactly as if all data lay in one place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.naive_bayes import GaussianNB

from fedplug.core.data import DataManager
from fedplug.core.errors import ParamsError, PlanError, UnknownNameError
from fedplug.core.params import Array
from fedplug.core.trainer import Backend, Phase
from fedplug.core.training_args import TrainingArgs
from fedplug_sklearn.backend import RowsBackend
from fedplug_sklearn.data import Rows, parts_of
from fedplug_sklearn.gaussian import Statistics, write
from fedplug_sklearn.no_gradients import RowsPlan
from fedplug_sklearn.plan import is_number, take_count

_SETTINGS = ("var_smoothing", "priors")
_SMALLEST_CHANCE = math.log(np.finfo(np.float64).tiny)


class FedGaussianNB(RowsPlan):
    """Gaussian naive Bayes with scikit-learn's ``GaussianNB``. You write ``training_data`` only.

    Nodes send sums over their rows (`fedplug_sklearn.gaussian`), so one round is all it takes: the global model is what
    ``GaussianNB().fit`` of all nodes' rows together would be, up to rounding, if the aggregator weighs nodes by their
    numbers of samples, as FedAverage does. It is the model of the nodes of the last round: a second round with the same
    nodes only takes rounding errors away from data whose means are far larger than their spread.

    ``model_args``: ``n_features``, ``n_classes``, and of its own arguments ``var_smoothing`` and ``priors``.

    The loss of a training is the log loss of the model that it was sent: of equal chances for all classes, in the
    first round. ``class_count_`` of the model are shares, as no single number of rows is known.
    """

    _seen: Statistics
    _dirty = False

    def init_model(self, model_args: dict[str, Any]) -> Any:
        """An estimator that has seen nothing.

        Raises:
            PlanError: ``model_args`` lack ``n_features`` or ``n_classes``, or ``var_smoothing`` is no such number.
            UnknownNameError: There is no such argument.
            UsageError: ``priors`` are no probabilities of the classes.
        """
        given = dict(model_args)
        take_count(given, "n_features", 1, "GaussianNB")
        classes = take_count(given, "n_classes", 2, "GaussianNB")
        for name in given:
            if name not in _SETTINGS:
                known = ("n_features", "n_classes", *_SETTINGS)
                raise UnknownNameError("argument of GaussianNB for model_args", name, known)
        smoothing = given.get("var_smoothing", 0.0)
        if not is_number(smoothing) or not 0 <= smoothing < math.inf:
            raise PlanError(f"var_smoothing in model_args must be a number from zero up, got {smoothing!r}.")
        some = np.ones((classes, 1))  # made a model of only to see whether the priors are some
        write(GaussianNB(**given), {"share": some[:, 0], "first": some, "second": some, "location": some[0]})
        return GaussianNB(**given)

    def arrays(self) -> dict[str, Array]:
        """``share``, ``first``, ``second`` and ``location``, live; see `fedplug_sklearn.gaussian`."""
        return self._statistics

    def batch_loss(self, data: Any, target: Any) -> float:
        """Log loss of the model as it is; before it has seen anything, all classes have the same chance."""
        if not hasattr(self.model(), "theta_"):
            return math.log(self._statistics["share"].size)
        chances = self.model().predict_log_proba(_dense(data))
        # a class that no node has had: as unlikely as can be told, and not infinitely so
        return float(-np.maximum(chances[np.arange(len(target)), target], _SMALLEST_CHANCE).mean())

    def learn(self, data: Any, target: Any) -> None:
        """Add a batch to the sums."""
        self._seen.add(parts_of(data)[0], target)
        for name, array in self._seen.arrays().items():
            np.copyto(self._statistics[name], array)
        self._dirty = True

    def forward(self, data: Any) -> Array:
        """Joint log-probabilities, of shape ``(samples, classes)``."""
        rows = _dense(data)
        if not hasattr(self.model(), "theta_"):
            return np.zeros((len(rows), self._statistics["share"].size))
        return np.asarray(self.model().predict_joint_log_proba(rows))

    def _model_object(self) -> Any:
        self.refresh()  # a local training may have gone on since
        return super()._model_object()

    def make_backend(self) -> Backend:
        """This plan's sums, for the loop."""
        return _GaussianBackend.for_plan(self)

    def make_data(self) -> DataManager:
        """Rows that fit the model, from ``training_data``; all of them are read.

        Raises:
            PlanError: Some would be left out.
        """
        manager = super().make_data()
        if manager.loader_args.get("drop_last"):
            raise _drops_rows()
        return manager

    def buffer_names(self) -> frozenset[str]:
        """All: sums are no parameters that an optimizer could move."""
        return frozenset(self._statistics)

    def check_args(self, args: TrainingArgs) -> None:
        """Refuse what does not go with a single pass over all rows."""
        super().check_args(args)
        if args.epochs != 1 or args.num_updates is not None or args.batch_maxnum:
            raise PlanError(
                "FedGaussianNB reads each row once, so it knows neither epochs nor num_updates nor batch_maxnum.",
                cure="Leave them out of training_args.",
            )
        if args.loader_args.get("drop_last"):
            raise _drops_rows()
        if args.dp_args:
            raise PlanError(
                "FedGaussianNB cannot be trained with dp_args: a part of an update is no sum over any rows, so clipped "
                "updates would add up to a wrong model.",
                cure="Leave dp_args out, or use FedSGDClassifier.",
            )
        unused = sorted(set(args.optimizer_args) - {"lr"})
        if unused:
            raise PlanError(
                f"FedGaussianNB has no optimizer, but optimizer_args has {', '.join(map(repr, unused))}.",
                cure="Leave optimizer_args out.",
            )

    def check_rows(self, rows: Rows) -> None:
        """As for every plan; rows have no weights.

        Raises:
            DatasetError: The rows do not fit the model.
            PlanError: They have weights.
        """
        super().check_rows(rows)
        if rows.weight is not None:
            raise PlanError(
                "FedGaussianNB takes no sample_weight: the mean over nodes counts samples.", cure="Leave it out."
            )

    def arrays_of(self, estimator: Any, path: str | Path) -> Mapping[str, Array]:
        """The sums behind another ``GaussianNB``, measured from the means of its classes.

        Raises:
            ParamsError: It has not been fitted.
        """
        if not hasattr(estimator, "theta_"):
            raise ParamsError(f"The GaussianNB in {path} has not been fitted.", cure="Export it after a round.")
        share = estimator.class_count_ / estimator.class_count_.sum()
        # a class without rows has infinite variances
        variance = np.where(share[:, np.newaxis] > 0, estimator.var_ - estimator.epsilon_, 0.0)
        second = share[:, np.newaxis] * np.maximum(variance, 0.0)
        return {"share": share, "first": np.zeros_like(second), "second": second, "location": estimator.theta_.copy()}

    def _build_model(self, model_args: Mapping[str, Any]) -> Any:
        made = super()._build_model(model_args)
        classes, features = model_args["n_classes"], model_args["n_features"]
        self._statistics = {
            "share": np.zeros(classes), "first": np.zeros((classes, features)),
            "second": np.zeros((classes, features)), "location": np.zeros((classes, features)),
        }  # fmt: skip
        self._seen = Statistics(classes, self._statistics["location"])
        return made

    def _arrays_changed(self) -> None:
        """A model of others' sums; what is seen from now on is measured from the means of their classes."""
        share, first, location = (self._statistics[name] for name in ("share", "first", "location"))
        seen = share[:, np.newaxis] > 0
        pooled = (share[:, np.newaxis] * location + first).sum(axis=0)  # for a class that nobody has had
        means = location + first / np.where(seen, share[:, np.newaxis], 1.0)
        self._seen = Statistics(share.size, np.where(seen, means, pooled))
        self._dirty = True
        self.refresh()

    def refresh(self) -> None:
        """Bring the estimator up to the sums."""
        if self._dirty and self._statistics["share"].any():
            write(self.model(), self._statistics)
        self._dirty = False


class _GaussianBackend(RowsBackend):
    def prepare(self, phase: Phase) -> None:
        """A test is of the sums as they are; a training reports the loss of the model that it was sent."""
        super().prepare(phase)
        if phase is Phase.EVAL:
            self._plan.refresh()  # type: ignore[union-attr] # for_plan has set it


def _drops_rows() -> PlanError:
    return PlanError("FedGaussianNB reads every row, so drop_last makes no sense.", cure="Leave it out.")


def _dense(data: Any) -> Array:
    """The rows of a batch; GaussianNB takes no sparse ones."""
    rows, _ = parts_of(data)
    return np.asarray(rows.toarray() if hasattr(rows, "toarray") else rows)
