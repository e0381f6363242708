"""The program of docs/experiment.md runs and does what the page says; its tables name what there is."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from fedplug import Experiment

PAGE = Path(__file__).resolve().parents[2] / "docs" / "experiment.md"


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_the_pages_program_runs(run_page: Callable[..., str], page: str, fedplug_dir: Path) -> None:
    printed = run_page("experiment.md", 7, "Warning")
    lines = printed.splitlines()
    assert "missing: ['training data: set_tags(...) or set_training_data(...)'" in printed
    assert "Ready to run." in lines
    assert [line for line in lines if line.startswith(("rounds run", "and beyond"))] == [
        "rounds run: 2 of 3", "rounds run: 1", "rounds run at the limit: 0", "and beyond it: 1 limit now 4",
    ]  # fmt: skip
    assert re.search(
        r"^after 5 rounds: test_global_mean_squared_error [\d.]+ on 36 samples of 3 nodes$", printed, re.MULTILINE
    )
    assert "back after 5 rounds" in lines
    slope = re.search(r"slope with momentum: \[([-\d.]+), ([-\d.]+)\]", printed)
    assert (float(slope[1]), float(slope[2])) == (pytest.approx(3, abs=0.05), pytest.approx(-1, abs=0.05))
    first, second = sorted((fedplug_dir / "var" / "experiments").iterdir())
    assert (first / "final.safetensors").is_file()
    assert (first / "breakpoint_0006").is_dir()
    named = {name.rstrip("/").replace("0003", "0006") for name in re.findall(r"^\| `([\w./]+)` \|", page, re.MULTILINE)}
    found = {entry.name for entry in [*first.iterdir(), *second.iterdir()]}
    assert found - {"final.safetensors"} - {f"breakpoint_{n:04d}" for n in range(6)} <= named


def test_the_table_names_every_setter(page: str) -> None:
    there = {name for name in dir(Experiment) if name.startswith("set_")} - {"set_training_arguments"}
    assert set(re.findall(r"`(set_\w+)\(", page)) == there
