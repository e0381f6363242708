"""The command line: ``fedplug plugins|node|researcher|keys|status|run|demo|doctor``.

Groups of commands are imported when they are used, so that ``fedplug --help`` needs neither their modules
nor a framework. Exit codes: 0 all well, 1 failed, 2 wrong usage or not found, 130 interrupted.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand

from fedplug.cli.output import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, ListingGroup, say, say_error


class _Place(NamedTuple):
    """Where a command lies: a module, and in it a `typer.Typer` or a function."""

    module: str
    attribute: str
    help: str


_COMMANDS = {
    "demo": _Place("fedplug.cli.demo", "demo", "Train one model across three hospitals, on this machine."),
    "node": _Place("fedplug.cli.node", "app", "Set up and run a node: its data sets, its training plans."),
    "researcher": _Place("fedplug.cli.researcher", "app", "Say which nodes may connect, and see what data they hold."),
    "keys": _Place("fedplug.cli.keys", "app", "See the keys on this machine, and what to send to the other side."),
    "status": _Place("fedplug.cli.status", "status", "What experiments do, and what was refused or dropped."),
    "run": _Place("fedplug.cli.run", "run", "Run an experiment script, with errors that say what to do."),
    "doctor": _Place("fedplug.cli.doctor", "doctor", "Say what is wrong on this machine or with a node, and the cure."),
    "plugins": _Place("fedplug.cli.plugins", "app", "See which plugins are installed, and test them."),
}


class _LazyGroup(ListingGroup):
    """A group whose commands are imported when they are called; for the list of commands, their names do."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, place in _COMMANDS.items():
            self.add_command(TyperCommand(name, help=place.help), name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Replace the stand-in by the command itself."""
        if args and args[0] in _COMMANDS:
            self.add_command(_load(_COMMANDS[args[0]]), args[0])
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_LazyGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="'fedplug COMMAND --help' explains a command. Start with: fedplug demo",
)


def _version(wanted: bool) -> None:
    if wanted:
        import fedplug

        say(f"fedplug {fedplug.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error. Works at any place."),
) -> None:
    """Federated learning: train one model across sites, leave the data where it is."""


def main(args: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        args: The arguments; those of the process by default.

    Returns:
        The exit code.
    """
    given = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in given
    arguments = [argument for argument in given if argument != "--debug"]
    try:
        typer.main.get_command(app).main(arguments, prog_name="fedplug")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else EXIT_FAILED if ended.code else EXIT_OK
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last line of defence: no user sees a traceback unasked
        return say_error(error, debug=debug)
    return EXIT_OK


def _load(place: _Place) -> Any:
    found = getattr(importlib.import_module(place.module), place.attribute)
    if not isinstance(found, typer.Typer):
        function, found = found, typer.Typer(rich_markup_mode=None, add_completion=False)
        found.command()(function)
    return typer.main.get_command(found)
