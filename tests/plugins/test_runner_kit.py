"""How the kit runs its laws: expected failures, profiles, pytest's decorator, and the command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fedplug.testing
from fedplug import (
    Aggregator,
    AggregatorTags,
    Component,
    Metric,
    NumpyTrainingPlan,
    OverSelection,
    Params,
    StreamingAggregator,
    WeightedMean,
    hookimpl,
)
from fedplug.cli import main
from fedplug.core.agg_optimizer import AggOptimizer
from fedplug.core.data import ArrayData
from fedplug.core.errors import NoUpdatesError, UnknownNameError, UsageError
from fedplug.core.plugins import PluginHost
from fedplug.core.strategy import DefaultStrategy
from fedplug.testing import (
    LawBrokenError,
    PlanCase,
    Subject,
    TransportCase,
    check_aggregator,
    check_metric,
    check_strategy,
    checks_of,
    parametrize_with_checks,
    run_check,
)
from fedplug.testing import registry as registry_module
from fedplug.testing.kinds import base_of, kind_of, name_of, subject_of
from fedplug.testing.registry import Check, as_profile, has_hypothesis, run_checks
from fedplug.transports.inproc import InprocTransport


class Mean(StreamingAggregator):
    def __init__(self, power=1.0):
        self.power = power

    def begin(self, start, ctx):
        return WeightedMean(start.spec)

    def accumulate(self, state, update):
        state.add(update.params, update.sample_count**self.power)

    def finalize(self, state):
        return state.result()


ROOT = "square roots of counts are no weights, on purpose: large nodes should count less"
EXPECTED = {"repetition": ROOT, "partition": ROOT}


def outcomes(component, **options):
    return {result.check: result for result in check_aggregator(component, on_fail="report", **options)}


# expected failures -----------------------------------------------------------------------------------------------


def test_an_expected_failure_is_told_with_its_reason():
    results = outcomes(Mean(0.5), expected_failures=EXPECTED)
    assert results["repetition"].outcome == "xfail"
    assert results["repetition"].reason == ROOT
    assert "One update counts double" in results["repetition"].details
    assert "fail" not in {result.outcome for result in results.values()}
    check_aggregator(Mean(0.5), expected_failures=EXPECTED)  # raises nothing


def test_what_passes_now_is_told_as_a_failure():
    result = outcomes(Mean(), expected_failures={"hull": "a reason of long ago"})["hull"]
    assert result.outcome == "fail"
    assert "passes now: remove it from expected_failures" in result.reason
    with pytest.raises(LawBrokenError, match="passes now"):
        check_aggregator(Mean(), expected_failures={"hull": "a reason of long ago"})


def test_what_does_not_apply_cannot_be_expected_to_fail():
    result = outcomes(Mean(), expected_failures={"breakdown": "it withstands nobody"})["breakdown"]
    assert result.outcome == "fail"
    assert "does not apply (breakdown='')" in result.reason


def test_an_expected_failure_may_be_any_error():
    class Raises(Mean):
        def finalize(self, state):
            raise NoUpdatesError("never anything")

    results = outcomes(Raises(), expected_failures={"hull": "it is not written yet"})
    assert results["hull"].outcome == "xfail"
    assert "NoUpdatesError: never anything" in results["hull"].details
    assert results["layout"].outcome == "fail"


@pytest.mark.parametrize("reason", ["", "  ", None, True])
def test_a_reason_must_be_written_down(reason):
    with pytest.raises(UsageError, match="must say why the law is broken"):
        check_aggregator(Mean(), expected_failures={"hull": reason})


def test_a_law_that_does_not_exist_cannot_be_expected_to_fail():
    with pytest.raises(UnknownNameError, match="There is no law named 'hul'"):
        check_aggregator(Mean(), expected_failures={"hul": "misspelt"})


def test_a_subject_brings_what_its_author_has_to_say():
    subject = Subject(Mean(0.5), EXPECTED)
    assert outcomes(subject)["partition"].outcome == "xfail"
    assert outcomes(subject, expected_failures={})["partition"].outcome == "fail"


# profiles --------------------------------------------------------------------------------------------------------


class Seldom(Mean):
    """Breaks the hull for models of which a quick look has none."""

    def finalize(self, state):
        mean = state.result()
        large = any(array.ndim == 2 and array.size > 6 for array in mean.values())
        return mean.map(lambda a: a + a.dtype.type(1)) if large else mean


def test_the_full_profile_finds_what_the_quick_one_does_not():
    (hull,) = [check for check in checks_of("aggregator") if check.id == "hull"]
    assert run_check(hull, Seldom()).outcome == "pass"
    result = run_check(hull, Seldom(), "full")
    assert result.outcome == "fail"
    assert re.match(r"a\d\[0, 0\] is .*, but must lie in", result.reason)


def test_hypothesis_tells_the_smallest_case_that_it_has_found():
    class OfSeven(Mean):
        def begin(self, start, ctx):
            return [], WeightedMean(start.spec)

        def accumulate(self, state, update):
            state[0].append(update.node_id)
            state[1].add(update.params, 1 if len(state[0]) > 6 else update.sample_count)

        def finalize(self, state):
            return state[1].result()

    (homogeneous,) = [check for check in checks_of("aggregator") if check.id == "homogeneous"]
    assert run_check(homogeneous, OfSeven()).outcome == "pass"
    assert run_check(homogeneous, OfSeven(), "full").reason.count("update of node-") == 7


def test_without_hypothesis_there_are_more_seeded_cases(monkeypatch):
    calls = []

    class Counts(Mean):
        def begin(self, start, ctx):
            calls.append(ctx)
            return super().begin(start, ctx)

    (layout,) = [check for check in checks_of("aggregator") if check.id == "layout"]
    monkeypatch.setattr(registry_module, "has_hypothesis", lambda: False)
    numbers = []
    for profile in ("quick", "full"):
        calls.clear()
        assert run_check(layout, Counts(), profile).outcome == "pass"
        numbers.append(len(calls))
    assert numbers[1] == 12 * numbers[0]


def test_the_quick_profile_needs_no_hypothesis():
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "from fedplug.core.strategy import DefaultStrategy\n"
        "from fedplug.testing import check_strategy\n"
        "assert {r.outcome for r in check_strategy(DefaultStrategy())} == {'pass'}\n"
        "from fedplug.core.components import Component, Offer\n"
        "from fedplug.testing import check_offer\n"
        "offer = Offer('aggregator', 'x', Component('m', 'fedplug_scaffold:FedAverage'))\n"
        "print({r.outcome for r in check_offer(offer)})\n"
        "try:\n"
        "    from fedplug.testing import strategies\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "'pass'" in done.stdout
    assert "UsageError The strategies of fedplug.testing need Hypothesis, which is not installed." in done.stdout
    assert 'pip install "fedplug[testing]"' in done.stdout


def test_importing_the_kit_imports_next_to_nothing():
    heavy = "('numpy', 'hypothesis', 'pytest', 'msgspec')"
    code = f"import sys, fedplug.testing\nprint([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_of_the_kit_is_there():
    assert sorted(fedplug.testing.__all__) == sorted(fedplug.testing._HOMES)
    for name in fedplug.testing.__all__:
        assert getattr(fedplug.testing, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = fedplug.testing.nonsense


def test_the_environment_names_the_profile(monkeypatch):
    assert as_profile(None) == "quick"
    monkeypatch.setenv("FEDPLUG_CHECKS", "full")
    assert (as_profile(None), as_profile("quick")) == ("full", "quick")
    monkeypatch.setenv("FEDPLUG_CHECKS", "thorough")
    with pytest.raises(UsageError, match="FEDPLUG_CHECKS must be 'quick' or 'full', got 'thorough'"):
        as_profile(None)
    with pytest.raises(UsageError, match="profile must be 'quick' or 'full'"):
        check_strategy(DefaultStrategy(), profile="slow")


def test_a_law_that_holds_by_chance_is_told_as_such():
    tried = []

    def check_luck(component, case):
        tried.append(case)
        if len(tried) == 20:
            raise LawBrokenError("bad luck")

    assert has_hypothesis()
    result = run_check(Check("luck", "", check_luck, trials=checks_of("aggregator")[1].trials), Mean(), "full")
    assert result.outcome == "fail"
    assert "keeps the law in one trial and breaks it in another" in result.reason


# pytest's decorator ------------------------------------------------------------------------------------------------


class Ours(Metric):
    def state(self, outputs, targets):
        return np.array([np.sum(outputs), len(targets)], float)

    def value(self, state):
        return {"mean": state[0] / state[1]}


class Step(AggOptimizer):
    def advance(self, start, aggregated, ctx):
        return aggregated


def url():
    return "inproc://runner-kit"


X = np.arange(20.0).reshape(10, 2)


class Line(NumpyTrainingPlan):
    def init_model(self):
        return {"w": np.zeros(2)}

    def training_data(self):
        from fedplug import DataManager

        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        error = data @ self.model()["w"] - target
        return float((error**2).mean()), {"w": 2 * data.T @ error / len(data)}


MIXED = [
    Mean(),
    Mean,
    lambda: Mean(2.0),
    Subject(Mean(0.5), EXPECTED, name="roots"),
    Step(),
    DefaultStrategy(),
    OverSelection(2, extra=0.5),
    ArrayData(X, X[:, 0]),
    Ours(),
    PlanCase(Line, (X, X[:, 0])),
    TransportCase(InprocTransport, url),
]


def cells(components, **options):
    mark = parametrize_with_checks(components, **options)
    return {parameter.id: parameter.values for parameter in mark.mark.args[1]}


def test_components_of_all_kinds_can_be_mixed_and_have_readable_ids():
    ids = list(cells([*MIXED[1:3], *MIXED[3:]], expected_failures=lambda one: EXPECTED if one is MIXED[2] else {}))
    for name in (
        "Mean-hull",
        "Mean(power=2.0)-repetition",
        "roots-partition",
        "Step-still",
        "DefaultStrategy-early",
        "OverSelection(count=2, extra=0.5)-ends",
        "ArrayData-order",
        "Ours-additive",
        "Line-travels",
        "InprocTransport-frames",
        "InprocTransport-federation-search",
    ):
        assert name in ids
    assert "Mean-breakdown" not in ids


def test_kinds_and_names():
    kinds = [kind_of(subject_of(each).component) for each in MIXED]
    assert kinds == [
        *["aggregator"] * 4, "agg_optimizer", "strategy", "strategy", "data_manager", "metric", "training_plan",
        "transport",
    ]  # fmt: skip
    assert name_of(Subject(Mean(), name="mine")) == "mine"
    for kind in set(kinds):
        assert isinstance(base_of(kind), type)
        assert len({check.id for check in checks_of(kind)}) == len(checks_of(kind))
        assert all(check.law.endswith(".") for check in checks_of(kind))


@pytest.mark.parametrize(
    ("component", "words"),
    [
        (3, "3 is no component that has laws"),
        (Line, "The training plan Line cannot be tested by itself.\nGive a PlanCase\\(plan_class, data"),
        (InprocTransport(), "The transport InprocTransport cannot be tested by itself.\nGive a TransportCase"),
        (lambda: Mean, "The aggregator Mean is a class, and an instance is tested.\nGive Mean"),
    ],
)
def test_what_cannot_be_tested_is_told_at_once(component, words):
    with pytest.raises(UsageError, match=words):
        parametrize_with_checks([component])


def test_expected_failures_of_the_decorator_must_be_laws_with_reasons():
    with pytest.raises(UnknownNameError, match="no law named 'hul'"):
        parametrize_with_checks([Mean()], expected_failures={"hul": "misspelt"})
    with pytest.raises(UsageError, match="must say why"):
        parametrize_with_checks([Mean()], expected_failures={"hull": ""})
    mixed = cells([Mean(0.5), DefaultStrategy()], expected_failures=EXPECTED)
    assert mixed["Mean(power=0.5)-repetition"][1].subject.expected_failures == EXPECTED
    assert mixed["DefaultStrategy-ends"][1].subject.expected_failures == {}


SUITE = """
from __future__ import annotations
import sys
sys.path.insert(0, {folder!r})
import test_runner_kit as kit
from fedplug.testing import Subject, parametrize_with_checks

