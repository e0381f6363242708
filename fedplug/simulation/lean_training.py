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
from fedplug.core.plan_source import PlanBundle, load_plan
from fedplug.core.rng import SeedTree
from fedplug.core.trainer import TrainerInfo
from fedplug.core.trainer.loop_plan import LoopPlan
from fedplug.core.trainer.meter import Meter
from fedplug.core.training_args import TrainingArgs
from fedplug.core.training_plan import PlanSetup
from fedplug.simulation.columns import PickedRows, SharedColumns
from fedplug.simulation.plan_checks import NotLeanError, Streams, check_args, check_methods, is_same, set_up
from fedplug.simulation.virtual_data import VirtualData

if TYPE_CHECKING:
    from fedplug.core.plugins import PluginHost

Emit = Callable[[Progress | LogLine], None]


class LeanTraining:
    """One plan with its arguments, set up once.

    Args:
        request: The first training; the others are to ask for the same, each of its node.
        bundle: The plan.
        host: Turns what ``training_data`` returns into batches, and knows the hooks of plugins.

    Raises:
        NotLeanError: The plan, or what is asked for, needs its own loop.
    """

    def __init__(self, request: TrainRequest, bundle: PlanBundle, host: PluginHost) -> None:
        self.bundle = bundle
        self.asked = request.training_args, request.model_args
        self.args = TrainingArgs.from_dict(request.training_args)
        self._host = host
        check_args(self.args)
        plan_class = load_plan(bundle)
        check_methods(plan_class)
        self._plan = plan_class()
        self._streams = Streams(plan_class)
        with plan_class.seeded(0, threads=self.args.threads):
            set_up(self._plan, request, self.args)
        step = self._plan.lean_step()
        if isinstance(step, str):
            raise NotLeanError(step)
        self._step: LeanStep = step
        self._columns = SharedColumns(self._plan, self.args, step.whole)
        self._info = self._plan.training_args()

    def fits(self, request: TrainRequest, bundle: PlanBundle) -> bool:
        """Whether a training is one of those that this was set up for."""
        return bundle is self.bundle and is_same((request.training_args, request.model_args), self.asked)

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
        plan, key = self._plan, request.key
        setup = PlanSetup(
            request.model_args, self.args, data.dataset(key.node_id), key.node_id, key.round, request.total_rounds,
            log=lambda text: emit(LogLine(level="warning", text=text, key=key)),
        )  # fmt: skip
        try:
            self._step.load(params)
            found = self._columns.source(request, data)
            plan._setup = setup
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
        plan, args = self._plan, self.args
        source: BatchSource
        source, loader_args = shared or self._own_data()
        loader = LoaderArgs.merge(args.loader_args, loader_args)
        if shared is not None and not loader.shuffle:  # batches in order are parts of the data: a plan may write there
            source, _ = self._own_data()
        source.check_args(loader)
        if args.test_ratio:
            root = SeedTree.root(request.seed if args.shuffle_testing_dataset else request.data_seed)
            source, _ = source.split(args.test_ratio, root.child("split"), stratify=args.stratify_testing_dataset)
        info = TrainerInfo(plan.framework, self._info, request.key.node_id, request.key.round, ())
        if any(self._host.trainer_hooks(info).values()):
            raise NotLeanError("a plugin adds hooks to the training loop")
        return source, loader

    def _own_data(self) -> tuple[BatchSource, Mapping[str, Any]]:
        """A node's data, copied, and what its plan says about batches."""
        manager = self._plan.make_data()
        if self._plan.pre_processes:
            raise NotLeanError("it changes batches or parameters by add_preprocess")
        return self._host.wrap_data(manager, self._plan.framework), manager.loader_args

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
        seed = request.seed if self.args.random_seed is None else self.args.random_seed
        order = SeedTree.root(seed).child("order")
        for epoch in range(loop.epochs):
            left = len(source)
            for batch in islice(source.epoch(loader, order.child("epoch", epoch)), loop.in_epoch(epoch)):
                size = min(left, loader.batch_size)
                left -= size
                yield epoch, batch, size
