"""What is known about a plugin, and the checks that it must pass before its hooks may be called."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, Literal

from fedplug.core.errors import UnknownNameError
from fedplug.core.markers import API_VERSION, PROJECT

State = Literal["ok", "failed", "incompatible", "blocked", "conflict"]

BUILTIN = "builtin"
"""The name under which the core offers its own components."""


@dataclass(slots=True)
class PluginRecord:
    """What is known about one plugin.

    Attributes:
        name: Its name: the key of its entry point.
        dist: The distribution that installed it; empty if it was registered by hand.
        version: Version of the distribution.
        api: Version of the hooks it was written for; None if it was not loaded.
        state: ``ok``; ``failed`` (see ``error``); ``incompatible`` (written for another version of the hooks);
            ``blocked`` (installed, but not to be loaded); ``conflict`` (it shares a name with another).
        error: What is wrong, in one line.
        cure: What to do about it.
        details: The traceback, if something was raised.
        hooks: The hooks it answers to, sorted.
        module: Where its hooks lie.
    """

    name: str
    dist: str = ""
    version: str = ""
    api: int | None = None
    state: State = "ok"
    error: str = ""
    cure: str = ""
    details: str = ""
    hooks: tuple[str, ...] = ()
    module: str = ""


class RefusedPlugin(Exception):  # noqa: N818 - a verdict between two modules, which no caller ever sees
    """A plugin cannot be used: ``(state, error, cure)``."""

    def __init__(self, state: State, error: str, cure: str) -> None:
        super().__init__(error)
        self.state = state
        self.error = error
        self.cure = cure


def require_admission(record: PluginRecord, names: Mapping[str, int], only: Collection[str] | None) -> None:
    """Decide whether a plugin may be loaded at all.

    Args:
        record: The plugin.
        names: How many installed plugins there are of each name.
        only: The plugins to load; None for all.

    Raises:
        RefusedPlugin: It may not.
    """
    if only is not None and record.name not in only:
        unlisted = "It is installed, but not among the plugins to load."
        raise RefusedPlugin("blocked", unlisted, "Add it to FEDPLUG_PLUGINS, or to the node's list of plugins.")
    if record.name == BUILTIN or names[record.name] > 1:
        owner = "the core" if record.name == BUILTIN else "several distributions"
        raise RefusedPlugin(
            "conflict",
            f"The plugin name {record.name!r} is used by {owner}; none of them is loaded by luck.",
            f"Uninstall {record.dist or 'one of them'}.",
        )


def require_api(record: PluginRecord) -> None:
    """Check that a plugin was written for this version of the hooks.

    Raises:
        RefusedPlugin: It was not.
    """
    if record.api == API_VERSION:
        return
    newer = isinstance(record.api, int) and record.api > API_VERSION
    upgrade = PROJECT if newer else record.dist or record.name
    written = f"It was written for version {record.api!r} of FedPlug's hooks; this FedPlug has version {API_VERSION}."
    raise RefusedPlugin("incompatible", written, f"Upgrade {upgrade}: pip install --upgrade {upgrade}")


def hook_functions(plugin: Any, specs: Mapping[str, list[str]]) -> dict[str, Any]:
    """The plugin's hook functions by hook name.

    Only names that are really there are looked at: `dir` of a module with lazy names may import a framework.

    Args:
        plugin: A module, or any object with hook functions.
        specs: The arguments of each hook.

    Raises:
        RefusedPlugin: A hook does not exist, lacks its decorator, or asks for an argument it cannot have.
    """
    names = vars(plugin) if isinstance(plugin, ModuleType) else dir(plugin)
    functions: dict[str, Any] = {}
    for name in list(names):
        function = getattr(plugin, name)
        if not inspect.isroutine(function):
            continue
        options = getattr(function, f"{PROJECT}_impl", None)
        if not isinstance(options, dict):
            if name in specs:
                raise RefusedPlugin("failed", f"{name} lacks its decorator.", f"Write @hookimpl above {name}.")
            continue
        hook = options.get("specname") or name
        if hook not in specs:
            cure = UnknownNameError("hook", hook, specs).cure
            raise RefusedPlugin("failed", f"There is no hook named {hook!r}.", cure)
        if options.get("wrapper") or options.get("hookwrapper"):
            raise RefusedPlugin("failed", f"{name} is a wrapper.", "Remove wrapper=True: no hook can be wrapped.")
        _check_signature(hook, function, specs[hook])
        functions[hook] = function
    if not functions:
        raise RefusedPlugin("failed", "It has no hook.", "Mark its functions with @hookimpl; see docs/hooks.md.")
    return functions


def _check_signature(hook: str, function: Any, known: list[str]) -> None:
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    wanted = [p.name for p in parameters if p.kind in positional and p.default is p.empty]
    wanted += [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    wrong = [name for name in wanted if name not in known]
    if wrong:
        raise RefusedPlugin(
            "failed",
            f"{hook}({', '.join(wanted)}) asks for {wrong[0]!r}, which this hook does not give.",
            f"Its arguments are ({', '.join(known)}); leave out what you do not need.",
        )


def installed_plugins() -> tuple[list[EntryPoint], str]:
    """The entry points of all installed plugins, and what is wrong with the environment (empty if nothing is).

    One distribution with unreadable metadata hides all entry points from Python, pip's included.
    """
    try:
        return list(entry_points(group=PROJECT)), ""
    except Exception as error:  # noqa: BLE001 - importlib.metadata lets through whatever a broken file causes
        return [], f"The list of installed packages cannot be read: {type(error).__name__}: {error}"


def distribution_of(point: EntryPoint) -> tuple[str, str]:
    """Name and version of the distribution of an entry point; empty where they are not known."""
    if point.dist is None:
        return "", ""
    metadata = point.dist.metadata
    name, version = (str(metadata[key]) if key in metadata else "" for key in ("Name", "Version"))
    return name, version