@parametrize_with_checks([kit.Mean(), Subject(kit.Mean(0.5), kit.EXPECTED)], profile="quick")
def test_fine(component, check):
    check(component)

@parametrize_with_checks([kit.Mean()], "quick", expected_failures={{"hull": "a reason of long ago"}})
def test_too_good(component, check):
    check(component)

@parametrize_with_checks([kit.Mean(0.5)], "quick")
def test_broken(component, check):
    check(component)

def test_profile():
    cells = parametrize_with_checks([kit.Mean()]).mark.args[1]
    assert {{cell.values[1].profile for cell in cells}} == {{"full"}}
"""


def test_a_suite_of_somebody_else(tmp_path):
    file = tmp_path / "test_somebody.py"
    file.write_text(SUITE.format(folder=str(Path(__file__).parent)))
    options = ["-q", "-rxfE", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(file)],
        env=os.environ | {"FEDPLUG_CHECKS": "full"}, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    failed = [line.split("::")[1].split(" - ")[0] for line in lines if line.startswith("FAILED")]
    assert failed == [
        "test_too_good[Mean-hull]", "test_broken[Mean(power=0.5)-repetition]", "test_broken[Mean(power=0.5)-partition]",
    ]  # fmt: skip
    assert any("XFAIL" in line and ROOT in line for line in lines)
    assert "passes now: remove it from expected_failures" in done.stdout
    assert "2 xfailed" in lines[-1]


# the command line --------------------------------------------------------------------------------------------------


class Median(Aggregator):
    tags = AggregatorTags(weighted=False)

    def aggregate(self, start, updates, ctx):
        return Params.stack_reduce([u.params for u in updates], lambda x: np.median(x, axis=0))


class Powers(Mean):
    @classmethod
    def conformance_cases(cls):
        return [cls(1.0), Subject(cls(0.5), EXPECTED)]


class Biased(Median):
    def aggregate(self, start, updates, ctx):
        return super().aggregate(start, updates, ctx).map(lambda a: a + a.dtype.type(1))


@pytest.fixture
def offered(monkeypatch):
    """The command line with one plugin, which offers what the test gives."""

    def offer(**components):
        host = PluginHost.discover(only=[], found=[])
        made = [Component(name, target) for name, target in components.items()]
        host.register(types.SimpleNamespace(fedplug_register_aggregators=hookimpl(lambda: made)), "mine")
        monkeypatch.setattr("fedplug.cli.plugins.default_host", lambda: host)

    return offer


def test_results_are_listed_by_outcome_and_reason(offered, capsys):
    offered(median=Median)
    assert main(["plugins", "check", "mine"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "aggregators/median"
    assert lines[1].startswith("  pass   loads, tags, layout, inputs, few, arrival, consensus, symmetric, hull,")
    assert lines[2] == "  skip   homogeneous, absence, repetition, partition (weighted=False)"
    assert lines[3] == "  skip   streaming, interleaved, forgets (streaming=False)"
    assert lines[-1] == "1 component, 15 passed, 9 skipped, 0 failed"


def test_each_instance_has_its_lines_and_expected_failures_their_reason(offered, capsys):
    offered(powers=Powers)
    assert main(["plugins", "check", "mine"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "aggregators/powers  Powers" in lines
    assert "aggregators/powers  Powers(power=0.5)" in lines
    assert f"  xfail  repetition, partition ({ROOT})" in lines
    assert lines[-1].endswith("0 failed, 2 failed as expected")


@pytest.mark.slow  # draws 60 cases for each of 15 laws
def test_the_full_profile_says_where_its_cases_come_from(offered, capsys):
    offered(median=Median)
    assert main(["plugins", "check", "mine", "--full"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith("0 failed (profile full, cases drawn by Hypothesis)")


def test_json_has_everything(offered, capsys):
    offered(powers=Powers, biased=Biased)
    assert main(["plugins", "check", "mine", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["profile"], report["cases"], report["plugin"]) == ("quick", "seeded", "mine")
    found = {(r["component"], r["subject"], r["check"]): r for r in report["results"]}
    assert set(found["powers", "Powers", "hull"]) == {
        "kind", "component", "subject", "check", "outcome", "law", "reason", "details",
    }  # fmt: skip
    assert found["powers", "Powers(power=0.5)", "repetition"]["outcome"] == "xfail"
    assert found["powers", "Powers(power=0.5)", "repetition"]["reason"] == ROOT
    broken = {key[2] for key, result in found.items() if result["outcome"] == "fail"}
    assert broken == {"consensus", "hull", "scale"}
    for outcome in ("pass", "skip", "fail", "xfail"):
        assert report[outcome] == sum(r["outcome"] == outcome for r in report["results"]) > 0


# the runner --------------------------------------------------------------------------------------------------------


def test_what_a_component_raises_is_told_with_its_traceback():
    class Raises(Mean):
        def finalize(self, state):
            return 1 / 0

    result = outcomes(Raises())["hull"]
    assert result.reason == "It raised ZeroDivisionError: division by zero"
    assert "in finalize" in result.details


def test_on_fail_reports_all_or_stops_at_the_first():
    class Nameless(Ours):
        def value(self, state):
            return state[0]

    assert [r.outcome for r in check_metric(Nameless(), on_fail="report")] == ["pass", "fail", "pass"]
    with pytest.raises(LawBrokenError, match="must return a dict"):
        check_metric(Nameless())


def test_a_check_can_be_called_by_itself():
    (hull,) = [check for check in checks_of("aggregator") if check.id == "hull"]
    hull(Mean())
    hull(Subject(Mean()), "full")
    assert replace(hull, needs="breakdown").not_applicable(Mean()) == "breakdown=''"
    assert [r.outcome for r in run_checks([hull], Mean())] == ["pass"]
