"""The package: found by name, imported late, written down, and what it refuses, in words."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import fedplug_robust
from fedplug import Params, RoundContext, Update
from fedplug.core.component_config import config_of, make
from fedplug.core.errors import NoUpdatesError, ParamsError, RoundError, UsageError
from fedplug.core.plugins import PluginHost
from fedplug_robust import CoordinateMedian, GeometricMedian, Krum, MultiKrum, NormClipping, TrimmedMean

NAMES = {
    "coordinate-median": CoordinateMedian,
    "trimmed-mean": TrimmedMean,
    "geometric-median": GeometricMedian,
    "krum": Krum,
    "multi-krum": MultiKrum,
    "norm-clipping": NormClipping,
}

MADE = [
    (CoordinateMedian(), {}),
    (TrimmedMean(), {"trim": 0.1}),
    (TrimmedMean(np.int64(2)), {"trim": 2}),
    (TrimmedMean(np.float32(0.25)), {"trim": 0.25}),
    (GeometricMedian(), {"smoothing": 1e-6, "iterations": 100, "tolerance": 1e-10, "weighting": "uniform"}),
    (
        GeometricMedian(1e-3, 7, 1e-4, "samples"),
        {"smoothing": 1e-3, "iterations": 7, "tolerance": 1e-4, "weighting": "samples"},
    ),
    (Krum(2), {"hostile": 2}),
    (MultiKrum(np.int32(1)), {"hostile": 1, "keep": None}),
    (MultiKrum(1, keep=3), {"hostile": 1, "keep": 3}),
    (NormClipping(2), {"limit": 2.0, "weighting": "samples"}),
    (NormClipping(0.5, "uniform"), {"limit": 0.5, "weighting": "uniform"}),
]


def updates_of(*values):
    return [Update(f"n{i}", Params.from_arrays({"w": np.float64(v)}), 10) for i, v in enumerate(values)]


def test_each_rule_is_found_by_its_name():
    host = PluginHost.discover(only=["robust"])
    offers = host.components("aggregator", plugin="robust")
    assert {offer.component.name: offer.load() for offer in offers} == NAMES
    for offer in offers:
        assert offer.component.summary.endswith(".")
        assert host.component("aggregator", f"robust:{offer.component.name}") is NAMES[offer.component.name]
        config = set(config_of(next(rule for rule, _ in MADE if type(rule) is offer.load())))
        assert set(offer.component.options) == config


def test_its_hooks_import_no_rule_and_no_numpy():
    code = (
        "import sys, fedplug_robust as robust; robust.fedplug_register_aggregators(); "
        "print('numpy' in sys.modules, [name for name in sys.modules if name.startswith('fedplug_robust.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False []"


def test_the_names_of_the_module():
    assert {getattr(fedplug_robust, name) for name in fedplug_robust.__all__} == set(NAMES.values())
    with pytest.raises(AttributeError, match="has no attribute 'Bulyan'"):
        fedplug_robust.Bulyan  # noqa: B018


@pytest.mark.parametrize(
    ("rule", "expected"), MADE, ids=lambda each: str(each) if isinstance(each, dict) else type(each).__name__
)
def test_a_rule_is_written_down_and_made_again(rule, expected):
    config = config_of(rule)
    assert config == expected
    again = make(type(rule), json.loads(json.dumps(config)))
    assert config_of(again) == config
    assert again.tags == rule.tags
    updates = updates_of(*range(9))
    start = updates[0].params
    assert again.aggregate(start, updates, RoundContext()) == rule.aggregate(start, updates, RoundContext())


@pytest.mark.parametrize(
    ("make_it", "words"),
    [
        (lambda: TrimmedMean(0.5), "share in [0, 0.5) or a whole number"),
        (lambda: TrimmedMean(1.0), "got 1.0"),
        (lambda: TrimmedMean(-1), "got -1"),
        (lambda: TrimmedMean(-0.1), "got -0.1"),
        (lambda: TrimmedMean(True), "got True"),
        (lambda: TrimmedMean("0.1"), "got '0.1'"),
        (lambda: TrimmedMean(float("nan")), "got nan"),
        (lambda: TrimmedMean(None), "got None"),
        (lambda: Krum(-1), "hostile of Krum must be a whole number of at least 0, got -1"),
        (lambda: Krum(1.0), "got 1.0"),
        (lambda: Krum(True), "got True"),
        (lambda: Krum(None), "got None"),
        (lambda: MultiKrum(2.5), "hostile of MultiKrum"),
        (lambda: MultiKrum(1, keep=0), "keep of MultiKrum must be a whole number of at least 1, got 0"),
        (lambda: MultiKrum(1, keep=2.0), "got 2.0"),
        (lambda: GeometricMedian(smoothing=0), "smoothing of GeometricMedian must be a finite number above zero"),
        (lambda: GeometricMedian(smoothing=float("inf")), "got inf"),
        (lambda: GeometricMedian(smoothing="1"), "got '1'"),
        (lambda: GeometricMedian(iterations=0), "iterations of GeometricMedian must be a whole number of at least 1"),
        (lambda: GeometricMedian(tolerance=-1), "tolerance of GeometricMedian"),
        (lambda: GeometricMedian(weighting="sample"), "no weighting named 'sample'"),
        (lambda: NormClipping(0), "limit of NormClipping must be a finite number above zero, got 0"),
        (lambda: NormClipping(float("nan")), "got nan"),
        (lambda: NormClipping(True), "got True"),
        (lambda: NormClipping(1, "all"), "no weighting named 'all'"),
    ],
)
def test_wrong_arguments_are_refused_with_a_cure(make_it, words):
    with pytest.raises(UsageError) as caught:
        make_it()
    assert words in caught.value.message
    assert caught.value.cure


@pytest.mark.parametrize(
    ("rule", "least", "words"),
    [
        (TrimmedMean(2), 5, "TrimmedMean needs 5 updates or more (2 are cut at each end), but 4 arrived."),
        (Krum(1), 5, "Krum needs 5 updates or more (2 * 1 + 3 for hostile=1), but 4 arrived."),
        (Krum(0), 3, "Krum needs 3 updates or more (2 * 0 + 3 for hostile=0), but 2 arrived."),
        (MultiKrum(1), 5, "MultiKrum needs 5 updates or more (2 * 1 + 3 for hostile=1), but 4 arrived."),
        (
            MultiKrum(1, keep=5),
            6,
            "MultiKrum needs 6 updates or more (5 + 1 for keep=5, hostile=1), but 5 arrived.",
        ),
    ],
)
def test_too_few_updates_are_refused_with_the_numbers(rule, least, words):
    assert rule.tags.minimum_updates == least
    updates = updates_of(*range(least))
    rule.aggregate(updates[0].params, updates, RoundContext())
    with pytest.raises(RoundError) as caught:
        rule.aggregate(updates[0].params, updates[:-1], RoundContext())
    assert caught.value.message == words
    assert "let more nodes train" in caught.value.cure
    assert rule.withstands(least - 1) == 0


@pytest.mark.parametrize("rule", [rule for rule, _ in MADE], ids=lambda rule: type(rule).__name__)
def test_no_update_is_refused(rule):
    start = Params.from_arrays({"w": 1.0})
    with pytest.raises(NoUpdatesError):
        rule.aggregate(start, [], RoundContext())


@pytest.mark.parametrize("rule", [rule for rule, _ in MADE], ids=lambda rule: type(rule).__name__)
def test_an_update_of_another_layout_is_refused(rule):
    updates = updates_of(*range(9))
    updates[4] = Update("n4", Params.from_arrays({"w": np.float32(1)}), 1)
    with pytest.raises(ParamsError, match="'w' has dtype float32, expected float64"):
        rule.aggregate(updates[0].params, updates, RoundContext())


def test_weights_of_zero():
    start = Params.from_arrays({"w": 1.0})
    nobody = [Update("a", start, 0), Update("b", start, 0)]
    for rule in (GeometricMedian(weighting="samples"), NormClipping(1.0)):
        with pytest.raises(NoUpdatesError, match="all weights are zero"):
            rule.aggregate(start, nobody, RoundContext())


@pytest.mark.parametrize(
    ("trim", "count", "cut"),
    [
        (0.1, 9, 0),
        (0.1, 10, 1),
        (0.29, 100, 29),
        (1 / 3, 3, 1),
        (0.49, 2, 0),
        (0.49999999999, 10, 4),
        (0, 5, 0),
        (2, 9, 2),
    ],
)
def test_how_many_are_cut(trim, count, cut):
    rule = TrimmedMean(trim)
    assert rule.cut(count) == cut
    assert rule.withstands(count) == cut


def test_what_the_rules_say_they_withstand():
    assert [CoordinateMedian().withstands(count) for count in (1, 2, 3, 4, 9)] == [0, 0, 1, 1, 4]
    assert [GeometricMedian().withstands(count) for count in (1, 2, 3, 4, 9)] == [0, 0, 1, 1, 4]
    assert GeometricMedian(weighting="samples").withstands(9) == 0
    assert [Krum(2).withstands(count) for count in (6, 7, 30)] == [0, 2, 2]
    assert [MultiKrum(2, keep=8).withstands(count) for count in (9, 10, 30)] == [0, 2, 2]
    assert [NormClipping(1).withstands(count) for count in (1, 2, 9)] == [0, 1, 8]
    assert [rule.tags.breakdown for rule in (CoordinateMedian(), TrimmedMean(0.2), TrimmedMean(0))] == [
        "hull",
        "hull",
        "",
    ]
    assert [rule.tags.breakdown for rule in (Krum(1), Krum(0), MultiKrum(1), MultiKrum(0))] == ["ball", "", "ball", ""]
    assert GeometricMedian(weighting="steps").tags.breakdown == ""


def test_only_a_mean_has_a_largest_share():
    updates = [Update("a", Params.from_arrays({}), 30, 1), Update("b", Params.from_arrays({}), 10, 4)]
    assert NormClipping(1).largest_share(updates) == 0.75
    assert NormClipping(1, "steps").largest_share(updates) == 0.8
    assert NormClipping(1, "uniform").largest_share(updates) == 0.5
    assert NormClipping(1).largest_share([Update("a", Params.from_arrays({}), 0)]) is None
    for rule in (CoordinateMedian(), TrimmedMean(), GeometricMedian(), Krum(1), MultiKrum(1)):
        assert rule.largest_share(updates) is None
