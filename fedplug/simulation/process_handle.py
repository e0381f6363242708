"""One worker process, as the simulation sees it: started, given tasks, and ended."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from fedplug.core.errors import EngineError
from fedplug.node.policy.schema import OPEN
from fedplug.node.shared import SharedBuffer
from fedplug.node.worker_environment import environment
from fedplug.node.worker_process import how_it_ended
from fedplug.simulation.process_channel import Channel, Parcel
from fedplug.simulation.process_engines import InnerEngine
from fedplug.simulation.process_memory import ResultReader, SharedArrays
from fedplug.simulation.process_messages import Begin, FromWorker

_LOOK = 0.005
"""Seconds between two looks whether a process that has hung up has ended."""


class WorkerHandle:
    """A process that has been started, and what it has been given.

    Args:
        index: Its place among the workers, which one that replaces it takes over.
        engine: What trains there.
        data: The data of the nodes.
        plugins: The plugins to load.

    Raises:
        EngineError: It cannot be started.

    Attributes:
        assigned: Numbers of its tasks, in order.
        plans: Numbers of the plans that it has.
        arrays: Numbers of the arrays that it has.
        common: Number of what its next tasks have in common, as far as it has been told; 0 for nothing.
        latest: How many tasks it was given together last.
        is_ready: Whether it has begun to serve.
    """

    def __init__(self, index: int, engine: InnerEngine, data: SharedArrays, plugins: Collection[str]) -> None:
        self.index = index
        self.assigned: dict[int, None] = {}
        self.plans: set[int] = set()
        self.arrays: set[int] = set()
        self.common = self.latest = 0
        self.is_ready = False
        self.results = ResultReader()
        block = data.block
        try:
            at = SharedBuffer.create(8)
            ours = self._launch(plugins)
        except OSError as error:
            raise EngineError(f"A worker process cannot be started: {error.strerror}.") from None
        self._at = np.frombuffer(at, np.int64)
        self.pid = self._popen.pid
        self._owner = os.getpid()
        self.channel: Channel[FromWorker] = Channel(ours, FromWorker)  # type: ignore[arg-type] # a union
        level = min(logging.getLogger("fedplug.simulation").getEffectiveLevel(), logging.INFO)
        self._first: list[Parcel] = [(Begin(engine, data.place, data.nbytes, level), (at, block))]

    def _launch(self, plugins: Collection[str]) -> socket.socket:
        """Start the process; our end of the socket pair."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        env = {**environment(OPEN.resources), "FEDPLUG_PLUGINS": ",".join(sorted(plugins))}
        command = [sys.executable, "-P", "-m", "fedplug.simulation.process_worker", str(theirs.fileno())]
        try:
            self._popen = subprocess.Popen(
                [*command, str(os.getpid())], stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], env=env,
                start_new_session=True,
            )  # fmt: skip
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return ours

    @property
    def at(self) -> int:
        """The task that it is, or was, at; 0 if none."""
        return int(self._at[0])

    def take_back(self, number: int) -> bool:
        """It has done with a task; whether it had it."""
        if number not in self.assigned:
            return False
        del self.assigned[number]
        return True

    def send(self, parcels: Sequence[Parcel]) -> None:
        """Send messages, or as much of them as it takes at once.

        Raises:
            ConnectionLostError: It is gone.
        """
        first, self._first = self._first, []
        self.channel.send([*first, *parcels], wait=False)

    def end(self, grace: float = 0.0) -> str:
        """Kill it and what plans have started in it, and say in words how it ended. May be called twice.

        Args:
            grace: Seconds that one which has hung up gets to end by itself, so that its own exit code is known.
        """
        if os.getpid() != self._owner:  # a fork of the simulation is none of its parents
            return ""
        if self._popen.returncode is None:
            until = time.monotonic() + grace
            # It is not reaped before its group is killed, so that its number cannot belong to somebody else by then.
            while not self._has_ended() and time.monotonic() < until:
                time.sleep(_LOOK)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self._popen.wait()
        self.channel.close()
        return how_it_ended(self._popen.returncode)

    def _has_ended(self) -> bool:
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
        except ChildProcessError:  # somebody waits for all children of this process
            return True


def end_all(handles: Mapping[int, WorkerHandle]) -> None:
    """End the processes of an engine that nobody has closed: of one that is gone, or at the end of Python."""
    for handle in list(handles.values()):  # a thread that nobody has waited for may still use the engine
        handle.end()
