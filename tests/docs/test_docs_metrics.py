"""The program of docs/metrics.md runs and does what the page says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from fedplug import MetricTypes

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def test_the_pages_program_runs_and_measures(run_page):
    printed = run_page("metrics.md", 4)
    told = dict(line.split(": ", 1) for line in printed.splitlines() if ": " in line)
    each = ast.literal_eval(told["accuracy by node"])
    pooled = float(told["accuracy of all"])
    matrix = ast.literal_eval(told["confusion matrix"])
    assert sum(map(sum, matrix)) == 900 // 4 + 60 // 4
    assert round((matrix[0][0] + matrix[1][1]) / 240, 3) == pooled
    assert abs(pooled - (225 * each["paris"] + 15 * each["lyon"]) / 240) < 0.001
    assert abs(pooled - (each["paris"] + each["lyon"]) / 2) > 0.02
    area, bound = map(float, told["auc"].split(" +- "))
    assert 0.9 < area <= 1
    assert 0 <= bound < 0.01
    assert 0 < float(told["within 0.2 of the target"]) < 1


def test_every_shipped_metric_is_in_the_table():
    table = PAGE.read_text(encoding="utf-8").split("| name | arguments | value |")[1].split("\n\n")[0]
    assert sorted(
        name for row in table.splitlines() if "|" in row for name in re.findall(r"`(\w+)`", row.split("|")[1])
    ) == (sorted(each.value for each in MetricTypes))
