"""``fedplug node init``: make a node."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedplug.cli.node.common import Plaintext, next_command
from fedplug.cli.output import say
from fedplug.core.errors import UsageError


def init(
    ctx: typer.Context,
    folder: Annotated[Path | None, typer.Argument(help="Folder to make; by default that of --folder.")] = None,
    name: Annotated[str, typer.Option(help="What people call this node; by default the folder's name.")] = "",
    node_id: Annotated[str, typer.Option("--id", help="Its id; by default made from the name.")] = "",
    researcher: Annotated[
        list[str] | None,
        typer.Option(
            help="Address of a researcher that 'start' connects to, once for each.",
            show_default="zmq://127.0.0.1:7400",
        ),
    ] = None,
    approval: Annotated[
        str, typer.Option(help="on: training plans run only after you have approved them; off: every plan runs.")
    ] = "on",
    data_root: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder below which data sets must lie, once for each.",
            show_default="the folder you stand in",
        ),
    ] = None,
    insecure_plaintext: Plaintext = False,
) -> None:
    """Make a node: a folder for its identity, its list of data sets, and its rules.

    The rules stand in the file node.toml in that folder: who approves training plans, where data may lie, what a
    training may ask for. Read it; every line is explained.

    \b
    Examples:
      fedplug node init --name hospital-a --data-root /srv/data
      fedplug node init /srv/fedplug --name hospital-a --researcher zmq://127.0.0.1:7400
    """  # noqa: D301
    from fedplug.node.policy.file import POLICY_FILE, save_policy
    from fedplug.node.policy.template import policy_text
    from fedplug.node.store import DEFAULT_URL, NodeStore

    if approval not in ("on", "off"):
        raise UsageError(f"--approval must be on or off, not {approval!r}.")
    roots = [_root(path) for path in data_root or [Path.cwd()]]
    urls = list(dict.fromkeys(researcher or [DEFAULT_URL]))
    for url in researcher or ():
        from fedplug.transports.registry import check_address

        check_address(url, insecure_plaintext=insecure_plaintext)
    place = folder or ctx.obj
    with NodeStore.create(place, name=name, node_id=node_id, researcher=" ".join(urls)) as store:
        who = store.identity
        assert store.folder is not None
        save_policy(store.folder, policy_text(approval="on" if approval == "on" else "off", roots=roots))
        say(f"Node {who.name!r} is made in {store.folder}. Its id is {who.node_id}.")
        say(f"Its rules are in {store.folder / POLICY_FILE}. Data may lie below {', '.join(map(str, roots))}.")
    if insecure_plaintext:
        say("Its traffic is not encrypted: 'start' needs --insecure-plaintext as well.")
    next_command("add data", place, "dataset", "add", "FILE.csv", "--tags", "WORD,WORD", "--target", "COLUMN")


def _root(path: Path) -> Path:
    """A folder that is there, by its full name.

    Raises:
        UsageError: There is no such folder.
    """
    root = path.expanduser().resolve()
    if not root.is_dir():
        raise UsageError(f"There is no folder {root} for data.", cure="Make it, or name another with --data-root.")
    return root
