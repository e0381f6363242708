"""``fedplug researcher datasets``: see what data the nodes hold."""

from __future__ import annotations

from typing import Annotated

import typer

from fedplug.cli.output import say, say_json, words
from fedplug.cli.researcher.common import keys_of


def datasets(
    ctx: typer.Context,
    listen: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="Address that the nodes connect to.",
            envvar="FEDPLUG_TRANSPORT",
            show_default="zmq://127.0.0.1:7400",
        ),
    ] = "",
    node: Annotated[
        list[str] | None, typer.Option(help="Id or name of a node to ask; can be repeated. Default: all that connect.")
    ] = None,
    tags: Annotated[str, typer.Option(help="Only data sets that carry all these words, separated by commas.")] = "",
    min_nodes: Annotated[
        int | None, typer.Option(min=1, help="Nodes to wait for. Default: until no more nodes come.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for nodes.")] = 30.0,
    insecure_plaintext: Annotated[
        bool, typer.Option("--insecure-plaintext", help="Allow unencrypted traffic beyond this machine.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for other programs.")] = False,
) -> None:
    """List the data sets of the nodes: name, type, tags, shape, columns. No row and no path ever leaves a node.

    It listens where an experiment would, so it cannot run beside one: nodes connect to it, answer, and go on knocking
    until the next researcher is there. Nodes knock every 2 seconds, so this takes some.

    \b
    Examples:
      fedplug researcher datasets
      fedplug researcher datasets --tags breast --min-nodes 3
      fedplug researcher datasets --node hospital-a --node hospital-b --json
    """  # noqa: D301
    import sys

    import msgspec

    from fedplug.core.plugins import default_host
    from fedplug.core.transport import TransportOptions
    from fedplug.researcher.keys import usual_address
    from fedplug.researcher.listening import listen as listen_at
    from fedplug.researcher.progress.text import put
    from fedplug.researcher.search import list_datasets

    options = TransportOptions(insecure_plaintext=insecure_plaintext)
    with listen_at(listen or usual_address(), default_host(), options, keys_of(ctx)) as pool:
        found = list_datasets(
            pool, 1, node or None, min_nodes, timeout, lambda text: put(sys.stderr, text), tags=words(tags)
        )
    if as_json:
        say_json(
            [
                {
                    "node_id": node_id,
                    "name": found.nodes[node_id].name if node_id in found.nodes else "",
                    "datasets": [msgspec.to_builtins(card) for card in cards],
                }
                for node_id, cards in found.items()
            ]
        )
        return
    say(str(found))
    if not any(found.values()):
        say()
        say(f"No data set carries {tags}." if tags else "None of these nodes has a data set.")
        say("A node's owner adds one with: fedplug node dataset add FILE.csv --tags WORD,WORD --target COLUMN")
