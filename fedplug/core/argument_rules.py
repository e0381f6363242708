"""What the value of an argument may be, and the checks that say so: for training arguments, key by key."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

Plain = dict[str, Any]
"""JSON-like data: None, bool, int, float, str, and lists and dicts of them."""

DEFAULT_LEARNING_RATE = 1e-3

_RATE_NAMES = ("lr", "learning_rate", "learningrate", "learn_rate", "l_rate", "lrate")
_MAX_DEPTH = 16
_KIND_WORDS = {
    "int": "whole number",
    "number": "number",
    "bool": "True or False",
    "dict": "dict",
    "names": "name or list of names",
}
_PRIVACY_DEFAULTS: Plain = {"type": "central", "delta": 1e-5, "poisson": True}


@dataclass(frozen=True)
class Rule:
    """What one key may hold. ``kind`` is int, number, bool, dict or names; ``optional`` allows None too."""

    kind: str
    help: str
    low: float | None
    below: float | None
    optional: bool

    @property
    def text(self) -> str:
        """The rule in words, e.g. ``whole number >= 1 or None``."""
        parts = [_KIND_WORDS[self.kind]]
        bounds = [f">= {self.low:g}"] if self.low is not None else []
        if self.below is not None:
            bounds.append(f"< {self.below:.4g}")
        parts += [" and ".join(bounds)] if bounds else []
        return " ".join(parts) + (" or None" if self.optional else "")


def check_value(name: str, value: Any, rule: Rule, problems: list[str]) -> Any:
    """``value`` in canonical form; what is wrong with it is added to ``problems``."""
    if value is None and rule.optional:
        return None
    if rule.kind == "bool" and isinstance(value, bool):
        return value
    if rule.kind == "dict" and isinstance(value, Mapping):
        return _plain(value, name, problems)
    if rule.kind == "names":
        names = [value] if isinstance(value, str) else value
        if isinstance(names, list | tuple) and names and all(isinstance(each, str) and each for each in names):
            return list(dict.fromkeys(str(each).lower() for each in names))
    number = not isinstance(value, bool) and isinstance(value, int if rule.kind == "int" else int | float)
    if number and rule.kind in ("int", "number"):
        below = 2**63 if rule.below is None else rule.below
        if (rule.low is None or value >= rule.low) and value < below:
            return int(value) if rule.kind == "int" else float(value)
    problems.append(f"{name} must be {rule.text}, got {_short(value)}")
    return value


def check_loader(args: Plain, problems: list[str]) -> None:
    """Note what is wrong with ``loader_args``."""
    size = args.get("batch_size", 1)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        problems.append(f"loader_args['batch_size'] must be whole number >= 1, got {_short(size)}")
    problems.extend(
        f"loader_args[{name!r}] must be True or False, got {_short(args[name])}"
        for name in ("shuffle", "drop_last")
        if not isinstance(args.get(name, False), bool)
    )


def check_optimizer(args: Plain, problems: list[str]) -> None:
    """Fill in ``lr`` of ``optimizer_args``, and note what is wrong with it."""
    problems.extend(
        f"optimizer_args[{name!r}]: the learning rate is called 'lr'"
        for name in args
        if "lr" not in args and str(name).replace("-", "_").casefold() in _RATE_NAMES
    )
    rate = args.setdefault("lr", DEFAULT_LEARNING_RATE)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or rate < 0:
        problems.append(f"optimizer_args['lr'] must be number >= 0, got {_short(rate)}")


def check_privacy(args: Plain, problems: list[str]) -> None:
    """Fill the defaults of ``dp_args`` in, and note what is wrong with it."""
    for name in args:
        if name not in ("type", "sigma", "clip", "delta", "poisson"):
            near = get_close_matches(name, ("type", "sigma", "clip", "delta", "poisson"), n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            problems.append(f"dp_args[{name!r}] is not an argument of differential privacy{hint}")
    for name, value in _PRIVACY_DEFAULTS.items():
        args.setdefault(name, value)
    if args["type"] not in ("local", "central"):
        problems.append(f"dp_args['type'] must be 'local' or 'central', got {_short(args['type'])}")
    if not isinstance(args["poisson"], bool):
        problems.append(f"dp_args['poisson'] must be True or False, got {_short(args['poisson'])}")
    fits: dict[str, tuple[str, Callable[[float], bool]]] = {
        # beyond, noise does nothing or is all there is, and its account leaves the range of floating point
        "sigma": ("0, or a number from 1e-06 to 1e+09", lambda value: value == 0 or 1e-6 <= value <= 1e9),
        "clip": ("a number > 0", lambda value: value > 0),
        "delta": ("a number between 0 and 1", lambda value: 0 < value < 1),
    }
    for name, (words, fit) in fits.items():
        if name not in args:
            problems.append(f"dp_args needs {name!r}, {words}")
            continue
        value = args[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not fit(value):
            problems.append(f"dp_args[{name!r}] must be {words}, got {_short(value)}")
        else:
            args[name] = float(value)


def _plain(value: Any, where: str, problems: list[str], depth: int = 0) -> Any:
    """A copy of ``value`` in plain types; what is not JSON-like is added to ``problems``."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if -(2**63) <= value < 2**64:
            return int(value)
        problems.append(f"{where} is a whole number of more than 64 bits")
        return value
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, str):
        return str(value)
    if depth < _MAX_DEPTH and isinstance(value, Mapping):
        strange = [key for key in value if not isinstance(key, str)]
        problems.extend(f"{where} has the key {key!r}, but keys must be text" for key in strange)
        return {key: _plain(v, f"{where}[{key!r}]", problems, depth + 1) for key, v in value.items()}
    if depth < _MAX_DEPTH and isinstance(value, list | tuple):
        return [_plain(v, f"{where}[{i}]", problems, depth + 1) for i, v in enumerate(value)]
    problems.append(f"{where} must be plain data (text, numbers, lists, dicts), got {_short(value)}")
    return value


def _short(value: Any) -> str:
    text = reprlib.repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
