"""``fedplug doctor``: what is wrong on this machine, and how to mend it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedplug.cli.node.common import AsJson
from fedplug.cli.output import EXIT_FAILED, say, say_json
from fedplug.node.commands import DEFAULT_FOLDER

_MARKS = {"ok": "ok", "warning": "warning", "problem": "PROBLEM"}


def doctor(
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder",
            "-C",
            envvar="FEDPLUG_NODE",
            show_default="./fedplug-node, if it is there",
            help="The folder of a node.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look at this machine and at a node, and say what is wrong and how to mend it. Nothing is changed.

    The exit code is 1 if there is a problem.

    \b
    Examples:
      fedplug doctor
      fedplug doctor --folder /srv/fedplug/fedplug-node
    """  # fmt: skip  # noqa: D301
    import msgspec

    from fedplug.node.approval.review import visible
    from fedplug.node.service.doctor import examine

    if folder is None and DEFAULT_FOLDER.exists():
        folder = DEFAULT_FOLDER
    findings = examine(folder)
    problems = sum(each.state == "problem" for each in findings)
    warnings = sum(each.state == "warning" for each in findings)
    if as_json:
        say_json([msgspec.to_builtins(each) for each in findings])
    else:
        for each in findings:
            say(f"{_MARKS[each.state]:<8} {each.area:<10} {visible(each.text)}")
            for line in visible(each.cure).splitlines():
                say(f"{'':<19} {line}")
        if folder is None:
            say(f"There is no node in ./{DEFAULT_FOLDER}: only this machine was looked at. Name one with --folder.")
        say(f"{problems} problem(s), {warnings} warning(s).")
    if problems:
        raise typer.Exit(EXIT_FAILED)
