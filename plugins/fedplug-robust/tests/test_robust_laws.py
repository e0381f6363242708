"""Every robust rule obeys the laws that its tags claim, with several arguments each."""

from __future__ import annotations

import pytest

from fedplug.testing import parametrize_with_checks
from fedplug_robust import CoordinateMedian, GeometricMedian, Krum, MultiKrum, NormClipping, TrimmedMean

RULES = [
    CoordinateMedian(),
    TrimmedMean(),
    TrimmedMean(2),
    GeometricMedian(),
    GeometricMedian(weighting="samples"),
    Krum(1),
    MultiKrum(1, keep=1),
    MultiKrum(2),
    NormClipping(1.0),
    NormClipping(3.0, weighting="uniform"),
]
MORE = [
    TrimmedMean(0),
    TrimmedMean(0.34),
    GeometricMedian(weighting="steps"),
    GeometricMedian(smoothing=1.0, iterations=3),
    Krum(0),
    Krum(3),
    MultiKrum(0),
    MultiKrum(2, keep=5),
    NormClipping(1e6),
    NormClipping(0.01, weighting="steps"),
]
"""Other arguments of the same rules, at the ends of what they may be."""


@parametrize_with_checks(RULES)
def test_laws(component, check):
    check(component)


@pytest.mark.slow
@parametrize_with_checks(MORE)
def test_laws_with_other_arguments(component, check):
    check(component)
