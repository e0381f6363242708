"""An environment for each peer: which interpreter, which packages, and what to say if they cannot be had."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".cache" / "peers"
PINNED = ("torch",)
"""What is held at the version of constraints/ci.txt, so that all frameworks compute with the same library."""

Command = list[str]
Find = Callable[[str], str | None]


class MissingPeerError(Exception):
    """A peer cannot be installed here; the text says why."""


@dataclass(frozen=True)
class Way:
    """One way to install a peer.

    Attributes:
        packages: Requirements for pip.
        pythons: Interpreters that will do, the best first; by default the one that runs this.
        regardless: Requirements that are installed without their dependencies and whatever Python they ask for.
        remark: What must be said beside the figures.
    """

    packages: tuple[str, ...]
    pythons: tuple[str, ...] = ("",)
    regardless: tuple[str, ...] = ()
    remark: str = ""


@dataclass(frozen=True)
class Peer:
    """Another framework.

    Attributes:
        name: As its authors write it.
        key: What it is called on the command line, and its environment's folder.
        ways: How to install it; the first that works is taken.
        modules: Workload → the module that runs it.
        settings: Environment variables for its processes.
    """

    name: str
    key: str
    ways: tuple[Way, ...]
    modules: Mapping[str, str]
    settings: Mapping[str, str] = field(default_factory=dict)


_OURS = ("torch", "numpy", "psutil")  # what our scripts need

PEERS = (
    Peer(
        "Flower", "flower", (Way(("flwr[simulation]", *_OURS)),),
        {
            "S1": "benchmarks.peers.on_flower", "S2": "benchmarks.peers.on_flower", "S3": "benchmarks.peers.on_flower",
            "R1": "benchmarks.peers.on_flower", "R2": "benchmarks.peers.on_flower_deployment",
        },
        {
            "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0",
        },
    ),
    Peer(
        "pfl", "pfl", (Way(("pfl", *_OURS)),),
        dict.fromkeys(("S1", "S2", "S3"), "benchmarks.peers.on_pfl"),
        {"PFL_PYTORCH_DEVICE": "cpu"},
    ),
    Peer(
        "blazefl", "blazefl",
        (
            Way(("blazefl[contrib,reproducibility]>=3", *_OURS), ("python3.14t", "python3.14")),
            Way(("blazefl[contrib,reproducibility]<3", *_OURS), ("python3.13", "python3.12")),
            Way(
                ("tqdm", *_OURS), regardless=("blazefl==2.0.2",),
                remark="2.0.2: version 3 needs Python 3.14; this one asks for 3.12 and runs on 3.11",
            ),
        ),
        dict.fromkeys(("S1", "S2", "S3"), "benchmarks.peers.on_blazefl"),
        {"TQDM_DISABLE": "1"},
    ),
)  # fmt: skip


def pins(constraints: str) -> list[str]:
    """The lines of a file of constraints that hold for peers, too."""
    return [line for line in constraints.split("\n") if line.split("==")[0] in PINNED]


def plan(way: Way, python: str, folder: Path, constraints: Path) -> list[Command]:
    """The commands that make an environment in ``folder``.

    Args:
        way: What to install.
        python: Path of the interpreter.
        folder: Where.
        constraints: A file for pip.
    """
    pip = [
        str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input",
        "--constraint", str(constraints),
    ]  # fmt: skip
    commands = [[python, "-m", "venv", "--clear", str(folder)], [*pip, *way.packages]]
    if way.regardless:
        commands.append([*pip, "--no-deps", "--ignore-requires-python", *way.regardless])
    return commands


def interpreter(way: Way, find: Find = shutil.which) -> str | None:
    """Path of the first interpreter that is there, or None."""
    return next((found for name in way.pythons if (found := find(name) if name else sys.executable)), None)


def make(
    peer: Peer,
    folder: Path = FOLDER,
    find: Find = shutil.which,
    run: Callable[[Command], tuple[int, str]] | None = None,
) -> tuple[Path, str]:
    """Make a peer's environment, or find it made.

    Args:
        peer: The peer.
        folder: Where environments are.
        find: Finds an interpreter by its name.
        run: Runs a command and returns its exit status and what it wrote.

    Returns:
        The environment's interpreter, and what must be said beside the figures.

    Raises:
        MissingPeerError: It cannot be installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(pins((ROOT / "constraints" / "ci.txt").read_text())) + "\n")
    home = folder / peer.key
    made = home / "made.json"
    problems: list[str] = []
    for way in peer.ways:
        python = interpreter(way, find)
        if python is None:
            problems.append(f"there is no {' or '.join(way.pythons)}")
            continue
        commands = plan(way, python, home, constraints)
        want = json.dumps([commands, constraints.read_text()])
        if not (made.is_file() and made.read_text() == want):
            problem = _first_problem(commands, run or _run)
            if problem:
                problems.append(problem)
                continue
            made.write_text(want)
        return home / "bin" / "python", way.remark
    raise MissingPeerError("; ".join(problems))


def _first_problem(commands: Sequence[Command], run: Callable[[Command], tuple[int, str]]) -> str:
    for command in commands:
        status, output = run(command)
        if status:
            lines = [line.strip() for line in output.splitlines() if line.strip()]
            errors = [line for line in lines if line.startswith("ERROR:")]
            return (errors or lines or [f"{command[0]} ended with {status}"])[-1].removeprefix("ERROR:").strip()
    return ""


def _run(command: Command) -> tuple[int, str]:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode, done.stdout
