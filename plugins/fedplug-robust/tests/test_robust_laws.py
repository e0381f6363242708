"""Every robust rule obeys the laws that its tags claim, with several arguments each."""

from __future__ import annotations

from fedplug.testing import parametrize_with_checks
from fedplug_robust import CoordinateMedian, GeometricMedian, Krum, MultiKrum, NormClipping, TrimmedMean

RULES = [
    CoordinateMedian(),
    TrimmedMean(),
    TrimmedMean(0),
    TrimmedMean(0.34),
    TrimmedMean(2),
    GeometricMedian(),
    GeometricMedian(weighting="samples"),
    GeometricMedian(weighting="steps"),
    GeometricMedian(smoothing=1.0, iterations=3),
    Krum(0),
    Krum(1),
    Krum(3),
    MultiKrum(0),
    MultiKrum(1, keep=1),
    MultiKrum(2, keep=5),
    MultiKrum(2),
    NormClipping(1.0),
    NormClipping(1e6),
    NormClipping(3.0, weighting="uniform"),
    NormClipping(0.01, weighting="steps"),
]


@parametrize_with_checks(RULES)
def test_laws(component, check):
    check(component)
