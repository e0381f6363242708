"""Metrics by name, with the arguments that each of them knows."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedplug.core.errors import UnknownNameError, UsageError
from fedplug.core.metrics.base import Metric
from fedplug.core.metrics.types import ALIASES

if TYPE_CHECKING:
    from fedplug.core.plugins import PluginHost


def make_metrics(
    names: Sequence[str] | None, args: Mapping[str, Any] | None = None, host: PluginHost | None = None
) -> dict[str, Metric]:
    """The metrics that ``test_metric`` and ``test_metric_args`` ask for, by name.

    Args:
        names: Names of metrics; None for none.
        args: Arguments by name. Each metric gets those that it knows. An argument whose name is that of a metric
            holds arguments for it alone: ``{"n_classes": 3, "auc": {"bins": 256}}``.
        host: The plugins that offer metrics; all installed ones by default.

    Raises:
        UnknownNameError: There is no such metric, or none of them knows an argument; the nearest names are given.
        UsageError: An argument has a value that it cannot have.
    """
    if not names:
        return {}
    if host is None:
        from fedplug.core.plugins import default_host

        host = default_host()
    classes = {ALIASES.get(name, name): _metric_class(ALIASES.get(name, name), host) for name in names}
    given = {ALIASES.get(name, name): value for name, value in (args or {}).items()}
    own = {name: given.pop(name) for name in classes if name in given}
    for name, value in own.items():
        if not isinstance(value, Mapping):
            raise UsageError(f"test_metric_args[{name!r}] must be a dict of arguments, got {value!r}.")
    known = {name: _arguments(each) for name, each in classes.items()}
    common = set().union(*(names for names in known.values() if names is not None))
    takes_all = any(names is None for names in known.values())
    for argument in given:
        if argument not in common and not takes_all:
            raise UnknownNameError(f"argument of test_metric {', '.join(classes)}", argument, common)
    made: dict[str, Metric] = {}
    for name, each in classes.items():
        mine = known[name]
        for argument in own.get(name, {}):
            if mine is not None and argument not in mine:
                raise UnknownNameError(f"argument of test_metric {name}", str(argument), mine)
        shared = {key: value for key, value in given.items() if mine is None or key in mine}
        made[name] = _made(name, each, {**shared, **own.get(name, {})})
    return made


def _metric_class(name: str, host: PluginHost) -> Any:
    found = host.component("metric", name)
    if not (isinstance(found, type) and issubclass(found, Metric)):
        raise UsageError(f"The metric {name!r} is no class derived from fedplug.Metric, but {found!r}.")
    return found


def _made(name: str, metric: Any, args: dict[str, Any]) -> Metric:
    try:
        return metric(**args)  # type: ignore[no-any-return]
    except TypeError as error:
        raise UsageError(f"The metric {name!r} cannot be made from test_metric_args {args!r}: {error}.") from error


def _arguments(metric: Any) -> set[str] | None:
    """The names of the arguments of a metric; None if it takes any."""
    parameters = inspect.signature(metric).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
