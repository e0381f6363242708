"""Training of virtual nodes with a plan that was set up once, by its lean step.

A plan is as a rule set up anew for each node and round, so that nothing can get from one training into another. Here it
is set up once for all that are asked the same, which is allowed only where nobody can tell the difference: the plan's
methods are the usual ones, and neither set-up nor training depends on anything, or leaves anything, but the parameters.
What can be known before is looked at before; the rest, after every training in which the plan's own code has run. One
that broke the rule is done again by the plan's own loop, as all that follow are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from fedplug.core.errors import FedplugError
from fedplug.core.lean import LeanStep
from fedplug.core.messages import LogLine, Progress, TrainReply, TrainRequest
from fedplug.core.params import Array, Params
from fedplug.core.plan_source import PlanBundle
from fedplug.core.rng import GLOBAL_STREAMS
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


class LeanTraining(SetUpOnce):
    """One plan with its arguments, set up once, that trains by its lean step.

    Args:
        request: The first training; the others are to ask for the same, each of its node.
        bundle: The plan.
        host: Turns what ``training_data`` returns into batches, and knows the hooks of plugins.

    Attributes:
        optimizer_name: The name of the plan's optimizer, for the log.

    Raises:
        NotLeanError: The plan, or what is asked for, needs its own loop.
    """

    def __init__(self, request: TrainRequest, bundle: PlanBundle, host: PluginHost) -> None:
        super().__init__(request, bundle, host)
        step = self._plan.lean_step()
        if isinstance(step, str):
            raise NotLeanError(step)
        self._step: LeanStep = step
        self.optimizer_name = step.optimizer_name
        self._share(step.whole)
        self._make_setup: Callable[[], PlanSetup] | None = None  # of the training under way, while it has none
        self._tells = step.guard(self._before_plan)
        self._is_proven = False  # a training in which the plan's code has run has stood

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
        held = list[Progress | LogLine]()  # what the first training tells may not be true
        tell = emit if self._is_proven else held.append
        with GLOBAL_STREAMS, self._plan.on_threads(self.args.threads):
            try:
                found = self._run(request, params, data, tell, following, began)
                self._belongings.forget()
            finally:
                self._belongings.undo()  # what has gone wrong has no effect
        self._is_proven = True
        for sign in held:
            emit(sign)
        return found

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
            _, draw, order = self._ready_for(request, data, following)
            # Batches in order are parts of the data, which the plan may write into.
            is_shared = draw is not None and draw.loader.shuffle
            if not (is_shared and self._tells):
                self._before_plan()
            if draw is None or not is_shared:
                draw = self._own_draw(request)
            reply = self._train(request, draw, order, emit, began)
        except NotLeanError:
            raise
        except FedplugError as error:
            raise NotLeanError(f"it fails ({error.message})") from error
        except (Exception, SystemExit) as error:
            raise NotLeanError(self._step.changed() or f"it fails ({type(error).__name__})") from error
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
        source, loader = draw
        for epoch in range(loop.epochs):
            if epoch or order is None:
                batches = source.epoch(loader, self._order_of(request).child("epoch", epoch))
            else:
                batches = source.batches(loader, order)
            left = len(source)
            for batch in islice(batches, loop.in_epoch(epoch)):
                size = min(left, loader.batch_size)
                left -= size
                yield epoch, batch, size
