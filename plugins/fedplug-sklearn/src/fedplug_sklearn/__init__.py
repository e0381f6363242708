"""scikit-learn for FedPlug: training plans whose federated model is a fitted scikit-learn estimator.

Importing this package does not import scikit-learn: the plans do, when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fedplug.core.components import Component
from fedplug.core.markers import API_VERSION, hookimpl

if TYPE_CHECKING:
    from fedplug.core.data import BatchSource, DataManager
    from fedplug_sklearn.data import SkLearnDataManager
    from fedplug_sklearn.gaussian_plan import FedGaussianNB
    from fedplug_sklearn.partial_fit import FedPartialFit
    from fedplug_sklearn.plan import SKLearnTrainingPlan
    from fedplug_sklearn.sgd_plans import FedPerceptron, FedSGDClassifier, FedSGDRegressor

__all__ = [
    "FedGaussianNB",
    "FedPartialFit",
    "FedPerceptron",
    "FedSGDClassifier",
    "FedSGDRegressor",
    "SKLearnTrainingPlan",
    "SkLearnDataManager",
]

__fedplug_api__ = API_VERSION

_HOMES = {
    "FedGaussianNB": "gaussian_plan",
    "FedPartialFit": "partial_fit",
    "FedPerceptron": "sgd_plans",
    "FedSGDClassifier": "sgd_plans",
    "FedSGDRegressor": "sgd_plans",
    "SKLearnTrainingPlan": "plan",
    "SkLearnDataManager": "data",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


@hookimpl
def fedplug_register_training_plans() -> list[Component]:
    """The base of scikit-learn plans, and the plans to derive from."""
    plans = "fedplug_sklearn.sgd_plans"
    return [
        Component("sklearn", "fedplug_sklearn.plan:SKLearnTrainingPlan", "The base of all plans for scikit-learn."),
        Component("sgd-classifier", f"{plans}:FedSGDClassifier", "Linear classifiers: SVM, logistic regression, ..."),
        Component("sgd-regressor", f"{plans}:FedSGDRegressor", "Linear regression, with or without outliers."),
        Component("perceptron", f"{plans}:FedPerceptron", "Rosenblatt's perceptron."),
        Component("gaussian-nb", "fedplug_sklearn.gaussian_plan:FedGaussianNB", "Gaussian naive Bayes, in one round."),
        Component("partial-fit", "fedplug_sklearn.partial_fit:FedPartialFit", "Any estimator with partial_fit."),
    ]


@hookimpl
def fedplug_register_data_managers() -> list[Component]:
    """Rows in memory, dense or sparse."""
    return [Component("sklearn", "fedplug_sklearn.data:Rows", "NumPy arrays, pandas objects, and sparse matrices.")]


@hookimpl
def fedplug_wrap_data(manager: DataManager, framework: str) -> BatchSource | None:
    """Batches of rows for scikit-learn plans."""
    if framework != "sklearn":
        return None
    from fedplug_sklearn.data import wrap

    return wrap(manager)
