"""Calls of a user's methods, which may leave out arguments that they do not need."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from fedplug.core.errors import PlanError


def requires_argument(method: Callable[..., Any]) -> bool:
    """Whether a method of the user's cannot be called without an argument."""
    return any(p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in _parameters(method))


def call_with_option(method: Callable[..., Any], name: str, value: Any) -> Any:
    """Call a method of the user's with one argument if it has one of that name, requires one or takes any number."""
    parameters = _parameters(method)
    if any(p.name == name and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters):
        return method(**{name: value})
    if requires_argument(method) or any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return call_flexibly(method, value)
    return method()


def _parameters(method: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    """The parameters of a method of the user's, without ``self``; looked up once for each function."""
    function = getattr(method, "__func__", None)
    return _signature(method) if function is None else _signature(function)[1:]


@lru_cache(maxsize=256)
def _signature(function: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    return tuple(inspect.signature(function).parameters.values())


def call_flexibly(method: Callable[..., Any], *args: Any) -> Any:
    """Call a method of the user's with as many of ``args`` as it takes.

    Raises:
        PlanError: It requires more arguments than there are.
    """
    parameters = _parameters(method)
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return method(*args)
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    if len(required) > len(args):
        raise PlanError(
            f"{method.__name__} takes {len(required)} arguments, but is called with at most {len(args)}.",
            cure=f"Remove {', '.join(p.name for p in required[len(args) :])} from its signature.",
        )
    return method(*args[: len(positional)])
