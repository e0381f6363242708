"""Components: the named things that plugins offer, and the catalog that finds them.

A plugin names a component and says where it lies; nothing is imported before it is used.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from fedplug.core.errors import ComponentConflictError, PluginError, UnknownNameError, UsageError

Kind = Literal[
    "training_plan", "aggregator", "agg_optimizer", "strategy", "data_manager", "dataset_type", "transport", "metric",
    "engine",
]  # fmt: skip

COMPONENT_HOOKS: dict[str, Kind] = {
    "fedplug_register_training_plans": "training_plan",
    "fedplug_register_aggregators": "aggregator",
    "fedplug_register_agg_optimizers": "agg_optimizer",
    "fedplug_register_strategies": "strategy",
    "fedplug_register_data_managers": "data_manager",
    "fedplug_register_dataset_types": "dataset_type",
    "fedplug_register_transports": "transport",
    "fedplug_register_metrics": "metric",
    "fedplug_register_engines": "engine",
}
"""The hook by which each kind of component is offered."""

KINDS: tuple[Kind, ...] = tuple(COMPONENT_HOOKS.values())
"""All kinds, in the order in which they are listed."""

_PLURALS: dict[Kind, str] = {
    "training_plan": "training plans",
    "aggregator": "aggregators",
    "agg_optimizer": "optimizers of the researcher",
    "strategy": "strategies",
    "data_manager": "data managers",
    "dataset_type": "types of data sets",
    "transport": "transports",
    "metric": "metrics",
    "engine": "engines of simulations",
}

_SINGULARS: dict[Kind, str] = {"agg_optimizer": "optimizer of the researcher", "dataset_type": "type of data set"}

_KNOWN: dict[str, dict[Kind, str]] = {
    "torch": {"training_plan": "torch"},
    "demo": {"training_plan": "demo-breast-cancer demo-digits"},
    "sklearn": {"training_plan": "sklearn sgd-classifier sgd-regressor perceptron gaussian-nb partial-fit"},
    "declearn": {"agg_optimizer": "declearn"},
    "scaffold": {
        "aggregator": "fedaverage fedprox fednova scaffold",
        "agg_optimizer": "fedavgm fedadagrad fedadam fedyogi",
    },
    "robust": {"aggregator": "coordinate-median trimmed-mean geometric-median krum multi-krum norm-clipping"},
    "zmq": {"transport": "zmq"},
    "ray": {"engine": "ray"},
}

_EXTRAS: dict[tuple[Kind, str], str] = {
    (kind, name): extra for extra, kinds in _KNOWN.items() for kind, names in kinds.items() for name in names.split()
}
"""The extra of ``fedplug`` that brings a well-known component."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


@dataclass(frozen=True)
class Component:
    """One thing that a plugin offers.

    Args:
        name: What users write: letters, digits, ``.``, ``_`` and ``-``.
        target: Where it lies, as ``"package.module:Attribute"``, imported on first use; or the object itself.
        summary: One line for ``fedplug plugins show``.
        options: Constructor arguments worth knowing, by name, with a line each.

    Raises:
        UsageError: The name or the target is malformed.
    """

    name: str
    target: Any
    summary: str = ""
    options: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(
                f"{self.name!r} cannot be the name of a component.",
                cure="Use letters, digits, '.', '_' and '-', beginning with a letter or a digit.",
            )
        if self.target is None or (isinstance(self.target, str) and not _TARGET.fullmatch(self.target)):
            raise UsageError(
                f"Component {self.name!r} has target {self.target!r}.",
                cure='Give "package.module:Attribute", or the class itself.',
            )


@dataclass(frozen=True)
class Offer:
    """A component, and who offers it as what."""

    kind: Kind
    plugin: str
    component: Component

    @property
    def qualified(self) -> str:
        """The name that is never ambiguous: ``"plugin:name"``."""
        return f"{self.plugin}:{self.component.name}"

    def load(self) -> Any:
        """The component itself, imported if need be.

        Raises:
            PluginError: The import fails, or there is nothing of that name.
        """
        target = self.component.target
        if not isinstance(target, str):
            return target
        module_name, _, path = target.partition(":")
        try:
            found: Any = importlib.import_module(module_name)
            for name in path.split("."):
                found = getattr(found, name)
        except Exception as error:
            raise PluginError(
                f"The {label(self.kind)} {self.component.name!r} of plugin {self.plugin!r} cannot be loaded "
                f"from {target!r}: {type(error).__name__}: {error}.",
                cure=import_cure(error, self.plugin),
                plugin=self.plugin,
            ) from error
        return found


