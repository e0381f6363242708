"""The workers of an engine, as the driver sees them: who is at what, and what becomes of it when one is lost."""

from __future__ import annotations

import functools
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from fedplug.core.errors import EngineError
from fedplug.core.params import Array
from fedplug.simulation.engines import Task
from fedplug.simulation.process_engines import InnerEngine
from fedplug_ray.parcels import Chunk, News, Result
from fedplug_ray.versions import require_same
from fedplug_ray.worker import Worker

_LOG = logging.getLogger("fedplug.simulation")
_AHEAD = 2  # chunks that a worker is given: one to train, one that it need not wait for
_INSTALL = "Install FedPlug, fedplug-ray and the plugins in use on every machine of the cluster."
_TRIES = 3  # workers that may be lost one after the other without having done anything


@dataclass(eq=False)
class Job:
    """A task on its way.

    Attributes:
        number: Its name between driver and workers; never used again.
        task: The task.
        group: Which tasks are trained with it, where the engine in the workers trains several together.
        losses: How many workers were lost over it.
        result: What came out.
        vectors: Gives the arrays of the result that came by themselves.
        is_wanted: Whether somebody will ask for it.
        lost_by: What Ray said of the last loss.
    """

    number: int
    task: Task
    group: int = -1
    losses: int = 0
    result: Result | None = None
    vectors: Callable[[], list[Array]] = list
    is_wanted: bool = True
    lost_by: str = ""


@dataclass(eq=False)
class _Call:
    """A chunk at a worker.

    Attributes:
        stream: Gives what the worker tells, item by item.
        jobs: Those without a result yet, by number, in their order.
    """

    stream: Any
    jobs: dict[int, Job]


class _Stored:
    """Vectors of several results, which lie in the object store until the last of them has been taken out."""

    def __init__(self, ref: Any) -> None:
        self._ref = ref
        self._vectors: list[Array] | None = None

    def part(self, start: int, end: int) -> list[Array]:
        """Some of them.

        Raises:
            RayError: They were lost.
        """
        if self._vectors is None:
            self._vectors = ray.get(self._ref)
        return self._vectors[start:end]


class _Hand:
    """One worker.

    Attributes:
        number: Its name here; a worker that replaces it has another one.
        actor: Ray's handle of it.
        pending: What it answers to the first questions; None once it is ready.
        has_greeted: Whether it has answered the first of them.
        calls: What it was given, the oldest first.
        where: Its machine, in words.
        pid: Its process there.
    """

    def __init__(self, number: int, actor: Any, hello: Any) -> None:
        self.number = number
        self.actor = actor
        self.pending: Any = hello
        self.has_greeted = False
        self.calls: deque[_Call] = deque()
        self.where = "a machine of the cluster"
        self.pid = 0

    @property
    def is_ready(self) -> bool:
        """Whether it can be given something."""
        return self.pending is None

    @property
    def news(self) -> Any:
        """What Ray can wait for; None if there is nothing to come."""
        if self.pending is not None:
            return self.pending
        return self.calls[0].stream if self.calls else None


@dataclass(frozen=True)
class Outfit:
    """What every worker is given.

    Attributes:
        data: What stands for the nodes' data in the object store.
        engine: What trains in it.
        plugins: Names of the plugins that it is to have.
        versions: What it has to have.
        gpus: Share of a GPU.
    """

    data: Any
    engine: InnerEngine
    plugins: list[str]
    versions: dict[str, str]
    gpus: float


