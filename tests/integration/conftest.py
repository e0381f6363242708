"""Node processes for integration tests: made in this process, started as their owner would, stopped in the end."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedplug.node import NodeStore
from fedplug.node.datasets.registry import inspect_file
from fedplug.node.policy.file import save_policy
from fedplug.node.policy.template import policy_text


class NodeProcess:
    """One ``fedplug node start``, with one data set of arrays called ``data``."""

    def __init__(self, place: Path, arrays: Mapping[str, Any], tags: Sequence[str], url: str) -> None:
        self.place, self.name, self.url = place, place.name, url
        file = place.parent / f"{place.name}.npz"
        np.savez(file, **arrays)
        with NodeStore.create(place, name=place.name, node_id=place.name) as store:
            save_policy(place, policy_text(approval="off"))
            store.add_dataset(inspect_file(file, name="data", tags=tags)[0])
        self.start()

    def start(self) -> None:
        """Start it, again if need be; its log goes on."""
        with (self.place / "node.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fedplug", "node", "-C", str(self.place), "start", "--researcher", self.url],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def log(self) -> str:
        """What it has written so far."""
        return (self.place / "node.log").read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the supervisor."""
        self.process.send_signal(number)

    def end(self) -> None:
        """Ask it to end, whatever state it is in."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)

    def wait(self) -> int:
        """Wait for its end; the exit code, negative if a signal ended it."""
        return self.process.wait(60)


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[Any]:
    """Return ``start(name, url, arrays, tags=("#data",))``: a running `NodeProcess`. All are stopped in the end."""
    running: list[NodeProcess] = []

    def start(name: str, url: str, arrays: Mapping[str, Any], tags: Sequence[str] = ("#data",)) -> NodeProcess:
        node = NodeProcess(tmp_path / name, arrays, tags, url)
        running.append(node)
        return node

    yield start
    for node in running:
        node.end()
    for node in running:
        node.wait()