class Catalog:
    """All components that plugins offer, by kind and name."""

    def __init__(self) -> None:
        self._offers: dict[Kind, list[Offer]] = {kind: [] for kind in KINDS}

    def add(self, offer: Offer) -> None:
        """Take an offer in.

        Raises:
            PluginError: The same plugin offers that name already.
        """
        if any(offer.qualified == other.qualified for other in self._offers[offer.kind]):
            raise PluginError(
                f"Plugin {offer.plugin!r} offers two {label(offer.kind, 2)} named {offer.component.name!r}.",
                cure="Give one of them another name.",
                plugin=offer.plugin,
            )
        self._offers[offer.kind].append(offer)

    def remove(self, plugin: str) -> None:
        """Forget everything that ``plugin`` offers."""
        for kind, offers in self._offers.items():
            self._offers[kind] = [offer for offer in offers if offer.plugin != plugin]

    def offers(self, kind: Kind | None = None, *, plugin: str | None = None) -> list[Offer]:
        """The offers of one kind (or all), of one plugin (or all), sorted by name."""
        chosen: Iterable[Kind] = KINDS if kind is None else (kind,)
        return [
            offer
            for each in chosen
            for offer in sorted(self._offers[each], key=lambda offer: (offer.component.name, offer.plugin))
            if plugin is None or offer.plugin == plugin
        ]

    def conflicts(self, offer: Offer) -> list[Offer]:
        """The other plugins' offers of the same kind and name."""
        return [
            other
            for other in self._offers[offer.kind]
            if other.component.name == offer.component.name and other.plugin != offer.plugin
        ]

    def find(self, kind: Kind, name: str, *, broken: Sequence[str] = ()) -> Offer:
        """The offer that ``name`` stands for.

        Args:
            kind: What is looked for.
            name: A component's name, or ``"plugin:name"``.
            broken: Names of plugins that are installed but cannot be used; one of them may be the culprit.

        Raises:
            UnknownNameError: There is none; the nearest names are given, and what to install if it is known.
            ComponentConflictError: Several plugins offer it, and ``name`` does not say whose is meant.
        """
        offers = self._offers[kind]
        found = [offer for offer in offers if name in (offer.component.name, offer.qualified)]
        if len(found) == 1:
            return found[0]
        if found:
            plugins = sorted(offer.plugin for offer in found)
            choices = " or ".join(repr(f"{plugin}:{name}") for plugin in plugins)
            raise ComponentConflictError(
                f"The {label(kind)} {name!r} is offered by {len(plugins)} plugins: {', '.join(plugins)}.",
                cure=f"Write {choices}, or uninstall what you do not need.",
                plugin=plugins[0],
            )
        known = [offer.qualified if self.conflicts(offer) else offer.component.name for offer in offers]
        cure = install_cure(kind, name, broken) or UnknownNameError(label(kind), name, known).cure
        raise UnknownNameError(label(kind), name, known, cure=f"{cure} {broken_remark(broken)}".strip())


def label(kind: Kind, count: int = 1) -> str:
    """A kind in words: ``"training plan"``, or ``"training plans"`` where ``count`` is not 1."""
    if count != 1:
        return _PLURALS[kind]
    return _SINGULARS.get(kind, kind.replace("_", " "))


def install_cure(kind: Kind, name: str, broken: Sequence[str] = ()) -> str:
    """How to install a well-known component; empty if it is not one, or installed but ``broken``."""
    extra = _EXTRAS.get((kind, name.rpartition(":")[2]))
    return f"Install it: pip install 'fedplug[{extra}]'." if extra and extra not in broken else ""


def broken_remark(broken: Sequence[str]) -> str:
    """A sentence about plugins that cannot be used; empty if there are none."""
    return f"Installed but not usable: {', '.join(broken)} (see: fedplug plugins list)." if broken else ""


def import_cure(error: BaseException, plugin: str) -> str:
    """What to do about a plugin, or a component of one, that raised ``error`` while it was imported."""
    if isinstance(error, ModuleNotFoundError) and error.name and "." not in error.name:
        return f"Install the package that provides {error.name!r}, or uninstall the plugin."
    return f"Report it to the plugin's authors, or uninstall it. Details: fedplug plugins show {plugin}"
