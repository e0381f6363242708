"""What stands around the benchmarks of peers: environments, processes, tables. No network, and no peer installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from benchmarks.clocks import FamilyClock, Stopwatch, process_seconds
from benchmarks.peers import __main__ as command
from benchmarks.peers import environments as env
from benchmarks.peers.families import end_family
from benchmarks.peers.rows import MARK, Row, read_rows, row_of_times
from benchmarks.peers.table import BEGIN, END, TITLES, into_page, markdown

HERE = Path(sys.executable)


def peer_of(folder, monkeypatch, code):
    """A peer whose module for S1 is ``code``."""
    (folder / "stand_in_peer.py").write_text(code)
    monkeypatch.setattr(command, "ROOT", folder)
    return env.Peer("Peer", "peer", (), {"S1": "stand_in_peer"}, {"PEER_SETTING": "as set"})


def recorder(statuses):
    """Stands in for a shell: notes commands, and answers each with the next status and some output."""
    ran = []
    answers = iter(statuses)

    def run(line):
        ran.append(line)
        return next(answers)

    return ran, run


GOOD = (0, "")
BAD = (1, "Collecting it\nERROR: No matching distribution found for it\n\nhint: something else\n")
PEER = env.Peer("Peer", "peer", (env.Way(("peer[all]", "torch")),), {"S1": "nothing"})


# -------------------------------------------------------------------------------------------------------- environments


def test_the_plan_of_an_environment():
    way = env.Way(("peer[all]", "torch"), regardless=("older==1",))
    commands = env.plan(way, "/bin/some-python", Path("/peer"), Path("/constraints.txt"))
    venv, packages, regardless = commands
    assert venv == ["/bin/some-python", "-m", "venv", "--clear", "/peer"]
    pip = ["/peer/bin/python", "-m", "pip", "install"]
    for line in (packages, regardless):
        assert line[:4] == pip
        assert line[line.index("--constraint") + 1] == "/constraints.txt"
    assert packages[-2:] == ["peer[all]", "torch"]
    assert regardless[-1] == "older==1"
    assert {"--no-deps", "--ignore-requires-python"} <= set(regardless)
    assert not {"--no-deps", "--ignore-requires-python"} & set(packages)


def test_peers_compute_with_the_torch_of_ci_and_choose_the_rest_themselves():
    text = (env.ROOT / "constraints" / "ci.txt").read_text()
    (line,) = env.pins(text)
    assert line.startswith("torch==")
    assert line in text.splitlines()


@pytest.mark.parametrize(
    ("there", "expected"),
    [((), None), (("python3.13",), "/bin/python3.13"), (("python3.13", "python3.14"), "/bin/python3.14")],
    ids=["none", "one", "the best"],
)
def test_the_best_interpreter_that_is_there_is_taken(there, expected):
    way = env.Way(("peer",), ("python3.14", "python3.13"))
    assert env.interpreter(way, lambda name: f"/bin/{name}" if name in there else None) == expected


def test_an_environment_is_made_once_and_again_when_the_plan_changes(tmp_path):
    ran, run = recorder([GOOD] * 4)
    (tmp_path / "peer").mkdir()  # as venv would
    python, remark = env.make(PEER, tmp_path, run=run)
    assert python == tmp_path / "peer" / "bin" / "python"
    assert (remark, len(ran)) == ("", 2)
    env.make(PEER, tmp_path, run=run)
    assert len(ran) == 2
    changed = replace(PEER, ways=(env.Way(("peer==2", "torch")),))
    env.make(changed, tmp_path, run=run)
    assert len(ran) == 4


def test_the_next_way_is_tried_and_its_remark_is_told(tmp_path):
    (tmp_path / "peer").mkdir()
    ways = (env.Way(("peer",), ("python9.9",)), env.Way(("peer>=2",)), env.Way(("peer",), remark="an old one"))
    ran, run = recorder([GOOD, BAD, GOOD, GOOD])
    _, remark = env.make(replace(PEER, ways=ways), tmp_path, find=lambda _: None, run=run)
    assert remark == "an old one"
    assert len(ran) == 4


def test_what_pip_says_is_why_a_peer_is_missing(tmp_path):
    ways = (env.Way(("peer",), ("python9.9", "python9.8")), env.Way(("peer",)))
    _, run = recorder([GOOD, BAD])
    with pytest.raises(env.MissingPeerError) as missing:
        env.make(replace(PEER, ways=ways), tmp_path, find=lambda _: None, run=run)
    assert str(missing.value) == "there is no python9.9 or python9.8; No matching distribution found for it"


def test_an_environment_that_failed_is_not_taken_for_made(tmp_path):
    (tmp_path / "peer").mkdir()
    ran, run = recorder([GOOD, BAD, GOOD, GOOD])
    with pytest.raises(env.MissingPeerError):
        env.make(PEER, tmp_path, run=run)
    env.make(PEER, tmp_path, run=run)
    assert len(ran) == 4


def test_modules_of_all_peers_are_there():
    for peer in (command.FEDPLUG, *env.PEERS):
        assert set(peer.modules) <= set(TITLES)
        for module in peer.modules.values():
            assert (env.ROOT / f"{module.replace('.', '/')}.py").is_file()


# ----------------------------------------------------------------------------------------------------------- processes


def test_rows_come_from_a_process_among_other_output(tmp_path, monkeypatch):
    row = Row("S1", "Peer", "1.0", "in some way", cpu=1.5, wall=2.0, cpu_ms=30.0, wall_ms=40.0, details={"a": [1]})
    code = f"""
