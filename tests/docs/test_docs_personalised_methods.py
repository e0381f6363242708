"""The program of docs/personalised-methods.md runs and does what the page says."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "personalised-methods.md"
PACKAGE = ROOT / "examples" / "fedplug-personal" / "src"


def test_the_pages_program_runs_and_personal_models_are_better(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 5
    script = tmp_path / "page.py"
    script.write_text("\n\n".join(blocks), encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(PACKAGE), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    told = {name: ast.literal_eval(rest) for name, rest in (line.split(": ", 1) for line in done.stdout.splitlines())}
    for method in ("ditto", "fine-tuning"):
        found = told[method]
        assert found["test_global_accuracy"] > found["test_global_accuracy_of_global"] + 0.1, method
    one_model = told["one model for all"]["test_global_accuracy_of_global"]
    assert told["mixture"]["test_global_accuracy"] > one_model + 0.1
    assert told["ditto sends"] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert told["mixture sends"] == [f"{i}/{name}" for i in range(2) for name in told["ditto sends"]]
