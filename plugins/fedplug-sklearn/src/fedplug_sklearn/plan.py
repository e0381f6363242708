"""`SKLearnTrainingPlan`: what all training plans for scikit-learn share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, is_classifier, is_regressor
from threadpoolctl import ThreadpoolController

from fedplug.core import model_files
from fedplug.core.array_plan import ArrayTrainingPlan
from fedplug.core.data import DataManager
from fedplug.core.errors import DatasetError, ParamsError, PlanError, UsageError
from fedplug.core.flexible_calls import call_flexibly
from fedplug.core.model_files import ModelFormat
from fedplug.core.params import Array, Params
from fedplug.core.plan_optimizer import PlanOptimizer, plain_gradient_descent
from fedplug.core.trainer import Backend
from fedplug_sklearn import estimator_files
from fedplug_sklearn.backend import SklearnBackend
from fedplug_sklearn.data import Rows, wrap


class SKLearnTrainingPlan(ArrayTrainingPlan):
    """Base of training plans for scikit-learn; derive from one of its children.

    `FedSGDClassifier`, `FedSGDRegressor` and `FedPerceptron` bring model and loss, so that you write only::

        class MyPlan(FedSGDClassifier):
            def training_data(self):
                return DataManager(self.dataset)  # all columns but the target, and the target

            def init_optimizer(self, optimizer_args):  # optional
                return Optimizer(lr=optimizer_args["lr"], modules=["adam"])

            def init_dependencies(self):
                return ["from fedplug_declearn import Optimizer"]

    ``self.model()`` is a scikit-learn estimator, and after a round the researcher's is a fitted one: ``predict``,
    ``Pipeline``, joblib and skops work. ``testing_step(self, data, target)`` may be defined: ``data`` are the rows of a
    batch, dense or sparse as they were given (a `Weighted` where they have weights), ``target`` their labels.

    The classes of a classifier are 0 to ``n_classes - 1``, the same at all nodes; a node need not have all of them.
    """

    framework: ClassVar[str] = "sklearn"

    # what a researcher writes ------------------------------------------------------------------------------

    @abstractmethod
    def init_model(self, model_args: dict[str, Any]) -> BaseEstimator:
        """The estimator, with all of its parameters. `FedSGDClassifier` and its like have their own."""

    @abstractmethod
    def training_step(self, data: Any, target: Any) -> Any:
        """What a batch does; the children's own."""

    def init_optimizer(self, optimizer_args: dict[str, Any]) -> PlanOptimizer:
        """The optimizer; plain gradient descent unless overridden. May take no argument."""
        return plain_gradient_descent(optimizer_args)

    # what it may use ---------------------------------------------------------------------------------------

    @abstractmethod
    def forward(self, data: Any) -> Array:
        """The model's output for a batch, as metrics want it: scores of shape ``(samples, classes)``, or numbers."""

    def n_classes(self) -> int | None:
        """The number of classes; None if the model is no classifier."""
        found = self.model_args().get("n_classes")
        return None if found is None else int(found)

    # for the library ---------------------------------------------------------------------------------------

    @classmethod
    def default_dependencies(cls) -> list[str]:
        """NumPy as ``np``, the names of FedPlug that plans need, and all plans of this plugin."""
        return [
            "import numpy as np",
            "from fedplug import DataManager, ProcessTypes",
            "from fedplug_sklearn import FedGaussianNB, FedPartialFit, FedPerceptron, FedSGDClassifier",
            "from fedplug_sklearn import FedSGDRegressor, SkLearnDataManager, SKLearnTrainingPlan",
        ]

    @classmethod
    @contextmanager
    def seeded(cls, seed: int, *, threads: int = 1) -> Iterator[None]:
        """Seed ``random`` and NumPy, and hold linear algebra to ``threads``; both are put back on leaving."""
        with super().seeded(seed, threads=threads), _pools().limit(limits=threads):
            yield

    def _build_model(self, model_args: Mapping[str, Any]) -> Any:
        made = call_flexibly(self.init_model, model_args)
        if not isinstance(made, BaseEstimator):
            kind = "nothing (is a return missing?)" if made is None else f"a {type(made).__name__}"
            hint = "It returned the class: call it to make an estimator." if isinstance(made, type) else ""
            raise PlanError(f"init_model must return a scikit-learn estimator, but returned {kind}.", cure=hint)
        return made

    def _build_optimizer(self, optimizer_args: Mapping[str, Any]) -> PlanOptimizer:
        made = call_flexibly(self.init_optimizer, optimizer_args)
        if not isinstance(made, PlanOptimizer):
            kind = "nothing (is a return missing?)" if made is None else f"a {type(made).__name__}"
            raise PlanError(
                f"init_optimizer of a scikit-learn plan must return an optimizer that knows no framework, but returned "
                f"{kind}.",
                cure='E.g. return Optimizer(lr=optimizer_args["lr"], modules=["adam"]), with "from fedplug_declearn '
                'import Optimizer" in init_dependencies; or leave init_optimizer out for plain gradient descent.',
            )
        return made

    def make_backend(self) -> Backend:
        """This plan's estimator and optimizer, for the loop."""
        return SklearnBackend.for_plan(self)

    def make_data(self) -> DataManager:
        """Rows that fit the model, from ``training_data``."""
        manager = super().make_data()
        rows = wrap(manager)
        self.check_rows(rows)
        return DataManager(rows, **manager.loader_args)

    def check_rows(self, rows: Rows) -> None:
        """Look whether the model can be trained on these, and bring their target into the model's dtype.

        Raises:
            DatasetError: They have another number of features, there is no target, or a label is no class.
        """
        wanted, found = self.model_args().get("n_features"), rows.data.shape[1]
        if wanted is not None and wanted != found:
            raise DatasetError(
                f"The data has {found} features, but model_args say n_features={wanted}.",
                cure="Choose the columns in training_data, or correct n_features.",
            )
        if rows.target is None:
            if is_classifier(self.model()) or is_regressor(self.model()):
                raise DatasetError(
                    "There is no target to learn.", cure="DataManager(features, labels), or DataManager(self.dataset)."
                )
        elif (classes := self.n_classes()) is not None:
            rows.target = _class_numbers(rows.target, classes)
        elif is_regressor(self.model()):
            rows.target = np.asarray(rows.target, np.float64)

    def _model_formats(self) -> Mapping[str, ModelFormat]:
        return estimator_files.FORMATS

    def _model_object(self) -> Any:
        return estimator_files.EstimatorFile(self.model(), dict(self.arrays()))

    def _take_model_object(self, found: Any, path: str | Path) -> None:
        if isinstance(found, BaseEstimator):
            self._require_same_kind(found, path)
            found = self.arrays_of(found, path)
        if not isinstance(found, Mapping):
            raise UsageError(
                f"{path} holds a {type(found).__name__}, which is no estimator.",
                cure=f"Import a {type(self.model()).__name__}, or what export_model has written.",
            )
        self._take_arrays(found, path)
        self._arrays_changed()

    def _require_same_kind(self, found: BaseEstimator, path: str | Path) -> None:
        own = self.model()
        if type(found) is not type(own):
            raise UsageError(
                f"{path} holds a {type(found).__name__}, but this plan's model is a {type(own).__name__}.",
                cure="Import an estimator of the same class; of a Pipeline, its last step.",
            )
        known = None if (count := self.n_classes()) is None else np.arange(count)
        theirs, mine = getattr(found, "classes_", None), getattr(own, "classes_", known)
        if theirs is not None and mine is not None and not np.array_equal(theirs, mine):
            raise ParamsError(
                f"The classes of the model in {path} are {theirs}, those of this plan's model {mine}.",
                cure="Fit it with classes that are numbered from 0, or correct n_classes in model_args.",
            )

    def set_params(self, params: Params) -> None:
        """Copy ``params`` into the model; local parameters stay as they are."""
        super().set_params(params)
        self._arrays_changed()

    def write_persistent(self, params: Params) -> None:
        """Copy what `read_persistent` gave into the model."""
        super().write_persistent(params)
        self._arrays_changed()

    def put_params(self, params: Params) -> None:
        """Copy ``params`` into all arrays, local ones too.

        Raises:
            ParamsError: They do not fit.
        """
        self._write(tuple(self.arrays()), params)
        self._arrays_changed()

    def arrays_of(self, estimator: Any, path: str | Path) -> Mapping[str, Array]:
        """The parameters of another estimator of the model's class, by the names of `arrays`.

        Raises:
            ParamsError: It has not been fitted.
        """
        names = self.arrays()
        found = {name: np.asarray(getattr(estimator, name)) for name in names if hasattr(estimator, name)}
        model_files.require_layout(path, dict.fromkeys(names, ((), "")), dict.fromkeys(found, ((), "")))
        return {name: found[name].astype(names[name].dtype, copy=False) for name in names}

    def _arrays_changed(self) -> None:
        """The arrays have others' values now; for models that derive something from them."""


