"""Nodes for tests: made in this process, run as processes of their own, as their owners would run them."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from fedplug.cli import main
from fedplug.node import Node as InProcess
from fedplug.node import NodeStore
from fedplug.node.datasets.registry import inspect_file
from fedplug.node.policy.file import save_policy
from fedplug.node.policy.template import policy_text
from fedplug.node.store import STORE_FILE

WAIT_S = 60.0


class Node:
    """A node in a folder of its own, and the owner who types at it.

    What an owner types runs in this process: the node is another one all the same, and starting Python for every
    command would cost more than most tests.

    Attributes:
        place: The node's folder. Its name is the node's name and id.
        url: The first researcher that the node was last started for.
        process: The node process, once it was started.
        killed: Whether the test has killed that process.
    """

    process: subprocess.Popen[bytes]
    url: str
    killed: bool = False

    def __init__(self, place: Path) -> None:
        self.place, self.name = place, place.name

    def type(self, *words: str | Path, code: int = 0) -> str:
        """Run ``fedplug node …`` as the owner; return what it prints. It fails on another exit code."""
        return "".join(self._run(words, code))

    def ask(self, *words: str) -> Any:
        """Return what a command says with ``--json``."""
        return json.loads(self._run((*words, "--json"))[0])

    def init(self, *options: str) -> Node:
        """Make the node by ``fedplug node init``; data may lie below the folder in which its own stands."""
        self.type("init", "--name", self.name, "--id", self.name, "--data-root", self.place.parent, *options)
        return self

    def prepare(self, **rules: Any) -> Node:
        """Make the node without the command, if it is not there; unless ``rules`` say else, it approves all plans."""
        if not (self.place / STORE_FILE).exists():
            NodeStore.create(self.place, name=self.name, node_id=self.name).close()
            save_policy(self.place, policy_text(**{"approval": "off", **rules}))
        return self

    def add(self, file: Path, **about: Any) -> Node:
        """Add a data set, without the command; the first makes the node as `prepare` does.

        Args:
            file: The file or folder.
            about: What `inspect_file` takes: ``name``, ``tags``, ``target``, ``type``, ….
        """
        self.prepare()
        with NodeStore.open(self.place) as store:
            store.add_dataset(inspect_file(file, **about)[0])
        return self

    def start(self, *urls: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Node:
        """Start its process for these researchers, or once more for those of last time."""
        self._urls = urls or self._urls
        self.url = self._urls[0]
        asked = [word for url in self._urls for word in ("--researcher", url)]
        command = [sys.executable, "-m", "fedplug", "node", "-C", str(self.place), "start", *asked]
        self.killed = False
        with (self.place / "output").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=cwd, env={**os.environ, **(env or {})}
            )
        return self

    def here(self, url: str) -> InProcess:
        """Return the node as one that runs in this process, while it is entered: for tests that need no more processes.

        It starts at once, and trains in a thread, where a worker process would have to load the plan's framework first.
        """
        return InProcess(self.place, url, worker="inline")

    def output(self) -> str:
        """Return what its processes have printed so far."""
        return (self.place / "output").read_text(errors="replace")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the supervisor."""
        self.killed |= number == signal.SIGKILL
        self.process.send_signal(number)

    def end(self) -> None:
        """Ask the process to end, whatever state it is in."""
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)

    def wait(self) -> int:
        """Wait for the end of its process; return the exit code, negative if a signal ended it."""
        return self.process.wait(WAIT_S)

    def _run(self, words: Sequence[str | Path], expected: int = 0) -> tuple[str, str]:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = main(["node", "-C", str(self.place), *map(str, words)])
        assert code == expected, out.getvalue() + err.getvalue()
        return out.getvalue(), err.getvalue()


@contextmanager
def nodes_below(folder: Path) -> Iterator[Callable[[str], Node]]:
    """Yield ``make(name)``: a `Node` in a folder of that name. In the end all are stopped, together, and end well."""
    made: list[Node] = []

    def make(name: str) -> Node:
        made.append(Node(folder / name))
        return made[-1]

    try:
        yield make
    finally:
        started = [node for node in made if hasattr(node, "process")]
        for node in started:
            node.end()
        for node in started:
            node.wait()
    for node in started:
        assert node.process.returncode == (-signal.SIGKILL if node.killed else 0), node.output()
