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

    def read(self, *, ending: bool = False) -> float:
        """Seconds so far.

        Args:
            ending: Whether a stretch of work ends here. To look for descendants takes milliseconds of this process:
                its own clock is read before that where something ends, and after it where something begins.
        """
        me = os.getpid()
        own = self._seconds(psutil.Process(me)) if ending else 0.0
        family = [self._root, *self._root.children(recursive=True)]
        total = sum(self._seconds(process) for process in family if process.pid != me)
        if not any(process.pid == me for process in family):
            return total
        return total + (own if ending else self._seconds(psutil.Process(me)))

    @staticmethod
    def _seconds(process: psutil.Process) -> float:
        try:
            return process_seconds(process.pid) + _ended(process)
        except (psutil.NoSuchProcess, OSError):
            return 0.0  # it has just ended, and is counted with its parent's from now on


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
        self._cpu = self._clock.read()
        self._wall = time.perf_counter()

    def stop(self) -> tuple[float, float]:
        """Seconds since `start`: CPU, wall."""
        wall = time.perf_counter() - self._wall
        return self._clock.read(ending=True) - self._cpu, wall
