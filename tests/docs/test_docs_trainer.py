"""The program of docs/trainer.md runs and does what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "trainer.md"


def test_the_pages_program_runs_and_does_what_it_says(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    script = tmp_path / "page.py"
    script.write_text("\n\n".join(blocks), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    told = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    assert float(told["accuracy"]) > 0.85
    assert told["stopped"] == "it is good enough"
    assert "tested on 50" in done.stdout
    assert re.search(r"^train +on_batch_backward +1 +step +fedplug$", done.stdout, re.MULTILINE)
    assert told["parameters"] == "['0/bias', '0/weight', '1/bias', '1/weight']"
