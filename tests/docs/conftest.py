"""What tests of pages share: a page's Python blocks, put together, are one program that runs as it stands."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from page_kit import run_program

from fedplug.cli import main

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def run_page(tmp_path: Path) -> Callable[..., str]:
    """Return ``run(page, blocks, strict="", env=None)``: runs the page's program, returns what it printed.

    It fails if the page has another number of blocks, or the program does not end well. ``strict`` names a class of
    warnings that are errors. Blocks that name a file (```` ```python my_layers.py ````) are written beside it.
    """

    def run(page: str, blocks: int, strict: str = "", env: dict[str, str] | None = None) -> str:
        text = (DOCS / page).read_text(encoding="utf-8")
        found: Sequence[str] = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        assert len(found) == blocks
        for name, module in re.findall(r"^```python (\w+\.py)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            (tmp_path / name).write_text(module, encoding="utf-8")
        script = tmp_path / "page.py"
        script.write_text("\n\n".join(found), encoding="utf-8")
        code, printed, errors = run_program(script, cwd=tmp_path, strict=strict, env=env)
        assert code == 0, errors
        return printed

    return run


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Return ``typed(*words)``: the exit code of ``fedplug WORDS``, run in this process, and what it has printed."""

    def run(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        return main(list(words)), capsys.readouterr().out

    return run
