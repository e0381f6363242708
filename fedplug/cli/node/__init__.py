"""``fedplug node``: set a node up, register its data sets, start it, look at it.

Each group of commands has a module of its own; this one joins them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedplug.cli.node import dataset, running, ui
from fedplug.cli.node.common import Plaintext, next_command, node_group
from fedplug.cli.output import say
from fedplug.node.commands import DEFAULT_FOLDER

app = node_group(
    "Set up and run a node: the program that trains on data which never leave it.\n\n"
    "\b\nIn short:\n"
    "  fedplug node init --name hospital-a\n"
    "  fedplug node dataset add patients.csv --tags breast,2024 --target diagnosis\n"
    "  fedplug node start --researcher zmq://127.0.0.1:7400"
)
app.add_typer(dataset.app, name="dataset")

_Folder = Annotated[
    Path,
    typer.Option(
        "--folder", "-C", envvar="FEDPLUG_NODE", show_default="./fedplug-node", help="The node's folder.",
        file_okay=True,
    ),
]  # fmt: skip


@app.callback()
def _node(ctx: typer.Context, folder: _Folder = DEFAULT_FOLDER) -> None:
    ctx.obj = folder


@app.command()
def init(
    ctx: typer.Context,
    folder: Annotated[Path | None, typer.Argument(help="Folder to make; by default that of --folder.")] = None,
    name: Annotated[str, typer.Option(help="What people call this node; by default the folder's name.")] = "",
    node_id: Annotated[str, typer.Option("--id", help="Its id; by default made from the name.")] = "",
    researcher: Annotated[
        str,
        typer.Option(help="Address of the researcher that 'start' connects to.", show_default="zmq://127.0.0.1:7400"),
    ] = "",
    insecure_plaintext: Plaintext = False,
) -> None:
    """Make a node: a folder for its identity and its list of data sets.

    \b
    Example:
      fedplug node init /srv/fedplug --name hospital-a --researcher zmq://127.0.0.1:7400
    """  # noqa: D301
    from fedplug.node.store import DEFAULT_URL, NodeStore

    place = folder or ctx.obj
    if researcher:
        from fedplug.transports.registry import check_address

        check_address(researcher, insecure_plaintext=insecure_plaintext)
    with NodeStore.create(place, name=name, node_id=node_id, researcher=researcher or DEFAULT_URL) as store:
        who = store.identity
        say(f"Node {who.name!r} is made in {store.folder}. Its id is {who.node_id}.")
    if insecure_plaintext:
        say("Its traffic is not encrypted: 'start' needs --insecure-plaintext as well.")
    next_command("add data", place, "dataset", "add", "FILE.csv", "--tags", "WORD,WORD", "--target", "COLUMN")


app.command()(running.start)
app.command()(running.status)
app.command()(ui.ui)
