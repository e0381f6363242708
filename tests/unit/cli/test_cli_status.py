"""``fedplug status``: what experiments do, told from the file that they keep."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fedplug.core.context import RoundContext
from fedplug.core.keys import Refusal
from fedplug.core.messages import NodeInfo, Progress, TaskKey, TrainReply
from fedplug.protocol.counters import COUNTERS, in_words
from fedplug.researcher.status import STATUS_FILE, StatusMonitor, read_status

SOURCES = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDPLUG_DIR", str(tmp_path))
    made = tmp_path / "var" / "experiments" / "Experiment_0001"
    made.mkdir(parents=True)
    return made


def key(node):
    return TaskKey(experiment_id="e", round=2, node_id=node)


def monitor(folder, counters=None):
    made = StatusMonitor(lambda: counters or {"bytes_sent": 2_000_000}, lambda: "zmq://127.0.0.1:7400")
    nodes = {"a": NodeInfo(node_id="a", name="hospital-a"), "b": NodeInfo(node_id="b", name="hospital-b")}
    made.started(folder, nodes, 5)
    return made


def test_a_running_experiment_is_told_with_its_nodes_and_what_was_refused(folder, cli):
    told = monitor(folder, {"bytes_sent": 2_000_000, "frames_refused": 3, "messages_stale": 0, "a new one": 7})
    told.round_started(RoundContext("e", 2), ["a", "b"])
    told.progress("a", Progress(key=key("a"), step=3, total_steps=10))
    told.dropped("b", "silence for 6 s\x1b[2J")
    found = cli("status")
    assert found.returncode == 0, found.stderr
    out = found.stdout
    assert re.search(r"Experiment_0001 +running \(process \d+\) +2 +2 +zmq://127.0.0.1:7400", out)
    assert "2 rounds complete, round 3 under way" in out
    assert "hospital-a: working step 3 of 10" in out
    assert "hospital-b: out (silence for 6 s" in out
    assert "\x1b" not in out
    assert "2.0 MB sent" in out
    assert "3 messages that were damaged, too large or not in two parts: their connections were ended" in out
    assert "7 a new one" in out
    assert "messages of an earlier connection" not in out


def test_what_is_over_says_how_it_ended(folder, cli):
    told = monitor(folder)
    told.round_started(RoundContext("e", 2), ["a"])
    told.replied("a", TrainReply(key=key("a"), sample_count=1, steps=4))
    told.stopped(0, ValueError("no\nluck"))
    now = read_status(folder)
    assert (now.running, now.over, now.error) == (False, True, "ValueError: no luck")
    assert (now.nodes["a"].state, now.nodes["a"].step) == ("replied", 4)
    out = cli("status", "Experiment_0001").stdout
    assert "failed" in out
    assert "ended by ValueError: no luck" in out
    assert "nothing was refused, dropped or sent twice" in out
    found = json.loads(cli("status", "--json").stdout)
    assert found["Experiment_0001"]["error"] == "ValueError: no luck"
    assert found["Experiment_0001"]["running"] is False


def test_a_process_that_was_killed_is_seen(folder, cli):
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
        dead = child.pid
    monitor(folder)
    path = folder / STATUS_FILE
    path.write_text(path.read_text().replace(f'"pid":{os.getpid()}', f'"pid":{dead}'))
    assert "ended without a word" in cli("status").stdout


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[]", b" " * 2_000_000])
def test_a_damaged_file_is_no_status(folder, damage):
    (folder / STATUS_FILE).write_bytes(damage)
    assert read_status(folder) is None


def test_without_any_experiment_it_says_where_it_looked(folder, cli):
    assert f"No experiment of yours has run yet (looked in {folder.parent})" in cli("status").stdout
    found = cli("status", "Experiment_0001")
    assert found.returncode == 2
    assert "There is no experiment with a status at" in found.stderr


def test_a_disk_that_is_full_stops_nothing(folder):
    told = monitor(folder)
    (folder / STATUS_FILE).unlink()
    folder.rmdir()
    told.round_started(RoundContext("e", 0), ["a"])
    told.dropped("a", "gone")


def test_every_counter_has_words():
    names = set()
    for place in ("fedplug/protocol", "fedplug/transports", "plugins/fedplug-zmq/src"):
        for path in (SOURCES / place).rglob("*.py"):
            names |= set(re.findall(r'stats\["([a-z_]+)"\]', path.read_text()))
            names |= {f"refused_{code}" for code in re.findall(r'\bNo\(\s*"([a-z-]+)"', path.read_text())}
    names |= {f"turned_away_{refusal}" for refusal in Refusal}
    assert len(names) > 15
    assert names <= set(COUNTERS)
    assert in_words(dict.fromkeys(names, 1)) != []
