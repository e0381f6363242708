"""``fedplug node``: set a node up, register its data sets, start it, look at it.

Each group of commands has a module of its own; this one joins them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedplug.cli.node import audit, check, dataset, init, plan, running, service, trust, ui
from fedplug.cli.node.common import node_group
from fedplug.node.commands import DEFAULT_FOLDER

app = node_group(
    "Set up and run a node: the program that trains on data which never leave it.\n\n"
    "\b\nIn short:\n"
    "  fedplug node init --name hospital-a\n"
    "  fedplug node dataset add patients.csv --tags breast,2024 --target diagnosis\n"
    "  fedplug node start --researcher zmq://127.0.0.1:7400"
)
app.add_typer(dataset.app, name="dataset")
app.add_typer(plan.app, name="plan")
app.add_typer(audit.app, name="audit")

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


app.command()(init.init)
app.command()(check.check)
app.command()(trust.trust)
app.command()(trust.untrust)
app.command()(trust.rotate)
app.command()(running.start)
app.command()(running.status)
app.command()(service.stop)
app.command()(service.logs)
app.command()(ui.ui)
