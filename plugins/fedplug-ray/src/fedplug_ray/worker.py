"""What runs in a worker process on a machine of the cluster: an engine of the usual kind, fed with chunks of tasks."""

from __future__ import annotations

import logging
import os
import socket
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray

from fedplug.core.errors import FedplugError, TrainingCancelledError
from fedplug.core.plugins import PluginHost
from fedplug.simulation.engines import Task
from fedplug.simulation.process_engines import InnerEngine
from fedplug.simulation.virtual_data import VirtualData
from fedplug_ray.outbox import Outbox
from fedplug_ray.parcels import Chunk, Failure, Incoming, Line, Result, Sign, packed
from fedplug_ray.versions import versions


class Worker:
    """Becomes a Ray actor. Its methods run one after the other, but for `cancel`, which runs beside them."""

    def __init__(self) -> None:
        self._cancelled: set[int] = set()  # numbers of tasks; those are never used again
        self._incoming = Incoming(ray.get)
        # One thread for all trainings: libraries keep things for each thread.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="training")

    def hello(self, plugins: Sequence[str]) -> tuple[str, int, dict[str, str]]:
        """Find the plugins.

        Args:
            plugins: Names of those that the driver has.

        Returns:
            The machine, the process's id, and the version of everything that a result depends on.
        """
        self._host = PluginHost.discover(plugins)
        return socket.gethostname(), os.getpid(), versions(self._host)

    def open(self, data: VirtualData, engine: InnerEngine) -> None:
        """Get to know the federation."""
        self._engine = engine.make(self._host)
        self._engine.open(data, self._host)

    def train(self, chunk: Chunk) -> Iterator[Any]:
        """Train some nodes.

        Yields:
            What there is to tell, see `Outbox.news`; one result for each task.
        """
        outbox = Outbox()
        done = self._thread.submit(self._train, chunk, outbox)
        yield from outbox.news()
        done.result()

    @ray.method(concurrency_group="control")
    def cancel(self, numbers: Sequence[int]) -> None:
        """Tasks are not wanted any more: those that have not begun never will; one that has ends at its next sign."""
        self._cancelled.update(numbers)

    def _train(self, chunk: Chunk, outbox: Outbox) -> None:
        with _relayed(outbox):
            try:
                tasks = self._incoming.tasks(chunk)
                for _, task in tasks:
                    self._engine.submit(task)
                for number, task in tasks:
                    outbox.result(*self._result(number, task, outbox))
            finally:
                outbox.end()

    def _result(self, number: int, task: Task, outbox: Outbox) -> tuple[Result, list[Any]]:
        def emit(sign: Sign) -> None:
            outbox.sign(number, sign)
            if number in self._cancelled:
                raise TrainingCancelledError("Nobody waits for this training any more.")

        try:
            if number in self._cancelled:
                self._engine.cancel(task.request.key)
                raise TrainingCancelledError("Nobody waits for this training any more.")
            return packed(number, task, self._engine.run(task, emit))
        except FedplugError as error:
            return Result(number, Failure.of(error)), []
        except BaseException as error:  # noqa: BLE001 - whatever it is, the driver has to hear of it
            text = f"A worker of the Ray cluster came upon a {type(error).__name__}: {error}"
            return Result(number, Failure("engine", text, details=traceback.format_exc())), []
        finally:
            self._cancelled.discard(number)


class _relayed(logging.Handler):  # noqa: N801 - a context manager
    """While it lasts, what FedPlug and Python's warnings write into the log of this process goes to the driver."""

    LOGGERS = ("fedplug", "py.warnings")

    def __init__(self, outbox: Outbox) -> None:
        super().__init__(logging.INFO)
        self._outbox = outbox

    def emit(self, record: logging.LogRecord) -> None:
        self._outbox.line(Line(record.name, record.levelno, record.getMessage()))

    def __enter__(self) -> None:
        logging.captureWarnings(True)
        for name in self.LOGGERS:
            logger = logging.getLogger(name)
            logger.addHandler(self)
            logger.setLevel(logging.INFO)

    def __exit__(self, *_: object) -> None:
        for name in self.LOGGERS:
            logging.getLogger(name).removeHandler(self)
