"""The program on the README page runs as it stands, and finds what the page says."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import numpy as np

PAGE = Path(__file__).parents[1] / "README.md"


def test_the_blocks_of_the_page_are_a_program(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    file = tmp_path / "scaffold_readme_program.py"
    file.write_text("\n".join(blocks), encoding="utf-8")  # a plan's text is read from its file
    module = types.ModuleType(file.stem)
    module.__file__ = str(file)
    monkeypatch.setitem(sys.modules, file.stem, module)
    exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), module.__dict__)
    told = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    assert list(told) == ["FedAverage", "FedProx", "FedNova", "Scaffold", "FedAvgM", "FedYogi"]
    found = {name: np.array([float(each) for each in slope.strip("[]").split(",")]) for name, slope in told.items()}
    for name, best in optima(module.data).items():
        mean = found["FedAverage"]
        assert np.abs(found[name] - best).max() < np.abs(mean - best).max() / 2


def optima(data):
    """The slopes that FedNova and Scaffold should come to: each patient counts, or each hospital."""
    shares = {"FedNova": dict.fromkeys(data, 1.0), "Scaffold": {node: 1 / len(x) for node, (x, _) in data.items()}}
    found = {}
    for name, weights in shares.items():
        squares = sum(weights[node] * x.T @ x for node, (x, _) in data.items())
        found[name] = np.linalg.solve(squares, sum(weights[node] * x.T @ y for node, (x, y) in data.items()))
    return found
