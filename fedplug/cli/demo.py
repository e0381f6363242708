"""``fedplug demo``: see a real federation work, in about a minute."""

from __future__ import annotations

import json
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
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
    ZeroMQ on this machine only. Then compares the federated model with what each hospital could do alone
    and with a model trained on all data in one place. Everything that is started is stopped again.

    Example: fedplug demo --data digits --rounds 20
    """
    from fedplug.core.plugins import default_host
    from fedplug.demo.data import load
    from fedplug.demo.run import run_demo

    silent = quiet or as_json
    chosen = load(data, seed)
    plan_class = default_host().component("training_plan", f"demo-{data}")
    place = Path(folder) if folder else Path(tempfile.mkdtemp(prefix="fedplug-demo-"))

    def say(line: str) -> None:
        if not silent:
            typer.secho(line, dim=True)

    if not silent:
        typer.echo(f"{chosen.summary}\n")
        for hospital, (_, labels) in chosen.hospitals.items():
            shares = ", ".join(f"{(labels == c).mean():.0%} class {c}" for c in sorted(set(labels.tolist())))
            typer.echo(f"  {hospital}: {len(labels)} samples ({shares})")
        typer.echo("\nThe commands that set up the nodes:")
    # a terminal that is closed, or a `kill`, must stop the nodes just as Ctrl-C does
    previous = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        result = run_demo(
            chosen, plan_class, place, rounds=rounds, seed=seed, progress="quiet" if silent else "auto", say=say
        )
    finally:
        signal.signal(signal.SIGTERM, previous)
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
    _print_result(result)


def _print_result(result: DemoResult) -> None:
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
        "  1. On each machine with data:  fedplug node init   then   fedplug node dataset add --help\n"
        "  2. Start it:                   fedplug node start --researcher zmq://ADDRESS:7400\n"
        "  3. Write a training plan and an Experiment: README.md shows both in 30 lines,\n"
        "     and fedplug_torch/demo_plans.py holds the plans of this demo."
    )
