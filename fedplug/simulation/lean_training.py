"""Training of virtual nodes with a plan that was set up once, by its lean step.

A plan is as a rule set up anew for each node and round, so that nothing can get from one training into another. Here it
is set up once for all that are asked the same, which is allowed only where nobody can tell the difference: the plan's
methods are the usual ones, and neither set-up nor training depends on anything, or leaves anything, but the parameters.
What can be known before is looked at before; the rest, after every training in which the plan's own code has run. One
that broke the rule is done again by the plan's own loop, as all that follow are.

What needs no model is made ready for many nodes at once: between two trainings, which leave nothing else in the
processor's caches, the same costs three times as much.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from fedplug.core.errors import FedplugError
from fedplug.core.lean import LeanStep
from fedplug.core.messages import LogLine, Progress, TaskKey, TrainReply, TrainRequest
from fedplug.core.params import Array, Params
from fedplug.core.plan_source import PlanBundle
from fedplug.core.trainer.loop_plan import LoopPlan
from fedplug.core.trainer.meter import Meter
from fedplug.core.training_plan import PlanSetup
from fedplug.simulation.columns import Draw
from fedplug.simulation.plan_checks import NotLeanError
from fedplug.simulation.set_up_once import SetUpOnce
from fedplug.simulation.virtual_data import VirtualData

if TYPE_CHECKING:
    from fedplug.core.plugins import PluginHost

Emit = Callable[[Progress | LogLine], None]

_SAMPLES_AHEAD = 1 << 16
"""Nodes are made ready until they have so many samples together, whose order takes half a megabyte."""

_NODES_AHEAD = 256


class _Ready(NamedTuple):
    """What is known of a training before it begins.

    Attributes:
        request: The training.
        draw: What its batches are drawn from; None if that takes the node's data itself.
        order: The order of the samples in the first epoch; None if that is up to ``draw``.
    """

    request: TrainRequest
    draw: Draw | None
    order: Array | None


class LeanTraining(SetUpOnce):
    """One plan with its arguments, set up once, that trains by its lean step.

    Args:
        request: The first training; the others are to ask for the same, each of its node.
        bundle: The plan.
        host: Turns what ``training_data`` returns into batches, and knows the hooks of plugins.

    Raises:
        NotLeanError: The plan, or what is asked for, needs its own loop.
    """

    def __init__(self, request: TrainRequest, bundle: PlanBundle, host: PluginHost) -> None:
        super().__init__(request, bundle, host)
        step = self._plan.lean_step()
        if isinstance(step, str):
            raise NotLeanError(step)
        self._step: LeanStep = step
        self._share(step.whole)
        self._ready: dict[TaskKey, _Ready] = {}
        self._make_setup: Callable[[], PlanSetup] | None = None  # of the training under way, while it has none
        self._tells = step.guard(self._before_plan)

    def run(
        self,
        request: TrainRequest,
        params: Params,
        data: VirtualData,
        emit: Emit,
        following: Iterable[TrainRequest] = (),
    ) -> tuple[TrainReply, Params]:
        """Train one node.

        Args:
            request: The training.
            params: The global parameters.
            data: The data of the nodes.
            emit: Takes the signs of life.
            following: Trainings that will be asked for next, probably; those that this was set up for.

        Raises:
            NotLeanError: It must be done, and done again, by the plan's own loop; nothing of it has an effect.
        """
        if request.aux:
            raise NotLeanError("the aggregator sends extra arrays along")
        began = time.perf_counter()
        with self._plan.on_threads(self.args.threads):
            return self._run(request, params, data, emit, following, began)

    def _run(
        self,
        request: TrainRequest,
        params: Params,
        data: VirtualData,
        emit: Emit,
        following: Iterable[TrainRequest],
        began: float,
    ) -> tuple[TrainReply, Params]:
        key = request.key

        def make_setup() -> PlanSetup:
            def log(text: str) -> None:
                emit(LogLine(level="warning", text=text, key=key))

            return self._setup_of(request, data.dataset(key.node_id), log)

        self._make_setup = make_setup
        try:
            self._step.load(params)
            ready = self._ready_for(request, data, following)
            draw = ready.draw
            if draw is None:
                self._before_plan()
                draw = self._own_draw(request)
            elif not self._tells:
                self._before_plan()
            reply = self._train(request, draw, ready.order, emit, began)
        except NotLeanError:
            raise
        except FedplugError as error:
            raise NotLeanError(f"it fails ({error.message})") from error
        except Exception as error:
            raise NotLeanError(f"it fails ({type(error).__name__})") from error
        finally:
            self._make_setup = None
            has_run = self._streams.are_watched
            drawn = self._streams.settle()
        if drawn or (why := self._step.changed() if has_run else ""):
            raise NotLeanError("training draws random numbers" if drawn else why)
        return reply, self._step.result()

    def _before_plan(self) -> None:
        """Keep watch from now on, and tell the plan of its node."""
        if self._make_setup is not None:
            self._streams.watch()
            self._plan._setup = self._make_setup()
            self._make_setup = None

    def _ready_for(self, request: TrainRequest, data: VirtualData, following: Iterable[TrainRequest]) -> _Ready:
        """What is known of a training; makes those ready that follow, too, if it is not ready yet."""
        ready = self._ready.pop(request.key, None)
        if ready is not None and ready.request is request:
            return ready
        ready = self._make_ready(request, data)
        self._ready.clear()
        samples = _samples_of(ready)
        for each in following:
            if samples >= _SAMPLES_AHEAD or len(self._ready) >= _NODES_AHEAD:
                break
            try:
                found = self._ready[each.key] = self._make_ready(each, data)
            except Exception:  # noqa: BLE001 - it is told when it is this one's turn
                break
            samples += _samples_of(found)
        return ready

    def _make_ready(self, request: TrainRequest, data: VirtualData) -> _Ready:
        self._check_hooks(request.key)
        draw = self._shared_draw(request, data)
        if draw is None or not draw.loader.shuffle:  # batches in order are parts of the data: a plan may write there
            return _Ready(request, None, None)
        order = self._order_of(request).child("epoch", 0).generator().permutation(len(draw.source))
        return _Ready(request, draw, order)

    def _train(self, request: TrainRequest, draw: Draw, order: Array | None, emit: Emit, began: float) -> TrainReply:
        source, loader = draw
        loop = LoopPlan.make(len(source), loader, self.args)
        meter = Meter(self._step.read)
        interval = self.args.log_interval
        next_report = 1 if interval else -1
        started, cpu_started = time.perf_counter(), time.process_time()
        step, done, samples = self._step.step, 0, 0
        for epoch, (data, target), size in self._batches(request, draw, order, loop):
            meter.add(step(data, target), size)
            done, samples = done + 1, samples + size
            if done == next_report:
                seconds = time.perf_counter() - started
                emit(
                    Progress(
                        key=request.key, step=done, total_steps=loop.total, epoch=epoch + 1, samples=samples,
                        seconds=seconds, metrics={"loss": meter.since_last()},
                    )
                )  # fmt: skip
                next_report = min(done - done % interval + interval, max(loop.total, done + 1))
        return TrainReply(
            key=request.key,
            sample_count=len(source),
            steps=done,
            metrics={"loss": meter.mean()},
            timing={
                "train": time.perf_counter() - started,
                "train_cpu": time.process_time() - cpu_started,
                "setup": started - began,
            },
        )

    def _batches(
        self, request: TrainRequest, draw: Draw, order: Array | None, loop: LoopPlan
    ) -> Iterator[tuple[int, Any, int]]:
        (source, loader), seeds = draw, self._order_of(request)
        for epoch in range(loop.epochs):
            if epoch or order is None:
                batches = source.epoch(loader, seeds.child("epoch", epoch))
            else:
                batches = source.batches(loader, order)
            left = len(source)
            for batch in islice(batches, loop.in_epoch(epoch)):
                size = min(left, loader.batch_size)
                left -= size
                yield epoch, batch, size


def _samples_of(ready: _Ready) -> int:
    return 0 if ready.order is None else len(ready.order)
