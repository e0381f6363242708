"""FedAverage obeys the laws, equals an exact oracle, and is found by its name."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedplug import Params, RoundContext, Update
from fedplug.core.errors import NoUpdatesError, UsageError
from fedplug.core.plugins import PluginHost
from fedplug.testing import parametrize_with_checks
from fedplug_scaffold import FedAverage

FLOATS = st.floats(-1e6, 1e6, width=32)


@parametrize_with_checks([FedAverage(), FedAverage("steps"), FedAverage("uniform")])
def test_laws(component, check):
    check(component)


def rounds():
    row = st.tuples(st.lists(FLOATS, min_size=3, max_size=3), st.integers(1, 1000), st.integers(1, 50))
    return st.lists(row, min_size=1, max_size=6)


@pytest.mark.parametrize("weighting", ["samples", "steps", "uniform"])
@given(rows=rounds())
def test_exact_oracle(weighting, rows):
    updates = [
        Update(f"n{i}", Params.from_arrays({"w": np.asarray(values, np.float32)}), samples, steps)
        for i, (values, samples, steps) in enumerate(rows)
    ]
    result = FedAverage(weighting).aggregate(updates[0].params, updates, RoundContext())["w"]
    weights = [{"samples": u.sample_count, "steps": u.steps, "uniform": 1}[weighting] for u in updates]
    for column in range(3):
        values = [Fraction(float(u.params["w"][column])) for u in updates]
        exact = sum(w * x for w, x in zip(weights, values, strict=True)) / sum(weights)
        slack = len(rows) * Fraction(np.finfo(np.float64).eps.item()) * max(abs(x) for x in values)
        assert abs(Fraction(float(result[column])) - exact) <= Fraction(float(np.spacing(abs(result[column])))) + slack


@pytest.mark.parametrize("weighting", ["samples", "steps", "uniform"])
def test_weights_are_what_they_are_called(weighting):
    def update(node, value, samples, steps):
        return Update(node, Params.from_arrays({"w": np.float64(value)}), samples, steps)

    updates = [update("a", 0.0, 30, 1), update("b", 1.0, 10, 4)]
    expected = {"samples": 0.25, "steps": 0.8, "uniform": 0.5}[weighting]
    assert FedAverage(weighting).aggregate(updates[0].params, updates, RoundContext())["w"] == expected


def test_nothing_to_average():
    start = Params.from_arrays({"w": 1.0})
    with pytest.raises(NoUpdatesError):
        FedAverage().aggregate(start, [], RoundContext())
    with pytest.raises(NoUpdatesError):
        FedAverage().aggregate(start, [Update("a", start, 0)], RoundContext())


def test_an_unknown_weighting_is_refused_when_it_is_made():
    with pytest.raises(UsageError, match="no weighting named 'sample'"):
        FedAverage("sample")


def test_it_is_found_by_its_name():
    assert PluginHost.discover(only=["scaffold"]).component("aggregator", "fedaverage") is FedAverage


def test_an_average_is_by_samples_unless_told_otherwise():
    assert FedAverage().weighting == "samples"
    assert FedAverage().tags.weighted
    assert not FedAverage("uniform").tags.weighted
