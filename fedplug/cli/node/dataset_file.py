"""What an owner says of a data set to be added: on the command line, or in a JSON file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from fedplug.cli.output import words
from fedplug.core.errors import UnknownNameError, UsageError

_MOST = 1 << 20


@dataclass(frozen=True)
class Wanted:
    """What an owner says of a data set.

    Attributes:
        path: The file or folder.
        name: Its name.
        type: Its type; empty: to be guessed.
        tags: Its tags.
        columns: The columns that plans may see; none: all.
        target: The column to predict.
        description: Free text.
        mapping: Names that plans use → names in the files.
        options: What the type wants to know.
    """

    path: str = ""
    name: str = ""
    type: str = ""
    tags: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    target: str = ""
    description: str = ""
    mapping: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> Wanted:
        """What a JSON file says. A path in it that is not absolute begins at the file's folder.

        Raises:
            UsageError: It cannot be read, is no such JSON, or a value is not what it must be.
            UnknownNameError: It says something that there is not.
        """
        plain = _read_json(file)
        known = [each.name for each in fields(cls)]
        found: dict[str, Any] = {}
        for key, value in plain.items():
            if key not in known:
                raise UnknownNameError("entry of the description of a data set", key, known)
            if key in {"tags", "columns"}:
                listed = words(value) if isinstance(value, str) else value
                if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
                    raise UsageError(f"{file.name}: {key} must be a list of words.", cure=f'E.g. "{key}": ["a", "b"]')
                found[key] = tuple(listed)
            elif key in {"mapping", "options"}:
                found[key] = _names(value, f"{file.name}: {key}")
            elif isinstance(value, str):
                found[key] = value
            else:
                raise UsageError(f"{file.name}: {key} must be text.", cure=f'E.g. "{key}": "..."')
        if found.get("path"):
            found["path"] = str(file.absolute().parent / Path(found["path"]).expanduser())
        return cls(**found)

    def overridden(self, given: Wanted) -> Wanted:
        """The same with whatever ``given`` says in its place."""
        return replace(self, **{each.name: value for each in fields(self) if (value := getattr(given, each.name))})

    def facts(self) -> dict[str, Any]:
        """The arguments of ``inspect_file``, but for the path."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "path"}


def pairs(given: Sequence[str] | None, option: str) -> dict[str, str]:
    """The values of an option that is written ``KEY=VALUE``.

    Raises:
        UsageError: One has no ``=``, or a key is given twice.
    """
    found: dict[str, str] = {}
    for each in given or ():
        key, sign, value = each.partition("=")
        if not sign or not key.strip() or not value.strip():
            raise UsageError(f"{option} {each!r} is no pair.", cure=f"Write {option} NAME=VALUE.")
        if key.strip() in found:
            raise UsageError(f"{option} says {key.strip()!r} twice.", cure="Say it once.")
        found[key.strip()] = value.strip()
    return found


def read_mapping(file: Path | None) -> dict[str, str]:
    """Names that plans use → names in the files, from a JSON file; none if there is no file.

    Raises:
        UsageError: It cannot be read, or is no such JSON.
    """
    return {} if file is None else _names(_read_json(file), file.name)


def _names(value: object, what: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise UsageError(f"{what} must be an object whose values are text.", cure='E.g. {"age": "AlterJahre"}')
    return dict(value)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        with open(file, encoding="utf-8") as stream:
            plain = json.loads(stream.read(_MOST))
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.", cure="Check the path.") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file.name} is no valid JSON: {error}.", cure="Correct it.") from None
    if not isinstance(plain, dict):
        raise UsageError(f"{file.name} must hold a JSON object.", cure='E.g. {"path": "patients.csv", "tags": ["x"]}')
    return plain
