"""Named points at which a process dies."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import fedplug
from fedplug.core.crash_points import POINTS, VARIABLE, crash_point, watched, watcher_of
from fedplug.core.errors import UsageError

SCRIPT = "from fedplug.core.crash_points import crash_point\nfor n in range(3):\n    print(n, flush=True)\n"


@pytest.mark.parametrize(("wanted", "lived"), [("round-begun", "0"), ("round-begun:3", "012"), ("aggregated", "012")])
def test_a_process_dies_at_the_point_that_is_named_and_at_no_other(wanted: str, lived: str) -> None:
    script = f"{SCRIPT}    crash_point('round-begun')\n"
    ended = subprocess.run(
        [sys.executable, "-c", script], env={VARIABLE: wanted}, capture_output=True, text=True, check=False, timeout=60
    )
    assert "".join(ended.stdout.split()) == lived
    assert ended.returncode == (0 if wanted == "aggregated" else -signal.SIGKILL)


@pytest.mark.parametrize("wanted", ["no-such-point", "round-begun:", "round-begun:0", "round-begun:x", ":2"])
def test_a_name_that_is_no_point_is_refused(wanted: str) -> None:
    with pytest.raises(UsageError, match="no point at which") as caught:
        watcher_of(wanted)
    assert "round-begun" in caught.value.cure


def test_without_the_variable_nothing_happens_and_a_test_may_watch() -> None:
    assert watcher_of("") is None
    seen: list[str] = []
    with watched(seen.append):
        crash_point("round-begun")
    crash_point("round-begun")
    assert seen == ["round-begun"]


def test_every_point_is_in_the_code_once_and_every_one_in_the_code_is_known() -> None:
    used: list[str] = []
    for file in Path(fedplug.__file__).parent.rglob("*.py"):
        used += re.findall(r'crash_point\("([^"]+)"\)', file.read_text())
    assert sorted(used) == sorted(POINTS)
