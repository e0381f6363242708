"""``fedplug node plan``: read the training plans that researchers have sent, and decide which may run."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedplug.cli.node.common import AsJson, next_command, node_group, open_store
from fedplug.cli.output import say, say_json, say_table

if TYPE_CHECKING:
    from fedplug.node.approval.approvals import Approvals
    from fedplug.node.approval.records import Decision, PlanRecord
    from fedplug.node.approval.review import Review
    from fedplug.node.store import NodeStore

app = node_group(
    "Read the training plans that researchers have sent, and decide which may run.\n\n"
    "A training plan is the researcher's code. It runs here, beside your data, once you have approved it; every byte "
    "of it counts, so another version is another plan.\n\n"
    "\b\nIn short:\n"
    "  fedplug node plan list\n"
    "  fedplug node plan show 5b1f09c2\n"
    "  fedplug node plan approve 5b1f09c2 --dataset patients --until 2027-01-31"
)

_MOST_COLOURED = 300_000  # characters; colours for a longer text would take too long

_Which = Annotated[str, typer.Argument(metavar="PLAN", help="Its hash, the beginning of it, or the name of its class.")]
_Note = Annotated[str, typer.Option(help="A word for the researcher.")]
_Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.command("list")
def list_(
    ctx: typer.Context,
    pending: Annotated[bool, typer.Option("--pending", help="Only those that wait for your decision.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the training plans that were sent here.

    \b
    Example:
      fedplug node plan list --pending
    """  # noqa: D301
    with open_store(ctx) as store:
        approvals = _approvals(store)
        records = approvals.pending() if pending else approvals.plans()
        states = [approvals.summary(record) for record in records]
    if as_json:
        say_json([_plain(record, state) for record, state in zip(records, states, strict=True)])
        return
    if not records:
        say("No training plan waits for you." if pending else "No training plan was sent here yet.")
        return
    rows = [
        (record.hash[:12], record.bundle.class_name, state, record.first_seen[:16], _line(record.description) or "-")
        for record, state in zip(records, states, strict=True)
    ]
    say_table(("hash", "class", "status", "first seen", "what it is for"), rows)
    next_command("read one", ctx.obj, "plan", "show", records[-1].hash[:12])


