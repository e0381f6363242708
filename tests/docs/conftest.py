"""What tests of pages share: a page's Python blocks, put together, are one program that runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def run_page(tmp_path: Path) -> Callable[..., str]:
    """Return ``run(page, blocks, *options, env=None)``: runs the page's program, returns what it printed.

    It fails if the page has another number of blocks, or the program does not end well. ``options`` are Python's own,
    such as ``"-W", "error"``. Blocks that name a file (```` ```python my_layers.py ````) are written beside it.
    """

    def run(page: str, blocks: int, *options: str, env: dict[str, Any] | None = None) -> str:
        text = (DOCS / page).read_text(encoding="utf-8")
        found: Sequence[str] = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        assert len(found) == blocks
        for name, module in re.findall(r"^```python (\w+\.py)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            (tmp_path / name).write_text(module, encoding="utf-8")
        script = tmp_path / "page.py"
        script.write_text("\n\n".join(found), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, *options, str(script)],
            cwd=tmp_path, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
