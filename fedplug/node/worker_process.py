"""The supervisor's side of the worker process: start it, give it trainings, kill and replace it.

The process has a session of its own, so that it and everything that plan code starts can be killed
together. Nothing of it listens anywhere: it holds one end of a socket pair. The supervisor watches it from
a thread of its own and lives on however it ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import msgspec

from fedplug.core.dataset_type import DatasetRecord
from fedplug.core.errors import CodecError, ConnectionLostError, FedplugError, ParamsError
from fedplug.core.messages import TaskFailure
from fedplug.node.ipc import Done, Failed, Pipe, Sign, Start, close_all, pack, pack_state, unpack, unpack_state
from fedplug.node.isolation.layers import Confinement
from fedplug.node.isolation.usage import excess, usage
from fedplug.node.jobs import Emit, Job, Trained, Worker, cancelled, failure
from fedplug.node.plan_output import PlanOutput
from fedplug.node.policy.schema import OPEN, ResourceRules
from fedplug.node.shared import shared_stock
from fedplug.node.signs import SignFilter, places, presentable, printable
from fedplug.node.watchdog import Watchdog
from fedplug.node.worker_environment import environment

TRAINER = "fedplug.node.training:run_task"

_MOST_RESULTS = 8
_MOST_SMALL = 64 * 2**20
"""A worker may answer with so many times the bytes that it was given, and this many besides."""

_MOST_STATE = 32
"""A state between rounds may take so many times the bytes of the model, and `_MOST_SMALL` besides."""

_MOST_MODEL = 8 * 2**30
"""Largest file that a worker may write if its scratch may not hold more: the memory of a model counts as a file."""

_MOST_NOTED, _MOST_NOTE = 50, 300
"""Remarks on the isolation of one process that are logged, and their characters."""

_GRACE = 0.5
"""Seconds that a process which has hung up gets to end by itself, so that its own exit code is known."""

_log = logging.getLogger("fedplug.node")


class ProcessWorker(Worker):
    """Trains in a warm process of its own.

    A process has one data set: it shuts itself in with it before it runs the first plan. For another data set there
    is another process.

    Args:
        memory_limit: Most address space that the process may have, in bytes; None for what ``resources`` say.
        resources: What a training may use of the machine, and how far it is shut in; by default as in a script.
        trainer: The function that trains, as ``module:name``; for tests.
    """

    def __init__(
        self,
        *,
        memory_limit: int | None = None,
        resources: ResourceRules | None = None,
        trainer: str = TRAINER,
    ) -> None:
        self._resources = resources or OPEN.resources
        self._memory_limit = memory_limit or self._resources.memory or 0
        self._trainer = trainer
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._job: Job | None = None
        self._closed = False

    @property
    def pid(self) -> int:
        """The process; 0 if there is none at the moment."""
        with self._lock:
            return self._process.pid if self._process and self._process.alive else 0

    def warm_up(self) -> None:
        """Start the process, if it does not run."""
        with self._lock:
            if not self._closed:
                self._ready()

    def run(self, job: Job, emit: Emit) -> Trained | TaskFailure:
        """As `Worker.run`."""
        if not isinstance(job.dataset, DatasetRecord):
            text = f"Data set {job.dataset.name!r} lies in memory, where the node's worker process cannot see it."
            return TaskFailure(key=job.key, code="bad-dataset", text=text + ' Run the node with worker="inline".')
        with self._lock:
            if job.cancelled.is_set() or self._closed:
                return cancelled(job.key)
            try:
                process = self._ready(job.dataset)
            except OSError as error:
                text = f"The node cannot start a worker process: {error.strerror}."
                return TaskFailure(key=job.key, code="node-error", text=text)
            self._job = job
        process.output.begin(str(job.key))
        watchdog = Watchdog(
            process.stop_for, silence=self._resources.progress_silence if process.scratch else 0.0,
            scratch=process.scratch, most=self._resources.scratch, excess=process.excess,
        )  # fmt: skip
        try:
            return self._converse(process, job, job.dataset, emit, watchdog)
        finally:
            watchdog.stop()
            with self._lock:
                self._job = None

    def cancel(self, job: Job) -> None:
        """As `Worker.cancel`: kills the process, which is replaced for the next training."""
        job.cancelled.set()
        with self._lock:
            if self._job is job and self._process:
                self._process.kill()

    def close(self) -> None:
        """Kill the process and all that it has started."""
        with self._lock:
            self._closed = True
            if self._job:
                self._job.cancelled.set()
            process, self._process = self._process, None
        if process:
            process.end()

    def _ready(self, dataset: DatasetRecord | None = None) -> _Process:
        """A process that lives, and has this data set or none yet; the caller holds the lock."""
        if self._process and not (self._process.alive and self._process.serves(dataset)):
            self._process.end()
            self._process = None
        if self._process is None:
            self._process = _Process(self._resources, self._memory_limit, self._trainer)
            self._process.serves(dataset)
            _log.debug("Worker process %d started.", self._process.pid)
        return self._process

    def _converse(
        self, process: _Process, job: Job, dataset: DatasetRecord, emit: Emit, watchdog: Watchdog
    ) -> Trained | TaskFailure:
        pass_on = SignFilter(places(dataset, process.scratch))
        try:
            blocks, buffers = pack(job.params, job.aux)
            state, state_buffers = pack_state(job.state)
            buffers += state_buffers
            for buffer in buffers:
                buffer.make_read_only()
            size = job.params.nbytes
            # Memory of an earlier result, whose pages are there already. Pages of another process are never
            # used again: something that survived it might still write to them.
            spare = process.stock.take(size)
            start = Start(
                job.request, job.bundle.encode(), dataset, blocks, state, size if spare else 0, job.noise_key, job.terms
            )
            process.pipe.send(start, [block.fd for block in [*buffers, *([spare] if spare else [])]])
            most = _MOST_RESULTS * (size + sum(each.nbytes for each in job.aux.values())) + _MOST_SMALL
            most_state = _MOST_STATE * size + _MOST_SMALL
            del buffers, state_buffers, spare
            while True:
                message, fds = process.pipe.receive()
                if isinstance(message, Sign):
                    close_all(fds)
                    process.note(message)
                    sign = message.progress or message.line
                    if pass_on.is_progress(sign):
                        watchdog.beat()
                    if sign is not None and sign.key == job.key and (passed := pass_on(sign)) is not None:
                        emit(passed)
                    continue
                answer = message.reply if isinstance(message, Done) else message.failure
                if answer.key != job.key:
                    close_all(fds)
                    raise CodecError(f"an answer for {answer.key} instead of {job.key}.")
                if isinstance(message, Done):
                    kept = unpack_state(message.state, fds, most=most_state)
                    params, aux = unpack(message.blocks, fds, most=most, stock=process.stock)
                    return Trained(message.reply, params, aux, kept)
                close_all(fds)
                if message.fatal:
                    process.end(_GRACE)
                return presentable(message.failure, places(dataset, process.scratch))
        except ConnectionLostError:
            how = process.end(_GRACE)
            if job.cancelled.is_set():
                return cancelled(job.key)
            if process.reason:
                code, why = process.reason
                text = f"The training of {job.bundle.class_name!r} was ended: {why}."
                return TaskFailure(key=job.key, code=code, text=text)
            _log.warning("The worker process of plan %s died: %s.", job.bundle.class_name, how)
            text = f"The process that trained {job.bundle.class_name!r} died: {how}. The node goes on with a new one."
            return TaskFailure(key=job.key, code="worker-died", text=text)
        except (CodecError, ParamsError) as error:
            # Only plan code that meddles with the worker's insides can bring this about.
            process.end()
            _log.warning("The worker process of plan %s was replaced: %s", job.bundle.class_name, error.message)
            text = f"The worker process answered nonsense: {error.message}"
            return TaskFailure(key=job.key, code="worker-died", text=text)
        except FedplugError as error:
            return failure(job.key, error)


class _Process:
    """One worker process, from its start to its end.

    The kernel ties its life to the thread that starts it, which must therefore be the node's training thread.
    """

    def __init__(self, resources: ResourceRules, memory_limit: int, trainer: str) -> None:
        self.dataset: tuple[Path, ...] | None = None
        self.reason: tuple[str, str] | None = None
        self.scratch: Path | None = None
        self._most = resources.scratch
        self._noted = 0
        self._asked = Confinement("")
        confinement = ""
        if resources.isolation != "off":
            self.scratch = Path(tempfile.mkdtemp(prefix="fedplug-scratch-"))
            self._asked = Confinement(
                str(self.scratch), memory_limit, max(resources.scratch, _MOST_MODEL), resources.processes,
                resources.threads or 0, resources.gpu, resources.isolation == "required",
            )  # fmt: skip
            confinement = msgspec.json.encode(self._asked).decode()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        their_lifeline, self._lifeline = os.pipe()
        their_end = [theirs.fileno(), their_lifeline]
        numbers = [*their_end, os.getpid(), memory_limit]
        try:
            self._popen = subprocess.Popen(
                [sys.executable, "-P", "-m", "fedplug.node.worker", *map(str, numbers), trainer, confinement],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=their_end,
                start_new_session=True,
                env=environment(resources),
            )
        except BaseException:
            ours.close()
            os.close(self._lifeline)
            self._clean()
            raise
        finally:
            theirs.close()
            os.close(their_lifeline)
        self.pid = self._popen.pid
        self.pipe: Pipe[Sign | Done | Failed] = Pipe(ours, Sign | Done | Failed)  # type: ignore[arg-type]
        assert self._popen.stdout is not None
        self.output = PlanOutput(self._popen.stdout)
        self.stock = shared_stock()
        self._lock = threading.Lock()
        self._ending = threading.Lock()
        self._reaped = False
        self._killed = False
        self._watcher = threading.Thread(target=self._watch, name=f"fedplug-worker-{self.pid}", daemon=True)
        self._watcher.start()

    @property
    def alive(self) -> bool:
        """Whether it runs, as far as we know, and nobody has killed it: that takes effect a little later."""
        return not (self._reaped or self._killed)

    def serves(self, dataset: DatasetRecord | None) -> bool:
        """Whether it has this data set, or none yet and takes it now."""
        if dataset is None or self.scratch is None:
            return True
        if self.dataset is None:
            self.dataset = dataset.paths
        return self.dataset == dataset.paths

    def excess(self) -> str:
        """What it takes more of than it may; empty if nothing."""
        with self._lock:
            found = None if self._reaped else usage(self.pid, count_processes=bool(self._asked.processes))
        return excess(found, self._asked, self._most) if found else ""

    def note(self, sign: Sign) -> None:
        """Write down what a sign says about isolation, for the owner; not without end, since a plan could forge it."""
        said = [f"{each.name}: not enforced: {each.text}" for each in sign.layers if each.state == "missing"]
        for text in [*said, *([f"a plan tried it and was refused: {sign.tried}"] if sign.tried else [])]:
            self._noted += 1
            if self._noted <= _MOST_NOTED:
                _log.warning("Isolation of process %d, %s.", self.pid, printable(text, _MOST_NOTE))

    def stop_for(self, code: str, reason: str) -> None:
        """Kill it for a reason that the researcher is told."""
        self.reason = (code, reason)
        self.kill()

    def kill(self) -> None:
        """Kill it and all that it has started."""
        with self._lock:
            self._killed = True
            if not self._reaped:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, signal.SIGKILL)

    def end(self, grace: float = 0.0) -> str:
        """Make sure that it is gone, give back what belongs to it, and say in words how it ended."""
        with self._ending:
            if self._lifeline >= 0:
                self.pipe.hang_up()
                self._watcher.join(grace)
                self.kill()
                self._watcher.join()
                self.pipe.close()
                os.close(self._lifeline)
                self._lifeline = -1
                self.output.close()
                self._clean()
        return how_it_ended(self._popen.returncode)

    def _clean(self) -> None:
        if self.scratch is not None:
            shutil.rmtree(self.scratch, ignore_errors=True)

    def _watch(self) -> None:
        # It is not reaped before its group is killed, so that its number cannot belong to somebody else by then.
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        self.kill()
        with self._lock:
            self._popen.wait()
            self._reaped = True
        # Plan code may have left children outside the group that hold the socket; nobody waits for those.
        self.pipe.hang_up()


def how_it_ended(code: int | None) -> str:
    """How a process ended, in words, by its exit code: negative for a signal, None if it is not known."""
    if code is None:
        return "it ended"
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"killed by {name}" + (" (often: out of memory)" if -code == signal.SIGKILL else "")
    return f"it ended with exit code {code}"
