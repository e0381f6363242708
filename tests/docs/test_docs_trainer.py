"""The program of docs/trainer.md runs and does what the page says."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "trainer.md"


def test_the_pages_program_runs_and_does_what_it_says(run_page):
    printed = run_page("trainer.md", 3)
    told = dict(line.split(": ", 1) for line in printed.splitlines() if ": " in line)
    assert float(told["accuracy"]) > 0.85
    assert told["stopped"] == "it is good enough"
    assert "tested on 50" in printed
    assert re.search(r"^train +on_batch_backward +1 +step +fedplug$", printed, re.MULTILINE)
    assert told["parameters"] == "['0/bias', '0/weight', '1/bias', '1/weight']"
