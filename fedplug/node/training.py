"""One task on a node: from a request with its plan, parameters and data to a reply with new parameters.

This is what a worker process runs, and what a simulation calls directly. It runs the researcher's code.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from fedplug.core import local_state
from fedplug.core.data import BatchSource, LoaderArgs
from fedplug.core.errors import DatasetError, FedplugError, PlanRunError, TrainingCancelledError
from fedplug.core.local_state import StateBook
from fedplug.core.messages import LogLine, Progress, TrainReply, TrainRequest
from fedplug.core.metrics import TEST_AUX
from fedplug.core.node_dataset import NodeDataset
from fedplug.core.params import Params
from fedplug.core.plan_errors import plan_errors
from fedplug.core.plan_source import PlanBundle, load_plan
from fedplug.core.rng import SeedTree
from fedplug.core.trainer import FitResult, LoopPoint, Phase, Trainer
from fedplug.core.trainer.plan_trainer import plan_trainer
from fedplug.core.training_args import TrainingArgs
from fedplug.core.training_plan import Allocate, PlanSetup, TrainingPlan
from fedplug.node import privacy
from fedplug.node.local_tests import LocalTests
from fedplug.node.policy.terms import Terms

if TYPE_CHECKING:
    from fedplug.core.plugins import PluginHost

Emit = Callable[[Progress | LogLine], None]

_T = TypeVar("_T")


def run_task(
    request: TrainRequest,
    bundle: PlanBundle,
    params: Params,
    aux: Mapping[str, Params],
    dataset: NodeDataset,
    host: PluginHost,
    emit: Emit,
    *,
    cancelled: Callable[[], bool] | None = None,
    allocate: Allocate | None = None,
    state: StateBook | None = None,
    noise_key: bytes = b"",
    terms: Terms | None = None,
) -> tuple[TrainReply, Params, dict[str, Params]]:
    """Train one round, or test only.

    The global random streams are seeded before any method of the plan runs, and restored afterwards.

    Args:
        request: What to do.
        bundle: The plan, which the node has authorised.
        params: The global parameters.
        aux: Extra arrays that the aggregator sent along.
        dataset: The data to train on.
        host: Turns what ``training_data`` returns into batches.
        emit: Takes signs of life.
        cancelled: Asked before every batch.
        allocate: Gives the memory in which the new parameters are built; fresh memory by default.
        state: What the round ``request.acked_round`` left at this node; what this round leaves is written into it.
        noise_key: The key of the noise for local differential privacy, which nobody but this node can know.
        terms: What the node's rules have taken for granted about batches and samples.

    Returns:
        The reply, the new parameters (none after a mere test), and extra arrays: those for the aggregator, and the
        sums of the tests under `TEST_AUX`.

    Raises:
        TrainingArgsError: The request's training arguments are wrong.
        PlanSourceError: The plan cannot be loaded.
        PlanRunError: The plan raised, or did what a plan must not.
        ParamsError: ``params`` do not fit the plan's model.
        DatasetError: The data cannot be used.
        RefusedError: The plan does not keep to the terms.
        TrainingCancelledError: ``cancelled`` said so.
    """
    began = time.perf_counter()
    args = TrainingArgs.from_request(request.training_args)
    plan_class = load_plan(bundle)
    seeds = SeedTree.root(request.seed)
    global_seed = seeds.child("plan").seed63() if args.random_seed is None else args.random_seed
    with plan_class.seeded(global_seed, threads=args.threads):
        book = state or StateBook()
        if not request.train:
            book = StateBook(book.base)  # one of its own: a test leaves nothing behind
        task = _Task(request, bundle, args, seeds, emit, cancelled, book, noise_key, terms or Terms())
        return task.run(plan_class, params, aux, dataset, host, allocate, began)


class _Task:
    """The steps of one `run_task`, in order."""

    def __init__(
        self,
        request: TrainRequest,
        bundle: PlanBundle,
        args: TrainingArgs,
        seeds: SeedTree,
        emit: Emit,
        cancelled: Callable[[], bool] | None,
        state: StateBook,
        noise_key: bytes,
        terms: Terms,
    ) -> None:
        self.request = request
        self.bundle = bundle
        self.args = args
        self.seeds = seeds
        # the page's random_seed rules the order of samples too: one order in every round and at every node
        self.order = (seeds if args.random_seed is None else SeedTree.root(args.random_seed)).child("order")
        self.emit = emit
        self.cancelled = cancelled
        self.state = state
        self.tests = LocalTests(request.key, emit)
        self.noise_key = noise_key
        self.terms = terms

    def run(
        self,
        plan_class: type[TrainingPlan],
        params: Params,
        aux: Mapping[str, Params],
        dataset: NodeDataset,
        host: PluginHost,
        allocate: Allocate | None,
        began: float,
    ) -> tuple[TrainReply, Params, dict[str, Params]]:
        privacy.check_update(self.args, params)
        plan = self._guard("__init__", plan_class)
        setup = PlanSetup(
            model_args=self.request.model_args,
            training_args=self.args,
            dataset=dataset,
            node_id=self.request.key.node_id,
            round=self.request.key.round,
            total_rounds=self.request.total_rounds,
            aux=aux,
            state=self.state,
            log=self._log,
            noise_key=self.noise_key,
        )
        self._guard("setup", plan.setup, setup)
        plan.set_params(params)
        missing = self._restore(plan)
        guarded = privacy.guard(self.args, plan)
        training, testing, loader = self._data(plan, host)
        with self._opened(self._trainer(plan, training, testing, loader, host)) as trainer:
            if guarded is not None:
                for backend in trainer.backends():
                    backend.guard(guarded)
            if not self.request.train:
                return self._only_test(trainer, len(testing), time.perf_counter() - began)
            trainer.make_plan(Phase.TRAIN)  # nobody waits for a test if there is nothing to train on
            setup_seconds = time.perf_counter() - began
            if self.args.test_on_global_updates:
                self._test(trainer, len(testing), "global")
            result = self._train(trainer)
            self._guard("postprocess", plan.process_params)
            if self.args.test_on_local_updates:
                self._test(trainer, len(testing), "local")
            self._guard("read_optimizer", self._keep, plan)
            extra = self._checked_aux(result)
            aux = {**extra, **self._guard("testing_step", self.tests.aux)}
            spent = self._guard("account", privacy.account, trainer, self.state, self.request)
            reply = TrainReply(
                key=self.request.key,
                sample_count=len(training),
                steps=result.steps,
                metrics={**self.tests.metrics, "loss": result.loss, **spent},
                timing={"train": result.seconds, "train_cpu": result.cpu_seconds, "setup": setup_seconds},
                state=self._state_found(missing),
                aux=tuple(aux),
            )
            read = functools.partial(self._guard, "get_params", plan.get_params)
            protected = functools.partial(privacy.protected, self.args, params, read, extra, allocate, trainer)
            return reply, self._guard("get_params", protected), aux

    @contextmanager
    def _opened(self, trainer: Trainer) -> Iterator[Trainer]:
        """A trainer that is closed afterwards."""
        try:
            yield trainer
        except BaseException as error:
            trainer.close(error)
            raise
        else:
            self._guard("on_release", trainer.close)
        finally:
            # Each has the other, so model, optimizer and data would stay until Python looks for circles.
            del trainer.ctx

    def _only_test(
        self, trainer: Trainer, samples: int, setup_seconds: float
    ) -> tuple[TrainReply, Params, dict[str, Params]]:
        """Test the global parameters, and reply without any."""
        if not samples:
            raise DatasetError(
                f"No sample is held out for testing (test_ratio={self.args.test_ratio}): there is nothing to test on.",
                cure="Raise test_ratio in the training arguments.",
            )
        began = time.perf_counter()
        self._evaluate(trainer, "global")
        aux = self._guard("testing_step", self.tests.aux)
        reply = TrainReply(
            key=self.request.key,
            sample_count=samples,
            metrics=self.tests.metrics,
            timing={"test": time.perf_counter() - began, "setup": setup_seconds},
            aux=tuple(aux),
        )
        return reply, Params.from_arrays({}), aux

    def _checked_aux(self, result: FitResult) -> dict[str, Params]:
        """What hooks put into the outbox, for the aggregator."""
        for name, value in result.aux.items():
            if not isinstance(value, Params):
                raise PlanRunError(
                    f"A hook put {type(value).__name__} into ctx.outbox[{name!r}], but only Params can travel.",
                    cure="Use Params.from_arrays({...}).",
                )
            if name == TEST_AUX:
                raise PlanRunError(f"A hook used ctx.outbox[{name!r}], which is reserved.", cure="Use another name.")
        return dict(result.aux)

    def _restore(self, plan: TrainingPlan) -> str:
        """Go on from what the last acknowledged round left. Returns what is missing, in words."""
        if self.request.acked_round < 0:
            return ""
        return self._guard(
            "optimizer", lambda: local_state.restore(plan, self.state, optimizer=self.args.keep_optimizer_state)
        )

    def _keep(self, plan: TrainingPlan) -> None:
        local_state.keep(plan, self.state, optimizer=self.args.keep_optimizer_state)

    def _state_found(self, missing: str) -> str:
        """``TrainReply.state``; the researcher is told when something should have been there."""
        nothing_was_left = self.request.acked_round < 0 or not (self.request.acked_state or self.state.base)
        if nothing_was_left or self.state.is_empty:
            return "none"
        if not missing and self.state.base is not None:
            return "kept"
        what = missing or "nothing is stored"
        self._log(
            f"The state of round {self.request.acked_round + 1}, from which this node should have gone on, is not "
            f"there ({what}). It went on from fresh local state."
        )
        return "absent"

    def _data(self, plan: TrainingPlan, host: PluginHost) -> tuple[BatchSource, BatchSource, LoaderArgs]:
        """The training part, the held-out part, and how to draw from them."""
        manager = self._guard("training_data", plan.make_data)
        source = self._guard("training_data", host.wrap_data, manager, plan.framework)
        loader = LoaderArgs.merge(self.args.loader_args, manager.loader_args)
        source.check_args(loader)
        # The same samples are held out in every round, unless other ones are asked for.
        root = self.seeds if self.args.shuffle_testing_dataset else SeedTree.root(self.request.data_seed)
        stratify = self.args.stratify_testing_dataset
        training, testing = source.split(self.args.test_ratio, root.child("split"), stratify=stratify)
        if self.request.train:
            self.terms.check(self.args, loader, len(training))
        return training, testing, loader

    def _trainer(
        self, plan: TrainingPlan, training: BatchSource, testing: BatchSource, loader: LoaderArgs, host: PluginHost
    ) -> Trainer:
        def report(point: LoopPoint) -> None:
            self.emit(
                Progress(
                    key=self.request.key,
                    step=point.step,
                    total_steps=point.total,
                    epoch=point.epoch,
                    samples=point.samples,
                    seconds=point.seconds,
                    metrics={"loss": point.loss},
                )
            )

        data = {"train": training, "test": testing}
        make = functools.partial(plan_trainer, host=host, report=report, cancelled=self.cancelled, log=self._log)
        return self._guard("make_backend", make, plan, data, loader, self.order)

    def _train(self, trainer: Trainer) -> FitResult:
        with self._plan_errors("training_step"):
            return trainer.train(with_params=False)

    def _test(self, trainer: Trainer, samples: int, when: Literal["global", "local"]) -> None:
        if not samples:
            self._log(f"No sample is held out (test_ratio={self.args.test_ratio}): nothing was tested.")
            return
        try:
            self._evaluate(trainer, when)
        except TrainingCancelledError:
            raise
        except FedplugError as error:
            # The training is worth more than a figure about it: it goes on, and everybody is told.
            text = f"The test on {when} updates failed, and its figures are missing. {error.message}"
            self._log(f"{text}\n{error.cure}".rstrip(), level="error")

    def _evaluate(self, trainer: Trainer, when: Literal["global", "local"]) -> None:
        with self._plan_errors("testing_step"):
            self.tests.add(when, trainer.evaluate(), trainer.metrics)

    def _log(self, text: str, level: Literal["warning", "error"] = "warning") -> None:
        # Whoever takes the signs shows this: a node in its log, a simulation in the researcher's progress.
        self.emit(LogLine(level=level, text=text, key=self.request.key))

    def _guard(self, method: str, call: Callable[..., _T], *args: Any) -> _T:
        with self._plan_errors(method):
            return call(*args)

    def _plan_errors(self, method: str) -> AbstractContextManager[None]:
        return plan_errors(self.bundle, method)