class Crew:
    """Some workers. A lost one is replaced.

    Args:
        size: How many.
        outfit: What each is given.
        tell: Takes what workers tell, but for results, with the jobs that the signs are of and the worker's number.
        require_alive: Raises `EngineError` if this machine's part of the cluster has ended.
    """

    def __init__(
        self,
        size: int,
        outfit: Outfit,
        tell: Callable[[News, dict[int, Job], int], None],
        require_alive: Callable[[], None],
    ) -> None:
        self._outfit = outfit
        self._require_alive = require_alive
        self._tell = tell
        remote: Any = ray.remote  # whose annotations know no groups
        self._actors = remote(
            num_cpus=1,
            num_gpus=outfit.gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
            concurrency_groups={"control": 1},
        )(Worker)
        self._numbers = itertools.count()
        self._in_vain = 0  # workers lost since one has last begun
        self._hands = [self._hire() for _ in range(size)]
        self._turn = 0

    @property
    def size(self) -> int:
        """How many workers there are, those that begin included."""
        return len(self._hands)

    @property
    def ready(self) -> int:
        """How many workers can be given something."""
        return sum(hand.is_ready for hand in self._hands)

    @property
    def pids(self) -> list[int]:
        """The processes of the workers that are ready, each on its machine."""
        return [hand.pid for hand in self._hands if hand.is_ready]

    def next_free(self) -> _Hand | None:
        """The worker that should be given the next chunk; None if all have enough."""
        free = [hand for hand in self._hands if hand.is_ready and len(hand.calls) < _AHEAD]
        return min(free, key=lambda hand: len(hand.calls), default=None)

    def give(self, hand: _Hand, chunk: Chunk, jobs: Iterable[Job]) -> None:
        """Let a worker train.

        Raises:
            EngineError: The tasks hold something that cannot be sent to another process.
        """
        try:
            stream = hand.actor.train.options(num_returns="streaming").remote(chunk)
        except Exception as error:  # whatever pickling somebody's object raises
            cause = error.__cause__ or error  # Ray's own words show all that was to be sent
            raise EngineError(
                f"A task cannot be sent to the workers of a Ray cluster: {type(cause).__name__}: {cause}",
                cure="Let model_args and training_args hold what can be pickled: numbers, texts, arrays, lists, dicts.",
            ) from error
        hand.calls.append(_Call(stream, {job.number: job for job in jobs}))

    def wait(self, seconds: float) -> list[Job] | None:
        """Wait for news of any worker, and take it in.

        Args:
            seconds: At the most.

        Returns:
            Jobs that have to be given anew, as their worker was lost; None if there was no news.

        Raises:
            EngineError: Workers cannot begin, or one is not like this process.
        """
        self._turn = (self._turn + 1) % self.size  # Ray takes the first that has news: nobody is to be always last
        hands = [hand for hand in self._hands[self._turn :] + self._hands[: self._turn] if hand.news is not None]
        found, _ = ray.wait([hand.news for hand in hands], num_returns=1, timeout=seconds)
        if not found:
            return None
        hand = next(hand for hand in hands if hand.news == found[0])
        try:
            if hand.is_ready:
                self._listen(hand)
            else:
                self._welcome(hand)
        except RayTaskError as error:
            raise EngineError(
                f"A worker of the Ray cluster, on {hand.where}, failed: {_last_line(error)}",
                cure=_INSTALL,
            ) from error
        except RayError as error:
            if isinstance(error, RayActorError) and error.actor_init_failed:
                raise EngineError(
                    f"Workers of the Ray cluster cannot begin: {_last_line(error)}", cure=_INSTALL
                ) from error
            return self._replace(hand, str(error))
        return []

    def cancel(self, job: Job) -> None:
        """A job that was given is not wanted any more."""
        for hand in self._hands:
            if any(job.number in call.jobs for call in hand.calls):
                hand.actor.cancel.remote([job.number])

    def close(self) -> None:
        """End all workers."""
        for hand in self._hands:
            ray.kill(hand.actor)
        self._hands.clear()

    def _hire(self) -> _Hand:
        actor = self._actors.remote()
        return _Hand(next(self._numbers), actor, actor.hello.remote(self._outfit.plugins))

    def _welcome(self, hand: _Hand) -> None:
        if hand.has_greeted:
            ray.get(hand.pending)
            hand.pending = None
            self._in_vain = 0
            return
        hand.where, hand.pid, theirs = ray.get(hand.pending)
        require_same(self._outfit.versions, theirs, hand.where)
        hand.has_greeted = True
        hand.pending = hand.actor.open.remote(self._outfit.data, self._outfit.engine)

    def _listen(self, hand: _Hand) -> None:
        call = hand.calls[0]
        try:
            news: News = ray.get(next(call.stream))
        except StopIteration:
            hand.calls.popleft()
            return
        self._tell(news, call.jobs, hand.number)
        apart = sum(result.apart for result in news.results)
        stored, end = _Stored(next(call.stream)) if apart else None, 0
        for result in news.results:
            job = call.jobs.pop(result.number)
            if stored is not None:
                start, end = end, end + result.apart
                job.vectors = functools.partial(stored.part, start, end)
            job.result = result

    def _replace(self, hand: _Hand, why: str) -> list[Job]:
        """Hire another worker for one that was lost; what it had is to be done again."""
        self._in_vain += 1
        if self._in_vain > _TRIES * self.size:
            raise EngineError(
                f"Workers of the Ray cluster end before they can begin. {_first_line(why)}",
                cure="Look into Ray's logs; usually there is too little memory for so many workers.",
            )
        _LOG.warning("A worker on %s was lost; what it was at is done again by another one.", hand.where)
        with suppress(OSError):  # the head is given some time
            self._require_alive()
        with suppress(RayError):
            ray.kill(hand.actor)  # if it is only out of reach
        self._hands[self._hands.index(hand)] = self._hire()
        for job in hand.calls[0].jobs.values() if hand.calls else ():  # the chunk that it was at
            job.losses += 1
            job.lost_by = why
        return [job for call in hand.calls for job in call.jobs.values()]


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _last_line(error: RayError) -> str:
    return str(error).strip().rpartition("\n")[2]
