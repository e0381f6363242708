"""Check that our distributions carry one version, and that the claimed lowest versions are the tested ones.

Run as ``python scripts/check_versions.py``; prints every finding and exits 1 when there is one.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*([^;]*)")
_FLOOR = re.compile(r">=\s*([0-9][^,\s]*)")


def projects(root: Path = ROOT) -> dict[Path, dict[str, Any]]:
    """Read the ``[project]`` table of the core and of each plugin.

    Args:
        root: The root of the repository.

    Returns:
        The table of each project file, the core's first, the plugins' in order of their names.
    """
    files = [root / "pyproject.toml", *sorted(root.glob("plugins/*/pyproject.toml"))]
    return {file: tomllib.loads(file.read_text(encoding="utf-8"))["project"] for file in files}


def pins(file: Path) -> dict[str, str]:
    """Read a constraints file.

    Args:
        file: A file of ``name==version`` lines, comments and empty lines.

    Returns:
        The version of each normalised name.

    Raises:
        ValueError: A line is no exact pin.
    """
    found = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if not text:
            continue
        name, equals, version = text.partition("==")
        if not (equals and name and version):
            raise ValueError(f"{file.name}: {line!r} is no exact pin; write name==version.")
        found[normalised(name)] = version
    return found


def findings(root: Path = ROOT) -> list[str]:
    """Compare versions, ranges and pins.

    Args:
        root: The root of the repository.

    Returns:
        One sentence for each thing that does not fit; empty when all is well.
    """
    tables = projects(root)
    versions = {table["name"]: table["version"] for table in tables.values()}
    core = versions["fedplug"]
    ours = {normalised(name) for name in versions}
    major, minor = core.split(".")[:2]
    wanted = f">={major}.{minor},<{major}.{int(minor) + 1}"
    lowest, exact = pins(root / "constraints" / "lowest.txt"), pins(root / "constraints" / "ci.txt")

    found = [f"{name} is {version}, but fedplug is {core}." for name, version in versions.items() if version != core]
    for file, table in tables.items():
        where = file.relative_to(root)
        for requirement in requirements(table):
            name, spec = split(requirement)
            if name in ours:
                # fedplug[x] within fedplug itself needs no range: it is the same distribution.
                if spec != wanted and table["name"] != name:
                    found.append(f"{where}: {requirement!r} should ask for {name}{wanted}.")
                continue
            if name not in exact:
                found.append(f"{where}: {name} has no pin in constraints/ci.txt.")
            floor = _FLOOR.search(spec)
            low = lowest.get(name)
            if low is not None and (floor is None or not same(floor[1], low)):
                found.append(f"{where}: {requirement!r} does not begin at {low} of constraints/lowest.txt.")
        if requires_python(table) != ">=3.11":
            found.append(f"{where}: requires-python should be >=3.11.")
    return found


def requirements(table: dict[str, Any]) -> list[str]:
    """List what a project requires, with all of its extras.

    Args:
        table: A ``[project]`` table.

    Returns:
        The requirement strings.
    """
    extras = table.get("optional-dependencies", {})
    return [*table.get("dependencies", []), *(item for group in extras.values() for item in group)]


def requires_python(table: dict[str, Any]) -> str:
    """Return the Python range of a ``[project]`` table, without blanks."""
    return str(table.get("requires-python", "")).replace(" ", "")


def split(requirement: str) -> tuple[str, str]:
    """Split a requirement into its normalised name and its version range, without blanks."""
    match = _REQUIREMENT.match(requirement)
    if match is None:
        raise ValueError(f"{requirement!r} is no requirement.")
    return normalised(match[1]), match[2].replace(" ", "")


def normalised(name: str) -> str:
    """Return a distribution name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).strip().lower()


def same(one: str, other: str) -> bool:
    """Tell whether two plain versions are equal, with missing parts as zero: ``1.26`` is ``1.26.0``."""
    parts = [[int(part) for part in version.split(".")] for version in (one, other)]
    width = max(map(len, parts))
    first, second = ([*numbers, *[0] * (width - len(numbers))] for numbers in parts)
    return first == second


def main() -> int:
    """Print the findings.

    Returns:
        The exit code: 0 when all is in order, 1 otherwise.
    """
    found = findings()
    for line in found:
        print(line, file=sys.stderr)
    if not found:
        print(f"{len(projects())} distributions in lockstep.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
