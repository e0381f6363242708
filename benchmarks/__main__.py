"""``python -m benchmarks [--quick] [WORKLOAD ...]``: measure, print a table, and keep one JSON line per figure."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from benchmarks import (
    a1_mean,
    a2_rules,
    big_model,
    cnn,
    codec,
    first_round,
    linear_gradients,
    many_nodes,
    simulation,
    small_rounds,
    start_up,
    trainer_loop,
)
from benchmarks.common import RESULTS, Result, environment

WORKLOADS: dict[str, Callable[[bool], list[Result]]] = {
    "I1": start_up.run,
    "A1": a1_mean.run,
    "A2": a2_rules.run,
    "R1": small_rounds.run_inproc,
    "R2": small_rounds.run_zmq,
    "R3": big_model.run_cpu,
    "R4": big_model.run_memory,
    "R5": many_nodes.run,
    "S1": simulation.run_s1,
    "S2": cnn.run,
    "S3": simulation.run_s3,
    "S4": simulation.run_s4,
    "S5": first_round.run,
    "C1": codec.run,
    "T1": trainer_loop.run,
    "L1": linear_gradients.run,
    "D1": linear_gradients.run_declearn,
}


def main() -> None:
    """Run the workloads that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "workloads", nargs="*", metavar="WORKLOAD", help=f"any of {', '.join(WORKLOADS)}; all by default"
    )
    parser.add_argument("--quick", action="store_true", help="smaller and shorter; to see that everything runs")
    options = parser.parse_args()
    unknown = [name for name in options.workloads if name not in WORKLOADS]
    if unknown:
        parser.error(f"there is no workload {unknown[0]!r}; there are {', '.join(WORKLOADS)}")
    console = Console()
    table = Table(title=environment()["machine"], title_justify="left")
    for column in ("workload", "what", "figure", "ceiling", "ratio", "target", ""):
        table.add_column(column, justify="left" if column in ("workload", "what", "") else "right")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.now(UTC):%Y%m%d-%H%M%S}.jsonl"
    for name in options.workloads or WORKLOADS:
        console.print(f"{name} ...")
        for result in WORKLOADS[name](options.quick):
            with path.open("a", encoding="utf-8") as handle:
                handle.write(result.as_json() + "\n")
            table.add_row(
                result.workload, result.what, f"{result.figure:.3f} {result.unit}",
                "" if result.ceiling is None else f"{result.ceiling:.3f}",
                "" if result.ratio is None else f"{result.ratio:.2f}",
                "" if result.target is None else f"<= {result.target:g}",
                "" if result.target is None else "met" if result.met else "[red]missed[/red]",
            )  # fmt: skip
    console.print(table)
    console.print(f"JSON lines: {path}")


if __name__ == "__main__":
    main()
