"""``fedplug run``: an experiment script, with errors that a person can act on."""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from fedplug.core.errors import FedplugError, UsageError


class _ScriptError(FedplugError):
    """A script raised something of its own."""


def run(
    script: Annotated[Path, typer.Argument(help="A Python file that makes an Experiment and runs it.")],
    arguments: Annotated[list[str] | None, typer.Argument(help="Arguments for the script.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show errors only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Show progress as one JSON object per line.")] = False,
) -> None:
    """Run an experiment script, as ``python SCRIPT`` would.

    The difference is in what you see when something goes wrong: one message with the cause and the cure
    instead of a traceback (--debug shows that too), and an exit code that says so.

    Example: fedplug run experiment.py --quiet
    """
    if not script.is_file():
        raise UsageError(f"There is no file {str(script)!r}.", cure="Name the Python file that holds your experiment.")
    if script.suffix != ".py":
        raise UsageError(
            f"{str(script)!r} is no Python file: its name does not end in .py.",
            cure="Name the Python file that holds your experiment.",
        )
    if quiet or as_json:
        os.environ["FEDPLUG_PROGRESS"] = "json" if as_json else "quiet"
    sys.argv = [str(script), *(arguments or [])]
    sys.path.insert(0, str(script.resolve().parent))
    try:
        runpy.run_path(str(script), run_name="__main__")
    except FedplugError:
        raise
    except SystemExit as ended:
        if isinstance(ended.code, str):  # sys.exit("what went wrong")
            raise _ScriptError(ended.code) from None
        raise
    except SyntaxError as error:
        text = (error.text or "").strip()
        raise _ScriptError(f"{error.filename}, line {error.lineno}: {error.msg}: {text}") from error
    except Exception as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(script)]
        place = f"{script}, line {frames[-1].lineno}: {frames[-1].line}\n" if frames else ""
        raise _ScriptError(f"{place}{type(error).__name__}: {error}") from error
