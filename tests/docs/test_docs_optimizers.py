"""The program of docs/optimizers.md runs, and what it prints is what the page says about it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from declearn.optimizer import list_optim_modules, list_optim_regularizers

from fedplug.core.schedules import SCHEDULES
from fedplug_declearn.specs import _REFUSED, make_modules, make_regularizers

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "optimizers.md").read_text(encoding="utf-8")


@pytest.mark.slow  # trains in six ways for a while
def test_the_pages_program_runs_and_each_way_beats_plain_averaging(run_page):
    printed = run_page("optimizers.md", 4, "Warning")
    scores = {name: float(score) for name, score in re.findall(r"^(.+): ([\d.]+)$", printed, re.MULTILINE)}
    plain = scores.pop("plain averaging")
    assert set(scores) == {"server momentum", "FedYogi", "momentum at the nodes", "falling rates", "Scaffold"}
    assert min(scores.values()) > plain
    assert max(scores, key=scores.__getitem__) == "Scaffold"
    assert scores["Scaffold"] > plain + 0.05


def test_the_tables_have_every_module_and_regularizer():
    first, second = PAGE.split("| modules | |")[1].split("| regularizers | adds to the gradient |")
    named = [cell.split("|")[1] for cell in first.splitlines() if cell.startswith(('| `"', "| `("))]
    modules = {name for cell in named for name in re.findall(r'`\(?"([\w-]+)"', cell)}
    assert modules == set(list_optim_modules()) - set(_REFUSED)
    regularizers = set(re.findall(r'`\("([\w-]+)"', second.split("\n\n")[0]))
    assert regularizers == set(list_optim_regularizers())


def test_the_recipes_of_the_tables_can_be_made():
    for text in re.findall(r"modules=(\[.+?\])\)?`", PAGE):
        assert make_modules(eval(text))  # the page is ours
    assert make_regularizers([("ridge", {"alpha": 0.1}), ("lasso", {"alpha": 0.1}), ("fedprox", {"alpha": 0.1})])


def test_every_schedule_is_named():
    section = PAGE.split("## Learning rates that change")[1].split("```")[0]
    assert set(re.findall(r"`(\w+)\(", section)) == {each.__name__ for each in SCHEDULES.values()}
