"""The wheels of all our distributions, and environments that have them installed as users would have them."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.parser import HeaderParser
from importlib.metadata import Distribution, distribution
from importlib.util import cache_from_source
from pathlib import Path
from tempfile import TemporaryDirectory

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
def wheel_env(wheelhouse: Path) -> Iterator[WheelEnv]:
    """An environment with ``fedplug[torch]``."""
    with _installed("torch", wheelhouse) as env:
        yield env


@pytest.fixture(scope="session")
def sklearn_env(wheelhouse: Path) -> Iterator[WheelEnv]:
    """An environment with ``fedplug[sklearn]``."""
    with _installed("sklearn", wheelhouse) as env:
        yield env


@pytest.fixture(scope="session")
def core_env(wheelhouse: Path) -> Iterator[WheelEnv]:
    """An environment with the core alone, and what a plugin's author has besides: pytest, Hypothesis, hatchling."""
    with _installed("testing", wheelhouse, "hatchling") as env:
        yield env


@pytest.fixture
def lend_for(wheelhouse: Path) -> Callable[[str, Path], None]:
    """Return ``lend(extra, env)``: put what ``fedplug[extra]`` asks for, but nothing of ours, into an environment."""
    return lambda extra, env: lend(env, asked_for(wheelhouse, extra)[1])


@contextmanager
def _installed(extra: str, wheelhouse: Path, *more: str) -> Iterator[WheelEnv]:
    """Install ``fedplug[extra]`` from the wheelhouse into an environment that had no FedPlug.

    Third-party packages are those of the environment that runs the tests, which pip has put there under the
    constraints; only what our wheels ask for, and what that asks for, is there. Our own are then installed without any
    index and without the person's pip settings, so they can only have come from the wheelhouse, and pip refuses them
    where something that they ask for is missing.
    """
    ours, wanted = asked_for(wheelhouse, extra)
    CACHE.mkdir(exist_ok=True)
    with TemporaryDirectory(prefix=f"wheel-env-{extra}-", dir=CACHE) as folder:
        env = WheelEnv(Path(folder), wheelhouse, frozenset(ours))
        venv.create(env.path, with_pip=False, symlinks=True)
        lend(env.path, [*wanted, *more])
        # What is compiled when it is first imported need not be compiled with all the rest.
        _pip(
            "install", "--no-compile", "--no-index", "--find-links", wheelhouse, f"fedplug[{extra}]",
            python=env.python, settings=False,
        )  # fmt: skip
        yield env


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


def lend(env: Path, wanted: Iterable[str]) -> None:
    """Put what is wanted, and what that needs, from the environment that runs the tests into another one."""
    (site,) = env.glob("lib/python*/site-packages")
    for each in _closure(wanted):
        assert not canonicalize_name(each.name).startswith("fedplug")
        _link(each, site)


def _closure(wanted: Iterable[str]) -> Iterable[Distribution]:
    """The installed distributions that are wanted, and those that they need."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = list(map(Requirement, wanted))
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras} - {each for other, each in seen if other == name}:
            seen.add((name, extra))
            found[name] = distribution(name)
            needs = map(Requirement, found[name].requires or [])
            waiting += [each for each in needs if each.marker is None or each.marker.evaluate({"extra": extra})]
    return found.values()


def _link(installed: Distribution, site: Path) -> None:
    """Put what is installed into another environment: its modules and what it says of itself, but no scripts."""
    for file in installed.files or []:
        source = Path(str(installed.locate_file(file)))
        if ".." in file.parts or not source.is_file():
            continue
        copies = [(source, site / file)]
        if source.suffix == ".py":  # with its bytecode, which pip does not always know of
            copies.append((Path(cache_from_source(source)), Path(cache_from_source(site / file))))
        for old, new in copies:
            if old.is_file() and not new.exists():
                new.parent.mkdir(parents=True, exist_ok=True)
                os.link(old, new)


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
