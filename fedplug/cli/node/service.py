"""``fedplug node stop`` and ``logs``: end a running node in order, and read what it has written."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from fedplug.cli.node.common import next_command
from fedplug.cli.output import EXIT_FAILED, say

if TYPE_CHECKING:
    from fedplug.node.status import NodeStatus

_LOOK = 0.5
_TELL = 5.0
"""Seconds between two lines of progress."""


def stop(
    ctx: typer.Context,
    now: Annotated[bool, typer.Option("--now", help="End at once: the training under way is cancelled.")] = False,
    timeout: Annotated[float, typer.Option(min=0, help="Most seconds to wait; 0: as long as it takes.")] = 0,
) -> None:
    """Stop the node: it takes no new training, lets the one under way end, and then ends itself.

    Waits until it has ended, and shows how far it is. If the time is over before that, the node goes on to its end; the
    exit code is 1.

    \b
    Examples:
      fedplug node stop
      fedplug node stop --timeout 60
      fedplug node stop --now
    """  # noqa: D301
    import signal
    import time

    from fedplug.node.service.process import DRAIN, NodeProcess
    from fedplug.node.status import read_status

    process = NodeProcess.find(ctx.obj)
    if process is None:
        say("The node does not run.")
        return
    with process:
        process.send(signal.SIGTERM if now else DRAIN)
        until = time.monotonic() + timeout if timeout else float("inf")
        told, next_telling = "", 0.0
        while not process.wait(min(_LOOK, max(0.0, until - time.monotonic()))):
            status = read_status(ctx.obj)
            if status.running and time.monotonic() >= next_telling and (text := _waiting_for(status)) != told:
                told, next_telling = text, time.monotonic() + _TELL
                _say_now(told)
            if time.monotonic() >= until:
                say(f"The node has not ended in {timeout:g} s; it still will.")
                next_command("end it at once", ctx.obj, "stop", "--now")
                raise typer.Exit(EXIT_FAILED)
    say("The node has stopped.")


def logs(
    ctx: typer.Context,
    number: Annotated[int, typer.Option("-n", "--number", min=0, help="How many messages.")] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written, until Ctrl-C.")] = False,
    level: Annotated[str, typer.Option(help="The least that is shown: debug, info, warning or error.")] = "debug",
) -> None:
    """Show what the node has written into its log, the newest last.

    \b
    Examples:
      fedplug node logs
      fedplug node logs -n 20 --level warning
      fedplug node logs --follow
    """  # noqa: D301
    from fedplug.node.approval.review import visible
    from fedplug.node.service.log_file import level_number, read_log

    for line in read_log(ctx.obj, number, level_number(level), follow=follow):
        _say_now(visible(line.rstrip("\n")))


def _waiting_for(status: NodeStatus) -> str:
    """What keeps a node from ending, in words."""
    if status.task is None:
        return "The node ends as soon as its last update is taken."
    done = f"step {status.task.step}" + (f" of {status.task.total_steps}" if status.task.total_steps else "")
    return f"Round {status.task.round + 1} of experiment {status.task.experiment} is still trained: {done}."


def _say_now(line: str) -> None:
    say(line)
    sys.stdout.flush()
