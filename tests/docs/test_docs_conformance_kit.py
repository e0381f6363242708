"""The program of docs/conformance-kit.md runs, and the page lists every law of every kind."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fedplug.testing import checks_of, oracles, strategies

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "conformance-kit.md").read_text(encoding="utf-8")


@pytest.mark.slow  # test_outside_plugin.py runs tests of such a plugin
def test_the_pages_program_runs_and_its_tests_pass(run_page, tmp_path):
    # With CI, Hypothesis draws the same examples each time, and does not mind that the machine is slow.
    printed = run_page("conformance-kit.md", 8, env={"CI": "true"})
    lines = printed.splitlines()
    assert lines[0] == "CutMean:"
    assert lines[1].startswith("  pass: tags, layout, inputs, few, arrival,")
    assert lines[2:4] == ["  xfail: none", "  fail: none"]
    assert lines[4].startswith("Subtracts: 1 of 3 updates are hostile (all at one place, very far")
    root = lines.index("RootMean:")
    assert lines[root + 2 : root + 4] == ["  xfail: repetition, partition", "  fail: none"]
    assert lines[root + 4 : root + 6] == ["Root: 0 expected failures", "Root: 2 expected failures"]
    without, with_counts = (int(re.search(r"\d+", line)[0]) for line in lines[root + 6 : root + 8])
    assert 0 < without < with_counts
    line = lines.index("Line:")
    assert lines[line + 3] == "  fail: none"
    counted = lines.index("Counted:")
    assert lines[counted + 1].startswith("  pass: results, order, tests,")
    assert lines[counted + 2 : counted + 4] == ["  xfail: none", "  fail: none"]
    assert lines[-1] == "as exact as can be"
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "test_laws.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("kind", "heading"),
    [
        ("aggregator", "The laws of aggregators"),
        ("agg_optimizer", "Optimizers of the researcher"),
        ("strategy", "Strategies"),
        ("training_plan", "Training plans"),
        ("data_manager", "Data managers"),
        ("metric", "Metrics and transports"),
        ("engine", "Engines of simulations"),
    ],
)
def test_every_law_is_in_the_table_of_its_kind(kind, heading):
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = section.split("| law | says |\n| --- | --- |\n")[1].split("\n\n")[0]
    assert re.findall(r"^\| `([\w-]+)` \|", rows, re.MULTILINE) == [check.id for check in checks_of(kind)]


def test_every_tag_of_a_law_is_explained():
    writing = (Path(__file__).resolve().parents[2] / "docs" / "writing-a-plugin.md").read_text(encoding="utf-8")
    for check in checks_of("aggregator"):
        assert not check.needs or f"`{check.needs}`" in writing


def test_the_number_of_laws_of_transports_is_right():
    assert f"its {len(checks_of('transport'))} laws" in PAGE


def test_strategies_and_oracles_are_those_of_the_tables():
    section = PAGE.split("## Strategies and oracles")[1]
    drawn, given = (part.split("\n\n")[0] for part in re.split(r"\| strategy \|.*|\| oracle \|.*", section)[1:])
    assert set(re.findall(r"`(\w+)\(", drawn)) == {"layouts", "params", "updates", "rounds", "cases"}
    for name in re.findall(r"`(\w+)\(", drawn):
        assert callable(getattr(strategies, name))
    for name in re.findall(r"`(\w+)\(", given):
        assert callable(getattr(oracles, name))
