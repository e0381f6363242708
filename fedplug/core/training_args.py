"""Training arguments: one table with type, range, default and help of every key.

A key is one line of `TrainingArgs`; checking, defaults and `TrainingArgs.help` all come from that line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import msgspec

from fedplug.core.argument_rules import (
    DEFAULT_LEARNING_RATE,
    Plain,
    Rule,
    check_loader,
    check_optimizer,
    check_privacy,
    check_value,
)
from fedplug.core.errors import TrainingArgsError, UnknownNameError


def _arg(
    kind: str, default: Any, text: str, *, low: float | None = None, below: float | None = None, optional: bool = False
) -> Any:
    rule = {"rule": Rule(kind, text, low, below, optional)}
    if isinstance(default, dict):
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
    optimizer_args: Plain = _arg("dict", {}, f"For init_optimizer; lr is always there (default {DEFAULT_LEARNING_RATE}).")  # noqa: E501, RUF009
    epochs: int | None = _arg("int", None, "Passes over the training data in a round; 1 if num_updates is not given either.", low=1, optional=True)  # noqa: E501
    num_updates: int | None = _arg("int", None, "Optimizer steps in a round; wins over epochs.", low=1, optional=True)
    batch_maxnum: int | None = _arg("int", None, "At most so many batches an epoch; 0 or None: all.", low=0, optional=True)  # noqa: E501
    dry_run: bool = _arg("bool", False, "Train on a single batch, to see whether everything works.")
    log_interval: int = _arg("int", 10, "Report progress every so many steps, and at the first and last; 0: never.", low=0)  # noqa: E501
    fedprox_mu: float | None = _arg("number", None, "Weight of FedProx's proximal term; 0 or None: none.", low=0, optional=True)  # noqa: E501
    grad_clip: float | None = _arg("number", None, "Largest norm of the gradient; 0 or None: any.", low=0, optional=True)  # noqa: E501
    test_ratio: float = _arg("number", 0.0, "Part of each node's data that is held out for testing.", low=0, below=1)
    test_batch_size: int | None = _arg("int", None, "Samples per test batch; 0 or None: all in one if the plan has a testing_step, else 1024.", low=0, optional=True)  # noqa: E501
    test_on_local_updates: bool = _arg("bool", False, "Test on the held-out data after local training.")
    test_on_global_updates: bool = _arg("bool", False, "Test on the held-out data before local training.")
    shuffle_testing_dataset: bool = _arg("bool", False, "Hold out other samples each round.")
    stratify_testing_dataset: bool = _arg("bool", False, "Hold out the same share of every class; needs whole numbers as target.")  # noqa: E501
    test_metric: list[str] | None = _arg("names", None, "What a test measures: accuracy, f1_score, ... (fedplug.MetricTypes), or a list.", optional=True)  # noqa: E501, RUF009
    test_metric_args: Plain = _arg("dict", {}, "Arguments of the metrics, e.g. n_classes, average, threshold.")  # noqa: RUF009
    share_persistent_buffers: bool = _arg("bool", True, "Aggregate buffers (running means, counters) too; False: each node keeps its own.")  # noqa: E501
    keep_optimizer_state: bool = _arg("bool", False, "A node's optimizer goes on (momentum, moments) where its last acknowledged round ended.")  # noqa: E501
    use_gpu: bool = _arg("bool", False, "Train on a GPU where the node has one.")
    dp_args: Plain | None = _arg("dict", None, "Differential privacy: type (local or central), sigma, clip, delta, poisson.", optional=True)  # noqa: E501, RUF009
    random_seed: int | None = _arg("int", None, "Seed of random, NumPy, the framework and the order of samples, the same in each round; None: from the experiment's seed.", low=0, below=2**63, optional=True)  # noqa: E501
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

    @classmethod
    def from_request(cls, values: Mapping[str, Any]) -> TrainingArgs:
        """As `from_dict`, for the plain data of a request: what was checked before is copied, and not checked again.

        Args:
            values: Nothing but what can travel: None, bool, int, float, str, and lists and dicts of them.

        Raises:
            TrainingArgsError: As in `from_dict`.
        """
        # Each caller gets values of its own: a plan may write into what it is given.
        args = cls.__new__(cls)
        args.__dict__.update(_copied(cls.of_request(values).__dict__))
        return args

    @classmethod
    def of_request(cls, values: Mapping[str, Any]) -> TrainingArgs:
        """As `from_request`, for whoever only reads: one object for all who ask about the same arguments.

        Raises:
            TrainingArgsError: As in `from_dict`.
        """
        try:
            key = _encoder.encode(values)
        except (TypeError, ValueError, OverflowError, RecursionError):
            return cls.from_dict(values)
        args = _checked_before.get(key)
        if args is None:
            args = cls.from_dict(values)
            if len(key) <= _MOST_KEY:
                if len(_checked_before) >= _MOST_CHECKED:
                    _checked_before.clear()
                _checked_before[key] = args
        return args

    def dict(self) -> Plain:
        """All arguments as plain data, a copy; ``from_dict`` of it gives an equal object."""
        return _copied(self.__dict__)

    # the page's other ways to read them ----------------------------------------------------------------------

    def get(self, key: str, default: Any = None) -> Any:
        """The argument ``key``, a copy; ``default`` where there is none of that name."""
        return self.dict().get(key, default)

    def __getitem__(self, key: str) -> Any:
        """The argument ``key``, a copy.

        Raises:
            UnknownNameError: There is none of that name.
        """
        if key not in _RULES:
            raise UnknownNameError("training argument", str(key), _RULES)
        return self.dict()[key]

    def updated(self, values: Mapping[str, Any]) -> TrainingArgs:
        """These arguments with those of ``values`` replaced; also ``args ^ values`` and ``args ^= values``.

        Where ``values`` names one of ``epochs`` and ``num_updates`` only, the other one is left out.

        Raises:
            TrainingArgsError: As in `from_dict`.
        """
        before = self.dict()
        lengths = {"epochs", "num_updates"}
        if len(lengths & values.keys()) == 1:
            before |= dict.fromkeys(lengths, None)
        return TrainingArgs.from_dict({**before, **values})

    __xor__ = updated

    def testing_arguments(self) -> Plain:
        """What concerns tests: the arguments whose names begin with ``test_``, and how data is held out."""
        return {name: value for name, value in self.dict().items() if name in _TESTING}

    def pure_training_arguments(self) -> Plain:
        """What concerns the training loop: all that belongs to none of the other groups."""
        others = {*_TESTING, "loader_args", "optimizer_args", "dp_args"}
        return {name: value for name, value in self.dict().items() if name not in others}

    def loader_arguments(self) -> Plain:
        """``loader_args``, a copy."""
        return _copied(self.loader_args)

    def optimizer_arguments(self) -> Plain:
        """``optimizer_args``, a copy; ``lr`` is always there."""
        return _copied(self.optimizer_args)

    def dp_arguments(self) -> Plain | None:
        """``dp_args``, a copy, defaults filled in; None if there is no differential privacy."""
        return deepcopy(self.dp_args)

    @staticmethod
    def default_scheme() -> Plain:
        """Every key with its rule: ``type``, ``default``, ``low``, ``below``, ``optional``, ``help``."""
        defaults = TrainingArgs().dict()
        return {
            name: {
                "type": rule.kind, "default": defaults[name], "low": rule.low, "below": rule.below,
                "optional": rule.optional, "help": rule.help,
            }
            for name, rule in _RULES.items()
        }  # fmt: skip

    scheme = default_scheme

    @staticmethod
    def default_value(key: str) -> Any:
        """The value of ``key`` where nothing is given.

        Raises:
            UnknownNameError: There is no such argument.
        """
        return TrainingArgs()[key]

    @staticmethod
    def help() -> str:
        """A table of every key: what it may hold, its default, what it means. To be printed."""
        defaults = TrainingArgs().dict()
        rows = []
        for name, rule in _RULES.items():
            rows.append(f"{name}: {rule.text}, default {defaults[name]!r}\n    {rule.help}")
        return "\n".join(rows)


_RULES: dict[str, Rule] = {field.name: field.metadata["rule"] for field in dataclasses.fields(TrainingArgs)}

_TESTING = tuple(name for name in _RULES if name.startswith("test_") or name.endswith("_testing_dataset"))

GROUPS: Mapping[object, str] = {
    "lr": "optimizer_args", "momentum": "optimizer_args", "weight_decay": "optimizer_args",
    "batch_size": "loader_args", "shuffle": "loader_args", "drop_last": "loader_args",
    "sigma": "dp_args", "clip": "dp_args", "delta": "dp_args", "poisson": "dp_args",
}  # fmt: skip
"""Which group of training arguments well-known names belong into."""


_MOST_CHECKED = 64
_MOST_KEY = 64 * 1024
"""So many tables of arguments, of so many bytes each, are known to be right."""

_encoder = msgspec.msgpack.Encoder()
_checked_before: dict[bytes, TrainingArgs] = {}


def _copied(plain: Plain) -> Plain:
    """A copy of checked, and so plain, data."""
    return {key: _deep(each) if isinstance(each, _NESTED) else each for key, each in plain.items()}


def _deep(value: Any) -> Any:
    if isinstance(value, dict):
        return _copied(value)
    return [_deep(each) for each in value] if isinstance(value, list) else value


_NESTED = (dict, list)


def _defaults() -> Plain:
    return {
        field.name: {} if field.default is dataclasses.MISSING else field.default
        for field in dataclasses.fields(TrainingArgs)
    }


def _unknown(key: object) -> str:
    if key in GROUPS:
        return f"{key!r} is not a training argument; it belongs into {GROUPS[key]}"
    near = get_close_matches(str(key), _RULES, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(_RULES)}"
    return f"{key!r} is not a training argument{hint}"


def _checked(values: Mapping[str, Any]) -> tuple[Plain, list[str]]:
    """The values in canonical form with what depends on each other filled in, and all that is wrong."""
    clean: Plain = {}
    problems: list[str] = []
    for name, value in values.items():
        clean[name] = check_value(name, value, _RULES[name], problems)
    if isinstance(clean["loader_args"], dict):
        check_loader(clean["loader_args"], problems)
    if isinstance(clean["optimizer_args"], dict):
        check_optimizer(clean["optimizer_args"], problems)
    if isinstance(clean["dp_args"], dict):
        check_privacy(clean["dp_args"], problems)
    tests = [name for name in ("test_on_local_updates", "test_on_global_updates") if clean[name] is True]
    if tests and clean["test_ratio"] == 0:
        problems.append(f"{' and '.join(tests)} need test_ratio > 0, or there is nothing to test on")
    if clean["epochs"] is None and clean["num_updates"] is None:
        clean["epochs"] = 1
    return clean, problems
