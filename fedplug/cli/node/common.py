"""What all commands of ``fedplug node`` share: the folder, the store, and the command to type next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedplug.cli.output import ListingGroup, say
from fedplug.node.commands import node_command

if TYPE_CHECKING:
    from fedplug.node.store import NodeStore

Plaintext = Annotated[bool, typer.Option("--insecure-plaintext", help="Allow unencrypted traffic beyond this machine.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for other programs.")]
Finish = Annotated[bool, typer.Option("--finish", help="Use the new keys from now on, and throw the old ones away.")]


def node_group(text: str) -> typer.Typer:
    """A group of commands.

    Args:
        text: What ``--help`` says about it.
    """
    return typer.Typer(cls=ListingGroup, no_args_is_help=True, add_completion=False, rich_markup_mode=None, help=text)


def open_store(ctx: typer.Context) -> NodeStore:
    """The store of the node that ``--folder`` names.

    Raises:
        UsageError: The folder holds no node.
        StoreError: Its store cannot be used.
    """
    from fedplug.node.store import NodeStore

    return NodeStore.open(ctx.obj)


def next_command(what: str, folder: Path, *words: str) -> None:
    """Say what to type to go on."""
    say(f"To {what}: {node_command(folder, *words)}")
