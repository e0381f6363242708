"""The core's own components, offered through the same hooks as any plugin's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedplug.core.components import Component
from fedplug.core.markers import API_VERSION, hookimpl

if TYPE_CHECKING:
    from fedplug.core.data import ArrayData, DataManager

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
    return [Component("numpy", "fedplug.core.data:ArrayData", "NumPy arrays and pandas objects, nested or not.")]


@hookimpl
def fedplug_register_transports() -> list[Component]:
    """Queues inside one process."""
    return [Component("inproc", "fedplug.transports.inproc:InprocTransport", "Bytes over queues inside one process.")]


@hookimpl
def fedplug_wrap_data(manager: DataManager, framework: str) -> ArrayData | None:
    """Arrays for NumPy plans."""
    if framework != "numpy":
        return None
    from fedplug.core.data import ArrayData

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
