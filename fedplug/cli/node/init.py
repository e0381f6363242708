"""``fedplug node init``: make a node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedplug.cli.node.common import next_command
from fedplug.cli.output import say
from fedplug.core.errors import AddressError, KeysError, UsageError
from fedplug.core.keys import allow_command, check_public, fingerprint

if TYPE_CHECKING:
    from fedplug.node.store import NodeStore


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
    trust: Annotated[
        str, typer.Option(metavar="KEY", help="The researcher's public key, if you have it: see 'fedplug node trust'.")
    ] = "",
) -> None:
    """Make a node: a folder for its identity, its keys, its list of data sets, and its rules.

    The rules stand in the file node.toml in that folder: who approves training plans, where data may lie, what a
    training may ask for. Read it; every line is explained.

    \b
    Examples:
      fedplug node init --name hospital-a --data-root /srv/data
      fedplug node init /srv/fedplug --name hospital-a --researcher zmq://lab.example:7400 --trust KEY
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

        check_address(url)
    public = check_public(trust, "The key after --trust") if trust else ""
    if public and len(urls) > 1:
        raise UsageError(
            "--trust says whose key it is only for one researcher.",
            cure="Leave it out, and type afterwards, for each: fedplug node trust KEY --researcher ADDRESS",
        )
    place = folder or ctx.obj
    with NodeStore.create(place, name=name, node_id=node_id, researcher=" ".join(urls)) as store:
        who = store.identity
        assert store.folder is not None
        save_policy(store.folder, policy_text(approval="on" if approval == "on" else "off", roots=roots))
        say(f"Node {who.name!r} is made in {store.folder}. Its id is {who.node_id}.")
        say(f"Its rules are in {store.folder / POLICY_FILE}. Data may lie below {', '.join(map(str, roots))}.")
        _keys(store, public)
    next_command("add data", place, "dataset", "add", "FILE.csv", "--tags", "WORD,WORD", "--target", "COLUMN")


def _keys(store: NodeStore, trusted: str) -> None:
    """Make the node's keys, and say what to do with them."""
    from fedplug.node.keys import keys_command, make_keys, trust

    assert store.folder is not None
    try:
        pair = make_keys(store)
    except (AddressError, KeysError) as error:
        if trusted:
            raise
        say(f"It has no keys yet: {error.message} Make them later with: {keys_command(store.folder, 'new')}")
        return
    if trusted:
        url, _ = trust(store, trusted)
        say(f"It trusts the researcher at {url} who has the key {fingerprint(trusted)}.")
    say("Send this line to the researcher, who types it to let this node in:")
    say(f"  {allow_command(store.identity.node_id, pair.public)}")
    if not trusted:
        next_command("trust theirs, which they send you", store.folder, "trust", "KEY")


def _root(path: Path) -> Path:
    """A folder that is there, by its full name.

    Raises:
        UsageError: There is no such folder.
    """
    root = path.expanduser().resolve()
    if not root.is_dir():
        raise UsageError(f"There is no folder {root} for data.", cure="Make it, or name another with --data-root.")
    return root
