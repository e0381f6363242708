"""docs/approving-plans.md: its commands are typed, its experiment runs at a node, its tables are those of the code."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest

from fedplug.core.plan_source import PlanBundle
from fedplug.node import NodeStore
from fedplug.node.approval.approvals import MOST_PENDING, MOST_PENDING_BYTES, Approvals
from fedplug.node.approval.scan import LONG_LINE, LONG_LITERAL, scan
from fedplug.node.datasets.registry import inspect_file
from fedplug.node.policy.file import parse_policy
from fedplug.node.policy.schema import Policy
from fedplug.researcher.plan_status import _TEXTS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "approving-plans.md").read_text(encoding="utf-8")
LINES = ("from fedplug import DataManager, NumpyTrainingPlan", "import numpy as np")
OLD = """class Slope(NumpyTrainingPlan):
    def init_model(self, model_args):
        return {"slope": np.zeros(1)}

    def training_data(self):
        return DataManager(self.dataset.table(["dose"]), self.dataset.column("outcome"))

    def training_step(self, data, target):
        error = data @ self.model()["slope"] - target
        return float((error**2).mean()), {"slope": 2 * error @ data / len(data)}
"""
LOG = """        with open("/tmp/seen.csv", "a") as file:
            file.write(f"{data} {target}")
"""
NEW = OLD.replace("        error = data", f"{LOG}        error = data")


@pytest.fixture(scope="module")
def terminals():
    spec = util.spec_from_file_location("terminals", ROOT / "tests" / "packaging" / "terminals.py")
    module = util.module_from_spec(spec)
    sys.modules["terminals"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["terminals"]


@pytest.fixture
def place(tmp_path):
    (tmp_path / "patients.csv").write_text("dose,outcome\n" + "".join(f"{n},{2 * n}\n" for n in range(1, 21)))
    with NodeStore.create(tmp_path / "fedplug-node", name="hospital-a") as store:
        store.add_dataset(inspect_file(tmp_path / "patients.csv", tags=["dose"], target="outcome")[0])
    return tmp_path


def test_the_owners_commands_do_what_the_page_says(terminals, place):
    with NodeStore.open(place / "fedplug-node") as store:
        approvals = Approvals(store, Policy())
        url = "zmq://127.0.0.1:7400"
        approvals.receive(PlanBundle("Slope", OLD, LINES), url, "How much does the dose matter?", dataset="patients")
        approvals.approve("Slope")
        approvals.receive(PlanBundle("Slope", NEW, LINES), url, "The same, with a log.", dataset="patients")
    shell = terminals.Terminal(place, {**os.environ, "COLUMNS": "160", "FEDPLUG_NODE": "fedplug-node"})
    commands = list(terminals.commands_of(PAGE))
    try:
        for command in commands:
            words = command.text.replace("fedplug ", f"{sys.executable} -m fedplug ", 1)
            code, printed = shell.type(words)
            assert code == 0, printed
            line = terminals.missing(command.shown, printed)
            assert not line, f"{command.text}\n{printed}\nThe page shows: {line}"
    finally:
        shell.close()
    assert len(commands) == 6
    assert all(command.shown for command in commands)


def test_the_researchers_program_waits_for_the_owner_and_trains(terminals, place, cli):
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"zmq://127.0.0.1:{free.getsockname()[1]}"
    program = terminals.files_of(PAGE)["experiment.py"]
    (place / "experiment.py").write_text(program.replace("zmq://127.0.0.1:7400", url))
    owner = ("node", "--folder", place / "fedplug-node")
    node = subprocess.Popen(
        [sys.executable, "-m", "fedplug", *map(str, owner), "start", "--researcher", url],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    researcher = subprocess.Popen(
        [sys.executable, "experiment.py"], cwd=place, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        printed = ""
        for line in researcher.stdout:
            printed += line
            if "waits for its owner" in line and printed.count("waits for its owner") == 1:
                done = cli(*owner, "plan", "approve", "Slope", "--until", "2999-01-31", "--note", "As we agreed.")
                assert done.returncode == 0, done.stderr
        assert researcher.wait(60) == 0, printed
    finally:
        researcher.kill()
        node.send_signal(signal.SIGTERM)
        node.wait(60)
        researcher.stdout.close()
        researcher.wait(60)
    (shown,) = re.findall(r"^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    line = terminals.missing(tuple(shown.splitlines()), printed)
    assert not line, f"{printed}\nThe page shows: {line}"


def rows(head: str) -> list[list[str]]:
    """Return the rows of the table whose first row begins so, as their cells."""
    (table,) = re.findall(rf"^\| {head}.*\n\| ---.*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]


def test_every_example_of_the_table_is_pointed_out():
    reasons = {}
    for what, examples, _ in rows("what is pointed out"):
        for name in re.findall(r"`([\w.]+)`", examples):
            lines = (f"import {name.rpartition('.')[0]}",) if "." in name else ()
            found = [f for f in scan(PlanBundle("P", f"class P:\n    {name}()", lines)) if f.kind == "call"]
            assert [finding.name for finding in found] == [name]
            reasons.setdefault(what, set()).update(finding.remark for finding in found)
    assert len(reasons) == 9
    assert all(len(remarks) == 1 for remarks in reasons.values()), reasons


def test_the_statuses_are_those_that_there_are():
    named = {name for row in rows("status") for name in re.findall(r"`([a-z ]+)`", row[0])}
    assert named == set(_TEXTS)


def test_the_figures_and_rules_are_those_of_the_code():
    assert f"At most {MOST_PENDING} undecided plans, of {MOST_PENDING_BYTES // 2**20} MiB" in PAGE
    assert f"more than {LONG_LITERAL} characters and lines of more than {LONG_LINE}" in PAGE
    (text,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    policy, problems = parse_policy(text)
    assert problems == []
    assert (policy.approval.mode, policy.approval.default_plans) == ("on", True)
