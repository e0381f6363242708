"""``fedplug demo``: see a real federation work, in about a minute."""

from __future__ import annotations

import inspect
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedplug.core.params import Array
    from fedplug.demo.run import DemoResult


def demo(
    data: Annotated[str, typer.Option(help="Which data: breast-cancer or digits.")] = "breast-cancer",
    rounds: Annotated[int, typer.Option(min=1, help="Number of federated rounds.")] = 15,
    folder: Annotated[
        Path | None, typer.Option(help="Where the three nodes' folders go; a new temporary folder by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Root of all randomness; the same seed gives the same model.")] = 7,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the result only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON only.")] = False,
) -> None:
    """Train one model over three hospitals, on this machine, for real.

    Starts three node processes, each with its own slice of real data, and a researcher; they talk over
    ZeroMQ on this machine only, encrypted, with keys that are made for the demo. Then compares the federated model with
    what each hospital could do alone and with a model trained on all data in one place. Everything that is started is
    stopped again.

    Example: fedplug demo --data digits --rounds 20
    """
    from fedplug.core.plugins import default_host
    from fedplug.demo.data import HOSPITALS, load
    from fedplug.demo.signals import ended_by_signals
    from fedplug.node.store import check_no_node

    if folder:
        for hospital in HOSPITALS:
            check_no_node(folder.absolute() / hospital)
    from fedplug.demo.run import run_demo  # after the refusals, for it takes a second

    silent = quiet or as_json
    chosen = load(data, seed)
    plan_class = default_host().component("training_plan", f"demo-{data}")
    place = folder or Path(tempfile.mkdtemp(prefix="fedplug-demo-"))

    def say(line: str) -> None:
        if not silent:
            typer.secho(line, dim=True)

    if not silent:
        typer.echo(f"{chosen.summary}\n")
        for hospital, (_, labels) in chosen.hospitals.items():
            typer.echo(f"  {hospital}: {len(labels)} samples ({_shares(labels, chosen.classes)})")
        typer.echo(f"\nSetting up the researcher's keys and the nodes in {place}, as their owners would:")
    shown = "quiet" if silent else "auto"
    try:
        with ended_by_signals():
            result = run_demo(chosen, plan_class, place, rounds=rounds, seed=seed, progress=shown, say=say)
    except KeyboardInterrupt:
        typer.echo(f"Interrupted. The nodes are stopped; their folders and logs are in {place}.", err=True)
        raise
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "data": data,
                    "rounds": result.rounds,
                    "federated": result.federated,
                    "alone": dict(result.alone),
                    "mean_alone": result.mean_alone,
                    "pooled": result.pooled,
                    "seconds": round(result.seconds, 3),
                    "nodes": dict(result.nodes),
                    "experiment": str(result.experiment),
                    "folder": str(result.folder),
                    "fingerprint": result.fingerprint,
                }
            )
        )
        return
    _print_result(result, inspect.getsourcefile(plan_class))


def _shares(labels: Array, classes: Sequence[str]) -> str:
    """How often each class occurs, the rare ones together: ``97% benign, 3% malignant``."""
    parts = sorted(((float((labels == c).mean()), word) for c, word in enumerate(classes)), reverse=True)
    many = [f"{share:.0%} {word}" for share, word in parts[:4]]
    rest = sum(share for share, _ in parts[4:])
    return ", ".join([*many, f"{rest:.0%} others"] if rest else many)


def _print_result(result: DemoResult, plan_file: str | None) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Accuracy on held-out data", title_justify="left")
    table.add_column("trained by")
    table.add_column("accuracy", justify="right")
    for hospital, value in result.alone.items():
        table.add_row(f"{hospital} alone", f"{value:.3f}")
    table.add_row("mean of the hospitals alone", f"{result.mean_alone:.3f}", end_section=True)
    table.add_row("[bold]federated (no data left a hospital)", f"[bold]{result.federated:.3f}", end_section=True)
    table.add_row("all data in one place", f"{result.pooled:.3f}")
    console = Console()
    console.print()
    console.print(table)
    processes = ", ".join(f"{name} ({pid})" for name, pid in result.nodes.items())
    typer.echo(f"\n{result.rounds} rounds in {result.seconds:.1f} s, trained by the node processes {processes}.\n")
    typer.echo(f"Model:        {result.experiment / 'model.safetensors'}")
    typer.echo(f"TensorBoard:  tensorboard --logdir {result.experiment / 'runs'}")
    typer.echo(f"Node folders: {result.folder}  (each with its log in node.log)")
    typer.echo(
        "\nThe same with your own data:\n"
        "  1. Make a node:      fedplug node init --name my-hospital\n"
        "  2. Register a file:  fedplug node dataset add FILE.csv --tags WORD --target COLUMN\n"
        "  3. Start the node:   fedplug node start\n"
        '  4. In another terminal, run an experiment with tags="WORD": README.md shows one,\n'
        "     and examples/real_nodes.py is one to copy.\n"
        f"The training plan of this demo: {plan_file}"
    )
