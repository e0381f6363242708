"""A node: a folder with a store, a way to the researcher, a worker, and the two threads that serve them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from fedplug.core.errors import UsageError
from fedplug.core.messages import NodeInfo
from fedplug.node.contact import Contact
from fedplug.node.datasets.memory import MemoryDataset
from fedplug.node.gate import Gate
from fedplug.node.jobs import Worker
from fedplug.node.journal.contract import TaskJournal
from fedplug.node.journal.tasks import open_tasks
from fedplug.node.lock import FolderLock
from fedplug.node.policy.in_force import PolicyInForce
from fedplug.node.policy.schema import OPEN, Policy
from fedplug.node.runtime import Runtime
from fedplug.node.shared import shared_stock
from fedplug.node.status import LinkStatus, NodeStatus, StatusBoard
from fedplug.node.store import NodeStore

if TYPE_CHECKING:
    from fedplug.core.link import ResearcherLink
    from fedplug.core.plugins import PluginHost
    from fedplug.core.transport import TransportOptions
    from fedplug.node.isolation.layers import Layer

_log = logging.getLogger("fedplug.node")


class Node:
    """A node that connects outward to its researchers and trains what it is asked to, on the data that it owns.

    Args:
        place: The node's folder, made by ``fedplug node init`` or `NodeStore.create`; or a store, which then
            stays the caller's to close.
        url: Address of the researcher, or of several; by default those in the store.
        worker: ``"process"`` trains in a process of its own, which is the only safe place for the plans of
            others. ``"inline"`` trains in this process: for one's own plans, tests and demonstrations.
        host: The plugins; by default all that are installed.
        options: Settings of the transport. Keys need not be among them: those in the node's folder are used.
        datasets: Data sets in memory, besides those of the store; only with ``worker="inline"``.
        memory_limit: Most address space of the worker process, in bytes; None for what the rules say.
        policy: The owner's rules; by default those of ``node.toml`` in the node's folder. A node without a folder, or
            one that trains in this process, runs its script's own plans on its script's own data: for it they are
            `OPEN`.
        retry: Seconds between tries to reach the researcher.
        signals: Whether this process drains the node on ``SIGUSR1`` and stops it on ``SIGTERM``, so that
            ``fedplug node stop`` may send them.

    Raises:
        UsageError: The folder is not a node, or the settings contradict each other.
        StoreError: Its store cannot be used; or, from `start`, a node runs in the folder.
        AddressError: From `start`: the address cannot be used.
        KeysError: From `start`: the node trusts keys, but none for an address; or its own can be read by others.

    Example:
        >>> with Node("hospital-a", "zmq://127.0.0.1:7400") as node:  # doctest: +SKIP
        ...     node.wait_connected(10)
    """

    def __init__(
        self,
        place: str | Path | NodeStore,
        url: str | Sequence[str] | None = None,
        *,
        worker: Literal["process", "inline"] = "process",
        host: PluginHost | None = None,
        options: TransportOptions | None = None,
        datasets: Sequence[MemoryDataset] = (),
        memory_limit: int | None = None,
        policy: Policy | None = None,
        retry: float = 2.0,
        signals: bool = False,
    ) -> None:
        if datasets and worker != "inline":
            raise UsageError(
                "Data sets in memory cannot be seen by a worker process.", cure='Use Node(..., worker="inline").'
            )
        self._owns_store = not isinstance(place, NodeStore)
        self.store = place if isinstance(place, NodeStore) else NodeStore.open(place)
        self.identity = self.store.identity
        self.urls = tuple(dict.fromkeys([url] if isinstance(url, str) else url or self.identity.researchers))
        self._worker_kind = worker
        self._host = host
        self._options = options
        self._datasets = tuple(datasets)
        folder = self.store.folder if worker == "process" else None
        self._policy = PolicyInForce(policy or OPEN) if policy or folder is None else PolicyInForce.of(folder)
        self._memory_limit = memory_limit or self._policy().resources.memory
        self._retry = retry
        self._signals = signals
        self._state = threading.Lock()
        self._lock: FolderLock | None = None
        self._links: list[ResearcherLink] = []
        self._worker: Worker | None = None
        self._runtime: Runtime | None = None
        self._journal: TaskJournal | None = None
        self._contacts: list[Contact] = []
        self._board: StatusBoard | None = None
        self._threads: list[threading.Thread] = []
        # What `run_forever` is to do. Of all that wakes a thread, only this may be used in a signal handler: an event
        # has a lock, which the thread that handles the signal may hold.
        self._asked: SimpleQueue[Literal["drain", "stop"]] = SimpleQueue()
        self._error: BaseException | None = None

    @property
    def status(self) -> NodeStatus:
        """What the node is doing right now."""
        return (
            self._board.now
            if self._board
            else NodeStatus(links=tuple(LinkStatus(url=url, connection="stopped") for url in self.urls))
        )

    def start(self) -> Self:
        """Connect and serve, in threads of its own. Returns at once; the researcher need not be there yet."""
        with self._state:
            if self._runtime is not None:
                raise UsageError("This node has been started already.", cure="Make a new Node to start it again.")
            try:
                self._open()
            except BaseException:
                self._end()
                raise
        return self

    def wait_connected(self, timeout: float | None = None) -> bool:
        """Wait until every researcher has welcomed this node.

        Args:
            timeout: Seconds to wait; None for as long as it takes.

        Returns:
            Whether all have.
        """
        end = None if timeout is None else time.monotonic() + timeout
        for contact in self._contacts:
            if not contact.connected.wait(None if end is None else max(0.0, end - time.monotonic())):
                return False
        return bool(self._contacts)

    def run_forever(self) -> None:
        """Serve until `stop` is called from another thread or a signal handler.

        Raises:
            Exception: Whatever ended one of the node's threads, which is a bug.
        """
        if self._runtime is None:
            self.start()
        while self._asked.get() == "drain":
            self._serve("drain", self.drain)
        self.stop()
        if self._error is not None:
            raise self._error

    def request_stop(self) -> None:
        """Make `run_forever` return; safe in a signal handler."""
        self._asked.put("stop")

    def request_drain(self) -> None:
        """As `drain`, while `run_forever` runs, but without waiting; safe in a signal handler."""
        self._asked.put("drain")

    def drain(self) -> None:
        """Take no new training, let the one under way end and its update be taken, then make `run_forever` return.

        Waits for all that; `request_stop` cuts it short.
        """
        if self._runtime is not None:
            self._runtime.drain()
        self._asked.put("stop")

    def stop(self) -> None:
        """Cancel what runs, say goodbye and give everything back. May be called twice."""
        self._asked.put("stop")
        with self._state:
            self._end()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _open(self) -> None:
        from fedplug import __version__
        from fedplug.core.plugins import default_host
        from fedplug.core.transport import TransportOptions
        from fedplug.node.keys import LinkOptions, NodeKeys
        from fedplug.protocol.endpoint_node import NodeEndpoint
        from fedplug.transports.registry import open_transport

        if self.store.folder:
            self._lock = FolderLock(self.store.folder)
        host = self._host or default_host()
        who = self.identity
        plugins = {record.name: record.version for record in host.records if record.state == "ok"}
        info = NodeInfo(node_id=who.node_id, name=who.name, version=__version__, plugins=plugins)
        layers = self._isolation()
        self._worker = self._make_worker(host)
        self._board = StatusBoard(self.store.folder, self.urls)
        self._board.change(isolation=tuple(layers), signals=self._signals)
        gate = Gate(self.store, self._policy, host)
        self._journal = open_tasks(self.store, self._policy)
        self._runtime = Runtime(
            self.store, gate, self._worker, self._board, memory=self._datasets, journal=self._journal
        )
        self._board.change(kept=self._journal.waiting)
        incarnation = self.store.next_incarnation()
        gate.audit.note("node-started", version=__version__, researchers=self.urls)
        keys = NodeKeys(self.store.folder) if self.store.folder else None
        for url in self.urls:
            _log.info("Node %r (%s) connects to %s, and tries every %g s.", who.name, who.node_id, url, self._retry)
            options = LinkOptions(keys, url, self._options or TransportOptions())
            link = NodeEndpoint(
                open_transport(url, host),
                url,
                info,
                options,
                holds=options.holds,
                # What is received into shared memory reaches the worker without a copy.
                allocate=shared_stock().allocate if self._worker_kind == "process" else None,
                retry=self._retry,
                incarnation=incarnation,
                earlier=self._journal.earlier(url),
            )
            self._links.append(link)
            self._board.count(link.traffic)
            self._contacts.append(self._runtime.add_researcher(url, link, retry=self._retry))
        for number, contact in enumerate(self._contacts):
            self._serve(f"link-{number}", contact.serve)
        self._serve("tasks", self._runtime.serve_tasks)

    def _serve(self, name: str, serve: Callable[[], None]) -> None:
        thread = threading.Thread(target=self._guarded, args=(serve,), name=f"fedplug-node-{name}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _isolation(self) -> list[Layer]:
        """How far trainings can be shut in here; what cannot be enforced is said.

        Raises:
            StoreError: It is less than the rules require.
        """
        mode = self._policy().resources.isolation
        if self._worker_kind == "inline" or mode == "off":
            return []
        from fedplug.node.isolation.landlock import covers
        from fedplug.node.isolation.layers import require_all
        from fedplug.node.isolation.probe import probe

        layers = probe()
        if mode == "required":
            require_all(layers)
        for layer in layers:
            if layer.state == "missing":
                _log.warning("Isolation of trainings, %s: not enforced: %s.", layer.name, layer.text)
        if self.store.folder and covers([self.store.folder]):
            _log.warning(
                "The node's folder lies in a place from which training processes import their packages, so plans can "
                "read it: move it, or set isolation aside knowingly."
            )
        return layers

    def _make_worker(self, host: PluginHost) -> Worker:
        if self._worker_kind == "inline":
            from fedplug.node.worker_inline import InlineWorker

            return InlineWorker(host)
        from fedplug.node.worker_process import ProcessWorker

        return ProcessWorker(memory_limit=self._memory_limit, resources=self._policy().resources)

    def _guarded(self, serve: Callable[[], None]) -> None:
        try:
            serve()
        except BaseException as error:  # noqa: BLE001 - kept for run_forever, which raises it
            _log.critical("The node cannot go on: %s: %s", type(error).__name__, error, exc_info=error)
            self._error = error
            self._asked.put("stop")

    def _end(self) -> None:
        """End what has been started so far."""
        if self._runtime is not None:
            self._runtime.stop()
        if self._worker is not None:
            self._worker.close()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        self._threads.clear()
        self._give_back()

    def _give_back(self) -> None:
        while self._links:
            self._links.pop().close()
        if self._board is not None:
            self._board.close()
            if self._runtime is not None and self._lock is not None:
                last = self._runtime.audit.note_if_possible("node-stopped")
                if last is not None:
                    _log.info("The head of the audit log is %s.", last.hash)
        if self._journal is not None:
            self._journal.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        if self._owns_store:
            self.store.close()
