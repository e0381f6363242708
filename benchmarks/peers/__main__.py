"""``python -m benchmarks.peers [--quick] [--only NAME] [WORKLOAD ...]``: measure, print tables, keep JSON lines."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, environment
from benchmarks.peers.environments import PEERS, ROOT, MissingPeerError, Peer, make
from benchmarks.peers.families import end_family
from benchmarks.peers.rows import Row, read_rows
from benchmarks.peers.table import TITLES, into_page, markdown

FEDPLUG = Peer("FedPlug", "fedplug", (), dict.fromkeys(TITLES, "benchmarks.peers.on_fedplug"))
PATIENCE = 1800.0
"""Seconds after which a process that measures is given up."""


def run(peer: Peer, workload: str, python: Path, quick: bool, patience: float = PATIENCE) -> list[Row]:
    """Run a peer's module for a workload in a process of its own.

    A process that fails, or says nothing, gives a row that tells so.
    """
    command = [str(python), "-m", peer.modules[workload], workload, *(["--quick"] if quick else [])]
    with tempfile.TemporaryDirectory(prefix="fedplug-bench-") as folder, tempfile.TemporaryFile("w+") as output:
        settings = {
            **os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "FLWR_HOME": folder,
            "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **peer.settings,
        }  # fmt: skip
        process = subprocess.Popen(command, cwd=ROOT, env=settings, stdout=output, stderr=subprocess.STDOUT)
        problem = ""
        try:
            if process.wait(patience):
                problem = f"ended with {process.returncode}"
        except subprocess.TimeoutExpired:
            problem = f"did not end within {patience:g} s"
        finally:
            end_family(process)
        output.seek(0)
        lines = output.read().splitlines()
    rows = list(read_rows(lines))
    if problem or not rows:
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")
        rows.append(Row(workload, peer.name, problem=f"{problem or 'came without a figure'}: {last}"))
        print("\n".join(lines[-30:]), file=sys.stderr)
    return rows


def measure(peers: Sequence[Peer], workloads: Sequence[str], quick: bool, path: Path) -> list[Row]:
    """All workloads on FedPlug and on all peers, workload by workload; each row is kept in ``path`` at once."""
    pythons: dict[str, tuple[Path, str] | MissingPeerError] = {}
    for peer in peers:
        print(f"{peer.name}: its environment ...", flush=True)
        try:
            pythons[peer.key] = (Path(sys.executable), "") if peer is FEDPLUG else make(peer)
        except MissingPeerError as problem:
            pythons[peer.key] = problem
    found: list[Row] = []
    for workload in workloads:
        for peer in peers:
            if workload not in peer.modules:
                continue
            print(f"{workload} on {peer.name} ...", flush=True)
            place = pythons[peer.key]
            if isinstance(place, MissingPeerError):
                rows = [Row(workload, peer.name, problem=f"not installed: {place}")]
            else:
                rows = [with_remark(row, place[1]) for row in run(peer, workload, place[0], quick)]
            with path.open("a", encoding="utf-8") as handle:
                handle.writelines(as_json(row) + "\n" for row in rows)
            found += rows
    return found


def with_remark(row: Row, remark: str) -> Row:
    """The row with a remark among its details, for those who read the lines."""
    return replace(row, details={**row.details, "remark": remark}) if remark else row


def as_json(row: Row) -> str:
    """A row as a line for benchmarks/results."""
    here: dict[str, Any] = environment()
    return json.dumps({"row": asdict(row), **{name: here[name] for name in ("machine", "load")}})


def read(paths: Sequence[Path]) -> list[Row]:
    """The rows that earlier runs have kept: for each workload and framework those of its last run."""
    last: dict[tuple[str, str], list[Row]] = {}
    for path in paths:
        rows = [Row(**json.loads(line)["row"]) for line in path.read_text(encoding="utf-8").splitlines()]
        last.update({(row.workload, row.framework): [] for row in rows})
        for row in rows:
            last[row.workload, row.framework].append(row)
    names = [peer.name for peer in (FEDPLUG, *PEERS)]
    return [row for workload in TITLES for name in names for row in last.get((workload, name), [])]


def main() -> None:
    """Run what is asked for, or print the tables of earlier runs."""
    everybody = {peer.key: peer for peer in (FEDPLUG, *PEERS)}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"any of {', '.join(TITLES)}; all by default")
    parser.add_argument(
        "--only", action="append", choices=list(everybody), help="one of the frameworks; may be repeated"
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds; to see that everything runs")
    parser.add_argument("--read", nargs="+", type=Path, metavar="FILE", help="measure nothing; print what files hold")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into a page, between its two marks")
    options = parser.parse_args()
    unknown = [name for name in options.workloads if name not in TITLES]
    if unknown:
        parser.error(f"there is no workload {unknown[0]!r}; there are {', '.join(TITLES)}")
    if options.read:
        show(markdown(read(options.read)), options.write)
        return
    peers = [everybody[key] for key in everybody if not options.only or key in options.only]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and with it what was started
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"peers-{datetime.now(UTC):%Y%m%d-%H%M%S}.jsonl"
    rows = measure(peers, options.workloads or list(TITLES), options.quick, path)
    here = environment()
    print(f"\n{here['machine']}, Python {here['python']}, load {here['load']:.1f}\n")
    show(markdown(rows), options.write)
    print(f"\nJSON lines: {path}")


def show(tables: str, page: Path | None) -> None:
    """Print tables, and put them into a page if one is given."""
    print(tables)
    if page is not None:
        page.write_text(into_page(page.read_text(encoding="utf-8"), tables), encoding="utf-8")


if __name__ == "__main__":
    main()