@cache
def _pools() -> ThreadpoolController:
    """The linear algebra libraries of this process; looking for them takes long, so it is done once."""
    return ThreadpoolController()


def is_number(value: Any) -> bool:
    """Whether an argument is a number, and no truth value."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def take_count(given: dict[str, Any], name: str, least: int, model: str) -> int:
    """Take a number of features or classes out of ``model_args``.

    Raises:
        PlanError: It is not there, or is no such number.
    """
    if name not in given:
        raise PlanError(
            f"model_args lack {name}, which {model} needs before it has seen any data.",
            cure="E.g. model_args={'n_features': 30, 'n_classes': 2}; a regression has no n_classes.",
        )
    value = given.pop(name)
    if not isinstance(value, int | np.integer) or not is_number(value) or value < least:
        raise PlanError(f"{name} in model_args must be a whole number of at least {least}, got {value!r}.")
    return int(value)


def _class_numbers(labels: Array, classes: int) -> Array:
    """``labels`` as int64, all from 0 to ``classes - 1``.

    Raises:
        DatasetError: One is not.
    """
    if labels.dtype.kind == "f" and (fractions := labels[labels != np.floor(labels)]).size:
        raise DatasetError(
            f"The target holds {fractions[0]:g}, but classes are whole numbers.", cure="Is it for a regression?"
        )
    wrong = labels[(labels < 0) | (labels >= classes)] if labels.dtype.kind != "b" else labels[:0]
    if wrong.size:
        raise DatasetError(
            f"The target holds the class {wrong[0]:g} ({wrong.size} of {labels.size} samples have such), but with "
            f"n_classes={classes} they are 0 to {classes - 1}.",
            cure="Number the classes from 0, the same at all nodes, or correct n_classes in model_args.",
        )
    return labels.astype(np.int64)