@app.command()
def show(
    ctx: typer.Context,
    plan: _Which,
    against: Annotated[str, typer.Option(help="Show what differs from this plan instead of the last approved.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show a training plan: its whole text, what has changed, and what deserves a look.

    \b
    Examples:
      fedplug node plan show 5b1f09c2
      fedplug node plan show Net --against 77ac01d3
    """  # noqa: D301
    record, review, state = _look(ctx, plan, against)
    if as_json:
        findings = [{name: getattr(f, name) for name in f.__slots__} for f in review.findings]
        say_json({**_plain(record, state), "text": record.bundle.text, "changes": review.changes, "findings": findings})
        return
    _say_head(record, state)
    _say_text(record.bundle.text)
    if review.before is not None:
        _say_changes(review)
    _say_findings(review)
    say()
    next_command("let it run", ctx.obj, "plan", "approve", record.hash[:12])
    next_command("refuse it", ctx.obj, "plan", "reject", record.hash[:12], "--note", "...")


@app.command()
def diff(
    ctx: typer.Context,
    plan: _Which,
    against: Annotated[str, typer.Argument(help="The other plan; by default the version that was approved last.")] = "",
) -> None:
    """Show only what a training plan changes, compared with the version that was approved last.

    \b
    Example:
      fedplug node plan diff 5b1f09c2
    """  # noqa: D301
    record, review, _ = _look(ctx, plan, against)
    if review.before is None:
        say(f"No version of {record.bundle.class_name!r} was approved before, so there is nothing to compare with.")
        next_command("read the whole text", ctx.obj, "plan", "show", record.hash[:12])
        return
    _say_changes(review)


@app.command()
def approve(
    ctx: typer.Context,
    plan: _Which,
    dataset: Annotated[str, typer.Option(help="Let it run on this data set only; by default on all.")] = "",
    until: Annotated[str, typer.Option(help="Last day on which it may run, e.g. 2027-01-31.")] = "",
    note: _Note = "",
    yes: _Yes = False,
) -> None:
    """Let a training plan run.

    It counts at once, also for a node that is running. Nothing else than this very text is approved.

    \b
    Example:
      fedplug node plan approve 5b1f09c2 --dataset patients --until 2027-01-31
    """  # noqa: D301
    with open_store(ctx) as store:
        approvals = _approvals(store)
        record = approvals.plan(plan)
        where = f"on data set {dataset!r}" if dataset else "on all data sets"
        _confirm(record, f"Let {record.bundle.class_name} run {where}?", yes=yes)
        decision = approvals.approve(record.hash, dataset=dataset, until=until, note=note)
    say(f"Approved: {record.bundle.class_name} ({record.hash[:12]}) may run {where}{_end(decision)}.")
    next_command("take that back", ctx.obj, "plan", "withdraw", record.hash[:12])


@app.command()
def reject(
    ctx: typer.Context,
    plan: _Which,
    dataset: Annotated[str, typer.Option(help="Refuse it for this data set only; by default for all.")] = "",
    note: _Note = "",
    yes: _Yes = False,
) -> None:
    """Refuse a training plan, whatever was decided before. A training that runs goes on to its end.

    \b
    Example:
      fedplug node plan reject 5b1f09c2 --note "It writes files; why?"
    """  # noqa: D301
    with open_store(ctx) as store:
        approvals = _approvals(store)
        record = approvals.plan(plan)
        where = f"on data set {dataset!r}" if dataset else "here"
        _confirm(record, f"Refuse to run {record.bundle.class_name} {where}?", yes=yes)
        approvals.reject(record.hash, dataset=dataset, note=note)
    say(f"Rejected: {record.bundle.class_name} ({record.hash[:12]}) does not run {where}.")


@app.command()
def withdraw(ctx: typer.Context, plan: _Which, note: _Note = "") -> None:
    """Take a decision back: the plan waits again, and does not run meanwhile.

    \b
    Example:
      fedplug node plan withdraw 5b1f09c2
    """  # noqa: D301
    with open_store(ctx) as store:
        approvals = _approvals(store)
        record = approvals.plan(plan)
        approvals.withdraw(record.hash, note=note)
    say(f"Withdrawn: {record.bundle.class_name} ({record.hash[:12]}) waits for a decision again.")


def _approvals(store: NodeStore) -> Approvals:
    from fedplug.node.approval.approvals import Approvals
    from fedplug.node.policy.file import read_policy

    assert store.folder is not None
    return Approvals(store, read_policy(store.folder))


def _look(ctx: typer.Context, plan: str, against: str) -> tuple[PlanRecord, Review, str]:
    from fedplug.node.approval.review import review

    with open_store(ctx) as store:
        approvals = _approvals(store)
        record = approvals.plan(plan)
        before = approvals.plan(against) if against else approvals.approved_before(record)
        state = approvals.summary(record)
    return record, review(record.bundle, before.bundle if before else None), state


def _confirm(record: PlanRecord, question: str, *, yes: bool) -> None:
    """Ask, where somebody is there to answer."""
    if yes or not sys.stdin.isatty():
        return
    from fedplug.node.approval.scan import scan

    remarks = sum(1 for finding in scan(record.bundle) if finding.remark)
    lines, places = record.bundle.text.rstrip("\n").count("\n") + 1, "place" if remarks == 1 else "places"
    say(f"{record.bundle.class_name} has {lines} lines. To be looked at: {remarks} {places}.")
    typer.confirm(question, abort=True)


def _say_head(record: PlanRecord, state: str) -> None:
    facts = [("class", record.bundle.class_name), ("hash", record.hash), ("status", state)]
    facts += [("helpers", ", ".join(sorted(record.bundle.helpers)))] if record.bundle.helpers else []
    for request in record.requests:
        words = f": {_line(request.description)}" if request.description else ""
        about = f", for {request.dataset!r}" if request.dataset else ""
        facts.append(("asked by", f"{request.researcher}, {request.received[:16]}{about}{words}"))
    for each in record.decisions:
        what = f"{each.status} by {each.decided_by}, {each.decided[:16]}"
        what += f", for {each.dataset!r}" if each.dataset else ""
        facts.append(("decision", f"{what}{_end(each)}" + (f": {each.note}" if each.note else "")))
    for name, value in facts:
        say(f"{name:<10} {value}")
    say()


def _say_text(text: str) -> None:
    """The text with line numbers, in colours where the terminal has them."""
    from rich.console import Console
    from rich.syntax import Syntax

    console = Console()
    clean = _visible(text)
    if console.is_terminal and len(clean) <= _MOST_COLOURED:
        console.print(Syntax(clean, "python", line_numbers=True, word_wrap=True, background_color="default"))
        return
    for number, line in enumerate(clean.split("\n"), start=1):
        say(f"{number:>5}  {line}")


def _say_changes(review: Review) -> None:
    from rich.console import Console
    from rich.text import Text

    assert review.before is not None
    say()
    if not review.changes:
        say(f"The text is that of {review.before.hash[:12]}.")
        return
    console = Console(highlight=False, soft_wrap=True)
    colours = {"+": "green", "-": "red", "@": "cyan"}
    for line in review.changes:
        console.print(Text(_visible(line), style=colours.get(line[:1], "")))


def _say_findings(review: Review) -> None:
    from fedplug.node.approval.review import ADVICE

    say()
    say("It imports: " + (", ".join(dict.fromkeys(_visible(each.name) for each in review.imports)) or "nothing"))
    if not review.remarks:
        say("Nothing else deserves a look.")
    else:
        say()
        rows = [(each.place, f"{each.kind} {_visible(each.name)}", each.remark) for each in review.remarks]
        say_table(("where", "what", "why"), rows)
    say()
    say(ADVICE)


def _end(decision: Decision) -> str:
    return f" until {decision.expires[:16].replace('T', ' ')} (UTC)" if decision.expires else ""


def _line(text: str) -> str:
    """A researcher's words in one line, so that they cannot look like lines of ours."""
    return " ".join(_visible(text).split())


def _visible(text: str) -> str:
    from fedplug.node.approval.review import visible

    return visible(text)


def _plain(record: PlanRecord, state: str) -> dict[str, Any]:
    return {
        "hash": record.hash,
        "class": record.bundle.class_name,
        "status": state,
        "first_seen": record.first_seen,
        "requests": [vars(each) for each in record.requests],
        "decisions": [vars(each) for each in record.decisions],
    }
