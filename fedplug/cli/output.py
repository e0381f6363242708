"""What all commands share: tables, ``--json``, and errors that say what to do."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from typer.core import TyperGroup

from fedplug.core.errors import FedplugError, UsageError

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
"""Wrong usage, or something that was asked for does not exist."""
EXIT_INTERRUPTED = 130


class ListingGroup(TyperGroup):
    """A group that lists its commands when it is asked for one that it does not have."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that ``args`` begin with."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            near = get_close_matches(args[0], self.commands, n=1, cutoff=0.6)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"No such command {args[0]!r}.{hint} Commands: {', '.join(self.list_commands(ctx))}.")
        return super().resolve_command(ctx, args)


def say(text: str = "") -> None:
    """Print a line."""
    sys.stdout.write(text + "\n")


def say_json(value: Any) -> None:
    """Print plain data as JSON, for other programs."""
    say(json.dumps(value, indent=2, ensure_ascii=False))


def say_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print left-aligned columns under upper-case headers; the last column is not padded."""
    table = [[header.upper() for header in headers], *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(headers))]
    widths[-1] = 0
    for row in table:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def say_error(error: BaseException, *, debug: bool = False) -> int:
    """Print what went wrong on standard error: cause and cure, and the traceback only if asked for.

    Returns:
        The exit code that belongs to the error.
    """
    lines: list[str] = []
    if debug:
        lines += traceback.format_exception(error)
        details = getattr(error, "details", "")
        lines += [details] if details else []
    if isinstance(error, FedplugError):
        lines += [f"Error: {error.message}", *([error.cure] if error.cure else [])]
    else:
        lines.append(f"Error: {type(error).__name__}: {error}")
        if not debug:
            lines.append("This should not happen. Run it again with --debug and report what it prints.")
    lines += getattr(error, "__notes__", [])
    sys.stderr.write("\n".join(line.rstrip("\n") for line in lines) + "\n")
    return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED


def words(text: str) -> list[str]:
    """The words of an option that takes several, separated by commas."""
    return [word.strip() for word in text.split(",") if word.strip()]
