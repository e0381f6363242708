"""The core's own components, offered through the same hooks as any plugin's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedplug.core.components import Component
from fedplug.core.markers import API_VERSION, hookimpl

if TYPE_CHECKING:
    from fedplug.core.data import BatchSource, DataManager

__fedplug_api__ = API_VERSION


@hookimpl
def fedplug_register_training_plans() -> list[Component]:
    """The NumPy plan."""
    return [Component("numpy", "fedplug.core.numpy_plan:NumpyTrainingPlan", "Gradient descent on NumPy arrays.")]


@hookimpl
def fedplug_register_strategies() -> list[Component]:
    """All nodes, a random part of them, a quorum, or the first of more than are needed."""
    return [
        Component("all", "fedplug.core.strategy:DefaultStrategy", "All nodes train, and all must reply."),
        Component(
            "random",
            "fedplug.core.strategy:RandomStrategy",
            "A random part of the nodes trains, drawn anew each round.",
            {"fraction": "share of the nodes, in (0, 1]", "count": "number of nodes, instead of a share"},
        ),
        Component(
            "quorum",
            "fedplug.core.quorum:QuorumStrategy",
            "So many replies suffice; the rest may fail, or miss a deadline.",
            {
                "quorum": "replies that suffice: a whole number, or a share in (0, 1]",
                "deadline": "seconds after which the round ends, or is given up; default: none",
                "fraction": "share of the nodes that train; default: all",
                "count": "number of nodes that train, instead of a share",
                "wait_for": "'all' who still train, until the deadline (default), or 'quorum'",
            },
        ),
        Component(
            "over-selection",
            "fedplug.core.quorum:OverSelection",
            "More nodes train than are needed; the first replies count.",
            {
                "count": "updates that are aggregated",
                "extra": "how many more nodes train, as a share of count; default: 0.3",
                "deadline": "seconds after which the round is given up; default: none",
            },
        ),
    ]


@hookimpl
def fedplug_register_data_managers() -> list[Component]:
    """Arrays in memory."""
    return [
        Component("numpy", "fedplug.core.data:ArrayData", "NumPy arrays and pandas objects, nested or not."),
        Component("samples", "fedplug.core.datasets.batches:SampleData", "Samples that are read when they are drawn."),
    ]


@hookimpl
def fedplug_register_dataset_types() -> list[Component]:
    """Tables, and arrays of NumPy."""
    return [
        Component("csv", "fedplug.node.datasets.csv_file:CsvType", "A table in a text file (.csv, .tsv)."),
        Component("parquet", "fedplug.node.datasets.parquet_file:ParquetType", "A table in Apache Parquet."),
        Component("arrays", "fedplug.node.datasets.arrays_file:ArraysType", "Arrays written by numpy.savez (.npz)."),
        Component("images", "fedplug.node.datasets.images:ImagesType", "Images in a folder per class."),
        Component("medical", "fedplug.node.datasets.medical:MedicalType", "NIfTI volumes in a folder per subject."),
        Component("signals", "fedplug.node.datasets.signals:SignalsType", "Recordings: EDF files or WFDB records."),
        Component("genomics", "fedplug.node.datasets.genomics:GenomicsType", "Expressions or genotypes (VCF)."),
        Component("mnist", "fedplug.node.datasets.mnist:MnistType", "IDX files, the format of MNIST."),
    ]


@hookimpl
def fedplug_register_transports() -> list[Component]:
    """Queues inside one process."""
    return [Component("inproc", "fedplug.transports.inproc:InprocTransport", "Bytes over queues inside one process.")]


@hookimpl
def fedplug_register_metrics() -> list[Component]:
    """What a test can measure."""
    labels = {"n_classes": "number of classes, where outputs do not tell", "threshold": "where class 1 begins (0.5)"}
    average = {"average": "binary, weighted, macro or micro", "pos_label": "the positive class of two (1)", **labels}
    counts, sums = "fedplug.core.metrics.classification", "fedplug.core.metrics.regression"
    bins = {"bins": "number of bins (1024)", "logits": "whether outputs are scores before sigmoid or softmax"}
    return [
        Component("accuracy", f"{counts}:Accuracy", "Share of samples whose class is predicted.", labels),
        Component("precision", f"{counts}:Precision", "Share of the predicted that are of the class.", average),
        Component("recall", f"{counts}:Recall", "Share of a class that is predicted.", average),
        Component("f1_score", f"{counts}:F1Score", "Harmonic mean of precision and recall.", average),
        Component("confusion_matrix", f"{counts}:ConfusionMatrix", "True classes by predicted ones.", labels),
        Component("auc", "fedplug.core.metrics.auc:Auc", "Area under the ROC curve, with an error bound.", bins),
        Component("mean_squared_error", f"{sums}:MeanSquaredError", "Mean of squared differences."),
        Component("mean_absolute_error", f"{sums}:MeanAbsoluteError", "Mean of absolute differences."),
        Component("r2_score", f"{sums}:R2Score", "R², the coefficient of determination."),
        Component("explained_variance", f"{sums}:ExplainedVariance", "R² that does not mind a constant error."),
    ]


@hookimpl
def fedplug_register_engines() -> list[Component]:
    """What runs the trainings of virtual nodes."""
    return [
        Component("serial", "fedplug.simulation.engines:SerialEngine", "One node after the other, in one thread."),
        Component(
            "processes",
            "fedplug.simulation.processes:ProcessEngine",
            "Several nodes at once, in processes that share memory.",
            {
                "workers": "how many processes; default: one per processor",
                "engine": "what trains inside them; default: 'serial'",
            },
        ),
        Component(
            "cohort",
            "fedplug.simulation.cohort:CohortEngine",
            "Several nodes at once, with stacked parameters; others one by one.",
            {
                "size": "the most nodes at once; default: what suits the model",
                "compile": "compile steps; default: False",
            },
        ),
    ]


@hookimpl
def fedplug_wrap_data(manager: DataManager, framework: str) -> BatchSource | None:
    """Arrays for NumPy plans."""
    if framework != "numpy":
        return None
    from fedplug.core.data import ArrayData
    from fedplug.core.datasets.base import PlanDataset
    from fedplug.core.datasets.batches import SampleData

    if isinstance(manager.dataset, PlanDataset):
        return SampleData(manager.dataset)
    return ArrayData(_arrays(manager.dataset), None if manager.target is None else _arrays(manager.target))


def _arrays(data: Any) -> Any:
    """``data`` with every pandas object, and whatever else has ``to_numpy``, turned into a NumPy array.

    Raises:
        DatasetError: Something in it is no array.
    """
    import numpy as np

    from fedplug.core.errors import DatasetError

    if isinstance(data, dict):
        return {key: _arrays(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return type(data)(_arrays(value) for value in data)
    if isinstance(data, np.ndarray):
        return data
    if hasattr(data, "to_numpy"):
        return data.to_numpy()
    raise DatasetError(
        f"A NumPy training plan cannot draw batches from {type(data).__name__}.",
        cure="Give DataManager NumPy arrays or pandas objects, or nested dicts, lists and tuples of them.",
    )
