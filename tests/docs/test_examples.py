"""The programs in examples/ run as their first lines say, and the README shows one of them as it stands."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest
from page_kit import run_program
from sklearn.datasets import load_breast_cancer

from fedplug.testing import AGGREGATOR_CHECKS

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


def test_the_readme_shows_in_process_as_it_stands():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(
        r"^<!-- the next block is examples/in_process.py.*?```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL
    )
    code = (EXAMPLES / "in_process.py").read_text(encoding="utf-8")
    code = code.removeprefix(f'"""{ast.get_docstring(ast.parse(code))}"""\n\n')
    assert shown is not None
    assert shown[1] == code.removeprefix("from __future__ import annotations\n\n")


def test_the_plugin_in_the_readme_is_one(monkeypatch):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.search(r"^```python\n(.*?)^```", readme.split("## Write a plugin", 1)[1], re.MULTILINE | re.DOTALL)[1]
    module = types.ModuleType("fedplug_median")
    exec(compile(code, "README.md", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, "fedplug_median", module)
    (component,) = module.fedplug_register_aggregators()
    assert component.target == "fedplug_median:Median"
    for check in AGGREGATOR_CHECKS:
        if not check.needs or getattr(module.Median.tags, check.needs):
            check(module.Median())


def test_in_process_learns(tmp_path):
    code, printed, errors = run_program(EXAMPLES / "in_process.py", cwd=tmp_path)
    assert code == 0, errors
    (accuracy,) = re.findall(r"^accuracy on new points: ([\d.]+)$", printed, re.MULTILINE)
    assert float(accuracy) > 0.9


@pytest.fixture
def node(cli, tmp_path):
    """Set up and start a node as the example's first lines say; yields a function, and stops all nodes in the end."""
    running: list[subprocess.Popen[bytes]] = []

    def start(name: str, table: Path, url: str) -> None:
        at = ("node", "--folder", name)
        for args in (
            ("init", "--approval", "off", "--name", name),
            ("dataset", "add", table, "--tags", "#breast", "--target", "diagnosis"),
        ):
            done = cli(*at, *args, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
        with (tmp_path / f"{name}.log").open("wb") as log:
            command = [sys.executable, "-m", "fedplug", *at, "start", "--researcher", url]
            running.append(
                subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
            )

    yield start
    for process in running:
        process.terminate()
    assert [process.wait(30) for process in running] == [0] * len(running)


def write_table(path: Path, features, labels) -> Path:
    header = ",".join([*(f"x{i}" for i in range(features.shape[1])), "diagnosis"])
    np.savetxt(path, np.column_stack([features, labels]), delimiter=",", header=header, comments="", fmt="%.10g")
    return path


@pytest.mark.slow  # `fedplug demo` does the same with three
def test_real_nodes_trains_over_two_node_processes(node, tmp_path):
    features, labels = load_breast_cancer(return_X_y=True)
    tables = [write_table(tmp_path / f"{i}.csv", features[i::2], labels[i::2]) for i in range(2)]
    researcher = subprocess.Popen(
        [sys.executable, EXAMPLES / "real_nodes.py"],
        cwd=tmp_path,
        env={**os.environ, "FEDPLUG_TRANSPORT": "zmq://127.0.0.1:0"},  # the port is in what it says while it waits
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with researcher:
        watchdog = threading.Timer(300, researcher.kill)
        watchdog.start()
        try:
            waiting = re.search(r"Waiting at (zmq://\S+) for 2 nodes", researcher.stderr.readline())
            assert waiting is not None
            for name, table in zip(("hospital-a", "hospital-b"), tables, strict=True):
                node(name, table, waiting[1])
            told, log = researcher.communicate()
        finally:
            watchdog.cancel()
            watchdog.join()
            researcher.kill()
    assert researcher.returncode == 0, log
    assert "round 10/10: done" in log
    replies = re.findall(r"^(hospital-[ab])-\w+ (\d+) samples, (\{.*\})$", told, re.MULTILINE)
    assert sorted(name for name, _, _ in replies) == ["hospital-a", "hospital-b"]
    for _, samples, metrics in replies:
        assert int(samples) in {227, 228}  # four fifths; the rest is for testing
        assert ast.literal_eval(metrics)["test_global_accuracy"] > 0.85
    (model,) = re.findall(r"^model: (.+)$", told, re.MULTILINE)
    assert Path(model).is_file()
