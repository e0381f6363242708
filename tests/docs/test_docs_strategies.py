"""The program of docs/strategies.md runs and does what the page says."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "strategies.md"


def test_the_pages_program_runs_and_rounds_do_without_the_broken_node(run_page):
    printed = run_page("strategies.md", 5)
    lines = [line.split(" at ")[0] for line in printed.splitlines()]
    broken = next(line for line in lines if line.startswith("- nice"))
    assert "the scanner is broken" in broken
    assert lines[:3] == ["quorum:", broken, "- round 1 has lille, lyon, paris"]
    assert lines[3] == "over-selection:"
    turns = lines.index("taking turns:")
    assert len(lines[turns - 1].removeprefix("- round 1 has ").split(", ")) == 2
    assert lines[turns + 1 :] == [
        "- round 1 has lille, lyon",
        broken,
        "- round 2 has paris",
        "- round 3 has lille, lyon",
        "still waiting: True",
    ]
