from __future__ import annotations

import json
import subprocess
import sys

import pytest

from fedplug.node.isolation.probe import probe

_PROGRAM = """
import ctypes, errno, json, os, sys
from pathlib import Path
import msgspec
from fedplug.node.isolation.confine import before_plan, before_threads
from fedplug.node.isolation.layers import Confinement

libc = ctypes.CDLL(None, use_errno=True)

def call(name, *arguments):
    'The name of the error of a function of the C library; "allowed" if there is none.'
    ctypes.set_errno(0)
    failed = getattr(libc, name)(*arguments) < 0
    return errno.errorcode[ctypes.get_errno()] if failed else "allowed"

def attempt(function, *arguments, **more):
    'The name of the error of a Python function.'
    try:
        function(*arguments, **more)
    except OSError as error:
        return type(error).__name__
    return "allowed"

confinement = msgspec.json.decode(sys.argv[1], type=Confinement)
data, outside = Path(sys.argv[2]), Path(sys.argv[3])
layers = before_threads(confinement)
layers += before_plan(confinement, [data])
told = {}
exec(sys.argv[4])
print(json.dumps(told))
"""


@pytest.fixture(scope="session")
def lacking():
    """The layers that this system cannot enforce."""
    return {layer.name for layer in probe() if layer.state == "missing"}


@pytest.fixture
def places(tmp_path):
    """A scratch folder, a data set, and something that belongs to neither."""
    for name in ("scratch", "data", "outside"):
        (tmp_path / name).mkdir()
    (tmp_path / "data" / "rows.csv").write_text("x\n1\n")
    (tmp_path / "outside" / "secret").write_text("secret")
    return tmp_path


@pytest.fixture
def shut_in(places, lacking):
    """Run code in a process that has shut itself in; it fills ``told``, which is returned."""

    def run(code, **more):
        without = lacking & {"network", "files", "calls", "limits", "privileges"}
        if without:
            pytest.skip(f"this system cannot enforce {', '.join(sorted(without))}")
        confinement = {"scratch": str(places / "scratch"), **more}
        arguments = [json.dumps(confinement), str(places / "data" / "rows.csv"), str(places / "outside"), code]
        done = subprocess.run(
            [sys.executable, "-P", "-c", _PROGRAM, *arguments],
            capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run
