"""``fedplug node start`` and ``status``: run a node, and see what it does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from fedplug.cli.node.common import AsJson, Plaintext, next_command, open_store
from fedplug.cli.output import EXIT_INTERRUPTED, say, say_json
from fedplug.node.commands import node_command

if TYPE_CHECKING:
    from fedplug.node.node import Node
    from fedplug.node.status import LinkStatus, NodeStatus


def start(
    ctx: typer.Context,
    researcher: Annotated[
        list[str] | None,
        typer.Option(
            help="Address of a researcher, once for each; by default those that 'init' was given.",
            show_default=False,
        ),
    ] = None,
    insecure_plaintext: Plaintext = False,
    memory_limit: Annotated[
        int, typer.Option(min=0, help="Most address space of the training process, in MiB; 0 for no limit.")
    ] = 0,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    service: Annotated[
        bool, typer.Option("--service", help="Print a systemd unit that starts this node so, and do nothing else.")
    ] = False,
) -> None:
    """Connect to the researchers and train, until Ctrl-C, SIGTERM or 'fedplug node stop'.

    The node connects outward only, and tries again every 2 seconds until a researcher is there. What it does is written
    to the terminal and into its folder ('fedplug node logs').

    \b
    Examples:
      fedplug node start --researcher zmq://127.0.0.1:7400
      fedplug node start --service
    """  # noqa: D301
    import logging

    from fedplug.core.transport import TransportOptions
    from fedplug.node.node import Node
    from fedplug.node.service.log_file import level_number, start_logging

    level = level_number(log_level)
    if service:
        _print_unit(ctx, researcher or (), insecure_plaintext, memory_limit, log_level)
        return
    start_logging(ctx.obj, level)
    node = Node(
        ctx.obj,
        researcher or None,
        options=TransportOptions(insecure_plaintext=insecure_plaintext),
        memory_limit=memory_limit * 2**20 or None,
        signals=True,
    )
    if not node.store.datasets():
        command = node_command(ctx.obj, "dataset", "add", "FILE.csv", "--tags", "WORD,WORD")
        logging.getLogger("fedplug.node").warning("This node has no data set yet. Add one with: %s", command)
    with _obeying_signals(node):
        node.run_forever()
    logging.getLogger("fedplug.node").info("Node stopped.")


def _print_unit(
    ctx: typer.Context, researchers: Iterable[str], insecure_plaintext: bool, memory_limit: int, log_level: str
) -> None:
    """Print the systemd unit for what the options say."""
    from fedplug.node.policy.file import read_policy
    from fedplug.node.service.unit import unit_text

    options = [word for url in researchers for word in ("--researcher", url)]
    options += ["--insecure-plaintext"] if insecure_plaintext else []
    options += ["--memory-limit", str(memory_limit)] if memory_limit else []
    options += ["--log-level", log_level] if log_level != "info" else []
    with open_store(ctx) as store:
        assert store.folder is not None
        say(unit_text(store, read_policy(store.folder), options).rstrip())


@contextlib.contextmanager
def _obeying_signals(node: Node) -> Iterator[None]:
    """Ctrl-C and SIGTERM stop the node, and a second Ctrl-C ends the process as it is; SIGUSR1 drains the node."""
    import os
    import signal

    from fedplug.node.service.process import DRAIN

    asked = False

    def stop(number: int, _: object) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            os._exit(EXIT_INTERRUPTED)  # the kernel ends what it has started, and gives its lock back
        asked = True
        node.request_stop()

    def drain(_: int, __: object) -> None:
        node.request_drain()

    handlers = {signal.SIGINT: stop, signal.SIGTERM: stop, DRAIN: drain}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def status(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Show whether the node runs, what it trains and what it holds.

    \b
    Example:
      fedplug node status
    """  # noqa: D301
    import msgspec

    from fedplug.core.errors import KeysError
    from fedplug.core.keys import fingerprint
    from fedplug.node.approval.approvals import Approvals
    from fedplug.node.audit.log import AuditLog
    from fedplug.node.keys import NodeKeys
    from fedplug.node.policy.schema import Policy
    from fedplug.node.status import read_status

    with open_store(ctx) as store:
        who, records, version = store.identity, store.datasets(), store.version
        head = AuditLog(store).head()
        approvals = Approvals(store, Policy())
        known, pending = approvals.count(), approvals.pending()
        now = read_status(store.folder or ctx.obj)
        keys = NodeKeys(store.folder or ctx.obj)
    trouble, public = "", ""
    try:
        pair, trusted = keys.own.pair(), keys.researchers.entries()
        public = pair.public if pair else ""
    except KeysError as error:
        trouble, trusted = error.message, ()
    if as_json:
        say_json(
            {
                "node_id": who.node_id,
                "name": who.name,
                "folder": str(store.folder),
                "store_version": version,
                "audit_head": head,
                **msgspec.to_builtins(now),
                "links": [msgspec.to_builtins(link) for link in _links(now, who.researchers)],
                "datasets": [record.name for record in records],
                "plans": known,
                "public_key": public,
                "trusted_keys": [{"researcher": entry.name, "key": entry.key} for entry in trusted],
                "keys_trouble": trouble,
                "pending_plans": [{"hash": each.hash, "class": each.bundle.class_name} for each in pending],
            }
        )
        return
    say(f"{'node':<12} {who.name} ({who.node_id})")
    say(f"{'folder':<12} {store.folder} (store of version {version})")
    say(f"{'state':<12} {_state(now)}")
    for link in _links(now, who.researchers):
        say(f"{'researcher':<12} {link.url}{_way(link)}")
    say(f"{'key':<12} {trouble or (fingerprint(public) if public else 'none: traffic is not encrypted')}")
    for entry in trusted:
        say(f"{'trusts':<12} {fingerprint(entry.key)} at {entry.name}")
    say(f"{'data sets':<12} {', '.join(record.name for record in records) or 'none'}")
    waiting = ", ".join(f"{each.bundle.class_name} ({each.hash[:8]})" for each in pending)
    say(f"{'plans':<12} {known} seen" + (f"; not decided: {waiting}" if waiting else ""))
    if now.task:
        done = f"step {now.task.step}" + (f" of {now.task.total_steps}" if now.task.total_steps else "")
        figures = "".join(f", {name} {value:.4g}" for name, value in now.task.metrics.items())
        say(
            f"{'training':<12} round {now.task.round + 1} of experiment {now.task.experiment}: "
            f"{now.task.plan} on {now.task.dataset!r}, {done}{figures}"
        )
    if now.running and now.isolation:
        lacking = [f"{layer.name} ({layer.text})" for layer in now.isolation if layer.state == "missing"]
        say(f"{'isolation':<12} " + (f"not enforced: {'; '.join(lacking)}" if lacking else "trainings are shut in"))
    _tell_what_was_done(now)
    say(f"{'audit log':<12} head {head}")
    if not now.running:
        next_command("start it", ctx.obj, "start")


