"""docs/running-a-node.md, typed as it stands into a shell at a node that was just made."""

from __future__ import annotations

import os
import re
import socket
import sys
from importlib import util
from pathlib import Path

import pytest

from fedplug.node.migrations import MIGRATIONS
from fedplug.node.service import log_file
from fedplug.node.service.unit import STOP_SECONDS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "running-a-node.md").read_text(encoding="utf-8")


@pytest.fixture
def terminals():
    spec = util.spec_from_file_location("terminals", ROOT / "tests" / "packaging" / "terminals.py")
    module = util.module_from_spec(spec)
    sys.modules["terminals"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    yield module
    del sys.modules["terminals"]


def test_every_command_of_the_page_does_what_the_page_says(terminals, tmp_path, cli):
    (tmp_path / "patients.csv").write_text("age,dose\n30,1.5\n41,2\n")
    with socket.create_server(("127.0.0.1", 0)) as server:  # somebody may listen at the page's port
        port = str(server.getsockname()[1])
    for words in (
        f"init --name hospital-a --researcher zmq://127.0.0.1:{port}",
        "dataset add patients.csv --tags breast --target dose",
    ):
        assert cli("node", *words.split(), cwd=tmp_path).returncode == 0
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "200"}
    shell = terminals.Terminal(tmp_path, env)
    try:
        for command in terminals.commands_of(PAGE.replace("7400", port)):
            code, printed = shell.type(command.text)
            assert code == 0, f"$ {command.text}\n{printed}"
            line = terminals.missing(command.shown, printed)
            assert not line, f"$ {command.text}\n{printed}\nThe page shows: {line}"
    finally:
        shell.close()
    assert (tmp_path / "node-backup.sqlite").stat().st_size
    assert (tmp_path / "audit.jsonl").stat().st_size


def test_its_figures_are_those_of_the_code():
    assert f"to {len(MIGRATIONS)}. As it was before" in PAGE
    assert f"six files of {log_file._MOST_BYTES >> 20} MiB" in PAGE
    assert log_file._KEPT + 1 == 6
    assert f"drains for {STOP_SECONDS // 60} minutes" in PAGE


def test_the_options_that_it_names_are_there(typed):
    told = "".join(typed("node", name, "--help")[1] for name in ("stop", "logs", "start", "trust", "rotate"))
    told += typed("doctor", "--help")[1] + typed("node", "audit", "verify", "--help")[1]
    named = set(re.findall(r"(--[a-z]+)", PAGE)) - {"--upgrade", "--folder"}
    assert named - set(re.findall(r"(--[a-z]+)", told)) <= {"--json", "--event"}