import os, sys
print("chatter")
print({row.line()!r})
print(sys.argv[1:], os.environ["PEER_SETTING"], os.environ["OMP_NUM_THREADS"], file=sys.stderr)
assert sys.argv[1:] == ["S1", "--quick"]
assert (os.environ["PEER_SETTING"], os.environ["OMP_NUM_THREADS"]) == ("as set", "1")
"""
    assert command.run(peer_of(tmp_path, monkeypatch, code), "S1", HERE, quick=True) == [row]


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("raise ValueError('the models differ')", "ended with 1: ValueError: the models differ"),
        ("print('all is well')", "came without a figure: all is well"),
        ("", "came without a figure: it wrote nothing"),
    ],
    ids=["fails", "says nothing of use", "says nothing"],
)
def test_a_peer_that_fails_is_in_the_table_with_the_reason(tmp_path, monkeypatch, code, problem):
    rows = command.run(peer_of(tmp_path, monkeypatch, code), "S1", HERE, quick=False)
    assert [(row.workload, row.framework, row.problem) for row in rows] == [("S1", "Peer", problem)]
    assert f"| Peer | no figures: {problem} |" in markdown(rows)


def test_a_peer_that_hangs_is_ended_with_what_it_started(tmp_path, monkeypatch):
    pid = tmp_path / "pid"
    code = f"""
