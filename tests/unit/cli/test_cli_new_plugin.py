"""``fedplug plugins new`` writes a package, and refuses what would be no good."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

from fedplug.cli import main
from fedplug.cli.new_plugin import write_plugin
from fedplug.core.errors import UsageError


def test_a_package_is_written_and_the_next_steps_are_told(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plugins", "new", "aggregator", "my-mean"]) == 0
    printed = capsys.readouterr().out
    assert 'pip install -e ".[test]"' in printed
    assert "write your rule in src/fedplug_my_mean/aggregator.py" in printed
    root = tmp_path / "fedplug-my-mean"
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert files == {
        "pyproject.toml", "README.md", ".gitignore", ".github/workflows/test.yml", "tests/test_my_mean.py",
        "src/fedplug_my_mean/__init__.py", "src/fedplug_my_mean/aggregator.py", "src/fedplug_my_mean/py.typed",
    }  # fmt: skip
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == "fedplug-my-mean"
    assert project["entry-points"]["fedplug"] == {"my-mean": "fedplug_my_mean"}
    for path in root.rglob("*.py"):
        ast.parse(path.read_text(encoding="utf-8"))
    assert not [path for path in root.rglob("*") if path.is_file() and "$name" in path.read_text(encoding="utf-8")]


def test_it_may_go_elsewhere_but_not_over_anything(tmp_path: Path, capsys) -> None:
    place = tmp_path / "here"
    place.mkdir()
    assert main(["plugins", "new", "aggregator", "mine", "--folder", str(place)]) == 0
    assert main(["plugins", "new", "aggregator", "mine", "--folder", str(place)]) == 2
    assert "holds something already" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["Mine", "1st", "a_b", "a--b", "-a", "a/b", "", "class", "a b", "../x"])
def test_a_name_that_is_no_good_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a plugin"):
        write_plugin("aggregator", name, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_name_that_is_taken_and_a_kind_without_template_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="offers the aggregator 'fedaverage' already"):
        write_plugin("aggregator", "fedaverage", tmp_path / "x")
    with pytest.raises(UsageError, match="installed plugin 'torch' has that name"):
        write_plugin("aggregator", "torch", tmp_path / "x")
    with pytest.raises(UsageError, match="no template for a plugin of kind 'transport'"):
        write_plugin("transport", "mine", tmp_path / "x")
