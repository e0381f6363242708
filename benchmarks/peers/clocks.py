"""CPU time of a process with all its descendants, to the microsecond."""

from __future__ import annotations

import os
import resource
import time

import psutil

_EXACT = 2  # CPUCLOCK_SCHED of Linux: see clock_getcpuclockid(3), whose result for a pid this is


class FamilyClock:
    """CPU seconds of a process, of its descendants that live, and of those that have ended.

    Args:
        pid: The process; this one by default.
    """

    def __init__(self, pid: int | None = None) -> None:
        self._root = psutil.Process(pid)

    def read(self) -> float:
        """Seconds so far."""
        total = 0.0
        for process in (self._root, *self._root.children(recursive=True)):
            try:
                total += process_seconds(process.pid) + _ended(process)
            except (psutil.NoSuchProcess, OSError):
                continue  # it has just ended, and is counted with its parent's from now on
        return total


def process_seconds(pid: int) -> float:
    """CPU seconds of a process by the scheduler's own count: `psutil` and ``/proc`` count in hundredths.

    Raises:
        OSError: There is no such process.
    """
    return time.clock_gettime((~pid << 3) | _EXACT)


def _ended(process: psutil.Process) -> float:
    """CPU seconds of a process's descendants that have ended; in hundredths, unless it is this process."""
    if process.pid == os.getpid():
        own = resource.getrusage(resource.RUSAGE_CHILDREN)
        return own.ru_utime + own.ru_stime
    times = process.cpu_times()
    return float(times.children_user + times.children_system)


class Stopwatch:
    """CPU and wall time of a stretch of work of a process and its descendants.

    Args:
        pid: The process; this one by default.
    """

    def __init__(self, pid: int | None = None) -> None:
        self._clock = FamilyClock(pid)
        self._cpu = self._wall = 0.0

    def start(self) -> None:
        """Begin."""
        self._cpu, self._wall = self._clock.read(), time.perf_counter()

    def stop(self) -> tuple[float, float]:
        """Seconds since `start`: CPU, wall."""
        wall = time.perf_counter() - self._wall
        return self._clock.read() - self._cpu, wall