def _tell_what_was_done(now: NodeStatus) -> None:
    """What came of its trainings, and what was refused or dropped on the way."""
    from fedplug.protocol.counters import in_words

    if now.finished or now.failed:
        say(f"{'trainings':<12} {now.finished} finished, {now.failed} failed")
    if now.kept:
        say(f"{'updates':<12} {now.kept} kept until taken by the researcher")
    if now.last:
        say(f"{'last':<12} {now.last}")
    for line in in_words(now.counters):
        say(f"{'besides':<12} {line}")


def _state(now: NodeStatus) -> str:
    if not now.running:
        return "not running"
    since = datetime.fromtimestamp(now.updated).astimezone().strftime("%H:%M:%S")
    if now.draining:
        return f"stopping: it takes no new training (process {now.pid}, last sign {since})"
    return f"running (process {now.pid}, last sign {since})"


def _links(now: NodeStatus, urls: Iterable[str]) -> list[LinkStatus]:
    """The ways to the researchers; of a node that does not run, those that it will take."""
    from fedplug.node.status import LinkStatus

    return list(now.links) if now.running else [LinkStatus(url=url, connection="stopped") for url in urls]


def _way(link: LinkStatus) -> str:
    if link.connection == "stopped":
        return ""
    name = f" with {link.researcher!r}" if link.researcher and link.connection == "connected" else ""
    reason = f": {link.reason}" if link.reason else ""
    return f" ({link.connection}{name}{reason})"
