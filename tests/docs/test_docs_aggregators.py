"""The program of docs/aggregators.md runs, Scaffold does what the page says, and the script behind its table works."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from page_kit import run_program

import fedplug_robust
import fedplug_scaffold

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "aggregators.md").read_text(encoding="utf-8")


def test_the_pages_program_runs_and_scaffold_comes_nearest(run_page):
    printed = run_page("aggregators.md", 2, "Warning")
    found = {name: float(gap) for name, gap in re.findall(r"^(\w+): ([\d.]+) from", printed, re.MULTILINE)}
    assert set(found) == {"FedAverage", "FedProx", "FedNova", "Scaffold"}
    assert found["Scaffold"] < 0.1 * min(gap for name, gap in found.items() if name != "Scaffold")


def test_every_aggregator_of_ours_is_in_the_table():
    table = PAGE.split("| name | class |")[1].split("\n\n")[0]
    told = {name for row in table.splitlines() if "|" in row for name in re.findall(r"`([\w-]+)`", row.split("|")[1])}
    offers = [*fedplug_scaffold.fedplug_register_aggregators(), *fedplug_robust.fedplug_register_aggregators()]
    assert told == {offer.name for offer in offers}
    for offer in fedplug_scaffold.fedplug_register_agg_optimizers():
        assert f'"{offer.name}"' in PAGE


@pytest.mark.slow
def test_the_script_behind_the_table_runs(tmp_path):
    script = ROOT / "examples" / "uneven-data" / "compare.py"
    code, told, errors = run_program(
        script, "--quick", "--output", str(tmp_path / "out"), cwd=tmp_path, strict="Warning"
    )
    assert code == 0, errors
    rounds = dict(re.findall(r"^\| (\w+)(?: \(mu 0.1\))? \| (\d+) ", told, re.MULTILINE))
    assert int(rounds["Scaffold"]) < int(rounds["FedAverage"])
    assert json.loads((tmp_path / "out" / "curves.json").read_text())["data"] == "digits"
    assert (tmp_path / "out" / "curves.png").is_file()
