"""Training arguments: one table with type, range, default and help of every key.

A key is one line of `TrainingArgs`; checking, defaults and `TrainingArgs.help` all come from that line.
"""

from __future__ import annotations

import dataclasses
import math
import reprlib
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from fedplug.core.errors import TrainingArgsError

Plain = dict[str, Any]
"""JSON-like data: None, bool, int, float, str, and lists and dicts of them."""

_MAX_DEPTH = 16
_LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class _Rule:
    """What one key may hold. ``kind`` is int, number, bool or dict; ``optional`` allows None too."""

    kind: str
    help: str
    low: float | None
    below: float | None
    optional: bool

    @property
    def text(self) -> str:
        parts = [{"int": "whole number", "number": "number", "bool": "True or False", "dict": "dict"}[self.kind]]
        bounds = [f">= {self.low:g}"] if self.low is not None else []
        if self.below is not None:
            bounds.append(f"< {self.below:.4g}")
        parts += [" and ".join(bounds)] if bounds else []
        return " ".join(parts) + (" or None" if self.optional else "")


def _arg(
    kind: str, default: Any, text: str, *, low: float | None = None, below: float | None = None, optional: bool = False
) -> Any:
    rule = {"rule": _Rule(kind, text, low, below, optional)}
    if kind == "dict":
        return dataclasses.field(default_factory=lambda: deepcopy(default), metadata=rule)
    return dataclasses.field(default=default, metadata=rule)


@dataclass(frozen=True)
class TrainingArgs:
    """Checked training arguments, the same on the researcher and on every node.

    Raises:
        TrainingArgsError: At least one value is wrong; all wrong ones are listed.

    Example:
        >>> TrainingArgs.from_dict({"loader_args": {"batch_size": 32}, "epochs": 2}).optimizer_args
        {'lr': 0.001}
    """

    # fmt: off
    loader_args: Plain = _arg("dict", {}, "How batches are drawn: batch_size, shuffle, drop_last, loader's own.")  # noqa: RUF009
    optimizer_args: Plain = _arg("dict", {}, f"For init_optimizer; lr is always there (default {_LEARNING_RATE}).")  # noqa: RUF009
    epochs: int | None = _arg("int", None, "Passes over the training data in a round; 1 if num_updates is not given either.", low=1, optional=True)  # noqa: E501
    num_updates: int | None = _arg("int", None, "Optimizer steps in a round; wins over epochs.", low=1, optional=True)
    batch_maxnum: int | None = _arg("int", None, "At most so many batches an epoch; 0 or None: all.", low=0, optional=True)  # noqa: E501
    dry_run: bool = _arg("bool", False, "Train on a single batch, to see whether everything works.")
    log_interval: int = _arg("int", 10, "Report progress every so many steps, and at the first and last; 0: never.", low=0)  # noqa: E501
    fedprox_mu: float | None = _arg("number", None, "Weight of FedProx's proximal term; 0 or None: none.", low=0, optional=True)  # noqa: E501
    grad_clip: float | None = _arg("number", None, "Largest norm of the gradient; 0 or None: any.", low=0, optional=True)  # noqa: E501
    test_ratio: float = _arg("number", 0.0, "Part of each node's data that is held out for testing.", low=0, below=1)
    test_batch_size: int | None = _arg("int", None, "Samples per test batch; 0 or None: all in one.", low=0, optional=True)  # noqa: E501
    test_on_local_updates: bool = _arg("bool", False, "Test on the held-out data after local training.")
    test_on_global_updates: bool = _arg("bool", False, "Test on the held-out data before local training.")
    shuffle_testing_dataset: bool = _arg("bool", False, "Hold out other samples each round.")
    share_persistent_buffers: bool = _arg("bool", True, "Aggregate buffers (running means, counters) too; False: each node keeps its own.")  # noqa: E501
    keep_optimizer_state: bool = _arg("bool", False, "A node's optimizer goes on (momentum, moments) where its last acknowledged round ended.")  # noqa: E501
    use_gpu: bool = _arg("bool", False, "Train on a GPU where the node has one.")
    random_seed: int | None = _arg("int", None, "Seed of random, NumPy and the framework at the start of each round; None: from the experiment's seed.", low=0, below=2**63, optional=True)  # noqa: E501
    threads: int = _arg("int", 1, "Processor threads that the framework may use for one training.", low=1, below=1025)
    # fmt: on

    def __post_init__(self) -> None:
        values = {name: getattr(self, name) for name in _RULES}
        clean, problems = _checked(values)
        if problems:
            raise TrainingArgsError(problems)
        for name, value in clean.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | None) -> TrainingArgs:
        """The arguments that ``values`` describe, defaults filled in.

        Args:
            values: JSON-like values by key; tuples become lists. It is not changed, and nothing of it is kept.

        Raises:
            TrainingArgsError: A key is unknown, or a value is of the wrong type or out of range; all are listed.
        """
        if values is None:
            return cls()
        if not isinstance(values, Mapping):
            raise TrainingArgsError([f"expected a dict of arguments, got {type(values).__name__}"])
        unknown = [_unknown(key) for key in values if key not in _RULES]
        known = {key: value for key, value in values.items() if key in _RULES}
        if unknown:
            raise TrainingArgsError(unknown + _checked({**_defaults(), **known})[1])
        return cls(**known)

    def dict(self) -> Plain:
        """All arguments as plain data, a copy; ``from_dict`` of it gives an equal object."""
        values = {name: getattr(self, name) for name in _RULES}
        return {name: deepcopy(value) if isinstance(value, dict) else value for name, value in values.items()}

    @staticmethod
    def help() -> str:
        """A table of every key: what it may hold, its default, what it means. To be printed."""
        defaults = TrainingArgs().dict()
        rows = []
        for name, rule in _RULES.items():
            rows.append(f"{name}: {rule.text}, default {defaults[name]!r}\n    {rule.help}")
        return "\n".join(rows)


