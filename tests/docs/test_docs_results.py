"""The program of docs/results.md runs and prints what the page promises; its table of tags is that of a real run."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "results.md"


def test_the_pages_program_runs(run_page, tmp_path, fedplug_dir):
    text = PAGE.read_text(encoding="utf-8")
    printed = run_page("results.md", 6, "UserWarning", env={"FEDPLUG_PROGRESS": "quiet"})
    lines = printed.splitlines()
    assert lines[0].startswith("History(4 rounds, 3 nodes; last loss ")
    accuracies = [float(line.split(": ")[1]) for line in lines if line.startswith("global model after")]
    assert len(accuracies) >= 4  # one more if the final model is tested too
    assert accuracies[0] < 0.7
    assert accuracies[-1] > 0.9
    assert "round 3: 3 nodes, dropped: []" in lines
    assert lines[-2] == "optimizer steps: {'lyon': 120, 'nice': 120, 'paris': 120}"
    assert lines[-1] == "report: report.html"
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "accuracy.svg").read_text(encoding="utf-8").startswith("<?xml")
    (folder,) = (fedplug_dir / "var" / "experiments").iterdir()
    assert (folder / "report.html").is_file()
    rules = [
        re.escape(tag).replace("<metric>", "[a-z_]+").replace("<METRIC>", "[A-Z_]+").replace("<name>", "[a-z_]+")
        for row in re.findall(r"^\| (`[A-Z].*?) \|", text, re.MULTILINE)
        for tag in re.findall(r"`([^`]+)`", row)
    ]
    found = tags(folder / "runs")
    assert found
    assert [tag for tag in found if not any(re.fullmatch(rule, tag) for rule in rules)] == []
    unused = [rule for rule in rules if not any(re.fullmatch(rule, tag) for tag in found)]
    assert set(unused) == {"TRAFFIC/[a-z_]+", "PRIVACY/[a-z_]+", "TRAINING/[a-z_]+"}  # nothing of these here


def tags(runs: Path) -> set[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: set[str] = set()
    for run in runs.iterdir():
        events = EventAccumulator(str(run))
        events.Reload()
        found |= set(events.Tags()["scalars"])
    return found
