"""The constructor arguments of a component as plain data, and the component made from them again.

A breakpoint holds no pickle, so an aggregator or a strategy is written down as its class and the arguments that it
was made with. As in scikit-learn, a component keeps each argument of its ``__init__`` under the argument's own name.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from fedplug.core.errors import UnknownNameError, UsageError

T = TypeVar("T")

_CURE = "or make the object yourself and pass it to load_breakpoint."


def config_of(component: object) -> dict[str, Any]:
    """The arguments that ``component`` was made with.

    Args:
        component: An instance of a class that keeps each argument of its ``__init__`` under its own name.

    Returns:
        Argument → value, in the order of the signature: None, truth values, numbers, strings, and lists and
        dictionaries of them. Tuples have become lists, and NumPy's scalars Python's. Nothing in it is shared
        with ``component``.

    Raises:
        UsageError: An argument cannot be found, or is something else than plain data.
    """
    kind = type(component)
    config = {}
    for name in _parameters(kind):
        try:
            value = getattr(component, name)
        except AttributeError:
            raise UsageError(
                f"{kind.__name__} does not keep its argument {name!r}, so it cannot be written down.",
                cure=f"Store it under its own name in __init__ (self.{name} = {name}), {_CURE}",
            ) from None
        config[name] = _plain(value, kind, name)
    return config


def make(cls: type[T], config: Mapping[str, Any]) -> T:
    """An instance of ``cls`` from what `config_of` returned.

    Raises:
        UsageError: The arguments are not those of ``cls``, or it refuses one of them.
    """
    names = _parameters(cls)
    for name in config:
        if name not in names:
            raise UnknownNameError(f"argument of {cls.__name__}", str(name), names)
    for name, parameter in inspect.signature(cls).parameters.items():
        if name not in config and parameter.default is inspect.Parameter.empty:
            raise UsageError(f"{cls.__name__} cannot be made without its argument {name!r}.")
    return cls(**config)


def _parameters(kind: type) -> list[str]:
    """The names of the arguments of a class, in order."""
    try:
        parameters = inspect.signature(kind).parameters.values()
    except ValueError:
        raise UsageError(
            f"The arguments of {kind.__name__} cannot be told.", cure=f"Write it in Python, {_CURE}"
        ) from None
    for parameter in parameters:
        if parameter.kind not in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY):
            raise UsageError(
                f"{kind.__name__} takes {parameter}, which cannot be given by name.",
                cure=f"Let __init__ take each argument by its name, {_CURE}",
            )
    return [parameter.name for parameter in parameters]


def _plain(value: Any, kind: type, name: str) -> Any:
    """``value`` as plain data, copied."""
    if value is None or isinstance(value, bool | str):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, list | tuple):
        return [_plain(each, kind, name) for each in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {str(key): _plain(each, kind, name) for key, each in value.items()}
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == () and hasattr(value, "item"):
        return _plain(value.item(), kind, name)
    shown = repr(value)
    raise UsageError(
        f"Argument {name!r} of {kind.__name__} is no plain data, so it cannot be written down: "
        f"{shown if len(shown) <= 100 else shown[:100] + '...'}.",
        cure=f"Give {kind.__name__} numbers, strings, and lists and dictionaries of them, {_CURE}",
    )
