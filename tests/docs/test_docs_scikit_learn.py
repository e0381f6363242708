"""The program of docs/scikit-learn.md runs, learns, and gives back estimators of scikit-learn's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedplug_sklearn import FedPerceptron, FedSGDClassifier, FedSGDRegressor

PAGE = Path(__file__).resolve().parents[2] / "docs" / "scikit-learn.md"


@pytest.mark.slow  # trains four models for a while
def test_the_pages_program_runs_and_learns(run_page, tmp_path):
    printed = run_page("scikit-learn.md", 4, "Warning")
    scores = {name: float(score) for name, score in re.findall(r"^(.+): ([\d.]+)$", printed, re.MULTILINE)}
    assert set(scores) == {"logistic regression", "naive Bayes", "a small network"}
    assert scores["logistic regression"] > 0.9
    assert scores["naive Bayes"] > 0.8
    assert scores["a small network"] > 0.9
    assert (tmp_path / "digits.skops").is_file()


def test_the_table_has_every_argument_of_each_plan():
    table = PAGE.read_text(encoding="utf-8").split("| plan | model |")[1].split("\n\n")[0]
    rows = {cells[1].strip(): cells[3] for row in table.splitlines()[2:] if (cells := row.split("|"))[1:]}
    whole = set(re.findall(r"`(\w+)`", rows["`FedSGDClassifier`"]))
    assert whole == FedSGDClassifier.settings | {"n_classes"}
    assert FedSGDRegressor.settings == whole - {"n_classes", "class_weight"}
    assert set(re.findall(r"`(\w+)`", rows["`FedPerceptron`"])) == FedPerceptron.settings | {"n_classes"}
