"""The engine ``ray``: trainings run in workers on the machines of a Ray cluster."""

from __future__ import annotations

import itertools
import logging
import time
from collections import Counter
from typing import Any

import ray
from ray.exceptions import ObjectStoreFullError, RayError

from fedplug.core.errors import EngineError, PlanRunError, UsageError
from fedplug.core.messages import TaskKey
from fedplug.core.numbers import is_number, is_whole
from fedplug.core.plugins import PluginHost
from fedplug.simulation.engines import Emit, Engine, Task, Trained, usable_processors
from fedplug.simulation.process_engines import InnerEngine, plugins_of
from fedplug.simulation.process_queue import group_sizes
from fedplug.simulation.virtual_data import VirtualData
from fedplug_ray.cluster import Cluster, lost
from fedplug_ray.crew import Crew, Job, Outfit
from fedplug_ray.parcels import News, Outgoing, Sign, unpacked
from fedplug_ray.versions import versions

_LOG = logging.getLogger("fedplug.simulation")
_PATIENCE = 30.0  # seconds that the head of the cluster may be silent; after 60, Ray ends this process
_LOOK = 5.0  # seconds after which it is asked for a sign of life
_NOBODY = 30.0  # seconds without any worker after which the user is told
_LOSSES = 2  # workers that may be lost over one training
_MOST = 32  # tasks of a chunk
_SAME = (_LOG.name, "py.warnings")  # logs in which each worker says the same; only one is listened to


