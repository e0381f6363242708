from __future__ import annotations

import json
import os
import shlex
import signal
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from fedplug.cli import main
from fedplug.cli.node import app
from fedplug.node.lock import FolderLock
from fedplug.node.store import STORE_FILE, NodeStore


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """Runs ``fedplug node ...`` in this process, standing in an empty folder; returns (exit code, out, err)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEDPLUG_NODE", raising=False)

    def run(*words):
        code = main(["node", *words])
        caught = capsys.readouterr()
        return code, caught.out, caught.err

    return run


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "patients.csv"
    path.write_text("age,dose,sex\n30,1.5,m\n41,2,f\n")
    return path


def test_the_way_from_nothing_to_a_node_that_can_start(cli, table, tmp_path):
    code, out, _ = cli("init", "--name", "hospital-a", "--researcher", "zmq://127.0.0.1:7999")
    assert code == 0
    assert "hospital-a" in out
    assert "To add data: fedplug node dataset add FILE.csv" in out
    code, out, _ = cli("dataset", "add", "patients.csv", "--tags", "breast, demo", "--target", "dose")
    assert code == 0
    assert "2 x 3, tags breast, demo" in out
    assert "'sex' is text: row 2" in out
    assert "To start the node: fedplug node start" in out
    code, out, _ = cli("dataset", "list")
    assert "patients" in out
    assert str(table) in out
    code, out, _ = cli("status")
    assert code == 0
    assert "not running" in out
    assert "zmq://127.0.0.1:7999" in out
    assert (tmp_path / "fedplug-node" / STORE_FILE).exists()


def test_json_of_list_show_and_status_is_complete(cli, table):
    cli("init", "--name", "a", "--id", "node-a")
    cli("dataset", "add", "--path", str(table), "--type", "csv", "--name", "p", "--tags", "x,y", "--target", "dose",
        "--columns", "age", "--description", "text")  # fmt: skip
    (record,) = json.loads(cli("dataset", "list", "--json")[1])
    assert record["columns"] == ["age", "dose"]
    assert record["tags"] == ["x", "y"]
    shown = json.loads(cli("dataset", "show", "p", "--json")[1])
    assert shown["description"] == "text"
    assert shown["file"] == "unchanged"
    status = json.loads(cli("status", "--json")[1])
    assert (status["node_id"], status["running"], status["datasets"]) == ("node-a", False, ["p"])
    assert json.loads(cli("dataset", "list", "--tags", "x,z", "--json")[1]) == []


def test_arrays_are_added_and_a_data_set_is_removed(cli, tmp_path):
    np.savez(tmp_path / "scans.npz", x=np.zeros((4, 8, 8), np.float32), y=np.zeros(4, np.int64))
    cli("init")
    assert cli("dataset", "add", "scans.npz", "--tags", "mri")[0] == 0
    code, out, _ = cli("dataset", "show", "scans")
    assert code == 0
    assert "float32[8,8]" in out
    code, out, _ = cli("dataset", "remove", "scans")
    assert code == 0
    assert "Its file stays" in out
    assert (tmp_path / "scans.npz").exists()
    assert "no data set yet" in cli("dataset", "list")[1]


def test_a_changed_file_is_seen_when_the_data_set_is_shown(cli, table):
    cli("init")
    cli("dataset", "add", str(table), "--tags", "x")
    table.write_text("age,dose,sex\n")
    assert "changed since" in cli("dataset", "show", "patients")[1]
    table.unlink()
    assert "cannot be opened" in cli("dataset", "show", "patients")[1]


@pytest.mark.parametrize(
    ("words", "code", "cause", "cure"),
    [
        ("dataset add nothing.csv --tags x", 2, "There is no file", "Check the path"),
        ("dataset add patients.csv", 2, "needs at least one tag", "--tags"),
        ("dataset add patients.csv --tags x --columns age,weight", 1, "no column 'weight'", "age, dose, sex"),
        ("dataset add patients.csv --tags x --target weight", 1, "no column 'weight'", "age, dose, sex"),
        ("dataset add patients.csv --tags x --type cvs", 2, "named 'cvs'", "csv"),
        ("dataset add --tags x", 2, "Name one file", "fedplug node dataset add"),
        ("dataset add big.feather --tags x", 2, ".feather files (big.feather) are not supported yet", ".csv"),
        ("dataset add one.npy --tags x", 2, ".npy files (one.npy) are not supported yet", ".npz"),
        ("dataset add . --tags x --type csv", 1, "is a folder", "Name a file"),
        ("dataset add broken.csv --tags x", 1, "row 3 has 1 cells", "Correct the row"),
        ("dataset show nothing", 2, "no data set named 'nothing'", "Known: none"),
        ("dataset remove nothing", 2, "no data set named 'nothing'", "Known: none"),
        ("init", 2, "a node already", "fedplug node start"),
        ("init other --id UPPER", 2, "cannot be the id", "a-z"),
        ("start --researcher nonsense", 1, "not an address", "zmq://"),
        ("start --researcher carrier-pigeon://here", 1, "carrier-pigeon", ""),
        ("start --researcher zmq://8.8.8.8:7400", 1, "8.8.8.8", "--insecure-plaintext"),
        ("init other --researcher 127.0.0.1:7431", 1, "not an address", "zmq://"),
        ("init other --researcher carrier-pigeon://here", 1, "carrier-pigeon", "Known"),
        ("init other --researcher zmq://127.0.0.1", 1, "no zmq address", "zmq://host:port"),
        ("init other --researcher zmq://127.0.0.1:0", 1, "port 0", "the researcher's port"),
        ("start --log-level loud", 2, "named 'loud'", "info"),
        ("--folder elsewhere status", 2, "not a node", "fedplug node init"),
        ("--folder elsewhere start", 2, "not a node", "fedplug node init"),
    ],
)
def test_what_cannot_be_done_is_one_message_with_cause_and_cure(cli, table, tmp_path, words, code, cause, cure):
    for file in ("broken.csv", "big.feather", "one.npy"):
        (tmp_path / file).write_text("a,b\n1,2\n3\n")
    cli("init")
    got, out, err = cli(*shlex.split(words))
    assert got == code, out + err
    assert err.startswith("Error: ")
    assert cause in err
    assert cure in err
    assert "Traceback" not in out + err


def test_a_damaged_store_is_one_message(cli, tmp_path):
    cli("init")
    (tmp_path / "fedplug-node" / STORE_FILE).write_bytes(b"nonsense" * 1000)
    code, _, err = cli("status")
    assert code == 1
    assert "not a store of FedPlug" in err


def test_a_store_of_another_program_is_one_message(cli, tmp_path):
    (tmp_path / "fedplug-node").mkdir()
    db = sqlite3.connect(tmp_path / "fedplug-node" / STORE_FILE)
    db.execute("CREATE TABLE t (x)")
    db.close()
    code, _, err = cli("dataset", "list")
    assert code == 1
    assert "not made by FedPlug" in err


def test_a_second_start_in_a_folder_names_the_process_of_the_first(cli, tmp_path):
    cli("init")
    lock = FolderLock(tmp_path / "fedplug-node")
    code, _, err = cli("start")
    lock.release()
    assert code == 1
    assert f"process {os.getpid()}" in err


def test_the_folder_comes_from_the_option_or_the_environment(cli, tmp_path, monkeypatch):
    assert cli("-C", "one", "init", "--name", "one")[0] == 0
    monkeypatch.setenv("FEDPLUG_NODE", str(tmp_path / "two"))
    code, out, _ = cli("init", "--name", "two")
    assert code == 0
    assert "To add data: fedplug node dataset add" in out  # it is where the command looks anyway
    assert "two (" in cli("status")[1]
    assert "one (" in cli("-C", "one", "status")[1]
    assert "--folder one dataset add" in cli("-C", "one", "dataset", "list")[1]


def test_hints_repeat_the_folder(cli, table, tmp_path):
    cli("--folder", "n/b", "init", "--name", "b")
    cli("--folder", "n/b", "dataset", "add", "patients.csv", "--tags", "x")
    err = cli("--folder", str(tmp_path / "n" / "b"), "init")[2]
    assert "go on with: fedplug node --folder n/b start\nWith --researcher URL it connects to another address." in err
    err = cli("--folder", "n/b", "dataset", "add", "patients.csv", "--tags", "x")[2]
    assert "remove it first: fedplug node --folder n/b dataset remove patients" in err
    lock = FolderLock(tmp_path / "n" / "b")
    err = cli("--folder", "n/b", "start")[2]
    lock.release()
    assert "look at it with: fedplug node --folder n/b status" in err


def test_an_unknown_command_lists_those_that_there_are(cli):
    code, _, err = cli("dataset", "rm", "x")
    assert code == 2
    assert "No such command 'rm'. Commands: add, list, show, edit, check, remove." in err
    assert "Did you mean 'status'? Commands: " in cli("stats")[2]


@pytest.mark.parametrize(
    "words",
    [[], ["init"], ["dataset"], ["dataset", "add"], ["dataset", "list"], ["dataset", "show"], ["start"], ["status"]],
)
def test_every_help_text_teaches_with_an_example(words):
    result = CliRunner().invoke(app, [*words, "--help"])
    assert result.exit_code == 0
    assert "fedplug node" in result.output or words == ["dataset"]
    if words and words != ["dataset"]:
        assert "Example" in result.output
        assert f"\n    fedplug node {' '.join(words)}" in result.output


def test_start_serves_until_sigterm_and_ends_with_0(tmp_path):
    """The real program, without a researcher: it says what it waits for, status sees it, and it leaves nothing."""
    NodeStore.create(tmp_path / "n", name="clinic").close()
    command = [sys.executable, "-m", "fedplug", "node", "--folder", str(tmp_path / "n")]
    node = subprocess.Popen([*command, "start", "--researcher", "zmq://127.0.0.1:1"], stderr=subprocess.PIPE, text=True)
    try:
        text = ""
        while "No researcher at" not in text:
            line = node.stderr.readline()
            assert line, text
            text += line
        assert "connects to zmq://127.0.0.1:1, and tries every 2 s" in text
        assert "no data set yet" in text
        done = subprocess.run([*command, "status", "--json"], capture_output=True, text=True, check=True, timeout=60)
        status = json.loads(done.stdout)
        assert (status["running"], status["pid"], status["links"][0]["connection"]) == (True, node.pid, "connecting")
        node.send_signal(signal.SIGTERM)
        _, rest = node.communicate(timeout=60)
    finally:
        node.kill()
        node.communicate()
    assert node.returncode == 0
    assert "Node stopped." in rest
    assert "Traceback" not in text + rest
    done = subprocess.run([*command, "status", "--json"], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout)["running"] is False
