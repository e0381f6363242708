"""``fedplug plugins new``: a plugin package to begin with, which passes its own tests as it stands."""

from __future__ import annotations

import keyword
import re
from importlib import resources
from pathlib import Path
from string import Template
from typing import Literal

import typer

from fedplug.cli.output import say
from fedplug.core.components import label
from fedplug.core.errors import UsageError
from fedplug.core.markers import API_VERSION

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

_FILES = {
    "pyproject.toml.in": "pyproject.toml",
    "README.md.in": "README.md",
    "gitignore.in": ".gitignore",
    "workflow.yml.in": ".github/workflows/test.yml",
    "__init__.py.in": "src/$module/__init__.py",
    "aggregator.py.in": "src/$module/aggregator.py",
    "test_plugin.py.in": "tests/test_$identifier.py",
}
"""The files of ``fedplug/cli/plugin_template``, and where they go."""

KINDS = ("aggregator",)
"""Kinds of components for which there is a template."""


def new(
    kind: str = typer.Argument(metavar="KIND", help="What it offers: aggregator."),
    name: str = typer.Argument(metavar="NAME", help="Its name, e.g. trimmed-mean; what users write in an Experiment."),
    folder: Path | None = typer.Option(None, "--folder", help="Where to write it; default: fedplug-NAME, here."),
) -> None:
    """Write a new plugin package: code, tests that call the conformance kit, README, and CI.

    The package passes its own tests as it stands: change the rule, and see which laws it keeps.
    """
    target = folder or Path(f"fedplug-{name}")
    written = write_plugin(kind, name, target)
    say(f"{len(written)} files in {target}:")
    for path in written:
        say(f"  {path.relative_to(target)}")
    say("")
    say("Next, in an environment of its own:")
    say(f"  cd {target}")
    say('  pip install -e ".[test]"')
    say("  pytest")
    rule = next(path for path in written if path.name == "aggregator.py")
    say(f"Then write your rule in {rule.relative_to(target)}.")


def write_plugin(kind: str, name: str, target: Path) -> list[Path]:
    """Write the package.

    Args:
        kind: What it offers.
        name: The component's name, and the plugin's.
        target: The folder; it must not exist, or be empty.

    Returns:
        The files, in the order of the template.

    Raises:
        UsageError: The kind has no template, the name will not do, or the folder holds something.
    """
    if kind not in KINDS:
        raise UsageError(f"There is no template for a plugin of kind {kind!r}.", cure=f"There is: {', '.join(KINDS)}.")
    identifier = name.replace("-", "_")
    if not _NAME.fullmatch(name) or keyword.iskeyword(identifier):
        raise UsageError(
            f"{name!r} cannot be the name of a plugin.",
            cure="Use lower-case letters, digits, and single hyphens between them, e.g. trimmed-mean.",
        )
    _require_free("aggregator", name)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} holds something already.", cure="Give another place: --folder PATH.")
    words = {
        "name": name,
        "identifier": identifier,
        "dist": f"fedplug-{name}",
        "module": f"fedplug_{identifier}",
        "class_name": "".join(part.capitalize() for part in name.split("-")),
        "range": _range(),
        "api": str(API_VERSION),
    }
    template = resources.files("fedplug.cli") / "plugin_template"
    written = []
    for source, place in _FILES.items():
        path = target / Template(place).substitute(words)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = template.joinpath(source).read_text(encoding="utf-8")
        path.write_text(Template(text).substitute(words), encoding="utf-8")
        written.append(path)
    (target / "src" / words["module"] / "py.typed").touch()
    return written


def _require_free(kind: Literal["aggregator"], name: str) -> None:
    """Refuse a name that an installed plugin has."""
    from fedplug.core.plugins import default_host

    host = default_host()
    owners = [offer.plugin for offer in host.components(kind) if offer.component.name == name]
    owners += [record.name for record in host.records if record.name == name]
    if owners:
        raise UsageError(
            f"The installed plugin {owners[0]!r} has that name, or offers the {label(kind)} {name!r} already.",
            cure="Choose another one: users could not tell them apart.",
        )


def _range() -> str:
    """The versions of FedPlug whose interfaces are those of this one."""
    from fedplug import __version__

    major, minor = __version__.split(".")[:2]
    return f">={major}.{minor},<{major}.{int(minor) + 1}"
