"""What isolation is possible on this system: tried in a process of its own, which then ends."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from fedplug.node.isolation.layers import Confinement, Layer

_MOST_SECONDS = 60


def probe(confinement: Confinement | None = None) -> list[Layer]:
    """Try all layers, and say what each came to.

    Args:
        confinement: What is to be enforced; by default the usual.
    """
    with tempfile.TemporaryDirectory(prefix="fedplug-probe-") as scratch:
        asked = msgspec.structs.replace(confinement or Confinement(scratch), scratch=scratch)
        done = subprocess.run(
            [sys.executable, "-P", "-m", "fedplug.node.isolation.probe", msgspec.json.encode(asked).decode()],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=_MOST_SECONDS, check=False,
        )  # fmt: skip
    try:
        return msgspec.json.decode(done.stdout, type=list[Layer])
    except msgspec.MsgspecError:
        said = done.stderr.decode("utf-8", "replace").strip()[-300:]
        return [
            Layer("process", "missing", f"a process that shuts itself in did not survive: {said or done.returncode}")
        ]


def main(argument: str) -> None:
    """Shut this process in, and print the layers as JSON."""
    from fedplug.node.isolation.confine import before_plan, before_threads

    confinement = msgspec.json.decode(argument, type=Confinement)
    layers = before_threads(confinement)
    layers += before_plan(confinement, [Path(confinement.scratch)])
    sys.stdout.write(msgspec.json.encode(layers).decode())


if __name__ == "__main__":
    main(sys.argv[1])