class RayEngine(Engine):
    """Workers on the machines of a Ray cluster, each with an engine of its own.

    The result is what the engine in the workers would have made in this process, to the bit. Workers begin with the
    first task and end with the federation. The data of all nodes go into Ray's object store once, the parameters of a
    round once a round. A worker that is lost is replaced, and what it was at is done again.

    If this process is connected to a Ray cluster already, that one is used, and it stays.

    Args:
        workers: How many; one for each processor by default.
        address: Of a cluster that is there: ``"auto"``, ``"ray://host:10001"``, or what ``ray start`` has said. By
            default a cluster is started on this machine, and ends with the federation.
        engine: What trains in each worker: the name of an engine, or its class.
        gpus_per_worker: Share of a GPU that each worker holds; at 0, plans see none.
        object_store_memory: Size of the object store of a cluster that is started here, in bytes; by default Ray takes
            a part of the memory.
        options: Arguments of the engine in the workers: plain data.

    Raises:
        UsageError: An argument is of no use.
    """

    def __init__(
        self,
        workers: int | None = None,
        address: str | None = None,
        engine: str | type[Engine] = "serial",
        *,
        gpus_per_worker: float = 0.0,
        object_store_memory: int | None = None,
        **options: Any,
    ) -> None:
        if workers is not None and not is_whole(workers, 1):
            raise UsageError(f"workers must be a whole number from 1, but is {workers!r}.", cure="E.g. workers=4.")
        if not (is_number(gpus_per_worker) and gpus_per_worker >= 0):
            raise UsageError(
                f"gpus_per_worker must be a number from 0, but is {gpus_per_worker!r}.",
                cure="E.g. gpus_per_worker=0.5.",
            )
        self._size = workers
        self._address = address
        self._inner = InnerEngine.of(engine, options)
        self._gpus = float(gpus_per_worker)
        self._store_memory = object_store_memory
        self._cluster: Cluster | None = None
        self._crew: Crew | None = None
        self._forget()

    def open(self, data: VirtualData, host: PluginHost) -> None:
        """As `Engine.open`.

        Raises:
            UsageError: There is no such engine for the workers, or they cannot have a plugin of this process.
        """
        super().open(data, host)
        self._plugins = plugins_of(host)
        inner = self._inner.make(host)
        inner.close()
        if isinstance(inner, RayEngine):
            raise UsageError("Workers of a Ray cluster cannot have workers themselves.", cure="E.g. engine='serial'.")
        self._is_together, self.tolerance = inner.together, inner.tolerance

    @property
    def worker_pids(self) -> list[int]:
        """The process ids of the workers that are ready, each on its machine."""
        return [] if self._crew is None else self._crew.pids

    def submit(self, task: Task) -> None:
        """As `Engine.submit`; the workers are given it when a result is asked for, so that they get many at once.

        Raises:
            EngineError: There is no cluster, or it is not large enough.
        """
        if self._crew is None:
            self._crew = self._begin()
        job = Job(next(self._numbers), task)
        self._jobs[task.request.key] = job
        self._waiting[job.number] = job
        self._outgoing.hold(task)

    def cancel(self, key: TaskKey) -> None:
        """As `Engine.cancel`."""
        job = self._jobs.pop(key, None)
        if job is None:
            return
        job.is_wanted = False
        self._signs.pop(job.number, None)
        self._outgoing.release(job.task)
        if self._waiting.pop(job.number, None) is None and job.result is None and self._crew is not None:
            self._crew.cancel(job)

    def run(self, task: Task, emit: Emit) -> Trained:
        """As `Engine.run`.

        Raises:
            PlanRunError: The plan failed, or workers were lost over it again and again.
            EngineError: There is no cluster, no worker, or the cluster is gone.
        """
        key = task.request.key
        if key not in self._jobs:
            self.submit(task)
        job = self._jobs[key]
        try:
            while True:
                self._wait_for(job, emit)
                try:
                    return self._result(job)
                except RayError as error:  # the arrays were lost after the message that told of them
                    job.result, job.vectors = None, list
                    job.losses += 1
                    job.lost_by = str(error)
                    self._waiting[job.number] = job
        except BaseException as error:
            if not isinstance(error, Exception):  # Ctrl-C may have come between two things that belong together
                self._abandon()
            raise
        finally:
            self.cancel(key)

    def close(self) -> None:
        """As `Engine.close`; a later task begins anew."""
        crew, self._crew = self._crew, None
        cluster, self._cluster = self._cluster, None
        self._forget()
        if cluster is None:
            return
        try:
            if crew is not None and ray.is_initialized():
                crew.close()
        finally:
            cluster.leave()

    def _forget(self) -> None:
        self._numbers = itertools.count()
        self._jobs: dict[TaskKey, Job] = {}
        self._waiting: dict[int, Job] = {}  # those that no worker has, in the order in which they are given
        self._signs: dict[int, list[Sign]] = {}  # of jobs that nobody has asked for yet
        self._outgoing = Outgoing(ray.put)
        self._told: dict[str, Counter[int]] = {}  # how often each worker has said something
        self._emit: tuple[int, Emit] | None = None
        self._heard = self._looked = time.monotonic()

    # waiting -----------------------------------------------------------------------------------------------------

    def _wait_for(self, job: Job, emit: Emit) -> None:
        """Let all workers work until a job has its result."""
        self._emit = job.number, emit
        try:
            for sign in self._signs.pop(job.number, ()):
                emit(sign)
            if self._crew is None:
                self._crew = self._begin()
            self._form_groups(self._crew.size)
            if job.losses == 0 and job.number in self._waiting:  # it is the next
                self._waiting = {job.number: job} | self._waiting
            while job.result is None:
                if job.losses >= _LOSSES:
                    raise PlanRunError(
                        f"The worker processes that trained this node ended {job.losses} times, without a word.",
                        cure="Usually memory is short: use fewer workers, or smaller batches. Ray's logs may say more.",
                        details=job.lost_by,
                    )
                crew = self._crew
                assert crew is not None
                self._distribute(crew)
                again = crew.wait(_LOOK)
                self._look_after(crew, is_quiet=again is None)
                # To be done again, each by itself, so that one that ends its worker takes no other with it.
                self._waiting = {each.number: each for each in again or () if each.is_wanted} | self._waiting
        finally:
            self._emit = None

    def _distribute(self, crew: Crew) -> None:
        """Give every worker enough to do."""
        while self._waiting and (hand := crew.next_free()) is not None:
            jobs = self._next_jobs(crew)
            crew.give(hand, self._outgoing.chunk([(job.number, job.task) for job in jobs]), jobs)
            for job in jobs:
                del self._waiting[job.number]

    def _next_jobs(self, crew: Crew) -> list[Job]:
        """The next chunk: large at first, to save messages, and small in the end, so that all end together."""
        waiting = self._waiting.values()
        first = next(iter(waiting))
        if first.losses:
            return [first]
        if self._is_together:
            return [job for job in waiting if job.group == first.group and not job.losses]
        jobs = itertools.islice(waiting, min(_MOST, -(-len(waiting) // (2 * max(1, crew.ready)))))
        return list(itertools.takewhile(lambda job: not job.losses, jobs))

    def _abandon(self) -> None:
        """End the workers; what they had begins anew when it is asked for."""
        crew, self._crew = self._crew, None
        if crew is not None and ray.is_initialized():
            crew.close()
        self._waiting = {job.number: job for job in self._jobs.values() if job.result is None}

    def _form_groups(self, workers: int) -> None:
        """Put those together that an engine is to train together.

        Who is in a group follows from the order of the tasks, never from how fast a worker is: with other groups the
        result may be another one in the last bits.
        """
        loose = [job for job in self._waiting.values() if job.group < 0]
        if loose and self._is_together:
            rest = iter(loose)
            for size in group_sizes(len(loose), workers):
                group = list(itertools.islice(rest, size))
                for job in group:
                    job.group = group[0].number

    def _result(self, job: Job) -> Trained:
        assert job.result is not None
        if job.result.failure is not None:
            if job.result.failure.details:
                _LOG.debug("%s", job.result.failure.details)
            raise job.result.failure.error()
        return unpacked(job.result, job.vectors(), job.task.params.spec)

    def _take(self, news: News, jobs: dict[int, Job], worker: int) -> None:
        """What a worker tells."""
        for line in news.lines:
            if line.logger in _SAME:
                told = self._told.setdefault(line.text, Counter())
                most = max(told.values(), default=0)
                told[worker] += 1
                if told[worker] <= most:  # another worker was first
                    continue
            logging.getLogger(line.logger).log(line.level, "%s", line.text)
        for number, sign in news.signs:
            if self._emit is not None and self._emit[0] == number:
                self._emit[1](sign)
            elif jobs[number].is_wanted:
                self._signs.setdefault(number, []).append(sign)

    # beginning, and the end of the cluster -------------------------------------------------------------------------

    def _begin(self) -> Crew:
        here = self._size or usable_processors()
        gpus = None if self._gpus else 0
        if self._cluster is None:
            self._cluster = Cluster.join(
                self._address, processors=here, gpus=gpus, object_store_memory=self._store_memory
            )
        processors = self._cluster.processors
        size = self._size or max(1, processors)
        if size > processors:
            raise EngineError(
                f"{size} workers need as many processors, but the Ray cluster has {processors}.",
                cure=f"Use workers={processors}, or add machines to the cluster.",
            )
        _LOG.info("Trainings run in %d workers of a Ray cluster with %d processors.", size, processors)
        try:
            data = ray.put(self.data)
        except (ObjectStoreFullError, OSError) as error:
            raise EngineError(
                f"The data of the nodes do not fit into Ray's object store: {error}",
                cure="Give it more memory: object_store_memory=... (bytes), or ray start --object-store-memory.",
            ) from error
        outfit = Outfit(data, self._inner, self._plugins, versions(self.host), self._gpus)
        self._heard = self._looked = time.monotonic()
        return Crew(size, outfit, self._take, self._cluster.require_alive)

    def _look_after(self, crew: Crew, *, is_quiet: bool) -> None:
        """Ask the cluster for a sign of life, now and then.

        Raises:
            EngineError: It has given none for too long.
        """
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return
        self._looked = now
        assert self._cluster is not None
        try:
            self._cluster.require_alive()
        except (OSError, RayError) as error:
            if now - self._heard > _PATIENCE:
                raise lost(f"Its head has not answered for {now - self._heard:.0f} seconds: {error}.") from error
            return
        if is_quiet and not crew.ready and now - self._heard > _NOBODY:
            _LOG.warning("No worker of the Ray cluster is free: other programs hold its processors or its GPUs.")
        self._heard = now
