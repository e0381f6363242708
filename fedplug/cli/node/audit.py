"""``fedplug node audit``: what was asked of the node, what was decided, and what left it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedplug.cli.node.common import AsJson, next_command, node_group, open_store
from fedplug.cli.output import EXIT_FAILED, say, say_json, say_table, words

if TYPE_CHECKING:
    from fedplug.node.audit.entry import Entry

app = node_group(
    "See the audit log: every request, decision and training, and what left the node.\n\n"
    "\b\nIn short:\n"
    "  fedplug node audit show --dataset patients\n"
    "  fedplug node audit export audit.jsonl\n"
    "  fedplug node audit verify"
)

_WIDE = 90


@app.command()
def show(
    ctx: typer.Context,
    event: Annotated[str, typer.Option(help="Only these events, separated by commas.")] = "",
    dataset: Annotated[str, typer.Option(help="Only what is about the data set of this name.")] = "",
    actor: Annotated[str, typer.Option(help="Only what was caused by: node, owner, web, researcher.")] = "",
    since: Annotated[str, typer.Option(help="Not before this time (UTC), e.g. 2026-01-31 or 2026-01-31T08:00.")] = "",
    until: Annotated[str, typer.Option(help="Before this time (UTC).")] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 50,
    events: Annotated[bool, typer.Option("--events", help="List all events and what they mean.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show entries, the newest last.

    \b
    Examples:
      fedplug node audit show --event training-finished,training-failed
      fedplug node audit show --dataset patients --since 2026-01-01
    """  # noqa: D301
    from fedplug.core.errors import UnknownNameError
    from fedplug.node.audit.entry import EVENTS
    from fedplug.node.audit.log import AuditLog

    if events:
        say_table(("event", "meaning"), list(EVENTS.items()))
        return
    wanted = words(event)
    for name in wanted:
        if name not in EVENTS:
            raise UnknownNameError("event", name, EVENTS)
    with open_store(ctx) as store:
        found = AuditLog(store).entries(
            since=since, until=until, events=wanted, dataset=dataset, actor=actor, limit=limit
        )[::-1]
    if as_json:
        say_json([{**entry.plain(), "facts": entry.data} for entry in found])
    elif found:
        rows = [(entry.number, entry.time[:19], entry.event, entry.actor, _facts(entry)) for entry in found]
        say_table(("no", "time (utc)", "event", "actor", "facts"), rows)
    else:
        say("There is no such entry.")


@app.command()
def export(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="The file to write.")],
    kind: Annotated[str, typer.Option("--format", help="jsonl (can be verified) or csv (for spreadsheets).")] = "jsonl",
) -> None:
    """Write the whole log into a file.

    \b
    Example:
      fedplug node audit export audit.jsonl
    """  # noqa: D301
    from fedplug.core.errors import UnknownNameError
    from fedplug.node.audit.export import export_entries
    from fedplug.node.audit.log import AuditLog

    kinds: dict[str, Literal["jsonl", "csv"]] = {"jsonl": "jsonl", "csv": "csv"}
    if kind not in kinds:
        raise UnknownNameError("format", kind, kinds)
    with open_store(ctx) as store:
        count = export_entries(AuditLog(store).all(), file, kinds[kind])
    say(f"{count:,} entries are in {file}.")
    if kind == "jsonl":
        next_command("verify it, here or elsewhere", ctx.obj, "audit", "verify", "--file", str(file))


@app.command()
def verify(
    ctx: typer.Context,
    head: Annotated[str, typer.Option(help="A head that was noted earlier, which must still be in the log.")] = "",
    file: Annotated[Path | None, typer.Option(help="Verify an export instead of the node's own log.")] = None,
) -> None:
    """Look whether any entry was changed, removed or inserted. The exit code is 1 if so.

    The log is a chain: each entry holds the hash of the one before. The head, the hash of the last entry, stands for
    all of it. Note it in a place that nobody at the node can write: a log that does not contain a head which was noted
    was cut, or written anew.

    \b
    Examples:
      fedplug node audit verify
      fedplug node audit verify --file audit.jsonl
    """  # noqa: D301
    from fedplug.node.audit.entry import verify_chain
    from fedplug.node.audit.export import read_export
    from fedplug.node.audit.log import AuditLog

    if file is not None:
        verdict = verify_chain(read_export(file), head)
    else:
        with open_store(ctx) as store:
            verdict = AuditLog(store).verify(head)
    if not verdict.ok:
        say(f"The log is not as it was written. {verdict.problem}")
        say(f"The {verdict.count:,} entries before that are whole.")
        raise typer.Exit(EXIT_FAILED)
    say(f"All {verdict.count:,} entries are as they were written. The head is {verdict.head}")


def _facts(entry: Entry) -> str:
    from fedplug.node.approval.review import visible

    hidden = {"dataset_id", "plan"}
    parts = [f"{name}={value}" for name, value in entry.data.items() if name not in hidden and value not in ("", [])]
    text = visible(", ".join(parts)).replace("\n", " ")
    return text if len(text) <= _WIDE else text[: _WIDE - 1] + "…"
