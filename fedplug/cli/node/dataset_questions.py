"""Asking the owner what a new data set is, one thing after the other. Nothing is registered before the last answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import typer

from fedplug.cli.node.dataset_file import Wanted
from fedplug.cli.output import say, words
from fedplug.core.dataset_type import DatasetRecord
from fedplug.core.errors import FedplugError, UsageError
from fedplug.node.datasets.registry import (
    checked_name,
    checked_tags,
    dataset_type,
    guess_type,
    inspect_file,
    type_names,
)

_UNASKED = "not asked yet"


def ask(wanted: Wanted, roots: Sequence[Path], taken: Sequence[str]) -> Wanted:
    """Ask for all that is not said yet, and whether it is right. A wrong answer is asked for again.

    Args:
        wanted: What has been said on the command line.
        roots: Folders below which data must lie.
        taken: Names of the data sets that there are.

    Raises:
        typer.Abort: The owner has interrupted, or said no at the end.
    """
    found: list[DatasetRecord] = []

    def look(path: str, kind: str) -> str:
        record, notes = inspect_file(
            path, type=kind, tags=(_UNASKED,), mapping=wanted.mapping, options=wanted.options, roots=roots
        )
        found[:] = [record]
        for note in notes:
            say(f"Note: {note}")
        return kind

    path = wanted.path or _ask("File or folder", "", _existing)
    kind = wanted.type or _guess(Path(path))
    if kind and wanted.type:
        look(path, kind)
    else:
        say(f"Types: {', '.join(f'{name} ({dataset_type(name).title or name})' for name in type_names())}")
        kind = _ask("Type", kind, lambda answer: look(path, answer))
    record = found[0]
    say(f"It has {record.shape[0]:,} samples, and {len(record.columns)} columns:")
    for column, dtype in zip(record.columns, record.dtypes, strict=True):
        missing = record.missing.get(column)
        say(f"  {column:<24} {dtype}" + (f", {missing:,} missing" if missing else ""))

    def free(answer: str) -> str:
        if checked_name(answer) in taken:
            raise UsageError(f"This node has a data set named {answer!r} already.")
        return answer

    name = wanted.name or _ask("Name", record.name, free)
    tags = wanted.tags or checked_tags(words(_ask("Tags, separated by commas", "", _tags)))
    target = wanted.target or _ask("Column to be predicted (- for none)", record.target or "-", _among(record.columns))
    description = wanted.description or _ask("Description for researchers (- for none)", "-", str)
    say(f"{name}: {kind}, tags {', '.join(tags)}, target {target}, {path}")
    typer.confirm("Register it?", default=True, abort=True)
    return replace(
        wanted, path=path, type=kind, name=name, tags=tags, target=_none(target), description=_none(description)
    )


def _ask(question: str, default: str, check: Callable[[str], str]) -> str:
    while True:
        answer = str(typer.prompt(question, default=default or None)).strip()
        try:
            return check(answer)
        except FedplugError as error:
            say(str(error))


def _existing(answer: str) -> str:
    path = Path(answer).expanduser()
    if not path.exists():
        raise UsageError(f"There is no file or folder {answer}.")
    return str(path)


def _guess(path: Path) -> str:
    try:
        return guess_type(path)
    except FedplugError:
        return ""


def _tags(answer: str) -> str:
    checked_tags(words(answer))
    return answer


def _among(columns: Sequence[str]) -> Callable[[str], str]:
    def check(answer: str) -> str:
        if answer != "-" and answer not in columns:
            raise UsageError(f"There is no column {answer!r}.", cure=f"It has: {', '.join(columns)}.")
        return answer

    return check


def _none(answer: str) -> str:
    return "" if answer == "-" else answer
