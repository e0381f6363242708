"""The program of docs/personalised-methods.md runs and does what the page says."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "personalised-methods.md"
PACKAGE = ROOT / "examples" / "fedplug-personal" / "src"


@pytest.mark.slow  # trains in four ways for a while
def test_the_pages_program_runs_and_personal_models_are_better(run_page):
    path = os.pathsep.join(filter(None, [str(PACKAGE), os.environ.get("PYTHONPATH", "")]))
    printed = run_page("personalised-methods.md", 5, env={"PYTHONPATH": path})
    told = {name: ast.literal_eval(rest) for name, rest in (line.split(": ", 1) for line in printed.splitlines())}
    for method in ("ditto", "fine-tuning"):
        found = told[method]
        assert found["test_global_accuracy"] > found["test_global_accuracy_of_global"] + 0.1, method
    one_model = told["one model for all"]["test_global_accuracy_of_global"]
    assert told["mixture"]["test_global_accuracy"] > one_model + 0.1
    assert told["ditto sends"] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert told["mixture sends"] == [f"{i}/{name}" for i in range(2) for name in told["ditto sends"]]
