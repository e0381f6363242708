"""The file ``node.toml``: read, checked as a whole, and written."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fedplug.core.errors import PolicyError, StoreError
from fedplug.core.whole_file import whole_file
from fedplug.node.policy import values as v
from fedplug.node.policy.lines import dotted, key_lines
from fedplug.node.policy.schema import (
    ApprovalRules,
    DataRules,
    Policy,
    PrivacyRules,
    ResourceRules,
    TrainingRules,
)

POLICY_FILE = "node.toml"
MAX_TEXT = 256 * 1024
"""Longest file that is read, in bytes."""

_TRAINING: Mapping[str, v.Reader] = {
    "plugins": v.names,
    "imports": v.names,
    "extra_arrays": v.names,
    "arguments": v.argument_ranges,
    "minimum_rows": v.whole(0),
    "rounds": v.whole(0),
}
_SECTIONS: Mapping[str, tuple[Callable[..., Any], Mapping[str, v.Reader]]] = {
    "approval": (ApprovalRules, {"mode": v.choice("on", "off"), "default_plans": v.flag}),
    "data": (DataRules, {"roots": v.folders}),
    "training": (TrainingRules, _TRAINING),
    "privacy": (
        PrivacyRules,
        {"required": v.flag, "epsilon": v.number(0), "delta": v.number(0, 1), "accept_central": v.flag},
    ),
    "resources": (
        ResourceRules,
        {
            "memory": v.size,
            "scratch": v.size,
            "updates": v.size,
            "threads": v.whole(1),
            "gpu": v.flag,
            "processes": v.whole(0),
            "progress_silence": v.seconds,
            "isolation": v.choice("best", "required", "off"),
        },
    ),
}
_DATASETS = "datasets"
_LINE = re.compile(r" ?\(at line (\d+), column \d+\)|\(at end of document\)")


@dataclass(frozen=True)
class Problem:
    """Something that is wrong in the file.

    Attributes:
        line: The line, from 1; 0 if it cannot be told.
        key: The dotted key; empty if it is no single one.
        text: What is wrong, in a sentence.
    """

    line: int
    key: str
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}" if self.line else self.text


def read_policy(folder: Path) -> Policy:
    """The rules of the node in ``folder``; the defaults if it has no file of rules.

    Raises:
        PolicyError: The file is wrong; all that is wrong is listed with its line.
        StoreError: It cannot be read.
    """
    file = folder / POLICY_FILE
    if not file.exists():
        return Policy()
    policy, problems = parse_policy(read_text(file), file)
    if problems:
        raise PolicyError(str(file), [str(problem) for problem in problems])
    return policy


def read_text(file: Path) -> str:
    """The text of the file.

    Raises:
        PolicyError: It is no text, or too long to be what it should.
        StoreError: It cannot be read.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_TEXT + 1)
    except OSError as error:
        raise StoreError(
            f"{file} cannot be read: {error.strerror}.", cure="Check that this user may read it."
        ) from None
    if len(data) > MAX_TEXT:
        raise PolicyError(str(file), [f"it has more than {MAX_TEXT:,} bytes"])
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise PolicyError(str(file), ["it is no text in UTF-8"]) from None


def check_text(text: str) -> list[Problem]:
    """All that is wrong with a text that is to become ``node.toml``, by line."""
    return parse_policy(text)[1]


def save_policy(folder: Path, text: str) -> Policy:
    """Check a text and make it the rules of the node in ``folder``, as a whole or not at all.

    Raises:
        PolicyError: It is wrong; the file stays as it was.
        StoreError: The file cannot be written.
    """
    file = folder / POLICY_FILE
    policy, problems = parse_policy(text, file)
    if problems:
        raise PolicyError(str(file), [str(problem) for problem in problems])
    with whole_file(file) as draft:
        draft.touch(mode=0o600)
        draft.write_bytes(text.encode())
    return policy


def parse_policy(text: str, file: Path | None = None) -> tuple[Policy, list[Problem]]:
    """The rules that a text gives, and all that is wrong with it; where something is wrong, its default stands.

    Args:
        text: The text.
        file: Where it stands, for messages.
    """
    try:
        plain = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        line = _LINE.search(str(error))
        number = int(line[1]) if line and line[1] else text.count("\n") + 1
        return Policy(file=file), [Problem(number, "", f"this is not TOML: {_LINE.sub('', str(error)).rstrip()}.")]
    lines = key_lines(text)
    reading = _Reading(lines)
    found = {name: reading.section((name,), plain.pop(name, {}), *spec) for name, spec in _SECTIONS.items()}
    datasets = reading.table((_DATASETS,), plain.pop(_DATASETS, {}))
    own = {name: reading.section((_DATASETS, name), each, TrainingRules, _TRAINING) for name, each in datasets.items()}
    for name in plain:
        reading.unknown((name,), "section", [*_SECTIONS, _DATASETS])
    policy = Policy(**found, datasets=MappingProxyType(own), file=file, lines=MappingProxyType(lines))
    return policy, sorted(reading.problems, key=lambda problem: problem.line)


class _Reading:
    """Reads section by section, and notes what is wrong."""

    def __init__(self, lines: Mapping[str, int]) -> None:
        self.lines = lines
        self.problems: list[Problem] = []

    def section(
        self, path: tuple[str, ...], plain: Any, make: Callable[..., Any], readers: Mapping[str, v.Reader]
    ) -> Any:
        found: dict[str, Any] = {}
        for key, value in self.table(path, plain).items():
            if key not in readers:
                self.unknown((*path, key), "key", readers)
                continue
            try:
                found[key] = readers[key](value)
            except ValueError as error:
                self.note((*path, key), f"{dotted((*path, key))} {error}.")
        return make(**found)

    def table(self, path: tuple[str, ...], plain: Any) -> Mapping[str, Any]:
        if isinstance(plain, Mapping):
            return plain
        self.note(path, f"{dotted(path)} must be a section: write [{dotted(path)}] on a line of its own.")
        return {}

    def unknown(self, path: tuple[str, ...], kind: str, known: Sequence[str] | Mapping[str, Any]) -> None:
        near = get_close_matches(path[-1], list(known), n=1, cutoff=0.6)
        hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."
        self.note(path, f"there is no {kind} {dotted(path)}. {hint}")

    def note(self, path: tuple[str, ...], text: str) -> None:
        key = dotted(path)
        self.problems.append(Problem(self.lines.get(key, 0), key, text))
