"""A researcher in a process of its own: ``fault_researcher.py PORT NODE...`` runs a `Federation` and tells of itself.

A line of JSON for each thing that happens goes to its standard output: ``[what, node]``, as `Watch` sees it, and in the
end ``["outcome", id, digest, rounds]``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fault_kit import HEARTBEAT, FaultNode, Federation, Watch

from fedplug.core.transport import TransportOptions


def tell(*what: Any) -> None:
    print(json.dumps(what), flush=True)


def main(port: str, *names: str) -> None:
    federation = Federation(
        int(port), TransportOptions(heartbeat=HEARTBEAT), {name: FaultNode(Path(name)) for name in names}
    )
    outcome = federation.run(Watch(tell))
    tell("outcome", outcome.experiment_id, outcome.digest, outcome.rounds)


@contextmanager
def researcher(federation: Federation) -> Iterator[subprocess.Popen[str]]:
    """Yield the process of a researcher, which must have ended well when the block is left."""
    command = [sys.executable, __file__, str(federation.port), *federation.nodes]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        process.stdout.close()
    assert process.wait(60) == 0


def until(process: subprocess.Popen[str], wanted: Callable[[str], bool]) -> list[Any]:
    """The first thing of a wanted kind that the researcher tells."""
    for line in process.stdout:
        found = json.loads(line)
        if wanted(found[0]):
            return found
    raise AssertionError("the researcher has ended, and never said so")


if __name__ == "__main__":
    main(*sys.argv[1:])
