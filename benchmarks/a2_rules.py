"""A2: robust rules over 16 models of 10 M float32, over a memory-bandwidth triad of the same size, as A1 has it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.common import Result, cpu_time, median_pairs
from fedplug.core.aggregator import Aggregator
from fedplug.core.context import RoundContext
from fedplug.core.params import Params
from fedplug.core.update import Update
from fedplug_robust import CoordinateMedian, GeometricMedian, Krum, MultiKrum, NormClipping, TrimmedMean

MODELS, SIZE, TENSORS, HOSTILE = 16, 10_000_000, 60, 3

# Each target is a ratio to one pass over memory for each model: as first measured, with a fifth and more to spare.
# In the quick run the triad fits a cache, so that its ratios are larger and say nothing.
RULES: tuple[tuple[str, Callable[[], Aggregator], float], ...] = (
    ("coordinate-median", CoordinateMedian, 4.0),
    ("trimmed-mean, 1 at each end", lambda: TrimmedMean(1), 4.0),
    ("trimmed-mean, 3 at each end", lambda: TrimmedMean(HOSTILE), 5.0),
    ("geometric-median", GeometricMedian, 10.0),
    ("krum, 3 hostile", lambda: Krum(HOSTILE), 6.0),
    ("multi-krum, 3 hostile", lambda: MultiKrum(HOSTILE), 8.0),
    ("norm-clipping", lambda: NormClipping(1.0), 10.0),
)


def run(quick: bool = False) -> list[Result]:
    """Measure each rule; ``quick`` takes a tenth of the values."""
    size = SIZE // 10 if quick else SIZE
    rng = np.random.default_rng(0)
    layout = [f"t{number}" for number in range(TENSORS)]

    def model(values: np.ndarray) -> Params:
        return Params.from_arrays(dict(zip(layout, np.array_split(values, TENSORS), strict=True)))

    # distinct models, as equal ones would be measured against each other one by one
    base = rng.standard_normal(size, np.float32)
    start = model(base)
    updates = []
    for number in range(MODELS):
        moved = base + np.float32(0.01) * rng.standard_normal(size, np.float32)
        updates.append(Update(f"node-{number:02}", model(moved), sample_count=number + 1))
    del base
    a, b, c = (np.ones(size, np.float32) for _ in range(3))

    def triad() -> float:
        with cpu_time() as taken:
            for _ in range(MODELS):
                np.add(b, c, out=a)
        return taken[0]

    return [_measure(name, make(), target, start, updates, triad, quick) for name, make, target in RULES]


def _measure(
    name: str,
    rule: Aggregator,
    target: float,
    start: Params,
    updates: list[Update],
    triad: Callable[[], float],
    quick: bool,
) -> Result:
    def aggregate() -> float:
        with cpu_time() as taken:
            result = rule.aggregate(start, updates, RoundContext())
        stack = np.stack([update.params["t0"][:8] for update in [*updates, Update("start", start, 1)]])
        assert (result["t0"][:8] >= stack.min(axis=0)).all(), "below all updates"
        assert (result["t0"][:8] <= stack.max(axis=0)).all(), "above all updates"
        return taken[0]

    aggregate()
    triad()
    figure, ceiling, ratios = median_pairs(aggregate, triad, 3)
    values = sum(tensor.size for tensor in start.spec.tensors)
    gigabytes = MODELS * start.nbytes / figure / 1e9
    details = {
        "models": MODELS,
        "values": values,
        "gigabytes_per_second": round(gigabytes, 2),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "quick": quick,
    }
    return Result("A2", f"{name}, {MODELS} x {values:,} float32", figure, "CPU s", ceiling, target, details)
