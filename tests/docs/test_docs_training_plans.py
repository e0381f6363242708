"""The program of docs/training-plans.md runs and does what the page says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "training-plans.md"


def test_the_pages_program_runs_and_learns(run_page):
    printed = run_page("training-plans.md", 12)
    beginnings = ("accuracy", "slope", "shared", "state")
    told = dict(line.split(": ", 1) for line in printed.splitlines() if line.startswith(beginnings))
    accuracies = ast.literal_eval(told["accuracy of the global model on held-out data"])
    assert sorted(accuracies) == ["lyon", "nice", "paris"]
    assert min(accuracies.values()) > 0.85
    line = ast.literal_eval(told["slope and offset"])
    assert abs(line["slope"] - 3) < 0.3
    assert abs(line["offset"] - 1) < 0.2
    assert ast.literal_eval(told["shared parameters"]) == ["1.weight", "1.bias"]
    assert set(ast.literal_eval(told["state in the last round"]).values()) == {"kept"}
    assert "the same plan: True" in printed
    assert re.findall(r"^(\w+) sends (\d+) arrays$", printed, re.MULTILINE) == [
        ("BlockPlan", "11"), ("AugmentedPlan", "2"), ("CosinePlan", "7"),
    ]  # fmt: skip
    assert "exported: ['0.bias', '0.num_batches_tracked', " in printed
    assert "epochs: whole number >= 1 or None, default 1" in printed
