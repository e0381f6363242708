"""The Ray cluster that a process is connected to: there is at most one, which all engines of the process share."""

from __future__ import annotations

import atexit
import importlib
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray

from fedplug.core.errors import EngineError
from fedplug.core.training_environment import TRAINING_ENVIRONMENT

_LONGEST = 40  # characters of a folder below which Ray can make its sockets, whose paths are limited to 107 bytes
_LOCK = threading.RLock()
_SOCKET_TIMEOUT = 2.0


class Cluster:
    """The connection of this process. Use `join` and `leave`.

    Attributes:
        is_ours: Whether the cluster was started here, and ends with the last who leaves.
    """

    _current: Cluster | None = None

    def __init__(self, address: str | None, processors: int, gpus: int | None, object_store_memory: int | None) -> None:
        self._users = 0
        self._folder: Path | None = None
        self._sigterm: Any = None
        self._is_connected = not ray.is_initialized()
        self.is_ours = False
        if self._is_connected:
            if address is None:
                self._start(processors, gpus, object_store_memory)
            else:
                self._connect(address)

    @classmethod
    def join(
        cls,
        address: str | None,
        *,
        processors: int,
        gpus: int | None = None,
        object_store_memory: int | None = None,
    ) -> Cluster:
        """The cluster that this process is connected to already, the one at an address, or one of its own.

        Args:
            address: Of a cluster that is there; None: start one on this machine.
            processors: How many workers there can be at once in a cluster of its own.
            gpus: How many GPUs such a cluster has; None: those of the machine.
            object_store_memory: Size of its object store, in bytes; None leaves it to Ray.

        Raises:
            EngineError: There is none at the address, it is of another version, or it cannot be started.
        """
        with _LOCK:
            if cls._current is not None and not ray.is_initialized():  # somebody else has shut it down
                cls._current._forget()
            if cls._current is None:
                cls._current = cls(address, processors, gpus, object_store_memory)
            cls._current._users += 1
            return cls._current

    def leave(self) -> None:
        """Give it back. The last one disconnects, and ends what was started here; what was there before stays."""
        with _LOCK:
            self._users -= 1
            if self._users > 0 or Cluster._current is not self:
                return
            if self._is_connected:
                ray.shutdown(wait_for_processes=self.is_ours)
            self._forget()

    @property
    def processors(self) -> int:
        """How many processors the cluster has."""
        return int(ray.cluster_resources().get("CPU", 0))

    def require_alive(self) -> None:
        """Ask the head of the cluster for a sign of life.

        Raises:
            OSError: It does not answer.
            EngineError: This machine's part of the cluster has ended.
        """
        context = ray.get_runtime_context()
        if ray.util.client.ray.is_connected():  # whoever speaks through a proxy hears of its end by every call
            return
        host, _, port = context.gcs_address.rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_SOCKET_TIMEOUT):
            pass
        here = context.get_node_id()
        part = next((node for node in ray.nodes() if node["NodeID"] == here and node["Alive"]), None)
        # The head believes it alive for some ten seconds more; then Ray ends this process, if it still hopes for data.
        if part is None or not _listens(part["NodeManagerAddress"], part["NodeManagerPort"]):
            raise lost("The part of it that runs on this machine has ended.")

    def _start(self, processors: int, gpus: int | None, object_store_memory: int | None) -> None:
        self._folder = _private_folder()
        self._sigterm = signal.getsignal(signal.SIGTERM)
        try:
            with _settings(**_token(), **_for_trainings()):
                ray.init(
                    address="local",
                    num_cpus=processors,
                    num_gpus=gpus,
                    object_store_memory=object_store_memory,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _temp_dir=str(self._folder / "ray"),  # which Ray opens to everybody
                )
        except Exception as error:
            ray.shutdown(wait_for_processes=True)
            self._forget()
            raise EngineError(
                f"No Ray cluster could be started on this machine: {_words(error)}",
                cure="Look whether memory, disk and /dev/shm have room; engine='processes' needs no Ray.",
            ) from error
        self.is_ours = True
        atexit.register(self._end)

    def _connect(self, address: str) -> None:
        self._sigterm = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # Ray raises errors of many kinds here
            ray.shutdown()
            self._forget()
            raise EngineError(
                f"The Ray cluster at {address!r} cannot be used: {_words(error)}",
                cure="Start one with: ray start --head. It needs the Python and the Ray that this process has.",
            ) from error

    def _end(self) -> None:
        """At the end of the process: nobody has closed the engines."""
        with _LOCK:
            if Cluster._current is self:
                self._users = 1
                self.leave()

    def _forget(self) -> None:
        if Cluster._current is self:
            Cluster._current = None
        atexit.unregister(self._end)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            _forget_token()  # or the next cluster of this process would be asked for that of this one
        if self._sigterm is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._sigterm)  # Ray leaves a handler of its own behind


def _listens(host: str, port: int) -> bool:
    """Whether somebody listens there.

    Raises:
        OSError: That cannot be told.
    """
    try:
        with socket.create_connection((host, port), timeout=_SOCKET_TIMEOUT):
            return True
    except ConnectionRefusedError:
        return False


def lost(why: str) -> EngineError:
    """The error of a cluster that is gone."""
    return EngineError(
        f"The Ray cluster is gone. {why}",
        cure="Start it again, and go on from the last breakpoint: Experiment.load_breakpoint().",
    )


def _private_folder() -> Path:
    """A folder that only this user can read, with a path short enough for Ray's sockets."""
    folder = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="fedplug-ray-", dir=folder if len(folder) < _LONGEST - 20 else "/tmp"))  # noqa: S108


def _token() -> dict[str, str]:
    """A token for the cluster of this process, so that nobody else on the network can use it.

    By default Ray takes one from a file in the home folder, and writes it there if there is none.
    """
    if "RAY_AUTH_MODE" in os.environ or "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return {}  # the user has decided
    return {"RAY_AUTH_TOKEN": secrets.token_hex(32)} if _forget_token() else {}


def _forget_token() -> bool:
    """Let Ray look anew where its token comes from; whether this version of it can do that."""
    with suppress(ImportError, AttributeError):
        importlib.import_module("ray._raylet").AuthenticationTokenLoader.instance().reset_cache()
        return True
    return False


def _for_trainings() -> dict[str, str]:
    """What the processes that Ray starts are to inherit.

    As a ``runtime_env`` it would not show in this process, but then no worker that Ray has started ahead fits, and the
    first ones come seconds later.
    """
    return {name: value for name, value in TRAINING_ENVIRONMENT.items() if name not in os.environ}


@contextmanager
def _settings(**given: str) -> Iterator[None]:
    """Settings for Ray, which reads them from the environment when it starts; afterwards it is as it was."""
    given["RAY_USAGE_STATS_ENABLED"] = "0"  # no figures about us go to Ray's makers
    before = {name: os.environ.get(name) for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", *given)}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