_RULES: dict[str, _Rule] = {field.name: field.metadata["rule"] for field in dataclasses.fields(TrainingArgs)}

_HOMES: Mapping[object, str] = {
    "lr": "optimizer_args", "momentum": "optimizer_args", "weight_decay": "optimizer_args",
    "batch_size": "loader_args", "shuffle": "loader_args", "drop_last": "loader_args",
}  # fmt: skip


def _defaults() -> Plain:
    return {
        field.name: {} if field.default is dataclasses.MISSING else field.default
        for field in dataclasses.fields(TrainingArgs)
    }


def _unknown(key: object) -> str:
    if key in _HOMES:
        return f"{key!r} is not a training argument; it belongs into {_HOMES[key]}"
    near = get_close_matches(str(key), _RULES, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(_RULES)}"
    return f"{key!r} is not a training argument{hint}"


def _checked(values: Mapping[str, Any]) -> tuple[Plain, list[str]]:
    """The values in canonical form with what depends on each other filled in, and all that is wrong."""
    clean: Plain = {}
    problems: list[str] = []
    for name, value in values.items():
        clean[name] = _check(name, value, _RULES[name], problems)
    if isinstance(clean["loader_args"], dict):
        _check_loader(clean["loader_args"], problems)
    if isinstance(clean["optimizer_args"], dict):
        _check_optimizer(clean["optimizer_args"], problems)
    tests = [name for name in ("test_on_local_updates", "test_on_global_updates") if clean[name] is True]
    if tests and clean["test_ratio"] == 0:
        problems.append(f"{' and '.join(tests)} need test_ratio > 0, or there is nothing to test on")
    if clean["epochs"] is None and clean["num_updates"] is None:
        clean["epochs"] = 1
    return clean, problems


def _check(name: str, value: Any, rule: _Rule, problems: list[str]) -> Any:
    if value is None and rule.optional:
        return None
    if rule.kind == "bool" and isinstance(value, bool):
        return value
    if rule.kind == "dict" and isinstance(value, Mapping):
        return _plain(value, name, problems)
    number = not isinstance(value, bool) and isinstance(value, int if rule.kind == "int" else int | float)
    if number and rule.kind in ("int", "number"):
        below = 2**63 if rule.below is None else rule.below
        if (rule.low is None or value >= rule.low) and value < below:
            return int(value) if rule.kind == "int" else float(value)
    problems.append(f"{name} must be {rule.text}, got {_short(value)}")
    return value


def _check_loader(args: Plain, problems: list[str]) -> None:
    size = args.get("batch_size", 1)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        problems.append(f"loader_args['batch_size'] must be whole number >= 1, got {_short(size)}")
    problems.extend(
        f"loader_args[{name!r}] must be True or False, got {_short(args[name])}"
        for name in ("shuffle", "drop_last")
        if not isinstance(args.get(name, False), bool)
    )


def _check_optimizer(args: Plain, problems: list[str]) -> None:
    rate = args.setdefault("lr", _LEARNING_RATE)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or rate < 0:
        problems.append(f"optimizer_args['lr'] must be number >= 0, got {_short(rate)}")


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
