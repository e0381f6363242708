"""A worker that trains in the node's own process: for nodes inside a script, simulations and tests."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from fedplug.core.dataset_type import DatasetRecord
from fedplug.core.local_state import StateBook
from fedplug.core.messages import TaskFailure
from fedplug.core.rng import GLOBAL_STREAMS
from fedplug.node.datasets.registry import DatasetCache
from fedplug.node.jobs import Emit, Job, Trained, Worker, cancelled, failure

if TYPE_CHECKING:
    from fedplug.core.plugins import PluginHost


class InlineWorker(Worker):
    """Trains in the thread that calls `run`. Only plans of one's own belong here.

    Args:
        host: The plugins to train with.
    """

    def __init__(self, host: PluginHost) -> None:
        self._host = host
        self._cache = DatasetCache()
        self._closed = threading.Event()

    def warm_up(self) -> None:
        """Nothing to do."""

    def run(self, job: Job, emit: Emit) -> Trained | TaskFailure:
        """As `Worker.run`; cancelling takes effect at the next step of the training."""
        from fedplug.node.training import run_task

        def unwanted() -> bool:
            return job.cancelled.is_set() or self._closed.is_set()

        with GLOBAL_STREAMS:  # before it is too late to cancel
            if unwanted():
                return cancelled(job.key)
            try:
                dataset = self._cache.get(job.dataset) if isinstance(job.dataset, DatasetRecord) else job.dataset
                book = StateBook(job.state)
                reply, params, aux = run_task(
                    job.request, job.bundle, job.params, job.aux, dataset, self._host, emit,
                    cancelled=unwanted, state=book, noise_key=job.noise_key, terms=job.terms,
                )  # fmt: skip
                kept = book.result()
            except Exception as error:  # noqa: BLE001 - whatever plan code raises becomes an answer
                return cancelled(job.key) if unwanted() else failure(job.key, error)
        return cancelled(job.key) if unwanted() else Trained(reply, params, aux, kept)

    def cancel(self, job: Job) -> None:
        """As `Worker.cancel`."""
        job.cancelled.set()

    def close(self) -> None:
        """Cancel what runs."""
        self._closed.set()
