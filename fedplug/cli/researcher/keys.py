"""``fedplug researcher init``, ``allow``, ``deny``, ``list``, ``rotate``: your keys, and the nodes that may connect."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from fedplug.cli.node.common import AsJson, Finish
from fedplug.cli.output import say, say_json, say_table
from fedplug.cli.researcher.common import keys_of
from fedplug.core.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from fedplug.core.keys import KeyPair
    from fedplug.researcher.keys import ResearcherKeys

_Only = Annotated[bool, typer.Option("--only", help="Let it in by this key only: remove the others that it has.")]


def init(ctx: typer.Context) -> None:
    """Make your keys. From then on your experiments are encrypted, and only the nodes that you allow may connect.

    \b
    Example:
      fedplug researcher init
    """  # noqa: D301
    from fedplug.core.keys import fingerprint
    from fedplug.researcher.keys import new_pair

    keys = keys_of(ctx)
    if keys.own.pair() is not None:
        raise UsageError(
            f"You have keys already, in {keys.own.path}.",
            cure=f"See them: fedplug keys show\nChange them: {keys.command('rotate')}",
        )
    pair = new_pair()
    keys.own.add(pair)
    say(f"Your keys are made in {keys.own.path}. Your public key has the fingerprint {fingerprint(pair.public)}.")
    say("From now on your experiments take encrypted connections only, and only from the nodes that you allow.")
    say()
    say("Send the owner of each node the address where you listen, and your public key. They type:")
    say(f"  {_trust_command(pair)} --researcher zmq://ADDRESS:7400")
    say("They send you a line to type here. It looks like this:")
    say(f"  {keys.command('allow', 'NODE', 'KEY')}")


def allow(
    ctx: typer.Context,
    node: Annotated[str, typer.Argument(help="Id of the node.", show_default=False)] = "",
    key: Annotated[str, typer.Argument(help="Its public key.", show_default=False)] = "",
    only: _Only = False,
) -> None:
    """Let a node connect. Its owner sends you this line: 'fedplug node init' and 'fedplug keys show' print it there.

    A node may have several keys, while it changes over to new ones. An experiment that runs lets it in at once.

    \b
    Example:
      fedplug researcher allow hospital-a-1f0c9d3e KEY
    """  # noqa: D301
    from fedplug.core.keys import check_public, fingerprint

    keys = keys_of(ctx)
    if not node:
        raise UsageError(
            "Say which node may connect, and by which public key.",
            cure="The owner of the node sends you the line to type. 'fedplug node init' prints it there, and "
            f"'fedplug keys show' prints it again:\n  {keys.command('allow', 'NODE', 'KEY')}\n"
            f"{_who_may(keys)}",
        )
    if re.fullmatch(r"[0-9A-Fa-f]{64}", node):
        raise UsageError(
            "The id of the node comes first, and then its key.", cure=keys.command("allow", key or "NODE", node)
        )
    if not key:
        raise UsageError(
            f"By which public key may {node} connect?",
            cure="Its owner sees it with: fedplug keys show\n"
            f"Then type: {keys.command('allow', node, 'KEY')}",
        )  # fmt: skip
    public = check_public(key, f"The key of {node}")
    entries = keys.allow(node, public, only=only)
    say(f"{node} may connect, by the key {fingerprint(public)}.")
    if len(entries) > 1:
        others = [entry.key for entry in entries if entry.key != public]
        say(f"It may still use {len(others)} other key(s). When it has changed over, take them back:")
        for other in others:
            say(f"  {keys.command('deny', other)}")
    pair = keys.own.pair()
    assert pair is not None  # or `allow` would have said so
    say("If it does not know your key yet, its owner types:")
    say(f"  {_trust_command(pair)}")


def deny(
    ctx: typer.Context,
    node: Annotated[str, typer.Argument(help="Id of the node; or one of its keys.", show_default=False)] = "",
) -> None:
    """Let a node connect no more. An experiment that runs takes nothing from it any more, from its next message on.

    \b
    Examples:
      fedplug researcher deny hospital-a-1f0c9d3e
      fedplug researcher deny KEY
    """  # noqa: D301
    from fedplug.core.keys import fingerprint

    keys = keys_of(ctx)
    if not node:
        raise UsageError(
            "Say which node may connect no more.", cure=f"{keys.command('deny', 'NODE')}\n{_who_may(keys)}"
        )
    gone = keys.nodes.remove(node)
    if not gone:
        raise UnknownNameError("node that may connect", node, {entry.name for entry in keys.nodes.entries()})
    for entry in gone:
        say(f"{entry.name} may not connect any more by the key {fingerprint(entry.key)}.")
    left = {entry.name for entry in keys.nodes.entries()} & {entry.name for entry in gone}
    if left:
        say(f"{left.pop()} may still connect by another key: {keys.command('list')}")


def list_nodes(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the nodes that may connect.

    \b
    Example:
      fedplug researcher list
    """  # noqa: D301
    from fedplug.core.keys import fingerprint

    keys = keys_of(ctx)
    entries = keys.nodes.entries()
    if as_json:
        say_json([entry._asdict() for entry in entries])
    elif entries:
        rows = [(entry.name, fingerprint(entry.key), entry.since or "?") for entry in entries]
        say_table(("node", "fingerprint of its key", "since"), rows)
    elif keys.own.pair() is None:
        say("You have no keys yet, so every node on this machine may connect, and none from elsewhere.")
        say(f"To make keys: {keys.command('init')}")
    else:
        say("No node may connect yet.")
        say(f"To allow one: {keys.command('allow', 'NODE', 'KEY')}")


def rotate(ctx: typer.Context, finish: Finish = False) -> None:
    """Change your keys in two steps: make new ones, and use them when all nodes trust them.

    \b
    Examples:
      fedplug researcher rotate
      fedplug researcher rotate --finish
    """  # noqa: D301
    from fedplug.core.keys import fingerprint
    from fedplug.researcher.keys import new_pair

    keys = keys_of(ctx)
    old = keys.own.pair()
    if old is None:
        raise UsageError("You have no keys yet.", cure=f"Make them: {keys.command('init')}")
    if finish:
        pair = keys.own.take_next()
        say(f"Your key is {fingerprint(pair.public)} now. Experiments that are started from now on use it.")
        say("The owners of the nodes may take their trust in the old one back:")
        say(f"  fedplug node untrust {old.public}")
        return
    waiting = keys.own.next_pair()
    if waiting is None:
        waiting = new_pair()
        keys.own.add_next(waiting)
    say(f"New keys wait to be used, with the fingerprint {fingerprint(waiting.public)}.")
    say("Ask the owner of each node to trust them besides the old ones:")
    say(f"  {_trust_command(waiting)}")
    say(f"When they have: {keys.command('rotate', '--finish')}")
    say("Do not wait if somebody else may know the old ones. Nodes stay out then until they trust the new ones.")


def _trust_command(pair: KeyPair) -> str:
    return f"fedplug node trust {pair.public}"


def _who_may(keys: ResearcherKeys) -> str:
    """Who may connect now, as a sentence."""
    names = list(dict.fromkeys(entry.name for entry in keys.nodes.entries()))
    return f"These may connect now: {', '.join(names) or 'none'}."
