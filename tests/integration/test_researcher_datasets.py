"""``fedplug researcher datasets`` with real node processes: what it lists, and what it never shows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from fedplug.node import NodeStore
from fedplug.node.datasets.registry import inspect_file

SECRET = "xyzzy"


@pytest.fixture
def nodes(tmp_path: Path) -> dict[str, Path]:
    """The folders of two nodes: one with two data sets, one with none."""
    place = tmp_path / f"folder-{SECRET}"
    place.mkdir()
    tables = []
    for name, header in (("wards", "age,ill,name"), ("staff", "age,pay,name")):
        tables.append(place / f"{name}-{SECRET}.csv")
        tables[-1].write_text(f"{header}\n30,1,{SECRET}\n41,0,{SECRET}\n")
    with NodeStore.create(tmp_path / "lyon", name="lyon", node_id="node-1") as store:
        store.add_dataset(inspect_file(tables[0], name="wards", tags=["breast", "2024"], target="ill")[0])
        store.add_dataset(inspect_file(tables[1], name="staff", tags=["hr"], description="Who works here.")[0])
    NodeStore.create(tmp_path / "nice", name="nice", node_id="node-2").close()
    return {name: tmp_path / name for name in ("lyon", "nice")}


@pytest.fixture
def listed(nodes: dict[str, Path], fedplug_dir: Path) -> Callable[..., tuple[int, str]]:
    """Runs the command, and the two nodes once it is there; returns its exit code and what it printed."""
    quiet = subprocess.DEVNULL
    fedplug = [sys.executable, "-m", "fedplug"]

    def run(*options: str) -> tuple[int, str]:
        command = [*fedplug, "researcher", "datasets", "--listen", "zmq://127.0.0.1:0", "--timeout", "120", *options]
        with (
            ExitStack() as stack,
            subprocess.Popen(
                command, stdin=quiet, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            ) as listing,
        ):
            stack.callback(listing.kill)
            assert listing.stderr is not None
            waiting = listing.stderr.readline()
            address = re.search(r"zmq://127\.0\.0\.1:\d+", waiting)
            assert address, waiting
            for folder in nodes.values():
                node = [*fedplug, "node", "--folder", str(folder), "start", "--researcher", address[0]]
                process = subprocess.Popen(node, stdin=quiet, stdout=quiet, stderr=quiet)
                stack.callback(process.wait, 60)
                stack.callback(process.terminate)
            out, _ = listing.communicate(timeout=180)
            return listing.returncode, out

    return run


def test_all_data_sets_as_a_table(listed) -> None:
    code, out = listed("--min-nodes", "2")
    assert code == 0
    assert [re.split("  +", line) for line in out.splitlines()] == [
        ["NODE", "DATA SET", "TYPE", "TAGS", "SHAPE", "TARGET", "COLUMNS", "DESCRIPTION"],
        ["lyon", "staff", "csv", "hr", "2 x 3", "-", "age, pay, name", "Who works here."],
        ["lyon", "wards", "csv", "breast, 2024", "2 x 3", "ill", "age, ill, name", "-"],
        ["nice", "none", "-", "-", "-", "-", "-", "-"],
    ]


def test_some_of_them_as_json(listed) -> None:
    code, out = listed("--node", "lyon", "--node", "node-2", "--tags", "breast", "--json")
    assert code == 0
    lyon, nice = json.loads(out)
    assert (lyon["node_id"], lyon["name"]) == ("node-1", "lyon")
    assert (nice["node_id"], nice["name"], nice["datasets"]) == ("node-2", "nice", [])
    (card,) = lyon["datasets"]
    assert card.pop("dataset_id").startswith("ds-")
    assert card == {
        "name": "wards", "type": "csv", "tags": ["breast", "2024"], "shape": [2, 3], "description": "",
        "columns": ["age", "ill", "name"], "dtypes": ["int64", "int64", "str"], "target": "ill",
    }  # fmt: skip
    assert SECRET not in out


def test_without_data_it_says_how_to_add_some(listed) -> None:
    code, out = listed("--node", "nice")
    assert code == 0
    assert "None of these nodes has a data set." in out
    assert "fedplug node dataset add" in out


def test_what_cannot_be_done_is_told_with_the_exit_code_of_its_kind(cli, fedplug_dir) -> None:
    alone = cli("researcher", "datasets", "--listen", "zmq://127.0.0.1:0", "--timeout", "0")
    assert alone.returncode == 1
    assert "No node connected to zmq://127.0.0.1:" in alone.stderr
    assert "fedplug node start --researcher" in alone.stderr
    by_environment = cli("researcher", "datasets", env={"FEDPLUG_TRANSPORT": "nonsense"})
    assert by_environment.returncode == 1
    assert "'nonsense' is not an address" in by_environment.stderr
    wrong = cli("researcher", "datasets", "--min-nodes", "0")
    assert wrong.returncode == 2
    assert "--min-nodes" in wrong.stderr
    assert "--min-nodes" in cli("researcher", "datasets", "--help").stdout
