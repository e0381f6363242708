"""fedplug doctor: each thing that can be wrong is found, with its cure, and nothing is changed by looking."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import sqlite3
from pathlib import Path

import msgspec
import pytest

from fedplug.cli import main
from fedplug.core.keys import fingerprint
from fedplug.core.messages import TaskKey
from fedplug.core.plugin_checks import PluginRecord
from fedplug.node.audit.log import AuditLog
from fedplug.node.datasets.registry import inspect_file
from fedplug.node.journal.tasks import JOURNAL_FILE, DiskTaskJournal
from fedplug.node.keys import NodeKeys, trust
from fedplug.node.lock import FolderLock
from fedplug.node.policy.file import save_policy
from fedplug.node.policy.template import policy_text
from fedplug.node.service import doctor as module
from fedplug.node.service import machine
from fedplug.node.service.doctor import node_findings
from fedplug.node.service.findings import guarded, ok
from fedplug.node.service.machine import fits, machine_findings
from fedplug.node.status import STATUS_FILE, NodeStatus
from fedplug.node.store import STORE_FILE, NodeStore


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"zmq://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def node(tmp_path, listener):
    """The folder of a node in which all is well."""
    table = tmp_path / "patients.csv"
    table.write_text("age,dose\n1,2\n3,4\n")
    with NodeStore.create(tmp_path / "n", name="n", researcher=listener) as store:
        save_policy(tmp_path / "n", policy_text(roots=[tmp_path]))
        store.add_dataset(inspect_file(table, name="patients", tags=["t"], target="dose")[0])
        AuditLog(store).note("node-started")
    return tmp_path / "n"


def wrong(folder):
    return [each for each in node_findings(folder) if each.state != "ok"]


def the_one(folder, area, state="problem"):
    (found,) = wrong(folder)
    assert (found.area, found.state) == (area, state)
    assert found.cure
    return found


def test_where_all_is_well_it_says_so(node):
    assert wrong(node) == []
    areas = {each.area for each in node_findings(node)}
    assert areas >= {"folder", "disk", "process", "rules", "approval", "store", "audit log", "clock", "data sets"}


def test_looking_changes_nothing(node):
    before = {path.name: path.stat().st_mtime_ns for path in node.iterdir() if "-" not in path.name}
    list(node_findings(node))
    assert {path.name: path.stat().st_mtime_ns for path in node.iterdir() if "-" not in path.name} == before


def test_a_folder_that_others_may_look_into(node):
    node.chmod(0o755)
    assert "chmod 700" in the_one(node, "folder").cure
    node.chmod(0o700)
    (node / "node.toml").chmod(0o644)
    assert "chmod 600" in the_one(node, "folder", "warning").cure


def test_a_store_that_is_damaged(node):
    (node / STORE_FILE).write_bytes(b"nonsense" * 1000)
    assert "Restore it from a backup" in the_one(node, "store").cure


def test_a_store_of_an_older_version_is_told_and_left_alone(old_store, tmp_path):
    folder = old_store(tmp_path / "old", "CREATE TABLE states")
    folder.chmod(0o700)
    (folder / STORE_FILE).chmod(0o600)
    found = [each for each in wrong(folder) if each.area == "store"]
    assert [each.state for each in found] == ["warning"]
    assert "version 1" in found[0].text
    with contextlib.closing(sqlite3.connect(folder / STORE_FILE)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)


def test_an_audit_log_that_was_changed(node):
    with contextlib.closing(sqlite3.connect(node / STORE_FILE, isolation_level=None)) as db:
        db.execute("DROP TRIGGER audit_does_not_change")
        db.execute("UPDATE audit SET actor = 'x'")
    assert "Entry 1 was changed" in the_one(node, "audit log").text


def test_a_journal_that_was_changed(node):
    with NodeStore.open(node) as store:
        journal = DiskTaskJournal(store)
        journal.begin("zmq://r", TaskKey(experiment_id="e", round=0, node_id="n"))
        journal.close()
    (found,) = [each for each in node_findings(node) if each.area == "journal"]
    assert (found.state, found.text) == ("ok", "1 records, all as they were written")
    lock = FolderLock(node)
    (found,) = [each for each in node_findings(node) if each.area == "journal"]
    assert (found.state, found.text) == ("ok", "It was whole when the node was started.")
    lock.release()
    with contextlib.closing(sqlite3.connect(node / JOURNAL_FILE, isolation_level=None)) as db:
        db.execute("UPDATE records SET time = 'x'")
    assert "record 1 was changed" in the_one(node, "journal").text


def test_a_clock_that_was_set_back(node, monkeypatch):
    class Early(module.datetime):
        @classmethod
        def now(cls, zone=None):
            return cls(2001, 1, 1, tzinfo=zone)

    monkeypatch.setattr(module, "datetime", Early)
    assert "2001-01-01" in the_one(node, "clock").text


def test_rules_that_cannot_be_used_with_their_line(node):
    (node / "node.toml").write_text('[approval]\nmode = "maybe"\n')
    assert "line 2" in the_one(node, "rules").text


def test_rules_that_are_missing_or_that_let_every_plan_run(node):
    save_policy(node, policy_text(approval="off", roots=[node.parent]))
    assert ("approval", "warning") in [(each.area, each.state) for each in wrong(node)]
    (node / "node.toml").unlink()
    the_one(node, "rules", "warning")


def test_a_data_set_that_is_gone_or_was_changed(node):
    table = node.parent / "patients.csv"
    table.write_text("age,dose\n5,6\n")
    assert "patients" in the_one(node, "data sets").text
    table.unlink()
    assert "patients" in the_one(node, "data sets").text


def test_keys_that_do_not_fit_together_are_found(node, listener):
    keys = NodeKeys(node)
    with NodeStore.open(node) as store:
        trust(store, "aa" * 32)
    assert wrong(node) == []
    told = [each.text for each in node_findings(node) if each.area == "keys"]
    assert fingerprint(keys.own.pair().public) in told[0]
    assert f"The researcher at {listener} must have the key {fingerprint('aa' * 32)}" in told[1]
    (keys.own.path / "own.key").chmod(0o640)
    assert "chmod 600" in the_one(node, "keys").cure
    (keys.own.path / "own.key").unlink()
    assert "keys" in the_one(node, "keys").cure
    keys.researchers.remove("aa" * 32)
    keys.researchers.add("zmq://lab.example:7400", "bb" * 32)
    found = [each for each in wrong(node) if each.area == "keys"]
    assert [each.state for each in found] == ["problem", "problem"]
    assert f"trust KEY --researcher {listener}" in found[1].cure


def test_a_researcher_elsewhere_whose_key_is_not_trusted(node):
    with NodeStore.open(node) as store:
        with store.transaction() as db:
            db.execute("UPDATE node SET researcher = 'zmq://192.0.2.1:1'")
        found = [each for each in module._keys(store, node) if each.state != "ok"]
    assert [each.state for each in found] == ["warning"]
    assert "fedplug node trust KEY" in found[0].cure


def test_a_node_without_data(node):
    with NodeStore.open(node) as store:
        store.remove_dataset("patients")
    assert "dataset add" in the_one(node, "data sets", "warning").cure


def test_a_researcher_that_nobody_can_reach(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"zmq://127.0.0.1:{server.getsockname()[1]}"
    assert [each.state for each in module._researchers([url])] == ["warning"]
    assert [each.state for each in module._researchers(["pigeon://here"])] == ["problem"]


def test_a_disk_that_is_nearly_full_and_one_that_is(node, monkeypatch):
    for free, state in ((5 * 2**28, "ok"), (2**29, "warning"), (2**20, "problem")):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: shutil._ntuple_diskusage(2**40, 0, free))
        (found,) = machine.disk_findings(node, "the node")
        assert found.state == state


def test_a_node_that_runs_and_one_that_has_crashed(node):
    (node / STATUS_FILE).write_bytes(msgspec.json.encode(NodeStatus(running=True, pid=4711)))
    assert "logs" in the_one(node, "process", "warning").cure
    lock = FolderLock(node)
    assert wrong(node) == []
    assert any("is running" in each.text for each in node_findings(node))
    lock.release()


def test_plugins_that_cannot_be_used(monkeypatch):
    class Host:
        records = (
            PluginRecord("good", "d", "1.0"),
            PluginRecord("bad", "d", "2.0", state="failed", error="no module 'x'", cure="pip install x"),
            PluginRecord("shut", "d", "3.0", state="blocked", error="not listed", cure="list it"),
        )

    monkeypatch.setattr(machine, "default_host", Host)
    found = [(each.state, each.cure) for each in machine._plugins()]
    assert found == [("ok", ""), ("problem", "pip install x"), ("warning", "list it")]


def test_packages_that_are_missing_or_too_old(monkeypatch):
    monkeypatch.setattr(machine, "requires", lambda _: ["numpy>=999", "nowhere-to-be-found>=1", 'x>=1; extra == "y"'])
    found = [(each.state, each.cure) for each in machine._packages("fedplug")]
    assert found == [
        ("problem", "pip install 'numpy>=999'"),
        ("problem", "pip install 'nowhere-to-be-found>=1'"),
    ]


@pytest.mark.parametrize(
    ("version", "bounds", "good"),
    [("1.26.4", ">=1.26", True), ("2.0", ">=1.26,<2", False), ("1.9", ">=1.26", False), ("2", "<2.0", False),
     ("2.1.dev3+local", ">=2.1", True), ("1", "", True)],
)  # fmt: skip
def test_versions_are_compared_as_numbers(version, bounds, good):
    assert fits(version, bounds) is good


def test_a_check_that_fails_itself_does_not_hide_the_others():
    def broken():
        yield ok("a", "before")
        raise RuntimeError("oh")

    assert [each.state for each in guarded("a", broken())] == ["ok", "problem"]


def test_this_machine_has_no_problem():
    assert [each for each in machine_findings() if each.state == "problem" and each.area != "disk"] == []


def test_the_command_prints_all_with_cures_and_ends_with_1_if_there_is_a_problem(node, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "machine_findings", lambda: [ok("python", "here")])
    assert main(["doctor", "--folder", str(node)]) == 0
    assert "0 problem(s), 0 warning(s)." in capsys.readouterr().out
    (tmp_path / "patients.csv").unlink()
    assert main(["doctor", "--folder", str(node)]) == 1
    out = capsys.readouterr().out
    assert "PROBLEM  data sets" in out
    assert "1 problem(s)" in out
    assert main(["doctor", "--folder", str(node), "--json"]) == 1
    assert {each["state"] for each in json.loads(capsys.readouterr().out)} == {"ok", "problem"}
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    assert main(["doctor"]) == 0
    assert "only this machine was looked at" in capsys.readouterr().out
    assert main(["doctor", "--folder", "nowhere"]) == 1
    assert "fedplug node init" in capsys.readouterr().out
    assert list(Path().iterdir()) == []
