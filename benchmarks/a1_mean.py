"""A1: weighted mean of 16 x 25 M float32, folded in float64 in canonical order, over a memory-bandwidth triad."""

from __future__ import annotations

import numpy as np

from benchmarks.common import Result, cpu_time, median_pairs
from fedplug.core.mean import WeightedMean
from fedplug.core.params import Params

TERMS, SIZE, TENSORS = 16, 25_000_000, 60


def run(quick: bool = False) -> list[Result]:
    """Measure; ``quick`` takes a tenth of the values."""
    size = SIZE // 10 if quick else SIZE
    rng = np.random.default_rng(0)
    terms = [
        Params.from_arrays(
            {f"t{i}": part for i, part in enumerate(np.array_split(rng.standard_normal(size, np.float32), TENSORS))}
        )
        for _ in range(4)  # four distinct models are far beyond any cache; 16 would only cost memory
    ]
    expected = sum((k + 1) * terms[k % 4]["t0"].astype(np.float64) for k in range(TERMS)) / sum(range(1, TERMS + 1))

    def fold() -> float:
        with cpu_time() as taken:
            mean = WeightedMean(terms[0].spec)
            for k in range(TERMS):
                mean.add(terms[k % 4], k + 1)
            result = mean.result()
        np.testing.assert_allclose(result["t0"], expected, rtol=1e-6, atol=1e-6)
        return taken[0]

    # the bytes of STREAM's triad, in one pass and without its multiplication: a strict ceiling
    a, b, c = (np.ones(size, np.float32) for _ in range(3))

    def triad() -> float:
        with cpu_time() as taken:
            for _ in range(TERMS):
                np.add(b, c, out=a)
        return taken[0]

    fold()
    triad()
    figure, ceiling, ratios = median_pairs(fold, triad, 3 if quick else 5)
    details = {"terms": TERMS, "values": size, "ratios": [round(r, 3) for r in ratios]}
    return [Result("A1", "weighted mean, float64, canonical order", figure, "CPU s", ceiling, 2.5, details)]
