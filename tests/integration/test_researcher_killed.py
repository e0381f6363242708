"""``kill -9`` of the researcher at each stage of a round, then ``load_breakpoint``: the bits of an undisturbed run.

The nodes are processes of their own and live on. Each keeps a parameter and an optimizer's state between rounds.
"""

from __future__ import annotations

import importlib.util
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedplug import Experiment
from fedplug.node import NodeStore
from fedplug.node.datasets.registry import inspect_file
from fedplug.node.policy.file import save_policy
from fedplug.node.policy.template import policy_text

SCRIPT = Path(__file__).with_name("killed_researcher.py")
_spec = importlib.util.spec_from_file_location("killed_researcher", SCRIPT)
killed = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = killed  # where the source of the plan is looked up
_spec.loader.exec_module(killed)

NODES = ["lyon", "nice", "paris"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("researcher")
        patch.setenv("FEDPLUG_DIR", str(folder))
        yield folder / "var" / "experiments"


@pytest.fixture(scope="module")
def url(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Three node processes that knock at an address where researchers come and go."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"zmq://127.0.0.1:{free.getsockname()[1]}"
    folder = tmp_path_factory.mktemp("nodes")
    running = []
    for index, node in enumerate(NODES):
        rng = np.random.default_rng(index)
        x = rng.normal(index, 1, size=(24, 3))
        np.savez(folder / f"{node}.npz", x=x, y=x @ np.array([1.0, -2.0, 0.5]) + index)
        with NodeStore.create(folder / node, name=node, node_id=node) as store:
            save_policy(folder / node, policy_text(approval="off"))
            store.add_dataset(inspect_file(folder / f"{node}.npz", name="data", tags=["#kill"])[0])
        with (folder / f"{node}.log").open("ab") as log:
            command = [sys.executable, "-m", "fedplug", "node", "-C", str(folder / node), "start", "--researcher", url]
            running.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
    yield url
    for process in running:
        process.send_signal(signal.SIGTERM)
    for process in running:
        process.wait(60)


def facts(exp: Experiment) -> dict[int, Any]:
    """Return what was trained in each round: the parts that nodes keep show in the losses, to the last bit."""
    return {
        number: {node: (reply["state"], reply["metrics"]["loss"]) for node, reply in replies.items()}
        for number, replies in exp.training_replies().items()
    }


@pytest.fixture(scope="module")
def undisturbed(url: str) -> tuple[str, dict[int, Any]]:
    with killed.experiment(url, NODES) as exp:
        assert exp.run() == killed.ROUNDS
        return exp.params().fingerprint(), facts(exp)


# A node knocks every two seconds, so that each case takes some; four of them stand for all where time is short.
OFTEN = ("nodes at work", "aggregated, nothing committed", "committed, no breakpoint", "breakpoint half written")


@pytest.mark.parametrize(
    "point", [pytest.param(point, marks=[] if point in OFTEN else [pytest.mark.slow]) for point in killed.POINTS]
)
def test_a_researcher_that_is_killed_goes_on_to_the_same_bits(
    url: str, home: Path, undisturbed: tuple[str, dict[int, Any]], point: str
) -> None:
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), url, point, *NODES], capture_output=True, text=True, timeout=120, check=False
    )
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, ""), ended.stderr
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing differs at the nodes
        exp = Experiment.load_breakpoint(progress="quiet")
    with exp:
        done = killed.KILLED_IN + (point == "breakpoint saved")
        assert exp.round_current() == done
        assert exp.run() == killed.ROUNDS - done
        assert (exp.params().fingerprint(), facts(exp)) == undisturbed
        assert {state for _, nodes in facts(exp).items() for state, _ in nodes.values()} == {"none", "kept"}
        names = sorted(path.name for path in exp.experimentation_path().iterdir())
    assert [name for name in names if "breakpoint" in name] == [f"breakpoint_{n:04d}" for n in range(1, 5)]
