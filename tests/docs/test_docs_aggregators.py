"""The program of docs/aggregators.md runs, Scaffold does what the page says, and the script behind its table works."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import fedplug_robust
import fedplug_scaffold

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "aggregators.md").read_text(encoding="utf-8")


def test_the_pages_program_runs_and_scaffold_comes_nearest(run_page):
    printed = run_page("aggregators.md", 2, "-W", "error")
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


def test_the_script_behind_the_table_runs(tmp_path):
    script = ROOT / "examples" / "uneven-data" / "compare.py"
    done = subprocess.run(
        [sys.executable, "-W", "error", script, "--quick", "--output", tmp_path / "out"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rounds = dict(re.findall(r"^\| (\w+)(?: \(mu 0.1\))? \| (\d+) ", done.stdout, re.MULTILINE))
    assert int(rounds["Scaffold"]) < int(rounds["FedAverage"])
    assert json.loads((tmp_path / "out" / "curves.json").read_text())["data"] == "digits"
    assert (tmp_path / "out" / "curves.png").is_file()
