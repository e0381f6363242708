"""docs/getting-started.md: plan and commands are those of the example, and the program runs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from page_kit import run_program

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "fashion-mnist"
PAGE = (ROOT / "docs" / "getting-started.md").read_text(encoding="utf-8")
PLAN, PROGRAM, ARGS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)

# The page's program as it stands, on fewer pictures and with shorter rounds.
SHORT = """
import os
import pathlib

import fashion_data

whole, source = fashion_data.load, pathlib.Path(os.environ["PICTURES"])
fashion_data.load = lambda part: tuple(array[:400] for array in whole(part, source))
import experiment

experiment.TRAINING_ARGS["num_updates"] = 2
"""


@pytest.mark.parametrize("block", [PLAN, ARGS], ids=["plan", "arguments"])
def test_the_page_shows_the_example_as_it_stands(block):
    assert f"\n{block}" in (FOLDER / "experiment.py").read_text(encoding="utf-8")


def test_the_pages_program_runs(tmp_path, fedplug_dir, pictures):
    script = tmp_path / "simulate.py"
    script.write_text(SHORT + PROGRAM, encoding="utf-8")
    path = os.pathsep.join([str(FOLDER), os.environ.get("PYTHONPATH", "")])
    env = {"PYTHONPATH": path, "PICTURES": str(pictures)}
    code, printed, errors = run_program(script, cwd=tmp_path, env=env)
    assert code == 0, errors
    told = re.findall(r"^round (\d): accuracy on the test images (0\.\d{4})$", printed, re.MULTILINE)
    assert [number for number, _ in told] == ["1", "2", "3", "4", "5"]
    assert float(told[-1][1]) > 0.3  # ten classes


def test_the_pages_commands_are_those_that_the_example_prints(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    from fashion_data import INSTALL, commands

    assert f"$ {INSTALL}\n" in PAGE
    assert "\n".join(commands(Path("fashion-mnist"), ["node-1"])) in PAGE
