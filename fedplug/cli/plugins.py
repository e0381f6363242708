"""``fedplug plugins``: list, show, check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from fedplug.cli.new_plugin import new
from fedplug.cli.output import EXIT_FAILED, ListingGroup, say, say_json, say_table
from fedplug.core.components import KINDS, Offer, label
from fedplug.core.errors import PluginError, UnknownNameError
from fedplug.core.plugin_checks import PluginRecord
from fedplug.core.plugins import PluginHost, default_host

if TYPE_CHECKING:
    from fedplug.testing.registry import CheckResult

app = typer.Typer(
    cls=ListingGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="See which plugins are installed, and test them.\n\n"
    "A plugin is a Python package that brings aggregators, strategies, transports or training plans. "
    "Install one with pip, and it appears here; FEDPLUG_PLUGINS=a,b loads only those named; "
    "FEDPLUG_TRACE=1 prints every call to one.",
)

app.command("new")(new)

_JSON = typer.Option(False, "--json", help="Print JSON, for other programs.")
_NAME = typer.Argument(metavar="NAME", help="Name of a plugin, as 'fedplug plugins list' shows it.")


@app.command("list")
def list_(as_json: bool = _JSON) -> None:
    """List all plugins: what they provide, or why they cannot be used.

    STATUS is 'ok'; 'failed' (it cannot be imported, or has a hook that does not exist); 'incompatible' (written for
    another version of FedPlug); 'blocked' (not in FEDPLUG_PLUGINS); 'conflict' (it shares a name with another).
    """
    host = default_host()
    if as_json:
        say_json([_as_dict(host, record) for record in host.records])
        return
    rows = [
        (
            record.name,
            record.dist or "-",
            record.version or "-",
            "-" if record.api is None else record.api,
            record.state,
            _one_line(record.error) if record.error else _provides(host, record),
        )
        for record in host.records
    ]
    say_table(("plugin", "dist", "version", "api", "status", "provides"), rows)
    bad = [record for record in host.records if record.cure]
    if bad:
        say()
    for record in bad:
        say(f"{record.name}: {_one_line(record.cure)} (more: fedplug plugins show {record.name})")


@app.command()
def show(name: str = _NAME, as_json: bool = _JSON) -> None:
    """Show everything about one plugin: its hooks, its components, and the traceback if it failed."""
    host = default_host()
    records = _find(host, name)
    if as_json:
        described = [_as_dict(host, record) | {"details": record.details} for record in records]
        say_json(described[0] if len(described) == 1 else described)
        return
    for record in records:
        origin = f"{record.dist} {record.version}" if record.dist else "not installed by a distribution"
        api = "" if record.api is None else f", hooks version {record.api}"
        say(f"{record.name}: {record.state} ({origin}{api}; module {record.module or 'unknown'})")
        if record.details:
            say(record.details.rstrip())
        for line in (record.error, record.cure):
            if line:
                say(line)
        if record.hooks:
            say(f"hooks: {', '.join(record.hooks)}")
        for line in _trainer_hooks(host, record):
            say(line)
        for offer in host.components(plugin=record.name) if record.state in ("ok", "conflict") else []:
            summary = f": {offer.component.summary}" if offer.component.summary else ""
            say(f"{label(offer.kind)} {offer.component.name!r}{summary}")
            for option, meaning in offer.component.options.items():
                say(f"    {option}: {meaning}")


@app.command()
def check(
    name: str = _NAME,
    full: bool = typer.Option(False, "--full", help="Try each law on many more cases; takes seconds to minutes."),
    as_json: bool = _JSON,
) -> None:
    """Test a plugin: everything it offers must load, and obey the laws of its kind that its tags claim.

    Runs the laws on random cases that are the same each time, and names each law that is broken, with the inputs
    that broke it. Ends with exit code 1 if there is one. With --full, Hypothesis draws the cases of aggregators and
    optimizers where it is installed (pip install "fedplug[testing]").
    """
    from fedplug.testing.components import check_offer
    from fedplug.testing.registry import has_hypothesis

    host = default_host()
    record = _find(host, name)[0]
    offers = host.components(plugin=record.name) if record.state in ("ok", "conflict") else []
    results = {offer: check_offer(offer, "full" if full else "quick") for offer in offers}
    outcomes = [result.outcome for each in results.values() for result in each]
    counts = {outcome: outcomes.count(outcome) for outcome in ("pass", "skip", "fail", "xfail")}
    failed = bool(counts["fail"]) or record.state != "ok"
    drawn = full and has_hypothesis() and any(offer.kind in ("aggregator", "agg_optimizer") for offer in offers)
    cases = "drawn by Hypothesis" if drawn else "seeded"
    if as_json:
        listed = [
            {
                "kind": offer.kind,
                "component": offer.component.name,
                "subject": r.subject,
                "check": r.check,
                "outcome": r.outcome,
                **r.words,
            }
            for offer, each in results.items()
            for r in each
        ]
        profile = {"profile": "full" if full else "quick", "cases": cases}
        say_json(_as_dict(host, record) | {"details": record.details} | profile | {"results": listed} | counts)
        raise typer.Exit(EXIT_FAILED if failed else 0)
    if record.state != "ok":
        for line in (record.details.rstrip(), f"{record.name}: {record.state}", record.error, record.cure):
            if line:
                say(line)
    for offer, each in results.items():
        for subject in dict.fromkeys(result.subject for result in each):
            _say_results(offer, subject, [result for result in each if result.subject == subject])
    components = f"{len(results)} component" + ("" if len(results) == 1 else "s")
    told = [components, f"{counts['pass']} passed", f"{counts['skip']} skipped", f"{counts['fail']} failed"]
    told += [f"{counts['xfail']} failed as expected"] if counts["xfail"] else []
    say(", ".join(told) + (f" (profile full, cases {cases})" if full else ""))
    raise typer.Exit(EXIT_FAILED if failed else 0)


def _say_results(offer: Offer, subject: str, results: Sequence[CheckResult]) -> None:
    """What came out of the laws of one component, or of one instance of it."""
    say(f"{label(offer.kind, 2)}/{offer.component.name}{subject and '  '}{subject}")
    for outcome in ("pass", "skip", "xfail", "fail"):
        by_reason: dict[str, list[str]] = {}
        for result in results:
            if result.outcome == outcome:
                reason = "" if outcome in ("pass", "fail") else _one_line(result.reason)
                by_reason.setdefault(reason, []).append(result.check)
        for reason, checks in by_reason.items():
            say(f"  {outcome:5}  {', '.join(checks)}{reason and f' ({reason})'}")
    for result in results:
        if result.outcome == "fail":
            say(f"\n{result.check}: {result.law}\n{result.reason}\n")


def _find(host: PluginHost, name: str) -> list[PluginRecord]:
    found = [record for record in host.records if record.name == name]
    if not found:
        raise UnknownNameError("plugin", name, {record.name for record in host.records})
    return found


def _trainer_hooks(host: PluginHost, record: PluginRecord) -> list[str]:
    """What a plugin adds to the training loop, with the defaults of all training arguments."""
    if record.state not in ("ok", "conflict") or "fedplug_trainer_hooks" not in record.hooks:
        return []
    from fedplug.core.trainer import TrainerInfo
    from fedplug.core.training_args import TrainingArgs

    try:
        found = host.trainer_hooks(TrainerInfo(training_args=TrainingArgs().dict()), plugin=record.name)
    except PluginError as error:
        return [error.message]
    lines = []
    for each in found.get(record.name, []):
        place = [f"before {name}" for name in each.before] + [f"after {name}" for name in each.after]
        place += ["first"] * each.first + ["last"] * each.last
        lines.append(f"trainer hook {each.name!r}: {each.trigger} ({', '.join([*each.phases, *place])})")
    return lines


def _provides(host: PluginHost, record: PluginRecord) -> str:
    parts = []
    for kind in KINDS:
        names = [offer.component.name for offer in host.components(kind, plugin=record.name)]
        if names:
            parts.append(f"{label(kind, 2)}: {', '.join(names)}")
    return "; ".join(parts) or f"hooks: {', '.join(hook.removeprefix('fedplug_') for hook in record.hooks)}"


def _as_dict(host: PluginHost, record: PluginRecord) -> dict[str, Any]:
    usable = record.state in ("ok", "conflict") and record.hooks
    return {
        "plugin": record.name,
        "dist": record.dist,
        "version": record.version,
        "api": record.api,
        "status": record.state,
        "error": record.error,
        "cure": record.cure,
        "hooks": list(record.hooks),
        "provides": {
            label(kind, 2): [
                {"name": o.component.name, "summary": o.component.summary, "options": dict(o.component.options)}
                for o in host.components(kind, plugin=record.name)
            ]
            for kind in KINDS
            if usable and host.components(kind, plugin=record.name)
        },
    }


def _one_line(text: str) -> str:
    return " ".join(text.split())
