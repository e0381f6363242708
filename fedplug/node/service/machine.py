"""What a node needs of its machine: Python and packages, plugins, and the system's means to shut trainings in."""

from __future__ import annotations

import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from fedplug.core.plugins import default_host
from fedplug.node.isolation.probe import probe
from fedplug.node.service.findings import Finding, guarded, ok, problem, warning

_LEAST_PYTHON = (3, 11)
_NEEDED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^]]*\])?\s*\(?([^;)]*)\)?\s*(;.*)?")
_BOUND = re.compile(r"(>=|<)\s*([0-9][0-9.]*)")
_SCARCE = 2**30
_FULL = 100 * 2**20


def machine_findings() -> Iterator[Finding]:
    """Look at this machine."""
    yield from guarded("python", _python())
    yield from guarded("packages", _packages("fedplug"))
    yield from guarded("plugins", _plugins())
    yield from guarded("isolation", _isolation())
    yield from guarded("disk", disk_findings(Path(tempfile.gettempdir()), "scratch folders of trainings"))


def disk_findings(folder: Path, what: str) -> Iterator[Finding]:
    """Look how much room there is.

    Args:
        folder: Where.
        what: What needs it.
    """
    free = shutil.disk_usage(folder).free
    text = f"{free / 2**30:,.1f} GiB left for {what} in {folder}"
    if free < _FULL:
        yield problem("disk", text, "Make room on that disk.")
    elif free < _SCARCE:
        yield warning("disk", text, "Make room on that disk before it is full.")
    else:
        yield ok("disk", text)


def _python() -> Iterator[Finding]:
    text = f"Python {platform.python_version()} ({sys.executable})"
    if sys.version_info < _LEAST_PYTHON:
        yield problem("python", text, "FedPlug needs Python 3.11 or newer: make a new environment with it.")
    else:
        yield ok("python", text)


def _packages(distribution: str) -> Iterator[Finding]:
    """The packages that a distribution needs, apart from its extras."""
    wrong = False
    for text in requires(distribution) or ():
        needed = _NEEDED.match(text)
        if not needed or "extra" in (needed[3] or ""):
            continue
        name, bounds = needed[1], needed[2].strip()
        try:
            found = version(name)
        except PackageNotFoundError:
            wrong = True
            yield problem("packages", f"{name} is not installed.", f"pip install '{name}{bounds}'")
            continue
        if not fits(found, bounds):
            wrong = True
            yield problem("packages", f"{name} is {found}, but {bounds} is needed.", f"pip install '{name}{bounds}'")
    if not wrong:
        yield ok("packages", f"fedplug {version(distribution)} and all that it needs")


def fits(found: str, bounds: str) -> bool:
    """Whether a version is within bounds such as ``>=1.26,<3``; what is neither ``>=`` nor ``<`` is not looked at."""
    have = _numbers(found)
    return all((have >= _numbers(bound)) == (sign == ">=") for sign, bound in _BOUND.findall(bounds))


def _numbers(text: str) -> tuple[int, ...]:
    """The release of a version, without zeros at its end: 2.0 is 2."""
    leading = re.match(r"[0-9]+(?:\.[0-9]+)*", text)
    numbers = [int(part) for part in leading[0].split(".")] if leading else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def _plugins() -> Iterator[Finding]:
    records = [record for record in default_host().records if record.dist != "fedplug"]
    good = [f"{record.name} {record.version}".strip() for record in records if record.state == "ok"]
    yield (
        ok("plugins", ", ".join(good))
        if good
        else warning(
            "plugins", "No plugin is loaded: only plans in NumPy can be trained.", "E.g. pip install 'fedplug[torch]'"
        )
    )
    for record in records:
        text = f"{record.name} {record.version} ({record.state}): {' '.join(record.error.split())}"
        if record.state == "blocked":
            yield warning("plugins", text, record.cure)
        elif record.state != "ok":
            yield problem("plugins", text, record.cure or f"More: fedplug plugins show {record.name}")


def _isolation() -> Iterator[Finding]:
    for layer in probe():
        text = f"{layer.name}: {layer.text}"
        if layer.state == "missing":
            yield warning("isolation", text, "Mend that, or know that trainings are shut in less; docs/isolation.md.")
        else:
            yield ok("isolation", text)
