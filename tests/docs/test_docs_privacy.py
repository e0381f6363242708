"""The program of docs/privacy.md runs and shows what the page says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from fedplug.core.privacy_ledger import gaussian_epsilon
from fedplug.core.training_args import TrainingArgs

PAGE = Path(__file__).resolve().parents[2] / "docs" / "privacy.md"


def test_the_pages_program_runs_and_learns(run_page):
    printed = run_page("privacy.md", 3)
    told = dict(line.split(": ", 1) for line in printed.splitlines())
    accuracies = [float(told[f"accuracy {how} privacy"]) for how in ("without", "with local", "with central")]
    assert accuracies[0] > 0.9
    assert min(accuracies[1:]) > 0.8  # guessing the larger class gives 0.63
    local, central = ast.literal_eval(told["spent locally"]), ast.literal_eval(told["spent centrally"])
    assert 1 < local["epsilon"] < 10
    assert (local["sample_rate"], local["rounds"]) == (25 / 150, 4)
    assert central["epsilon"] == gaussian_epsilon([(1.0, 4)], 1e-5)


def test_the_table_of_arguments_is_the_one_in_force():
    rows = re.findall(r"^\| `(\w+)` \|.*\| (\S+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    defaults = TrainingArgs.from_dict({"dp_args": {"sigma": 1, "clip": 1}}).dp_args
    assert {name: ast.literal_eval(value.strip("`")) for name, value in rows if value != "needed"} == {
        name: value for name, value in defaults.items() if name not in ("sigma", "clip")
    }
    assert [name for name, value in rows if value == "needed"] == ["sigma", "clip"]
