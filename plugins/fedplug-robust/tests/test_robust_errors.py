"""Row 28 of the fault matrix: how far from the truth a rule is if fewer than a quarter of the nodes lie."""

from __future__ import annotations

import numpy as np
import pytest

from fedplug import Params, RoundContext, Update
from fedplug_robust import CoordinateMedian, GeometricMedian, Krum, MultiKrum, NormClipping, TrimmedMean
from fedplug_scaffold import FedAverage

NODES, LIARS, SIZE = 16, 3, 5_000
START = Params.from_arrays({"w": np.zeros(SIZE, np.float32)})


def error(rule, scale, seed) -> float:
    """The relative error of the new model, if liars multiply what they have learnt by ``scale``."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=SIZE)
    learnt = truth + rng.normal(0, 0.1, size=(NODES, SIZE))
    liars = rng.choice(NODES, LIARS, replace=False)
    learnt[liars] *= scale
    names = [f"node-{index:02d}" for index in range(NODES)]
    updates = [
        Update(name, Params.from_arrays({"w": values.astype(np.float32)}), 10, 5)
        for name, values in zip(names, learnt, strict=True)
    ]
    result = rule.aggregate(START, updates, RoundContext(node_ids=tuple(names)))
    return float(np.linalg.norm(result["w"] - truth) / np.linalg.norm(truth))


@pytest.mark.parametrize("scale", [-8, -1000, 10, 1000])
@pytest.mark.parametrize(
    ("rule", "most"),
    [
        (TrimmedMean(LIARS), 0.1),
        (CoordinateMedian(), 0.1),
        (GeometricMedian(), 0.1),
        (MultiKrum(LIARS), 0.1),
        (Krum(LIARS), 0.1),
        (NormClipping(np.sqrt(SIZE)), 0.3),
    ],
    ids=lambda value: type(value).__name__,
)
def test_row_28_liars_do_not_get_far(rule, most, scale):
    for seed in range(3):
        assert error(rule, scale, seed) <= most * error(FedAverage(), scale, seed)
