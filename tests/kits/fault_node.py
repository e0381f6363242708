"""A node process whose durations are a tenth of the usual ones: ``fault_node.py FOLDER URL HEARTBEAT [KEYS]``.

Else it is what ``fedplug node start`` runs. If there is a file ``clock`` in its folder, the wall clock of the process
is ahead by as many seconds as stand in it, from the moment that it is written.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from fedplug.core.keys import KeyPair
from fedplug.core.transport import TransportOptions
from fedplug.node.node import Node
from fedplug.node.service.log_file import start_logging


def follow(offset: Path) -> None:
    """Let the wall clock of this process be ahead by what a file says. The monotonic clock stays as it is."""
    true_time, true_time_ns = time.time, time.time_ns

    def ahead() -> float:
        try:
            return float(offset.read_text() or 0)
        except FileNotFoundError:
            return 0.0

    time.time = lambda: true_time() + ahead()
    time.time_ns = lambda: true_time_ns() + int(ahead() * 1e9)


def main(folder: str, url: str, heartbeat: str, *keys: str) -> None:
    follow(Path(folder) / "clock")
    start_logging(Path(folder), logging.INFO)
    options = TransportOptions(heartbeat=float(heartbeat))
    if keys:  # its own public and secret one, and the researcher's public one
        options = replace(options, keys=KeyPair(*keys[:2]), peer_key=keys[2])
    node = Node(folder, url, options=options, retry=float(heartbeat))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: node.request_stop())
    node.run_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
