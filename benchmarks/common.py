"""What every benchmark shares: a result with its ceiling, and clocks that count the processor, not the wall."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Result:
    """One figure of one workload.

    Attributes:
        workload: Its id in docs/benchmarks.md, e.g. ``"R1"``.
        what: What was measured.
        figure: The figure, in ``unit``.
        unit: E.g. ``"ms/round"``.
        ceiling: The same work done by a bare loop in the same run, in ``unit``; None if there is none.
        target: Largest ratio (or figure, without a ceiling) that was aimed at; None where it is only reported.
        details: Whatever else was seen.
    """

    workload: str
    what: str
    figure: float
    unit: str
    ceiling: float | None
    target: float | None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """Figure over ceiling: the median over the pairs, where both were measured in turn."""
        if self.ceiling is None:
            return None
        pairs = self.details.get("ratios")
        return statistics.median(pairs) if pairs else self.figure / self.ceiling

    @property
    def met(self) -> bool:
        """Whether the target was met, if there is one."""
        return self.target is None or (self.figure if self.ratio is None else self.ratio) <= self.target

    def as_json(self) -> str:
        """One line of JSON: the result with versions and machine."""
        return json.dumps({**asdict(self), "ratio": self.ratio, "met": self.met, **environment()})


def environment() -> dict[str, Any]:
    """Versions and machine."""
    names = ("fedplug", "numpy", "pyzmq", "msgspec", "torch")
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    model = next(
        (line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    machine = f"{os.cpu_count()} x {model}, {psutil.virtual_memory().total >> 30} GiB"
    return {"versions": versions, "python": platform.python_version(), "machine": machine, "load": os.getloadavg()[0]}


def _cpuinfo() -> Iterable[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ()


class CpuMeter:
    """CPU seconds of this process and of others, children included."""

    def __init__(self, pids: Iterable[int] = ()) -> None:
        self._processes = [psutil.Process(pid) for pid in (os.getpid(), *pids)]

    def read(self) -> float:
        """CPU seconds so far, of all processes that live now."""
        return sum(self._one(process) for process in self._family())

    def _family(self) -> dict[psutil.Process, None]:
        family: dict[psutil.Process, None] = {}
        for process in self._processes:
            family[process] = None
            if process.pid != os.getpid():
                family.update(dict.fromkeys(process.children(recursive=True)))
        return family

    @staticmethod
    def _one(process: psutil.Process) -> float:
        times = process.cpu_times()
        return float(times.user + times.system)


@contextmanager
def cpu_time() -> Iterator[list[float]]:
    """CPU seconds of this process inside the block, as the only item of the list."""
    taken: list[float] = []
    start = time.process_time()
    yield taken
    taken.append(time.process_time() - start)


def median_pairs(
    measure: Callable[[], float], ceiling: Callable[[], float], pairs: int
) -> tuple[float, float, list[float]]:
    """Interleave both and return the median of each, and the ratios of the pairs."""
    figures, ceilings = [], []
    for _ in range(pairs):
        ceilings.append(ceiling())
        figures.append(measure())
    ratios = [a / b for a, b in zip(figures, ceilings, strict=True)]
    return statistics.median(figures), statistics.median(ceilings), ratios
