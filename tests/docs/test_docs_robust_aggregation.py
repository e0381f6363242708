"""The program of docs/robust-aggregation.md runs, and its tables are about the rules that there are."""

from __future__ import annotations

import inspect
import math
import re
from pathlib import Path

import pytest

import fedplug_robust
from fedplug_robust import CoordinateMedian, GeometricMedian, Krum, MultiKrum, NormClipping, TrimmedMean

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "robust-aggregation.md").read_text(encoding="utf-8")


def test_the_pages_program_runs_and_only_the_mean_is_ruined(run_page):
    printed = run_page("robust-aggregation.md", 3, "Warning", env={"FEDPLUG_PLUGINS": "robust,scaffold"})
    errors = {name: float(error) for name, error in re.findall(r"^([\w-]+): ([\d.e+]+)$", printed, re.MULTILINE)}
    assert errors.pop("fedaverage") > 1e9
    offered = {component.name for component in fedplug_robust.fedplug_register_aggregators()}
    assert set(errors) == offered
    assert max(errors.values()) < 0.05
    for rule in (CoordinateMedian(), TrimmedMean(2), GeometricMedian(), Krum(2), MultiKrum(2), NormClipping(1.0)):
        words = f"{type(rule).__name__} withstands {rule.withstands(7)} of 7: {rule.tags.breakdown}"
        assert words in printed.splitlines()
    assert printed.splitlines()[-1] == "Krum needs 9 updates or more (2 * 3 + 3 for hostile=3), but 7 arrived."


def test_the_table_of_rules_has_their_arguments():
    shown = dict(re.findall(r"^\| [^|]+ \| `(\w+)\((.*?)\)` \| ", PAGE, re.MULTILINE))
    assert set(shown) == set(fedplug_robust.__all__)
    for name, arguments in shown.items():
        found = inspect.signature(getattr(fedplug_robust, name)).parameters.values()
        assert arguments == ", ".join(
            each.name if each.default is inspect.Parameter.empty else f"{each.name}={each.default!r}".replace("'", '"')
            for each in found
        ).replace("1e-06", "1e-6")


@pytest.mark.parametrize(("n", "q", "f"), [(9, 2, 3), (25, 10, 10), (12, 1, 1)])
def test_the_table_of_radii_is_what_the_rules_say(n, q, f):
    rows = dict(re.findall(r"^\| `(\w+)\(.*?\)` \| [^|]+ \| `(.+?)`", PAGE.split("| radius |")[1], re.MULTILINE))
    names = {"n": n, "q": q, "f": f, "h": n - q, "D": 3.0, "M": 0.7, "smoothing": 1e-6, "max": max, "sqrt": math.sqrt}

    def value(formula):
        return eval(re.sub(r"(?<=[\w)]) (?=[\w(])", " * ", formula).replace("max *", "max"), names)  # the page is ours

    assert GeometricMedian().radius(n, q, 3.0) == pytest.approx(value(rows["GeometricMedian"]))
    assert Krum(f).radius(n, q, 3.0) == pytest.approx(value(rows["Krum"]))
    assert MultiKrum(f).radius(n, q, 3.0) < Krum(f).radius(n, q, 3.0)
    assert NormClipping(0.7).radius(n, q, 3.0) == pytest.approx(value(rows["NormClipping"]))
    uniform = re.search(r'`weighting="uniform"`, `(.+?)`', PAGE)[1]
    assert NormClipping(0.7, "uniform").radius(n, q, 3.0) == pytest.approx(value(uniform))


def test_the_tables_of_attacks_have_all_rules_and_no_figure_without_a_column():
    for hostile in (5, 10):
        table = PAGE.split(f"| {hostile} of 25 hostile |")[1].split("\n\n")[0].splitlines()
        columns = table[0].count("|")
        rows = [line for line in table[2:] if line]
        assert all(line.count("|") == columns + 2 for line in rows)
        rules = {line.split("|")[1].strip() for line in rows}
        assert rules == {"FedAverage"} | {each.name for each in fedplug_robust.fedplug_register_aggregators()}
        assert all(0 < float(cell) < 1 for line in rows for cell in line.split("|")[2:-1])
