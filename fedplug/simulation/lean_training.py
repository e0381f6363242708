"""Training of virtual nodes with a plan that was set up once, by its lean step.

A plan is as a rule set up anew for each node and round, so that nothing can get from one training into another. Here it
is set up once for all that are asked the same, which is allowed only where nobody can tell the difference: the plan's
methods are the usual ones, and neither set-up nor training depends on anything, or leaves anything, but the parameters.
What can be known before is looked at before; the rest, after every training. One that broke the rule is done again by
the plan's own loop, as all that follow are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from fedplug.core.data import BatchSource, LoaderArgs
from fedplug.core.errors import FedplugError
from fedplug.core.lean import LeanStep
from fedplug.core.messages import LogLine, Progress, TrainReply, TrainRequest
from fedplug.core.params import Params
from fedplug.core.plan_source import PlanBundle
from fedplug.core.trainer.loop_plan import LoopPlan
from fedplug.core.trainer.meter import Meter
from fedplug.simulation.columns import PickedRows, SharedColumns
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

    Raises:
        NotLeanError: The plan, or what is asked for, needs its own loop.
    """

    def __init__(self, request: TrainRequest, bundle: PlanBundle, host: PluginHost) -> None:
        super().__init__(request, bundle, host)
        step = self._plan.lean_step()
        if isinstance(step, str):
            raise NotLeanError(step)
        self._step: LeanStep = step
        self._columns = SharedColumns(self._plan, self.args, step.whole)

    def run(self, request: TrainRequest, params: Params, data: VirtualData, emit: Emit) -> tuple[TrainReply, Params]:
        """Train one node.

        Raises:
            NotLeanError: It must be done, and done again, by the plan's own loop; nothing of it has an effect.
        """
        if request.aux:
            raise NotLeanError("the aggregator sends extra arrays along")
        began = time.perf_counter()
        with self._plan.on_threads(self.args.threads):
            return self._run(request, params, data, emit, began)

    def _run(
        self, request: TrainRequest, params: Params, data: VirtualData, emit: Emit, began: float
    ) -> tuple[TrainReply, Params]:
        before = self._streams.read()
        key = request.key
        setup = self._setup_of(
            request, data.dataset(key.node_id), lambda text: emit(LogLine(level="warning", text=text, key=key))
        )
        try:
            self._step.load(params)
            found = self._columns.source(request, data)
            self._plan._setup = setup
            source, loader = self._data(request, found)
            reply = self._train(request, source, loader, emit, began)
        except NotLeanError:
            raise
        except FedplugError as error:
            raise NotLeanError(f"it fails ({error.message})") from error
        except Exception as error:
            raise NotLeanError(f"it fails ({type(error).__name__})") from error
        finally:
            drawn = self._streams.restore(before)
        if drawn or (why := self._step.changed()):
            raise NotLeanError("training draws random numbers" if drawn else why)
        return reply, self._step.result()

    def _data(
        self, request: TrainRequest, shared: tuple[PickedRows, Mapping[str, Any]] | None
    ) -> tuple[BatchSource, LoaderArgs]:
        """The training part of the node's data, as the plan's own loop draws it."""
        source: BatchSource
        source, loader_args = shared or self._own_data()
        loader = LoaderArgs.merge(self.args.loader_args, loader_args)
        if shared is not None and not loader.shuffle:  # batches in order are parts of the data: a plan may write there
            source, _ = self._own_data()
        source = self._training_part(request, source, loader)
        self._check_hooks(request.key)
        return source, loader

    def _train(
        self, request: TrainRequest, source: BatchSource, loader: LoaderArgs, emit: Emit, began: float
    ) -> TrainReply:
        loop = LoopPlan.make(len(source), loader, self.args)
        meter = Meter(self._step.read)
        interval = self.args.log_interval
        next_report = 1 if interval else -1
        started, cpu_started = time.perf_counter(), time.process_time()
        step, done, samples = self._step.step, 0, 0
        for epoch, (data, target), size in self._batches(request, source, loader, loop):
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
        self, request: TrainRequest, source: BatchSource, loader: LoaderArgs, loop: LoopPlan
    ) -> Iterator[tuple[int, Any, int]]:
        order = self._order_of(request)
        for epoch in range(loop.epochs):
            left = len(source)
            for batch in islice(source.epoch(loader, order.child("epoch", epoch)), loop.in_epoch(epoch)):
                size = min(left, loader.batch_size)
                left -= size
                yield epoch, batch, size
