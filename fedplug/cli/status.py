"""``fedplug status``: what the experiments of this researcher do, and what was refused or dropped on the way."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedplug.cli.node.common import AsJson
from fedplug.cli.output import say, say_json, say_table

if TYPE_CHECKING:
    from fedplug.researcher.status import ExperimentStatus

_MOST = 10
"""So many experiments are listed, the latest first."""


def status(
    experiment: Annotated[
        str,
        typer.Argument(help="Name or path of an experiment's folder.", show_default="all that run, and the latest"),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Show what experiments do: the round, the nodes, and what was refused or dropped on the way.

    It reads a file that a running experiment keeps in its folder, so it can be called beside it. What a node does is
    told by 'fedplug node status', on the node's machine.

    \b
    Examples:
      fedplug status
      fedplug status Experiment_0003 --json
    """  # noqa: D301
    import msgspec

    from fedplug.core.errors import UsageError
    from fedplug.researcher.folders import experiments_root
    from fedplug.researcher.status import read_status

    root = experiments_root()
    if experiment:
        given = Path(experiment).expanduser()
        folder = given if given.is_dir() else root / experiment
        now = read_status(folder)
        if now is None:
            raise UsageError(
                f"There is no experiment with a status at {folder}.",
                cure="'fedplug status' lists those of this researcher; FEDPLUG_DIR says where they lie.",
            )
        found = {folder.name: now}
    else:
        known = {entry.name: now for entry in _folders(root) if (now := read_status(entry)) is not None}
        latest = sorted(known, key=lambda name: (known[name].running, known[name].written), reverse=True)
        found = {name: known[name] for name in latest[:_MOST]}
    if as_json:
        say_json({name: {"running": now.running, **msgspec.to_builtins(now)} for name, now in found.items()})
        return
    if not found:
        say(f"No experiment of yours has run yet (looked in {root}).")
        return
    say_table(
        ("experiment", "state", "rounds", "nodes", "address"),
        [(name, _state(now), now.rounds, len(now.nodes), now.address) for name, now in found.items()],
    )
    for name, now in found.items():
        if now.running or experiment:
            say()
            _tell(name, now)


def _tell(name: str, now: ExperimentStatus) -> None:
    """Everything about one experiment."""
    from fedplug.protocol.counters import in_words
    from fedplug.researcher.progress.text import one_line, size

    under_way = "" if now.round is None else f", round {now.round + 1} under way"
    say(f"{name}: {_state(now)}, {now.rounds} rounds complete{under_way}")
    for node, work in sorted(now.nodes.items()):
        steps = f" step {work.step}" + (f" of {work.total_steps}" if work.total_steps else "") if work.step else ""
        reason = f" ({work.reason})" if work.reason else ""
        say(one_line(f"  {work.name or node}: {work.state}{steps}{reason}"))
    if now.error:
        say(one_line(f"  ended by {now.error}"))
    sent, received = now.counters.get("bytes_sent", 0), now.counters.get("bytes_received", 0)
    say(f"  {size(sent)} sent, {size(received)} received since the experiment was opened")
    odd = in_words(now.counters)
    say("  nothing was refused, dropped or sent twice" if not odd else "  besides:")
    for line in odd:
        say(one_line(f"    {line}"))


def _state(now: ExperimentStatus) -> str:
    if now.running:
        return f"running (process {now.pid})"
    if not now.over:
        return "ended without a word"
    return "failed" if now.error else "done"


def _folders(root: Path) -> list[Path]:
    try:
        return [entry for entry in root.iterdir() if entry.is_dir()]
    except OSError:
        return []
