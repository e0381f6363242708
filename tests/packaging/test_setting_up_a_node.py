"""docs/setting-up-a-node.md, typed as it stands: from pip install to a finished training with approval on."""

from __future__ import annotations

import os
import re
from importlib import util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "setting-up-a-node.md").read_text(encoding="utf-8")

# The slow one installs scikit-learn and what belongs to it, which takes a while on a slow line.
pytestmark = pytest.mark.timeout(1200)


SENT = {
    r"fedplug researcher allow (\S+) ([0-9a-f]{64})": ("ID-OF-THE-NODE", "KEY-OF-THE-NODE"),
    r"fedplug node trust ([0-9a-f]{64})": ("KEY-OF-THE-RESEARCHER",),
}
"""What one side prints and the other side types, and the words that stand for it on the page."""


def _terminals() -> Any:
    spec = util.spec_from_file_location("terminals", Path(__file__).with_name("terminals.py"))
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow  # `fedplug demo`, docs/running-a-node.md and the first round over wheels are in `make test`
@pytest.mark.parametrize("packages", ["linked", "from the index"])
def test_every_command_of_the_page_does_what_the_page_says(packages, wheelhouse, lend_for, tmp_path):
    terminals = _terminals()
    dropped = ("PYTHON", "FEDPLUG_", "VIRTUAL_ENV", "COV_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    # Our wheels are on no index yet; the page says how to build them.
    env |= {"PIP_FIND_LINKS": str(wheelhouse), "PIP_CONSTRAINT": str(ROOT / "constraints" / "ci.txt"), "PIP_QUIET": "1"}
    env["PIP_COMPILE"] = "0"  # what is used is compiled when it is first imported
    env |= {"PIP_ROOT_USER_ACTION": "ignore", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "COLUMNS": "200"}
    env["FEDPLUG_DIR"] = str(tmp_path / "fedplug")  # and not the developer's own
    folders = {}
    for name in ("hospital", "researcher"):
        folders[name] = tmp_path / name
        folders[name].mkdir()
        for file, text in terminals.files_of(PAGE).items():
            (folders[name] / file).write_text(text, encoding="utf-8")
    shells = {name: terminals.Terminal(folder, env) for name, folder in folders.items()}
    told = []
    sent: dict[str, str] = {}
    try:
        for command in terminals.commands_of(PAGE):
            for word, value in sent.items():
                shown = tuple(line.replace(word, value) for line in command.shown)
                command = command._replace(text=command.text.replace(word, value), shown=shown)
            if command.shell == "researcher" and "researcher" not in told:
                # The researcher has an installation too; this test lets both have the same.
                assert shells["researcher"].type(f". {folders['hospital']}/venv/bin/activate")[0] == 0
            told.append(command.shell)
            code, printed = shells[command.shell].type(command.text)
            where = f"{command.shell}$ {command.text}\n{printed}"
            assert code == 0, where + _logs(folders)
            if packages == "linked" and " -m venv " in command.text:
                lend_for("sklearn", folders["hospital"] / "venv")  # pip finds them there, and installs only ours
            line = terminals.missing(command.shown, printed)
            assert not line, f"{where}\nThe page shows: {line}"
            for pattern, names in SENT.items():
                if found := re.search(pattern, printed):
                    sent |= dict(zip(names, found.groups(), strict=True))
    finally:
        for shell in shells.values():
            shell.close()
    assert told.count("hospital") > 15
    assert len(sent) == 3
    assert (folders["researcher"] / "tumours.npz").stat().st_size


def _logs(folders: dict[str, Path]) -> str:
    log = folders["researcher"] / "experiment.log"
    return log.read_text(errors="replace")[-3000:] if log.exists() else ""
