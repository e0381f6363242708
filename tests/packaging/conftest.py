"""The wheels of all our distributions, and environments that have them installed as users would have them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache"
MINUTES = 60.0


@dataclass(frozen=True)
class WheelEnv:
    """An environment outside the tree.

    Attributes:
        path: Its folder.
        wheelhouse: The folder with our wheels.
        ours: The names of our distributions that belong into it.
    """

    path: Path
    wheelhouse: Path
    ours: frozenset[str]

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"

    @property
    def fedplug(self) -> Path:
        return self.path / "bin" / "fedplug"

    def run(
        self, *command: str | Path, cwd: Path, timeout: float = 5 * MINUTES, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command outside the tree, with nothing of the tree's or the person's Python settings."""
        return subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            env={**self.environ(), "FEDPLUG_DIR": str(cwd / "home"), **env},
            timeout=timeout,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    def environ(self) -> dict[str, str]:
        """Return the variables of a fresh login: no Python path, no plugin filter."""
        dropped = ("PYTHON", "FEDPLUG_", "VIRTUAL_ENV", "COV_")
        return {name: value for name, value in os.environ.items() if not name.startswith(dropped)}


@pytest.fixture(scope="session")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel of each of our distributions, once."""
    folder = tmp_path_factory.mktemp("wheelhouse")
    projects = [ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]
    _pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", folder, *projects)
    return folder


@pytest.fixture(scope="session")
def wheel_env(wheelhouse: Path) -> WheelEnv:
    """An environment with ``fedplug[torch]``."""
    return _installed("torch", wheelhouse)


@pytest.fixture(scope="session")
def sklearn_env(wheelhouse: Path) -> WheelEnv:
    """An environment with ``fedplug[sklearn]``."""
    return _installed("sklearn", wheelhouse)


@pytest.fixture(scope="session")
def core_env(wheelhouse: Path) -> WheelEnv:
    """An environment with the core alone, and what a plugin's author has besides: pytest, Hypothesis, hatchling."""
    return _installed("testing", wheelhouse, "hatchling")


def _installed(extra: str, wheelhouse: Path, *more: str) -> WheelEnv:
    """Install ``fedplug[extra]`` from the wheelhouse into an environment that had no FedPlug.

    Third-party packages come from the index, under the constraints; that part is kept in ``.cache/`` between runs.
    Our own are then installed without any index and without the person's pip settings, so they can only have come
    from the wheelhouse.
    """
    ours, wanted = asked_for(wheelhouse, extra)
    env = WheelEnv(_third_party_env(extra, [*wanted, *more]), wheelhouse, frozenset(ours))
    every = [canonicalize_name(wheel.name.split("-")[0]) for wheel in wheelhouse.glob("*.whl")]
    _pip("uninstall", "-y", *every, python=env.python)
    left = _pip("list", "--format=freeze", python=env.python)
    assert "fedplug" not in left, left
    # What is compiled when it is first imported, and kept, need not be compiled with all the rest.
    _pip(
        "install", "--no-compile", "--no-index", "--find-links", wheelhouse, f"fedplug[{extra}]", python=env.python,
        settings=False,
    )  # fmt: skip
    return env


def asked_for(wheelhouse: Path, extra: str) -> tuple[set[str], list[str]]:
    """What ``fedplug[extra]`` asks for, by way of our wheels: the names of those, and what is not ours."""
    requires = {}
    for wheel in wheelhouse.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            metadata = HeaderParser().parsestr(archive.read(name).decode("utf-8"))
        requires[canonicalize_name(metadata["Name"])] = list(map(Requirement, metadata.get_all("Requires-Dist", [])))
    ours: set[str] = set()
    foreign: set[str] = set()
    seen: set[tuple[str, str]] = set()
    waiting = [("fedplug", ""), ("fedplug", extra)]
    while waiting:
        name, its_extra = waiting.pop()
        if (name, its_extra) in seen:
            continue
        seen.add((name, its_extra))
        ours.add(name)
        for wanted in requires[canonicalize_name(name)]:
            if wanted.marker is not None and not wanted.marker.evaluate({"extra": its_extra}):
                continue
            if canonicalize_name(wanted.name) in requires:
                waiting += [(canonicalize_name(wanted.name), each) for each in ("", *wanted.extras)]
            else:
                foreign.add(f"{wanted.name}{wanted.specifier}")
    return ours, sorted(foreign)


def _third_party_env(extra: str, wanted: Sequence[str]) -> Path:
    constraints = ROOT / "constraints" / "ci.txt"
    key = hashlib.sha256("\n".join([sys.version, *wanted, constraints.read_text(encoding="utf-8")]).encode())
    folder = CACHE / f"wheel-env-{extra}-{key.hexdigest()[:16]}"
    done = folder / "complete"
    if not done.exists():
        for old in CACHE.glob(f"wheel-env-{extra}-*"):
            shutil.rmtree(old)
        venv.create(folder, with_pip=False, symlinks=True)
        _pip("install", "--no-compile", "-c", constraints, *wanted, python=folder / "bin" / "python")
        done.touch()
    return folder


def _pip(*args: str | Path, python: Path | None = None, settings: bool = True) -> str:
    """Run our pip, for another environment if ``python`` is given; return what it printed."""
    env = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore", "PIP_NO_INPUT": "1"}
    if not settings:
        env = {name: value for name, value in env.items() if not name.startswith("PIP_")}
        env["PIP_CONFIG_FILE"] = os.devnull
    target: Sequence[str] = ["--python", str(python)] if python else []
    done = subprocess.run(
        [sys.executable, "-m", "pip", *target, *map(str, args)],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=15 * MINUTES,
        check=False,
    )
    assert done.returncode == 0, f"pip {' '.join(map(str, args))}\n{done.stdout}\n{done.stderr}"
    return done.stdout
