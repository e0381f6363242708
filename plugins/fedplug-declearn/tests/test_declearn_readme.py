"""The program on the README page runs as it stands."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "README.md"


def test_the_blocks_of_the_page_are_a_program(tmp_path, monkeypatch, capsys, fedplug_dir):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    file = tmp_path / "declearn_readme_program.py"
    file.write_text("\n".join(blocks), encoding="utf-8")  # a plan's text is read from its file
    module = types.ModuleType(file.stem)
    module.__file__ = str(file)
    monkeypatch.setitem(sys.modules, file.stem, module)
    exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), module.__dict__)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines[:3]] == ["Adam at the nodes", "FedYogi", "Scaffold"]
    assert lines[3] == "[0.1, 0.085, 0.05, 0.015, 0.0]"


@pytest.mark.parametrize("heading", ["modules", "regularizers"])
def test_the_page_names_all_parts(heading):
    from declearn.optimizer import list_optim_modules, list_optim_regularizers

    known = list_optim_modules() if heading == "modules" else list_optim_regularizers()
    ours = {name for name, kind in known.items() if kind.__module__.startswith("declearn.")}
    (line,) = re.findall(rf"^\| {heading} \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"`([^`]+)`", line)) == ours - {"gaussian-noise", "torch-optim"}
