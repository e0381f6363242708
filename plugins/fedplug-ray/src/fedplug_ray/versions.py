"""What a result depends on has to be the same at the driver and in all workers."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from fedplug.core.errors import EngineError
from fedplug.core.plugin_checks import BUILTIN
from fedplug.core.plugins import PluginHost

_LIBRARIES = ("numpy", "torch", "scikit-learn", "declearn")


def versions(host: PluginHost) -> dict[str, str]:
    """The version of Python, of FedPlug, of each plugin, and of the libraries that compute."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for record in host.records:
        if record.state in ("ok", "conflict"):
            found["fedplug" if record.name == BUILTIN else f"plugin {record.name}"] = record.version
    for name in _LIBRARIES:
        try:
            found[name] = version(name).partition("+")[0]  # a build with another accelerator is the same version
        except PackageNotFoundError:
            continue
    return found


def require_same(ours: Mapping[str, str], theirs: Mapping[str, str], where: str) -> None:
    """Check that a worker has what the driver has; it may have more.

    Args:
        ours: Versions at the driver.
        theirs: Versions at the worker.
        where: The worker's machine, in words.

    Raises:
        EngineError: Something is missing there, or is another version.
    """
    wrong = [
        f"{name} is {theirs[name]} there and {ours[name]} here" if name in theirs else f"{name} is missing there"
        for name in ours
        if theirs.get(name) != ours[name]
    ]
    if wrong:
        raise EngineError(
            f"The Ray worker on {where} is not like this process: {'; '.join(wrong)}.",
            cure="Install the same versions on every machine of the cluster.",
        )
