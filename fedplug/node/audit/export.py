"""The audit log as a file, and back: an export can be verified without the node."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Literal

import msgspec

from fedplug.core.errors import StoreError, UsageError
from fedplug.core.whole_file import whole_file
from fedplug.node.audit.entry import Entry

_NAMES = [field.name for field in fields(Entry)]
_MOST_LINE = 1 << 20


def export_entries(entries: Iterable[Entry], path: Path, kind: Literal["jsonl", "csv"] = "jsonl") -> int:
    """Write entries into a file, as a whole or not at all.

    Args:
        entries: The entries.
        path: The file; one that is there is replaced.
        kind: JSON lines, or CSV for spreadsheets.

    Returns:
        How many there were.

    Raises:
        StoreError: The file cannot be written.
    """
    count = 0
    try:
        with whole_file(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, _NAMES) if kind == "csv" else None
            if table:
                table.writeheader()
            for entry in entries:
                count += 1
                if table:
                    table.writerow({name: _harmless(value) for name, value in entry.plain().items()})
                else:
                    file.write(msgspec.json.encode(entry.plain()).decode() + "\n")
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}.") from None
    return count


def read_export(path: Path) -> Iterator[Entry]:
    """The entries of a file of JSON lines, one by one.

    Raises:
        UsageError: There is no such file, or it is not an export.
    """
    try:
        with path.open(encoding="utf-8") as file:
            number = 0
            while line := file.readline(_MOST_LINE):
                number += 1
                try:
                    yield msgspec.json.decode(line, type=Entry)
                except msgspec.MsgspecError as error:
                    raise UsageError(
                        f"Line {number} of {path} is no entry of an audit log: {error}.",
                        cure="Name a file that 'fedplug node audit export' has written as JSON lines.",
                    ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None


def _harmless(value: object) -> object:
    """A spreadsheet takes a text that begins so for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
