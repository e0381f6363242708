"""Asking the owner what a new data set is, one thing after the other. Nothing is registered before the last answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import typer

from fedplug.cli.node.dataset_file import Wanted, pairs
from fedplug.cli.output import say, words
from fedplug.core.dataset_option import DatasetOption
from fedplug.core.dataset_type import DatasetRecord, DatasetType
from fedplug.core.errors import FedplugError, UsageError
from fedplug.node.datasets.loading_plan import loading_plan
from fedplug.node.datasets.plan_names import PlanNames
from fedplug.node.datasets.registry import (
    checked_name,
    checked_tags,
    dataset_type,
    guess_type,
    inspect_file,
    names_here,
    types_for,
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
    path = wanted.path or _ask("File or folder", "", _existing)
    kind, options, record = _look(wanted, path, roots)
    say(f"It has {record.shape[0]:,} samples, and {len(record.columns)} columns:")
    for column, dtype in zip(record.columns, record.dtypes, strict=True):
        missing = record.missing.get(column)
        say(f"  {column:<24} {dtype}" + (f", {missing:,} missing" if missing else ""))
    mapping = wanted.mapping or _mapping(
        _ask("Columns that plans call otherwise, e.g. age=AlterJahre, size=Groesse (- for none)", "-", _names(record))
    )
    columns = PlanNames(record.label, mapping).plan_all(record.sources)

    def free(answer: str) -> str:
        if checked_name(answer) in taken:
            raise UsageError(f"This node has a data set named {answer!r} already.")
        return answer

    name = wanted.name or _ask("Name", record.name, free)
    tags = wanted.tags or checked_tags(words(_ask("Tags, separated by commas", "", _tags)))
    target = wanted.target or _ask("Column to be predicted (- for none)", record.target or "-", _among(columns))
    description = wanted.description or _ask("Description for researchers (- for none)", "-", str)
    say(f"{name}: {kind}, tags {', '.join(tags)}, target {target}, {path}")
    for what, said in (("names", mapping), ("options", options)):
        if said:
            say(f"{what}: {', '.join(f'{key}={value}' for key, value in said.items())}")
    typer.confirm("Register it?", default=True, abort=True)
    return replace(
        wanted,
        path=path,
        type=kind,
        name=name,
        tags=tags,
        target=_none(target),
        description=_none(description),
        mapping=mapping,
        options=options,
    )


def _look(wanted: Wanted, path: str, roots: Sequence[Path]) -> tuple[str, dict[str, str], DatasetRecord]:
    """Ask for the type and what it wants to know until the files can be read so.

    Returns:
        The type, its options, and what is there, under the names of the mapping if it has been said already.

    Raises:
        FedplugError: They cannot, and all has been said on the command line.
    """
    if not wanted.type:
        say(f"Types: {', '.join(f'{name} ({title})' for name, title in types_for(Path(path)).items())}")
    while True:
        name = wanted.type or _ask("Type", _guess(Path(path)), lambda answer: dataset_type(answer).name)
        kind = dataset_type(name)
        asked = {} if wanted.options else {key: about for key, about in kind.options.items() if not about.rare}
        options = wanted.options or _options(kind, asked, Path(path))
        try:
            record, notes = inspect_file(
                path, type=name, tags=(_UNASKED,), mapping=wanted.mapping, options=options, roots=roots
            )
        except FedplugError as error:
            if wanted.type and not asked:
                raise
            say(str(error))
            continue
        for note in notes:
            say(f"Note: {note}")
        return name, options, record


def _options(kind: DatasetType, asked: Mapping[str, DatasetOption], path: Path) -> dict[str, str]:
    """Ask for what a type wants to know; nothing that the files do not have."""
    here, found = names_here(path, kind), {}
    for key, about in asked.items():
        if about.renames and here[key]:
            say(f"{about.label}: {', '.join(here[key])}. {about.hint}")
            question = f"{about.label} that plans call otherwise, e.g. NAME_IN_PLANS=NAME_HERE|OTHER; ... (- for none)"
            found[key] = _none(_ask(question, "-", _plan(key)))
        elif not about.renames:
            say(about.hint)
            found[key] = _none(_ask(f"{about.label} (- for none)", "-", str))
    return {key: value for key, value in found.items() if value}


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


def _plan(option: str) -> Callable[[str], str]:
    def check(answer: str) -> str:
        loading_plan(_none(answer), option, "This")
        return answer

    return check


def _mapping(answer: str) -> dict[str, str]:
    try:
        return pairs(words(_none(answer)), "")
    except UsageError:
        raise UsageError(
            f"{answer!r} does not say which name stands for which.", cure="Write NAME_IN_PLANS=NAME_HERE, with commas."
        ) from None


def _names(record: DatasetRecord) -> Callable[[str], str]:
    def check(answer: str) -> str:
        PlanNames("It", _mapping(answer)).plan_all(record.columns)
        return answer

    return check


def _none(answer: str) -> str:
    return "" if answer == "-" else answer
