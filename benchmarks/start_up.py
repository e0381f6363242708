"""I1: processor time of importing fedplug, of its help and of its list of plugins."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys

from benchmarks.common import Result

CASES = (
    ("import fedplug", ["-c", "import fedplug"], 0.15),
    ("fedplug --help", ["-m", "fedplug", "--help"], 0.35),
    ("fedplug plugins list", ["-m", "fedplug", "plugins", "list"], 0.45),
)


def run(quick: bool = False) -> list[Result]:
    """Measure each in fresh interpreters."""
    repeats = 3 if quick else 9
    bare = _cpu_seconds(["-c", "pass"], repeats)
    return [
        Result("I1", what, _cpu_seconds(args, repeats), "CPU s", None, target, {"bare_python_s": round(bare, 3)})
        for what, args, target in CASES
    ]


def _cpu_seconds(args: list[str], repeats: int) -> float:
    figures = []
    for _ in range(repeats + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *args], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        figures.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(figures[1:])  # the first one reads the files from disk
