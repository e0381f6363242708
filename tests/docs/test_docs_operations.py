"""docs/operations.md knows every line that a node, a researcher or a transport writes into a log."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedplug.cli import app

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text()
LEVELS = {"info": 0, "warning": 0, "error": 0, "critical": 0, "exception": 0, "log": 1}
PLACES = ("fedplug/core", "fedplug/node", "fedplug/protocol", "fedplug/researcher", "fedplug/transports")


def logged() -> Iterator[tuple[str, str]]:
    """Each text that is logged, with … for what differs, and where."""
    files = [path for place in PLACES for path in (ROOT / place).rglob("*.py")]
    for path in [*files, *(ROOT / "plugins" / "fedplug-zmq" / "src").rglob("*.py")]:
        for call in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in LEVELS):
                continue
            if not (isinstance(call.func.value, ast.Name) and call.func.value.id == "_log"):
                continue
            text = call.args[LEVELS[call.func.attr]]
            assert isinstance(text, ast.Constant), (
                f"{path}:{text.lineno}: a log line is one text with % for what differs"
            )
            yield re.sub(r"%[a-z]", "…", text.value), f"{path.relative_to(ROOT)}:{text.lineno}"


def lines() -> list[str]:
    """The lines that the page explains."""
    told = PAGE[PAGE.index("## What the log says") :]
    return re.findall(r"^\| `(.+?)` \|", told, re.MULTILINE)


def test_every_line_of_the_log_is_explained():
    missing = {text: where for text, where in logged() if text.strip(" :….") and text not in lines()}
    assert missing == {}


def test_nothing_is_explained_that_is_never_said():
    said = {text for text, _ in logged()}
    assert [line for line in lines() if line not in said] == []
    assert len(lines()) == len(set(lines())) > 40


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`(fedplug [a-z ]+[a-z])", PAGE))))
def test_every_command_is_one(command):
    assert CliRunner().invoke(app, [*command.split()[1:], "--help"]).exit_code == 0
