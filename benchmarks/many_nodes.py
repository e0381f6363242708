"""R5: a thousand connected nodes, a hundred of which train a model of 1 KB in each round."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack

from benchmarks.common import Result
from benchmarks.federation import echo_nodes, experiment, run_rounds
from benchmarks.memory import rss
from fedplug import RandomStrategy
from fedplug.core.plugins import default_host
from fedplug.testing.echo_nodes import ECHO_TAG, KeyRing
from fedplug.transports.registry import open_transport

URL = "zmq://127.0.0.1:0"
PROCESSES = 4
VALUES = 256
QUIET = 10.0
"""Seconds without a round in which the researcher's processor time is taken."""


def run(quick: bool = False) -> list[Result]:
    """With keys and without: seconds of a round, memory a node takes at the researcher, its processor time at rest."""
    nodes, sampled, rounds = (100, 20, 5) if quick else (1000, 100, 20)
    results = []
    for keyed in (False, True):
        command = [sys.executable, "-m", "benchmarks.many_nodes", str(nodes), str(sampled), str(rounds), str(keyed)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seen = json.loads(done.stdout.splitlines()[-1])
        how = "with keys" if keyed else "plain"
        about = {"nodes": nodes, "sampled": sampled, "keys": keyed, "all_connected_s": seen["connected"]}
        results += [
            Result("R5", f"no-op round of {sampled} of {nodes} nodes, {how}", seen["round"], "s", None, 1.0, about),
            Result("R5", f"memory at the researcher a node, {how}", seen["memory"], "KiB", None, 100.0, about),
            Result("R5", f"researcher at rest, {how}", seen["rest"], "% of a core", None, 10.0, about),
        ]
    return results


def _researcher(nodes: int, sampled: int, rounds: int, *, keyed: bool) -> None:
    """One process that meets all nodes; prints what it saw of itself."""
    keys = KeyRing.make(open_transport(URL, default_host()), nodes) if keyed else None
    options = keys.researcher_options() if keys else None
    strategy = RandomStrategy(count=sampled)
    with (
        experiment(VALUES, 4, nodes, URL, options=options, node_selection_strategy=strategy) as exp,
        ExitStack() as stack,
    ):
        pool = exp.pool()
        exp.params()
        base = rss()
        began = time.monotonic()
        share = nodes // PROCESSES
        for number in range(PROCESSES):
            first = number * share
            count = share if number < PROCESSES - 1 else nodes - first
            stack.enter_context(echo_nodes(pool.description, count, first=first, keys=keys))
        while len(pool.nodes) < nodes:
            pool.next_event(1.0)
        connected = time.monotonic() - began
        memory = (rss() - base) / nodes / 1024
        before, clock = time.process_time(), time.monotonic()
        time.sleep(QUIET)
        rest = 100 * (time.process_time() - before) / (time.monotonic() - clock)
        run_rounds(exp, 2, [ECHO_TAG])
        seconds = run_rounds(exp, rounds)
    figures = {"round": statistics.median(seconds), "memory": memory, "rest": rest, "connected": round(connected, 2)}
    print(json.dumps(figures))


if __name__ == "__main__":
    _researcher(*map(int, sys.argv[1:4]), keyed=sys.argv[4] == "True")
