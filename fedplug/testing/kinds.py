"""The kinds of components, and the laws of each. A kind's laws are imported when they are asked for."""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from typing import Any, NamedTuple

from fedplug.core.component_config import config_of
from fedplug.core.components import Kind, label
from fedplug.core.errors import FedplugError, UsageError
from fedplug.testing.registry import Check, Subject


class _Home(NamedTuple):
    """Where the base of a kind lies, and its laws; what the laws take, if it is not an instance of the base.

    Attributes:
        base: Module and name of the class that components derive from.
        checks: The same of the tuples of laws.
        case: The same of the class that holds what is tested; empty if that is an instance of the base.
        needs: The first arguments of ``case``, for messages.
    """

    base: str
    checks: tuple[str, ...]
    case: str = ""
    needs: str = ""


_HOMES: dict[Kind, _Home] = {
    "training_plan": _Home(
        "fedplug.core.training_plan:TrainingPlan",
        ("fedplug.testing.plan_checks:TRAINING_PLAN_CHECKS",),
        "fedplug.testing.plan_case:PlanCase",
        "plan_class, data",
    ),
    "aggregator": _Home("fedplug.core.aggregator:Aggregator", ("fedplug.testing.aggregator_checks:AGGREGATOR_CHECKS",)),
    "agg_optimizer": _Home(
        "fedplug.core.agg_optimizer:AggOptimizer", ("fedplug.testing.agg_optimizer_checks:AGG_OPTIMIZER_CHECKS",)
    ),
    "strategy": _Home("fedplug.core.strategy:Strategy", ("fedplug.testing.strategy_checks:STRATEGY_CHECKS",)),
    "data_manager": _Home("fedplug.core.data:BatchSource", ("fedplug.testing.source_checks:DATA_MANAGER_CHECKS",)),
    "dataset_type": _Home(
        "fedplug.core.dataset_type:DatasetType", ("fedplug.testing.dataset_checks:DATASET_TYPE_CHECKS",)
    ),
    "transport": _Home(
        "fedplug.core.transport:Transport",
        (
            "fedplug.testing.transport_checks:TRANSPORT_CHECKS",
            "fedplug.testing.key_checks:KEY_CHECKS",
            "fedplug.testing.federation_checks:FEDERATION_CHECKS",
        ),
        "fedplug.testing.transport_case:TransportCase",
        "make, make_url",
    ),
    "metric": _Home("fedplug.core.metrics:Metric", ("fedplug.testing.metric_checks:METRIC_CHECKS",)),
    "engine": _Home(
        "fedplug.simulation.engines:Engine",
        ("fedplug.testing.engine_checks:ENGINE_CHECKS",),
        "fedplug.testing.engine_case:EngineCase",
        "make",
    ),
}


def base_of(kind: Kind) -> type:
    """The class that components of a kind derive from."""
    found: type = _load(_HOMES[kind].base)
    return found


def checks_of(kind: Kind) -> tuple[Check, ...]:
    """All laws of a kind, in the order in which they are tested."""
    return tuple(check for place in _HOMES[kind].checks for check in _load(place))


def kind_of(component: Any) -> Kind:
    """The kind of a component, or of a case that holds one.

    Raises:
        UsageError: It is of none, or needs a case.
    """
    for kind, home in _HOMES.items():
        if _is_one(component, home.case or home.base):
            return kind
    for kind, home in _HOMES.items():
        base = _load(home.base)
        if isinstance(component, base) or (isinstance(component, type) and issubclass(component, base)):
            raise _needs_more(component, kind, home)
    raise UsageError(
        f"{component!r} is no component that has laws.",
        cure=f"There are laws for: {', '.join(label(kind, 2) for kind in _HOMES)}.",
    )


def subject_of(component: Any) -> Subject:
    """A subject of an instance, a case, a subject, or what makes one of these without arguments.

    Raises:
        UsageError: It is of no kind.
    """
    if isinstance(component, Subject):
        return component
    held = any(_is_one(component, home.case or home.base) for home in _HOMES.values())
    if not held and callable(component) and not _is_plan(component):
        made = component()
        return made if isinstance(made, Subject) else Subject(made)
    return Subject(component)


def name_of(subject: Subject) -> str:
    """How a component is called in ids and reports: its class, and the arguments that are not the usual ones."""
    component = subject.component
    if subject.name:
        return subject.name
    plan = getattr(component, "plan_class", None)
    if plan is not None:
        return str(plan.__name__)
    if any(home.case and _is_one(component, home.case) for home in _HOMES.values()):
        return type(component.make()).__name__
    return f"{type(component).__name__}{_arguments(component)}"


def _arguments(component: Any) -> str:
    try:
        config = config_of(component)
        parameters = inspect.signature(type(component)).parameters
        told = [f"{name}={value!r}" for name, value in config.items() if value != parameters[name].default]
    except (FedplugError, ValueError, TypeError, KeyError):
        return ""
    text = ", ".join(told)
    return f"({text})" if text and len(text) <= 60 else ""


def _needs_more(component: Any, kind: Kind, home: _Home) -> UsageError:
    name = component.__name__ if isinstance(component, type) else type(component).__name__
    what = f"The {label(kind)} {name}"
    if home.case:
        case = home.case.partition(":")[2]
        article = "an" if case[0] in "AEIOU" else "a"
        return UsageError(f"{what} cannot be tested by itself.", cure=f"Give {article} {case}({home.needs}, ...).")
    return UsageError(f"{what} is a class, and an instance is tested.", cure=f"Give {name}(...).")


def _is_plan(component: Any) -> bool:
    return isinstance(component, type) and issubclass(component, base_of("training_plan"))


def _is_one(component: Any, place: str) -> bool:
    """Whether ``component`` is an instance of a class; nothing is imported, as then there can be none."""
    return place.partition(":")[0] in sys.modules and isinstance(component, _load(place))


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
