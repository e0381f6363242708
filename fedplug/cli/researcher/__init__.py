"""``fedplug researcher``: keys, who may connect, and what data the nodes hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedplug.cli.output import ListingGroup
from fedplug.cli.researcher import datasets, keys

app = typer.Typer(
    cls=ListingGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Say who may connect to your experiments, and look at what data the nodes hold.\n\n"
    "\b\nIn short:\n"
    "  fedplug researcher init\n"
    "  fedplug researcher allow NODE KEY\n"
    "  fedplug researcher datasets",
)

_Folder = Annotated[
    Path | None,
    typer.Option(
        "--folder", "-C", envvar="FEDPLUG_DIR", show_default="~/fedplug", help="Your folder: keys and experiments.",
        file_okay=False,
    ),
]  # fmt: skip


@app.callback()
def _researcher(ctx: typer.Context, folder: _Folder = None) -> None:
    ctx.obj = folder


app.command()(keys.init)
app.command()(keys.allow)
app.command()(keys.deny)
app.command(name="list")(keys.list_nodes)
app.command()(keys.rotate)
app.command()(datasets.datasets)
