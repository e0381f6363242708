"""The worker process: ``python -m fedplug.node.worker``, started by `fedplug.node.worker_process`.

It runs the researcher's code, one training after the other, and stays warm in between, so that a framework
is imported once. It dies with the supervisor, and so does everything that it has started.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from typing import Any

_PR_SET_PDEATHSIG = 1

_BEAT = 0.5
"""Seconds between two signs that batches begin."""


def main(arguments: list[str]) -> None:
    """Serve trainings until the supervisor hangs up.

    Args:
        arguments: Number of the socket, number of the pipe that closes when the supervisor ends, process id
            of the supervisor, limit of the address space in bytes (0 for none), the function that
            trains, as ``module:name``, and what the process may do: a `Confinement` as JSON, or nothing.
    """
    sock, lifeline, supervisor, limit = (int(argument) for argument in arguments[:4])
    _die_with(supervisor)
    # Before NumPy is imported: a process that has started threads should not fork.
    _start_guard(lifeline, _scratch_of(arguments[5]))
    confined = _confined(arguments[5])
    if limit and confined is None:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    _serve(sock, limit, arguments[4], confined)


def _confined(argument: str) -> Any:
    """Do what must be done before there is a second thread."""
    if not argument:
        return None
    import msgspec

    from fedplug.node.isolation.confine import before_threads
    from fedplug.node.isolation.layers import Confinement, require_all

    confinement = msgspec.json.decode(argument, type=Confinement)
    layers = before_threads(confinement)
    if confinement.required:
        require_all(layers)
    return confinement, tuple(layers)


def _shut_in(confined: Any, data: Any, pipe: Any) -> None:
    """Do what must be done before the first line of a plan runs, and say what it came to.

    Raises:
        StoreError: Not all of it is possible, and it must be.
    """
    from fedplug.node.ipc import Sign
    from fedplug.node.isolation.confine import before_plan
    from fedplug.node.isolation.layers import require_all

    confinement, layers = confined
    told: set[str] = set()

    def tell(what: str) -> None:
        if what not in told:
            told.add(what)
            pipe.send(Sign(tried=what))

    layers = (*layers, *before_plan(confinement, data.paths, tell))
    pipe.send(Sign(layers=layers))
    if confinement.required:
        require_all(list(layers))


def _die_with(supervisor: int) -> None:
    """Ask the kernel to kill this process when the supervisor is gone, where it can do that."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != supervisor:
        os._exit(1)


def _scratch_of(argument: str) -> str:
    """The scratch folder of a process with this `Confinement`, as JSON; empty if it has none."""
    return str(json.loads(argument)["scratch"]) if argument else ""


def _start_guard(lifeline: int, scratch: str) -> None:
    """Start a child that kills this whole process group when the supervisor is gone, and removes what it has written.

    The kernel's promise above covers only this process, not what plan code has started. The guard does
    nothing but wait, so it is there even while plan code holds the interpreter.
    """
    worker = os.getpid()
    if os.fork():
        os.close(lifeline)
        return
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        null = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):
            os.dup2(null, standard)
        os.closerange(3, lifeline)
        os.closerange(lifeline + 1, os.sysconf("SC_OPEN_MAX"))
        os.read(lifeline, 1)
        if scratch:
            os.kill(worker, signal.SIGKILL)
            shutil.rmtree(scratch, ignore_errors=True)
    finally:
        os.killpg(0, signal.SIGKILL)


def _serve(number: int, limit: int, trainer: str, confined: Any) -> None:
    import socket
    from importlib import import_module

    from fedplug.core.errors import ConnectionLostError
    from fedplug.core.plugins import default_host
    from fedplug.node.datasets.registry import DatasetCache
    from fedplug.node.ipc import Pipe, Start

    pipe: Pipe[Start] = Pipe(socket.socket(fileno=number), Start)
    module, _, name = trainer.partition(":")
    train = getattr(import_module(module), name)
    host = default_host()
    cache = DatasetCache()
    while True:
        try:
            start, fds = pipe.receive()
        except ConnectionLostError:
            return
        if not _train(pipe, start, fds, train, host, cache, limit, confined):
            sys.exit(0)
        confined = None  # it is shut in for good
        # The frames hold the parameters; without this they would stay until the next training.
        del start, fds
        sys.stdout.flush()


def _train(pipe: Any, start: Any, fds: list[int], train: Any, host: Any, cache: Any, limit: int, confined: Any) -> bool:
    """Do one training and answer. Returns whether this process can go on."""
    from fedplug.core.local_state import StateBook
    from fedplug.core.messages import LogLine, Progress, TaskFailure
    from fedplug.core.plan_source import PlanBundle
    from fedplug.node.ipc import Done, Failed, Sign, pack, pack_state, unpack, unpack_state
    from fedplug.node.jobs import failure
    from fedplug.node.shared import SharedBuffer, shared_stock

    stock = shared_stock(keep=0)
    spare: list[SharedBuffer] = []

    last = time.monotonic()

    def unwanted() -> bool:
        """Asked before every batch: a batch that begins is progress. It is never unwanted: that kills the process."""
        nonlocal last
        if time.monotonic() - last > _BEAT:
            last = time.monotonic()
            pipe.send(Sign())
        return False

    def emit(sign: Progress | LogLine) -> None:
        pipe.send(Sign(progress=sign) if isinstance(sign, Progress) else Sign(line=sign))

    def allocate(nbytes: int) -> Any:
        fits = spare and len(spare[0]) == nbytes
        return stock.lend(spare.pop()) if fits else stock.allocate(nbytes)

    key = start.request.key
    try:
        if confined is not None:
            _shut_in(confined, start.dataset, pipe)
        if start.spare:
            spare.append(SharedBuffer.attach(fds.pop(), start.spare, writable=True))
        book = StateBook(unpack_state(start.state, fds))
        params, aux = unpack(start.blocks, fds)
        dataset = cache.get(start.dataset)
        bundle = PlanBundle.decode(start.bundle)
        reply, trained, extra = train(
            start.request, bundle, params, aux, dataset, host, emit,
            cancelled=unwanted, allocate=allocate, state=book, noise_key=start.noise_key, terms=start.terms,
        )  # fmt: skip
        blocks, buffers = pack(trained, extra)
        state, state_buffers = pack_state(book.result())
        pipe.send(Done(reply, blocks, state), [buffer.fd for buffer in [*buffers, *state_buffers]])
    except BaseException as error:  # noqa: BLE001 - whatever plan code raises becomes an answer
        if _is_out_of_memory(error):
            allowed = f" of {limit / 2**20:,.0f} MiB" if limit else ""
            text = f"The worker process ran out of memory: the plan needed more than the node's limit{allowed}."
            pipe.send(Failed(TaskFailure(key=key, code="worker-died", text=text), fatal=True))
            return False
        pipe.send(Failed(failure(key, error)))
        return isinstance(error, Exception)
    return True


def _is_out_of_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


if __name__ == "__main__":
    main(sys.argv[1:])
