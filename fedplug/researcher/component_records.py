"""Aggregators, strategies and optimizers as they are written into a breakpoint, and made again from there."""

from __future__ import annotations

import warnings
from typing import Any, TypeVar

from fedplug.core.component_config import config_of, make
from fedplug.core.components import Kind, label
from fedplug.core.errors import BreakpointError, FedplugError, FedplugWarning, UsageError
from fedplug.core.params import Params
from fedplug.core.plain_state import freeze, thaw
from fedplug.core.plan_source import PlanBundle
from fedplug.core.plugins import PluginHost
from fedplug.researcher.shown import shown
from fedplug.researcher.snapshot import ComponentRecord, PlanRecord

T = TypeVar("T")

_UNSAVED = "could not be written down"


def component_record(kind: Kind, component: Any, host: PluginHost, arrays: list[Params]) -> ComponentRecord:
    """A component as it can be written down.

    Args:
        kind: What it is.
        component: The component.
        host: The plugins that may offer its class.
        arrays: Takes the arrays of its state.
    """
    cls = type(component)
    what = f"{cls.__module__}.{cls.__qualname__}"
    config, problem = None, ""
    name = _offered_as(kind, cls, host)
    try:
        config = config_of(component)
    except UsageError as error:
        problem = error.message
    if not name:
        problem = problem or f"no installed plugin offers {what}"
    state = freeze(component.state_dict(), arrays, f"the state of {cls.__name__}")
    return ComponentRecord(name=name, type=what, config=config, problem=problem, state=state)


def _offered_as(kind: Kind, cls: type, host: PluginHost) -> str:
    for offer in host.components(kind):
        if offer.component.target in (cls, f"{cls.__module__}:{cls.__qualname__}"):
            return offer.qualified
    return ""


def remake(kind: Kind, argument: str, record: ComponentRecord, given: Any, base: type[T], host: PluginHost) -> T:
    """The component of a breakpoint: the one that was given, or one made from what was written down.

    Args:
        kind: What it is.
        argument: The name of the argument of `load_breakpoint` that gives it.
        record: What was written down.
        given: What was given: an object, a class or a name; None for nothing.
        base: What it must be.
        host: The plugins.

    Raises:
        BreakpointError: It was not given and cannot be made.
        UsageError: What was given is something else.
    """
    what = label(kind)
    if given is None:
        if not record.name or record.config is None:
            raise BreakpointError(
                f"The breakpoint's {what}, {record.type}, {_UNSAVED} ({record.problem}).",
                cure=f"Make it yourself: load_breakpoint(..., {argument}=...). What it had learnt is in the breakpoint "
                "and will be given to it.",
            )
        given = make(host.component(kind, record.name), record.config)
    made = host.component(kind, given) if isinstance(given, str) else given
    made = made() if isinstance(made, type) else made
    if not isinstance(made, base):
        raise UsageError(f"load_breakpoint: {argument} must be a fedplug.{base.__name__}, got {shown(given)}.")
    return made


def load_state(component: Any, record: ComponentRecord, arrays: tuple[Params, ...]) -> None:
    """Give a component what the one before it had learnt.

    Raises:
        BreakpointError: It cannot take it.
    """
    state = thaw(record.state, arrays)
    cls = type(component)
    if not state:
        return
    if f"{cls.__module__}.{cls.__qualname__}" != record.type and cls.__qualname__ != record.type.rpartition(".")[2]:
        warnings.warn(
            f"The breakpoint's {record.type} is replaced by {cls.__name__}, which begins without what it had learnt.",
            FedplugWarning,
            stacklevel=4,
        )
        return
    try:
        component.load_state_dict(state)
    except FedplugError:
        raise
    except Exception as error:
        raise BreakpointError(
            f"{cls.__name__} cannot take its state from the breakpoint: {type(error).__name__}: {error}.",
            cure="Pass an object of the class that it was saved with.",
        ) from error


def bundle_of(record: PlanRecord) -> PlanBundle:
    """The training plan of a breakpoint.

    Raises:
        BreakpointError: Its text was changed.
    """
    bundle = PlanBundle(record.class_name, record.source, record.dependencies, record.helpers)
    if bundle.hash != record.hash:
        raise BreakpointError(
            f"The training plan {record.class_name!r} in the breakpoint was changed: its text has another hash.",
            cure="Load an earlier breakpoint.",
        )
    return bundle