import subprocess, sys, time
from pathlib import Path
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("began", flush=True)
Path({str(pid)!r}).with_suffix(".part").write_text(str(child.pid))
Path({str(pid)!r}).with_suffix(".part").rename({str(pid)!r})
time.sleep(600)
"""
    peer = peer_of(tmp_path, monkeypatch, code)
    wait = subprocess.Popen.wait

    def patience_ends_when_the_child_runs(process, timeout=None):
        if timeout != 1234.0:
            return wait(process, timeout)
        until = time.monotonic() + 60
        while not pid.exists() and time.monotonic() < until:
            time.sleep(0.01)
        raise subprocess.TimeoutExpired("peer", timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", patience_ends_when_the_child_runs)
    (row,) = command.run(peer, "S1", HERE, quick=False, patience=1234.0)
    assert row.problem == "did not end within 1234 s: began"
    number = int(pid.read_text())
    # where nobody takes note of orphans they stay as zombies
    assert not psutil.pid_exists(number) or psutil.Process(number).status() == psutil.STATUS_ZOMBIE


def test_ending_a_process_that_has_ended_is_no_error():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    end_family(process)


def test_a_missing_peer_keeps_its_lines_and_the_others_are_measured(tmp_path, monkeypatch, capsys):
    row = Row("S1", "FedPlug", "0", "serial", cpu=1.0, wall=1.0, cpu_ms=1.0, wall_ms=1.0)
    missing = replace(PEER, name="Gone", modules={"S1": "nothing", "R1": "nothing"})

    def make(peer):
        raise env.MissingPeerError("there is no such thing")

    monkeypatch.setattr(command, "make", make)
    monkeypatch.setattr(command, "run", lambda peer, workload, python, quick: [replace(row, workload=workload)])
    path = tmp_path / "rows.jsonl"
    rows = command.measure((command.FEDPLUG, missing), ["S1", "R1", "R2"], quick=True, path=path)
    assert [(each.workload, each.framework) for each in rows] == [
        ("S1", "FedPlug"), ("S1", "Gone"), ("R1", "FedPlug"), ("R1", "Gone"), ("R2", "FedPlug"),
    ]  # fmt: skip
    assert [each.problem for each in rows if each.framework == "Gone"] == ["not installed: there is no such thing"] * 2
    assert [Row(**json.loads(line)["row"]) for line in path.read_text().splitlines()] == rows
    assert "S1 on Gone" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------ rows and tables


def test_ratios_are_medians_over_pairs():
    row = row_of_times(
        "S1",
        "Peer",
        "1",
        "how",
        rounds=[(2.0, 4.0), (3.0, 3.0), (8.0, 2.0)],
        plain=[(1.0, 1.0), (1.0, 1.0), (2.0, 4.0)],
    )
    assert (row.cpu, row.wall, row.cpu_ms, row.wall_ms) == (3.0, 3.0, 3000.0, 3000.0)
    assert row.details["ratios"] == [[2.0, 3.0, 4.0], [4.0, 3.0, 0.5]]
    assert row.details["plain_ms"] == [1000.0, 1000.0]


def test_rounds_without_a_plain_loop_have_no_ratio():
    row = row_of_times("R1", "Peer", "1", "how", rounds=[(0.001, 0.1)])
    assert (row.cpu, row.wall, row.cpu_ms, row.wall_ms) == (None, None, 1.0, 100.0)


def test_the_table():
    rows = [
        Row("S1", "FedPlug", "0.1", "serial", cpu=0.756, wall=0.761, cpu_ms=40.0, wall_ms=None),
        Row("S1", "Other", problem="not installed:\nno | wheel"),
        Row("R2", "Other", "2", "deployed", cpu_ms=1234.5, wall_ms=6789.0),
    ]
    assert markdown(rows) == "\n".join(
        [
            f"**{TITLES['S1']}**",
            "",
            "| framework | how | CPU / plain loop | time / plain loop | CPU, ms a round | time, ms a round |",
            "| --- | --- | ---: | ---: | ---: | ---: |",
            "| FedPlug 0.1 | serial | 0.76 | 0.76 | 40.0 |  |",
            "| Other | no figures: not installed: no / wheel |  |  |  |  |",
            "",
            f"**{TITLES['R2']}**",
            "",
            "| framework | how | CPU / plain loop | time / plain loop | CPU, ms a round | time, ms a round |",
            "| --- | --- | ---: | ---: | ---: | ---: |",
            "| Other 2 | deployed |  |  | 1,234 | 6,789 |",
        ]
    )


def test_a_later_run_of_a_framework_takes_the_place_of_an_earlier_one(tmp_path):
    def keep(name, *rows):
        path = tmp_path / name
        path.write_text("".join(command.as_json(row) + "\n" for row in rows))
        return path

    old = keep("a", Row("R1", "FedPlug", cpu_ms=9.0), Row("S1", "pfl", how="old"), Row("S1", "FedPlug", how="first"))
    new = keep("b", Row("S1", "FedPlug", how="lean"), Row("S1", "FedPlug", how="own loop"))
    assert [(row.workload, row.framework, row.how) for row in command.read([old, new])] == [
        ("S1", "FedPlug", "lean"), ("S1", "FedPlug", "own loop"), ("S1", "pfl", "old"), ("R1", "FedPlug", ""),
    ]  # fmt: skip


def test_figures_take_the_place_of_older_ones_in_a_page(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{BEGIN}\n\nold figures\n\n{END}\n\nafter\n")
    rows = tmp_path / "rows.jsonl"
    row = Row("R1", "FedPlug", "0.1", "inproc", cpu_ms=9.0, wall_ms=8.0)
    rows.write_text(command.as_json(row) + "\n")
    monkeypatch.setattr(sys, "argv", ["peers", "--read", str(rows), "--write", str(page)])
    command.main()
    table = markdown([row])
    assert capsys.readouterr().out == f"{table}\n"
    assert page.read_text() == f"before\n\n{BEGIN}\n\n{table}\n\n{END}\n\nafter\n"


@pytest.mark.parametrize(
    "page", ["", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{BEGIN}{END}", f"{BEGIN}{END}{END}"],
    ids=["no marks", "no end", "wrong order", "two beginnings", "two ends"],
)  # fmt: skip
def test_a_page_without_its_marks_is_left_alone(page):
    with pytest.raises(ValueError, match="each once"):
        into_page(page, "figures")


def test_the_page_of_the_documentation_has_its_marks():
    page = (env.ROOT / "docs" / "peers.md").read_text(encoding="utf-8")
    assert "no figures here" in into_page(page, "no figures here")


def test_lines_of_others_are_no_rows():
    row = Row("S1", "Peer")
    assert list(read_rows(["", "INFO bench-peers", f" {row.line()}", row.line(), MARK.strip()])) == [row]


def test_an_unknown_workload_is_named(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["peers", "S9"])
    with pytest.raises(SystemExit):
        command.main()
    assert "there is no workload 'S9'" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------------------- clocks

_BURN = """
import sys, time
while time.process_time() < 0.2:
    pass
print(flush=True)
sys.stdin.read()
"""


def test_the_clock_counts_descendants_that_live_and_that_have_ended():
    clock = FamilyClock()
    before = clock.read()
    process = subprocess.Popen([sys.executable, "-c", _BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    living = clock.read()
    assert living - before >= 0.2
    assert 0.2 <= process_seconds(process.pid) <= living - before
    process.communicate()
    assert clock.read() >= living


def test_the_clock_of_another_process_counts_its_children():
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_BURN!r}], stdin=subprocess.DEVNULL)"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{script}; print(flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    watch = Stopwatch(process.pid)
    watch.start()
    process.stdout.readline()
    process.stdout.readline()
    cpu, wall = watch.stop()
    process.communicate()
    assert cpu >= 0.15  # /proc counts what has ended in hundredths
    assert wall > 0


def test_a_process_that_is_gone_is_an_error_of_the_system():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with pytest.raises(OSError):  # noqa: PT011 # which one is up to the system
        process_seconds(process.pid)
    assert process_seconds(os.getpid()) > 0
