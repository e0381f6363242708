"""R2 on Flower's deployment: a SuperLink and four SuperNodes on this machine, without encryption.

Flower starts a process for the server's app and one for each message to a client. How often it looks for messages can
be set by the environment in one place: both its own setting and a short one are measured.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.peers.families import end_family
from benchmarks.peers.rows import Row, arguments, read_rows

NODES = 4
POLL = "FLWR_SUPEREXEC_TASK_POLL_INTERVAL"
ROUNDS, OUTPUT, FAMILY, HOW = (f"FEDPLUG_BENCH_{name}" for name in ("ROUNDS", "OUTPUT", "FAMILY", "HOW"))
DEADLINE = 300.0

_PROJECT = """
[project]
name = "still"
version = "1.0.0"
description = "No-op rounds"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "bench"

[tool.flwr.app.components]
serverapp = "still.server:app"
clientapp = "still.client:app"
"""
_SERVER = """
import os
from pathlib import Path
from flwr.serverapp import ServerApp
from benchmarks.peers.flower_still import StillRounds

app = ServerApp()


@app.main()
def main(grid, context):
    rounds = StillRounds({nodes}, int(os.environ["{rounds}"]), int(os.environ["{family}"]))
    rounds.run(grid)
    output = Path(os.environ["{output}"])
    output.with_suffix(".part").write_text(rounds.row("R2", os.environ["{how}"]).line())
    output.with_suffix(".part").rename(output)
"""
_CLIENT = """
from benchmarks.peers import flower_still

app = flower_still.app
"""
_CONFIG = """
[superlink]
default = "here"

[superlink.here]
address = "127.0.0.1:{port}"
insecure = true
"""


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody has at the moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def lay_out(folder: Path, port: int) -> Path:
    """Write Flower's settings and an app, and return the app's folder."""
    (folder / "home").mkdir(parents=True)
    (folder / "home" / "config.toml").write_text(_CONFIG.format(port=port))
    app = folder / "app"
    (app / "still").mkdir(parents=True)
    (app / "pyproject.toml").write_text(_PROJECT)
    (app / "still" / "__init__.py").touch()
    names = {"nodes": NODES, "rounds": ROUNDS, "family": FAMILY, "output": OUTPUT, "how": HOW}
    (app / "still" / "server.py").write_text(_SERVER.format(**names))
    (app / "still" / "client.py").write_text(_CLIENT)
    return app


@contextmanager
def running(command: list[str], environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended, with its descendants, when it is no longer needed."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        end_family(process)


def measure(quick: bool, poll: str | None) -> Row:
    """All rounds of one deployment; ``poll`` is the seconds between two looks for messages, None for Flower's own."""
    bin_folder = Path(sys.executable).parent
    with tempfile.TemporaryDirectory(prefix="fedplug-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        link, *ports = free_ports(1 + NODES)
        app = lay_out(folder, link)
        output = folder / "row"
        how = "deployment, " + ("as it comes" if poll is None else f"looks for messages every {poll} s")
        environment = {
            **os.environ, "FLWR_HOME": str(folder / "home"), OUTPUT: str(output), FAMILY: str(os.getpid()),
            ROUNDS: str(2 if quick else 8), HOW: how, **({} if poll is None else {POLL: poll}),
            "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip

        def start(log: str, *command: str) -> subprocess.Popen[bytes]:
            program, *rest = command
            return stack.enter_context(running([str(bin_folder / program), *rest], environment, folder / f"{log}.log"))

        here = ("--host", "127.0.0.1", "--port")
        processes = {
            "link": start(
                "link", "flower-superlink", "--insecure", "--disable-runtime-dependency-installation", *here, str(link)
            )
        }
        _reachable(link, processes, folder)
        for number, port in enumerate(ports):
            processes[f"node{number}"] = start(
                f"node{number}", "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{link}", *here, str(port),
                "--node-config", f"partition-id={number} num-partitions={NODES}",
            )  # fmt: skip
        submit = [str(bin_folder / "flwr"), "run", str(app), "here"]
        done = subprocess.run(submit, env=environment, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode:
            raise RuntimeError(f"flwr run ended with {done.returncode}: {done.stdout}{done.stderr}")
        until = time.monotonic() + DEADLINE
        while not output.exists():
            _alive(processes, folder)
            if time.monotonic() > until:
                raise RuntimeError(f"Nothing came within {DEADLINE:g} s: {_last(folder / 'link.log')}")
            time.sleep(0.5)
        return next(read_rows(output.read_text().splitlines()))


def _reachable(port: int, processes: Mapping[str, subprocess.Popen[bytes]], folder: Path) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        _alive(processes, folder)
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"The SuperLink does not listen: {_last(folder / 'link.log')}")


def _alive(processes: Mapping[str, subprocess.Popen[bytes]], folder: Path) -> None:
    for name, process in processes.items():
        if process.poll() is not None:
            raise RuntimeError(f"{name} ended with {process.returncode}: {_last(folder / f'{name}.log')}")


def _last(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


def main() -> None:
    """Run R2 and print its rows."""
    _, quick = arguments(__doc__)
    for poll in (None, "0.05"):
        print(measure(quick, poll).line(), flush=True)


if __name__ == "__main__":
    main()
