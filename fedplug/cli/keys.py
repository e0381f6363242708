"""``fedplug keys``: the keys of the node and of the researcher on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from fedplug.cli.node.common import AsJson
from fedplug.cli.output import ListingGroup, say, say_json
from fedplug.core.errors import UsageError
from fedplug.node.commands import DEFAULT_FOLDER, node_command

app = typer.Typer(
    cls=ListingGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="See the keys of the node or the researcher on this machine, and what to send to the other side.\n\n"
    "\b\nWho begins?\n"
    "  a researcher:  fedplug researcher init\n"
    "  a hospital:    fedplug node init --name hospital-a",
)


class _Shown(NamedTuple):
    """One public key, and what goes with it."""

    side: str
    whose: str
    place: str
    public: str
    send: str
    waits: bool


@app.callback()
def _keys(
    ctx: typer.Context,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder", "-C", envvar="FEDPLUG_NODE", show_default="./fedplug-node, if it is there",
            help="The folder of a node.",
        ),
    ] = None,
) -> None:  # fmt: skip
    ctx.obj = folder or (DEFAULT_FOLDER if DEFAULT_FOLDER.is_dir() else None)


@app.command()
def show(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Show the public keys on this machine, and the lines to send to the other side. Secret keys are never shown.

    \b
    Example:
      fedplug keys show
    """  # noqa: D301
    from fedplug.core.keys import fingerprint

    found = [*_of_node(ctx.obj), *_of_researcher()]
    if as_json:
        say_json(
            [
                {
                    "side": each.side, "id": each.whose, "folder": each.place, "public": each.public,
                    "fingerprint": fingerprint(each.public), "in_use": not each.waits,
                }
                for each in found
            ]
        )  # fmt: skip
        return
    if not found:
        say("There are no keys here.")
        say("To make those of a researcher: fedplug researcher init")
        say("To make a node, with its keys: fedplug node init --name hospital-a")
        return
    for number, each in enumerate(found):
        if number:
            say()
        say(f"{each.side:<12} {each.whose}{' (new keys that wait to be used)' if each.waits else ''}")
        say(f"{'folder':<12} {each.place}")
        say(f"{'public key':<12} {each.public}")
        say(f"{'fingerprint':<12} {fingerprint(each.public)}")
        other = "researcher" if each.side == "node" else "owner of a node"
        say(f"{'send':<12} the {other} types: {each.send}")


@app.command()
def new(ctx: typer.Context) -> None:
    """Make the keys of a node that has none: one that was made by an earlier version, or has lost them.

    \b
    Example:
      fedplug keys new
    """  # noqa: D301
    from fedplug.core.keys import allow_command, fingerprint
    from fedplug.node.audit.log import AuditLog
    from fedplug.node.keys import NodeKeys, make_keys
    from fedplug.node.store import NodeStore

    if ctx.obj is None:
        raise UsageError(
            f"There is no node in ./{DEFAULT_FOLDER}.",
            cure="Name its folder: fedplug keys --folder FOLDER new\n"
            "A new node gets its keys with: fedplug node init --name hospital-a\n"
            "A researcher gets theirs with: fedplug researcher init",
        )
    with NodeStore.open(ctx.obj) as store:
        assert store.folder is not None
        if NodeKeys(store.folder).own.pair() is not None:
            raise UsageError(
                "This node has keys already.",
                cure=f"Change them: {node_command(store.folder, 'rotate')}",
            )
        pair = make_keys(store)
        AuditLog(store).note("keys-changed", actor="owner", key=pair.public)
        say(f"The node has keys now. Its public key has the fingerprint {fingerprint(pair.public)}.")
        say("Send this line to the researcher:")
        say(f"  {allow_command(store.identity.node_id, pair.public)}")


@app.command(name="fingerprint")
def show_fingerprint(
    ctx: typer.Context,
    key: Annotated[
        str, typer.Argument(help="A public key; by default those on this machine.", show_default=False)
    ] = "",
) -> None:
    """Print the fingerprint of a public key: a short form of it that two people can compare over the telephone.

    \b
    Examples:
      fedplug keys fingerprint
      fedplug keys fingerprint KEY
    """  # noqa: D301
    from fedplug.core.keys import check_public, fingerprint

    if key:
        say(fingerprint(check_public(key)))
        return
    found = [*_of_node(ctx.obj), *_of_researcher()]
    if not found:
        raise UsageError("There are no keys here.", cure="Name one: fedplug keys fingerprint KEY")
    for each in found:
        say(f"{fingerprint(each.public)}  {each.side} {each.whose}")


def _of_node(folder: Path | None) -> Iterator[_Shown]:
    from fedplug.core.keys import allow_command
    from fedplug.node.keys import NodeKeys
    from fedplug.node.store import NodeStore

    if folder is None:
        return
    with NodeStore.open(folder) as store:
        node_id, place = store.identity.node_id, str(store.folder)
        assert store.folder is not None
        own = NodeKeys(store.folder).own
    for pair, waits in ((own.pair(), False), (own.next_pair(), True)):
        if pair is not None:
            yield _Shown("node", node_id, place, pair.public, allow_command(node_id, pair.public), waits)


def _of_researcher() -> Iterator[_Shown]:
    from fedplug.researcher.keys import ResearcherKeys

    keys = ResearcherKeys()
    for pair, waits in ((keys.own.pair(), False), (keys.own.next_pair(), True)):
        if pair is not None:
            yield _Shown("researcher", "you", str(keys.home), pair.public, f"fedplug node trust {pair.public}", waits)
