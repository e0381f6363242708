"""``fedplug demo`` as a stranger runs it: what it shows, and that nothing of it is left, however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

HOSPITALS = ("hospital-a", "hospital-b", "hospital-c")
PATIENCE = 120.0  # seconds after which something that should happen counts as not happening


def node_processes(folder: Path) -> list[psutil.Process]:
    """The nodes that serve the folders of this demo, and the workers below them."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if any(part.startswith(str(folder)) for part in line) and "start" in line:
            found.append(process)
    return found


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen")


def check_result(text: str, data: str, folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(text)
    assert result["data"] == data
    assert set(result["nodes"]) == set(HOSPITALS)
    assert len({*result["nodes"].values(), os.getpid()}) == 4, "three processes, none of them this one"
    assert result["mean_alone"] == pytest.approx(sum(result["alone"].values()) / 3)
    assert result["federated"] >= 0.93
    assert result["federated"] > result["mean_alone"]
    for hospital in HOSPITALS:
        log = (folder / hospital / "node.log").read_text()
        trained = [f"Round {number + 1} trained in" in log for number in range(result["rounds"])]
        assert all(trained), f"{hospital} did not train every round:\n{log}"
        assert "Node stopped." in log
    assert not node_processes(folder)
    experiment = Path(result["experiment"])
    assert (experiment / "model.safetensors").is_file()
    runs = {path.name for path in (experiment / "runs").iterdir()}
    assert runs == {*HOSPITALS, "aggregated"}
    return result


def test_three_processes_train_a_model_that_beats_the_hospitals(
    cli: Callable[..., Any], tmp_path: Path, fedplug_dir: Path
) -> None:
    done = cli("demo", "--json", "--folder", tmp_path / "nodes", timeout=400)
    assert done.returncode == 0, done.stderr
    check_result(done.stdout, "breast-cancer", tmp_path / "nodes")
    assert done.stderr == "", "--json means the result only"


def test_a_folder_that_holds_nodes_already_is_refused(
    cli: Callable[..., Any], tmp_path: Path, fedplug_dir: Path
) -> None:
    place = tmp_path / "nodes"
    assert cli("node", "--folder", place / HOSPITALS[1], "init", "--name", "mine").returncode == 0
    done = cli("demo", "--json", "--folder", place, env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 2
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert not {"torch", "sklearn"} & loaded, "what is refused is refused before anything heavy is loaded"
    assert "is a node already" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not node_processes(place)


@pytest.mark.slow
def test_digits(cli: Callable[..., Any], tmp_path: Path, fedplug_dir: Path) -> None:
    done = cli("demo", "--data", "digits", "--json", "--folder", tmp_path / "nodes", timeout=500)
    assert done.returncode == 0, done.stderr
    check_result(done.stdout, "digits", tmp_path / "nodes")


@pytest.fixture
def started(tmp_path: Path, fedplug_dir: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a demo that would take for ever; ``ignored`` signals are ignored from its beginning, as shells do."""
    running: list[subprocess.Popen[str]] = []

    def start(ignored: tuple[int, ...] = ()) -> subprocess.Popen[str]:
        # A runner that was itself started in the background would hand an ignored SIGINT down.
        code = (
            "import os, signal, sys\n"
            "for number in (1, 2, 15):\n"
            f"    signal.signal(number, signal.SIG_IGN if number in {[*map(int, ignored)]} else signal.SIG_DFL)\n"
            "os.execv(sys.executable, [sys.executable, '-m', 'fedplug', *sys.argv[1:]])\n"
        )
        arguments = ["demo", "--rounds", "100000", "--folder", str(tmp_path / "nodes")]
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    for node in node_processes(tmp_path / "nodes"):
        node.kill()


def training(folder: Path) -> bool:
    logs = [folder / hospital / "node.log" for hospital in HOSPITALS]
    return all(log.is_file() and "Round 3 trained" in log.read_text() for log in logs)


@pytest.mark.parametrize(
    ("sent", "ignored"),
    [
        pytest.param([signal.SIGINT], (), id="ctrl-c", marks=pytest.mark.slow),
        pytest.param([signal.SIGINT, signal.SIGINT], (), id="ctrl-c twice", marks=pytest.mark.slow),
        pytest.param([signal.SIGTERM], (), id="kill", marks=pytest.mark.slow),
        # a shell lets the jobs that it runs in the background ignore SIGINT
        pytest.param([signal.SIGTERM], (signal.SIGINT,), id="kill in the background", marks=pytest.mark.slow),
        pytest.param([signal.SIGHUP], (), id="terminal closed", marks=pytest.mark.slow),
    ],
)
def test_in_the_middle_of_a_training_everything_is_stopped(
    sent: list[signal.Signals], ignored: tuple[int, ...], started: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "nodes"
    demo = started(ignored)
    wait_for(lambda: training(folder) or demo.poll() is not None, "training")
    nodes = node_processes(folder)
    workers = [child for node in nodes for child in node.children(recursive=True)]
    assert len(nodes) == 3
    assert len(workers) >= 3
    for number in sent:
        demo.send_signal(number)
        time.sleep(0.05)  # not to wait for something: two signals at once would count as one
    output, _ = demo.communicate(timeout=PATIENCE)
    assert demo.returncode == 130
    assert "Traceback" not in output
    message = [line for line in output.splitlines() if "nterrupt" in line or "stopped" in line]
    assert 1 <= len(message) <= 3, output[-1500:]
    assert str(folder) in "\n".join(message)
    _, alive = psutil.wait_procs([*nodes, *workers], timeout=PATIENCE)
    assert alive == []


@pytest.mark.slow
def test_while_the_nodes_start_everything_is_stopped(started: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "nodes"
    demo = started()
    wait_for(lambda: node_processes(folder) or demo.poll() is not None, "the start of a node")
    demo.send_signal(signal.SIGINT)
    output, _ = demo.communicate(timeout=PATIENCE)
    assert demo.returncode == 130, output
    assert "Traceback" not in output
    wait_for(lambda: not node_processes(folder), "the end of all nodes")
