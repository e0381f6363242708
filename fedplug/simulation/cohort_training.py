"""Training of several virtual nodes at once, with a plan that was set up once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fedplug.core.cohort import CohortError, CohortTrainer, NotStacked, StackedUpdate
from fedplug.core.data import BatchSource
from fedplug.core.errors import FedplugError
from fedplug.core.messages import LogLine, Progress, TaskKey, TrainReply, TrainRequest
from fedplug.core.params import Array, Params
from fedplug.core.plan_source import PlanBundle
from fedplug.core.rng import GLOBAL_STREAMS
from fedplug.core.trainer.loop_plan import LoopPlan
from fedplug.core.watched_setup import WatchedSetup
from fedplug.simulation.columns import Draw, PickedRows
from fedplug.simulation.plan_checks import NotLeanError
from fedplug.simulation.set_up_once import Ready, SetUpOnce
from fedplug.simulation.virtual_data import VirtualData

if TYPE_CHECKING:
    from fedplug.core.plugins import PluginHost

Emit = Callable[[Progress | LogLine], None]


class _Work(NamedTuple):
    """What one node is to train on.

    Attributes:
        source: What its batches are rows of.
        batches: Their row numbers.
        samples: Number of its samples.
        loop: How many batches there are.
        lines: What the plan has to say.
    """

    source: BatchSource
    batches: list[Array]
    samples: int
    loop: LoopPlan
    lines: list[LogLine]


class CohortResult(NamedTuple):
    """What came out for one node.

    Attributes:
        reply: Its reply.
        params: Its parameters.
        signs: Its signs of life, in order.
    """

    reply: TrainReply
    params: Params
    signs: list[Progress | LogLine]


class CohortTraining(SetUpOnce):
    """One plan with its arguments, set up once, whose nodes train together.

    Args:
        request: The first training; the others are to ask for the same, each of its node.
        bundle: The plan.
        host: Knows who trains stacked nodes.
        compiled: Whether compiled steps are asked for.

    Raises:
        CohortError: The plan, or what is asked for, cannot be trained so.
    """

    def __init__(self, request: TrainRequest, bundle: PlanBundle, host: PluginHost, *, compiled: bool = False) -> None:
        try:
            super().__init__(request, bundle, host, places=True)
        except NotLeanError as why:
            raise CohortError(str(why)) from why
        answer = host.train_cohort(self._plan, self.args, compiled=compiled)
        if isinstance(answer, NotStacked):
            raise CohortError(answer.reason)
        assert isinstance(answer, CohortTrainer)
        self._trainer = answer
        self._share(answer.whole)
        self._tells = answer.guard(self._streams.watch)

    def most(self, params: Params) -> int:
        """How many nodes are best trained together."""
        return self._trainer.most(params)

    def run(
        self,
        requests: Sequence[TrainRequest],
        params: Params,
        data: VirtualData,
        following: Iterable[TrainRequest] = (),
    ) -> list[CohortResult]:
        """Train nodes together.

        Args:
            requests: The trainings.
            params: The global parameters.
            data: The data of the nodes.
            following: Trainings that will be asked for next, probably; those that this was set up for.

        Raises:
            CohortError: They must be trained one by one; nothing of it has an effect.
        """
        with GLOBAL_STREAMS, self._plan.on_threads(self.args.threads):
            began = time.perf_counter()
            if not self._tells:
                self._streams.watch()
            try:
                every = chain(requests[1:], following)
                works = [self._work(self._ready_for(request, data, every), data) for request in requests]
                started, cpu_started = time.perf_counter(), time.process_time()
                updates = self._train(params, works, requests[0])
            except CohortError:
                raise
            except NotLeanError as why:
                raise CohortError(str(why)) from why
            except FedplugError as error:
                raise CohortError(f"it fails ({error.message})", for_good=False) from error
            except (Exception, SystemExit) as error:
                raise CohortError(f"it fails ({type(error).__name__})", for_good=False) from error
            finally:
                changed = self._belongings.changed()
                self._belongings.undo()
                drawn = self._streams.settle()
            if drawn:
                raise CohortError("training draws random numbers")
            if changed:
                raise CohortError(f"training changes {changed}, and nodes would not find it as they do one by one")
        count = len(requests)
        timing = {
            "train": (time.perf_counter() - started) / count,
            "train_cpu": (time.process_time() - cpu_started) / count,
            "setup": (started - began) / count,
        }
        return [
            self._result(request.key, work, update, timing)
            for request, work, update in zip(requests, works, updates, strict=True)
        ]

    def _train(self, params: Params, works: Sequence[_Work], request: TrainRequest) -> list[StackedUpdate]:
        setup, read = WatchedSetup.watching(request.model_args, self.args)
        self._plan._setup = setup
        updates = self._trainer.train(params, [work.source for work in works], [work.batches for work in works])
        if read:
            raise CohortError(f"its step depends on the node's {min(read)}")
        return updates

    def _work(self, ready: Ready, data: VirtualData) -> _Work:
        (request, draw, order), lines = ready, list[LogLine]()
        if draw is None:
            key = request.key
            self._streams.watch()
            self._plan._setup = self._setup_of(
                request,
                data.dataset(key.node_id),
                lambda text: lines.append(LogLine(level="warning", text=text, key=key)),
            )
            draw = self._own_draw(request)
        source, samples = draw.source, len(draw.source)
        loop = LoopPlan.make(samples, draw.loader, self.args)
        batches = list(self._batches(request, draw, order, loop))
        return _Work(source.whole if isinstance(source, PickedRows) else source, batches, samples, loop, lines)

    def _batches(self, request: TrainRequest, draw: Draw, order: Array | None, loop: LoopPlan) -> Iterator[Array]:
        """The row numbers of each batch, in the order in which the plan's own loop draws them."""
        source, loader = draw
        size, samples = loader.batch_size, len(source)
        for epoch in range(loop.epochs):
            if not loader.shuffle:
                order = np.arange(samples)
            elif epoch or order is None:
                order = self._order_of(request).child("epoch", epoch).generator().permutation(samples)
            drawn = order[: loop.in_epoch(epoch) * size]
            rows = source.rows[drawn] if isinstance(source, PickedRows) else drawn
            for low in range(0, len(rows), size):
                yield rows[low : low + size]

    def _result(self, key: TaskKey, work: _Work, update: StackedUpdate, timing: dict[str, float]) -> CohortResult:
        """What the plan's own loop would have said."""
        signs: list[Progress | LogLine] = list(work.lines)
        interval, steps, losses = self.args.log_interval, len(work.batches), update.losses
        next_report = 1 if interval else -1
        samples = seen = 0
        total = part = 0.0
        for done, (batch, loss) in enumerate(zip(work.batches, losses, strict=True), 1):
            size = len(batch)
            total += loss * size
            part += loss * size
            samples += size
            seen += size
            if done == next_report:
                signs.append(
                    Progress(
                        key=key, step=done, total_steps=work.loop.total, epoch=(done - 1) // work.loop.batches + 1,
                        samples=samples, seconds=timing["train"] * done / steps, metrics={"loss": part / seen},
                    )
                )  # fmt: skip
                part, seen = 0.0, 0
                next_report = min(done - done % interval + interval, max(work.loop.total, done + 1))
        reply = TrainReply(
            key=key, sample_count=work.samples, steps=steps, metrics={"loss": total / samples}, timing=dict(timing)
        )
        return CohortResult(reply, update.params, signs)
