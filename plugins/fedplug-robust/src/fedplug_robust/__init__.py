"""Robust aggregation for FedPlug: rules that some hostile or broken nodes cannot steer."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fedplug import Component, hookimpl

if TYPE_CHECKING:
    from fedplug_robust.coordinate_median import CoordinateMedian
    from fedplug_robust.geometric_median import GeometricMedian
    from fedplug_robust.krum import Krum
    from fedplug_robust.multi_krum import MultiKrum
    from fedplug_robust.norm_clipping import NormClipping
    from fedplug_robust.trimmed_mean import TrimmedMean

_HOMES = {
    "CoordinateMedian": "fedplug_robust.coordinate_median",
    "GeometricMedian": "fedplug_robust.geometric_median",
    "Krum": "fedplug_robust.krum",
    "MultiKrum": "fedplug_robust.multi_krum",
    "NormClipping": "fedplug_robust.norm_clipping",
    "TrimmedMean": "fedplug_robust.trimmed_mean",
}

__all__ = ["CoordinateMedian", "GeometricMedian", "Krum", "MultiKrum", "NormClipping", "TrimmedMean"]
__fedplug_api__ = 1


@hookimpl
def fedplug_register_aggregators() -> list[Component]:
    """Offer the aggregators of this package."""
    hostile = {"hostile": "how many hostile updates there may be, f; a round needs 2 f + 3 updates (no default)"}
    return [
        Component(
            "coordinate-median",
            "fedplug_robust.coordinate_median:CoordinateMedian",
            "Median of each value; withstands fewer than half of the nodes.",
        ),
        Component(
            "trimmed-mean",
            "fedplug_robust.trimmed_mean:TrimmedMean",
            "Mean of each value without the smallest and the largest ones.",
            {"trim": "what is cut at each end: a share in [0, 0.5) (default 0.1), or a whole number"},
        ),
        Component(
            "geometric-median",
            "fedplug_robust.geometric_median:GeometricMedian",
            "Point nearest to all updates together (RFA); withstands fewer than half of the nodes.",
            {
                "smoothing": "distances below it are smoothed (default 1e-6)",
                "iterations": "at the most (default 100)",
                "tolerance": "relative length of a step that ends it (default 1e-10)",
                "weighting": "'uniform' (default), 'samples' or 'steps'",
            },
        ),
        Component(
            "krum", "fedplug_robust.krum:Krum", "The one update that is nearest to its nearest neighbours.", hostile
        ),
        Component(
            "multi-krum",
            "fedplug_robust.multi_krum:MultiKrum",
            "Mean of the updates that are nearest to their nearest neighbours.",
            {**hostile, "keep": "how many are averaged (default: all but hostile + 2)"},
        ),
        Component(
            "norm-clipping",
            "fedplug_robust.norm_clipping:NormClipping",
            "Weighted mean of updates that are shortened to a limit.",
            {
                "limit": "longest update, as Euclidean norm over all floating-point arrays (no default)",
                "weighting": "'samples' (default), 'steps' or 'uniform'",
            },
        ),
    ]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
