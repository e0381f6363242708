"""FedPlug: federated learning in which everything is a plugin.

The public names are imported when they are first used, so that ``import fedplug`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedplug.core.agg_optimizer import AggOptimizer
    from fedplug.core.aggregator import Aggregator, AggregatorTags, NodePayload, StreamingAggregator
    from fedplug.core.components import Component
    from fedplug.core.context import RoundContext, RoundResult
    from fedplug.core.data import DataManager
    from fedplug.core.datasets.custom import CustomDataset
    from fedplug.core.datasets.image_folder import ImageFolderDataset
    from fedplug.core.datasets.medical_folder import MedicalFolderDataset
    from fedplug.core.datasets.signals import SignalDataset
    from fedplug.core.datasets.tabular import TabularDataset
    from fedplug.core.errors import FedplugError, FedplugWarning
    from fedplug.core.markers import hookimpl
    from fedplug.core.mean import WeightedMean
    from fedplug.core.messages import DatasetCard
    from fedplug.core.metrics import Metric, MetricTypes
    from fedplug.core.monitor import Monitor
    from fedplug.core.numpy_plan import NumpyTrainingPlan
    from fedplug.core.params import Params
    from fedplug.core.params_spec import ParamsSpec
    from fedplug.core.processes import ProcessTypes
    from fedplug.core.quorum import OverSelection, QuorumStrategy
    from fedplug.core.strategy import Decision, DefaultStrategy, RandomStrategy, RoundState, Strategy
    from fedplug.core.training_args import TrainingArgs
    from fedplug.core.training_plan import TrainingPlan
    from fedplug.core.update import Update
    from fedplug.node.node import Node
    from fedplug.researcher.experiment import Experiment
    from fedplug.researcher.federated_dataset import FederatedDataset

_HOMES = {
    "AggOptimizer": "fedplug.core.agg_optimizer",
    "Aggregator": "fedplug.core.aggregator",
    "AggregatorTags": "fedplug.core.aggregator",
    "Component": "fedplug.core.components",
    "CustomDataset": "fedplug.core.datasets.custom",
    "DataManager": "fedplug.core.data",
    "DatasetCard": "fedplug.core.messages",
    "Decision": "fedplug.core.strategy",
    "DefaultStrategy": "fedplug.core.strategy",
    "Experiment": "fedplug.researcher.experiment",
    "FederatedDataset": "fedplug.researcher.federated_dataset",
    "FedplugError": "fedplug.core.errors",
    "FedplugWarning": "fedplug.core.errors",
    "ImageFolderDataset": "fedplug.core.datasets.image_folder",
    "MedicalFolderDataset": "fedplug.core.datasets.medical_folder",
    "Metric": "fedplug.core.metrics",
    "MetricTypes": "fedplug.core.metrics",
    "Monitor": "fedplug.core.monitor",
    "Node": "fedplug.node.node",
    "NodePayload": "fedplug.core.aggregator",
    "NumpyTrainingPlan": "fedplug.core.numpy_plan",
    "OverSelection": "fedplug.core.quorum",
    "Params": "fedplug.core.params",
    "ParamsSpec": "fedplug.core.params_spec",
    "ProcessTypes": "fedplug.core.processes",
    "QuorumStrategy": "fedplug.core.quorum",
    "RandomStrategy": "fedplug.core.strategy",
    "RoundContext": "fedplug.core.context",
    "RoundResult": "fedplug.core.context",
    "RoundState": "fedplug.core.strategy",
    "SignalDataset": "fedplug.core.datasets.signals",
    "Strategy": "fedplug.core.strategy",
    "StreamingAggregator": "fedplug.core.aggregator",
    "TabularDataset": "fedplug.core.datasets.tabular",
    "TrainingArgs": "fedplug.core.training_args",
    "TrainingPlan": "fedplug.core.training_plan",
    "Update": "fedplug.core.update",
    "WeightedMean": "fedplug.core.mean",
    "hookimpl": "fedplug.core.markers",
}

__all__ = [
    "AggOptimizer",
    "Aggregator",
    "AggregatorTags",
    "Component",
    "CustomDataset",
    "DataManager",
    "DatasetCard",
    "Decision",
    "DefaultStrategy",
    "Experiment",
    "FederatedDataset",
    "FedplugError",
    "FedplugWarning",
    "ImageFolderDataset",
    "MedicalFolderDataset",
    "Metric",
    "MetricTypes",
    "Monitor",
    "Node",
    "NodePayload",
    "NumpyTrainingPlan",
    "OverSelection",
    "Params",
    "ParamsSpec",
    "ProcessTypes",
    "QuorumStrategy",
    "RandomStrategy",
    "RoundContext",
    "RoundResult",
    "RoundState",
    "SignalDataset",
    "Strategy",
    "StreamingAggregator",
    "TabularDataset",
    "TrainingArgs",
    "TrainingPlan",
    "Update",
    "WeightedMean",
    "hookimpl",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("fedplug")
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'fedplug' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
