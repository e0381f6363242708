"""``fedplug node trust``, ``untrust``, ``rotate``: which researchers the node talks to, and by which keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fedplug.cli.node.common import Finish, next_command, open_store
from fedplug.cli.output import say
from fedplug.core.errors import UnknownNameError, UsageError
from fedplug.node.commands import node_command

if TYPE_CHECKING:
    from fedplug.node.store import NodeStore


def trust(
    ctx: typer.Context,
    key: Annotated[str, typer.Argument(help="The researcher's public key.", show_default=False)] = "",
    researcher: Annotated[
        str, typer.Option(help="Address where they listen.", show_default="the one that the node connects to")
    ] = "",
    only: Annotated[
        bool, typer.Option("--only", help="Trust this key only: take the trust in others at that address back.")
    ] = False,
) -> None:
    """Trust a researcher's key. From then on the node talks only to researchers whose keys it trusts, encrypted.

    The researcher sends you their key: 'fedplug researcher init' and 'fedplug keys show' print it there. Compare its
    fingerprint over the telephone. Several keys may be trusted at an address, while the researcher changes theirs.

    \b
    Examples:
      fedplug node trust KEY
      fedplug node trust KEY --researcher zmq://lab.example:7400
    """  # noqa: D301
    from fedplug.core.keys import allow_command, check_public, fingerprint
    from fedplug.node.keys import NodeKeys
    from fedplug.node.keys import trust as trust_key

    with open_store(ctx) as store:
        assert store.folder is not None
        if not key:
            raise UsageError(
                "Say which public key of a researcher the node is to trust.",
                cure="The researcher sends you theirs. 'fedplug researcher init' prints it there, and 'fedplug keys "
                f"show' prints it again:\n  {node_command(store.folder, 'trust', 'KEY')}\n{_whom(store)}",
            )
        public = check_public(key, "The researcher's key")
        url, entries = trust_key(store, public, researcher, only=only)
        pair = NodeKeys(store.folder).own.pair()
        node_id = store.identity.node_id
    assert pair is not None  # `trust_key` has made it if it was missing
    say(f"The node trusts the researcher at {url} who has the key {fingerprint(public)}.")
    say("Compare that with them: 'fedplug keys show' shows it there.")
    if len(entries) > 1:
        others = [entry.key for entry in entries if entry.key != public]
        say(f"It trusts {len(others)} other key(s) there. When the researcher has changed over, take that back:")
        for other in others:
            say(f"  {node_command(ctx.obj, 'untrust', other)}")
    say("Traffic is encrypted from the next connection on, and without a key that it trusts the node talks to nobody.")
    say("If the researcher has not let this node in yet, they type:")
    say(f"  {allow_command(node_id, pair.public)}")
    next_command("start the node", ctx.obj, "start")


def untrust(
    ctx: typer.Context,
    researcher: Annotated[str, typer.Argument(help="The key; or the address, for all keys there.")] = "",
) -> None:
    """Trust a researcher's key no more. A node that runs leaves whoever has it, at once.

    \b
    Examples:
      fedplug node untrust KEY
      fedplug node untrust zmq://lab.example:7400
    """  # noqa: D301
    from fedplug.core.keys import fingerprint
    from fedplug.node.keys import NodeKeys
    from fedplug.node.keys import untrust as untrust_key
    from fedplug.node.lock import is_locked

    with open_store(ctx) as store:
        assert store.folder is not None
        if not researcher:
            raise UsageError(
                "Say which key, or which address, the node is not to trust any more.",
                cure=f"{node_command(store.folder, 'untrust', 'KEY')}\n{_whom(store)}",
            )
        before = store.identity.researchers
        gone = untrust_key(store, researcher)
        left = store.identity.researchers
        keys = NodeKeys(store.folder)
        if not gone and left == before:
            known = {name for entry in keys.researchers.entries() for name in (entry.name, entry.key)}
            raise UnknownNameError("trusted researcher", researcher, known)
        trusts, runs = bool(keys.researchers.entries()), is_locked(store.folder)
    for entry in gone:
        say(f"The key {fingerprint(entry.key)} at {entry.name} is not trusted any more.")
    for url in before:
        if url not in left:
            say(f"The node does not connect to {url} any more.")
    if not trusts:
        say("It trusts no key now: it talks without encryption to researchers on this machine, and to none elsewhere.")
        if runs:
            say(f"The node that runs does neither until it is started again: {node_command(ctx.obj, 'stop')}")


def rotate(ctx: typer.Context, finish: Finish = False) -> None:
    """Change the node's own keys in two steps: make new ones, and use them when the researchers know them.

    \b
    Examples:
      fedplug node rotate
      fedplug node rotate --finish
    """  # noqa: D301
    from fedplug.core.keys import allow_command, fingerprint
    from fedplug.node.audit.log import AuditLog
    from fedplug.node.keys import NodeKeys, keys_command, new_pair

    with open_store(ctx) as store:
        assert store.folder is not None
        keys = NodeKeys(store.folder).own
        if keys.pair() is None:
            raise UsageError("This node has no keys yet.", cure=f"Make them: {keys_command(store.folder, 'new')}")
        if finish:
            pair = keys.take_next()
            AuditLog(store).note("keys-changed", actor="owner", key=pair.public)
            say(f"The node's key is {fingerprint(pair.public)} now. It uses it from its next connection on.")
            say("The researchers may take the old one back: 'fedplug researcher list' shows it there.")
            return
        waiting = keys.next_pair()
        if waiting is None:
            waiting = new_pair(store)
            keys.add_next(waiting)
        say(f"New keys wait to be used, with the fingerprint {fingerprint(waiting.public)}.")
        say("Send this line to the researchers; they type it besides the one that they have typed before:")
        say(f"  {allow_command(store.identity.node_id, waiting.public)}")
        say(f"When they have: {node_command(store.folder, 'rotate', '--finish')}")


def _whom(store: NodeStore) -> str:
    """Whom the node trusts now, as a sentence."""
    from fedplug.core.keys import fingerprint
    from fedplug.node.keys import NodeKeys

    assert store.folder is not None
    entries = NodeKeys(store.folder).researchers.entries()
    return f"It trusts now: {', '.join(f'{entry.name} ({fingerprint(entry.key)})' for entry in entries) or 'nobody'}."
