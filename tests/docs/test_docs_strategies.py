"""The program of docs/strategies.md runs and does what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "strategies.md"


def test_the_pages_program_runs_and_rounds_do_without_the_broken_node(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 5
    script = tmp_path / "page.py"
    script.write_text("\n\n".join(blocks), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split(" at ")[0] for line in done.stdout.splitlines()]
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
