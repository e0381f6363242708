"""The program of docs/finding-data.md runs and does what the page says."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "finding-data.md"


def test_the_pages_program_runs_and_finds_the_data(run_page):
    printed = run_page("finding-data.md", 4, "Warning")
    assert [re.split("  +", line) for line in printed.splitlines()] == [
        ["NODE", "DATA SET", "TYPE", "TAGS", "SHAPE", "TARGET", "COLUMNS", "DESCRIPTION"],
        ["lyon", "lyon", "memory", "breast, 2024", "30 x 4", "ill", "x, ill", "-"],
        ["nice", "nice", "memory", "breast, 2024", "20 x 4", "ill", "x, ill", "-"],
        ["paris", "paris", "memory", "breast, 2024", "30 x 3", "ill", "x, ill", "-"],
        ["nodes: ['lyon', 'nice']"],
        ["samples: {'lyon': 30, 'nice': 20}"],
        ["by hand: ['lyon', 'nice'] None"],
        ["mismatch: The type of 'ill' is float64 on paris, but int64 on lyon, nice."],
        ["mismatch: The shape of a sample is (3,) on paris, but (4,) on lyon, nice."],
    ]
