"""`Trainer`: one model, its data and its hooks; train, evaluate, fine-tune."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from fedplug.core.closing import Closing
from fedplug.core.data import BatchSource, LoaderArgs
from fedplug.core.errors import PlanError, PluginError, UsageError
from fedplug.core.metrics.base import Metric
from fedplug.core.metrics.making import make_metrics
from fedplug.core.params import Params
from fedplug.core.plan_optimizer import PlanOptimizer
from fedplug.core.rng import SeedTree
from fedplug.core.trainer import checkpoint, split_data
from fedplug.core.trainer.backend import Backend
from fedplug.core.trainer.context import Context
from fedplug.core.trainer.defaults import SCHEDULER_UNITS, Report, default_hooks
from fedplug.core.trainer.hook_set import HookSet
from fedplug.core.trainer.hooks import Hook, make_hook
from fedplug.core.trainer.loop import settle
from fedplug.core.trainer.methods import hooks_for
from fedplug.core.trainer.points import Phase, Trigger
from fedplug.core.trainer.result import FitResult, HookRow, HookTable
from fedplug.core.trainer.runner import RoutineRunner
from fedplug.core.training_args import TrainingArgs

_LOG = logging.getLogger("fedplug.trainer")
_POLICIES = ("per_routine", "keep")

Args = TrainingArgs | Mapping[str, Any] | None


class Trainer(RoutineRunner, Closing):
    """Trains, evaluates and fine-tunes one model. Everything in between is a hook.

    Args:
        backend: The model and its optimizer.
        data: By split; see `parse_data`.
        args: Training arguments: epochs, num_updates, loader_args, optimizer_args, fedprox_mu, grad_clip, ...
        finetune_args: The same for fine-tuning, which otherwise takes those of training.
        loader: How batches are drawn; from the training arguments by default.
        seed: Root of the order of samples.
        only_for_eval: Whether training needs no hooks, because there will be none.
        optimizer_state: ``per_routine``: each training starts with a new optimizer; ``keep``: it goes on with the
            last one's momentum and the like.
        report: Takes signs of life, every ``args.log_interval`` steps.
        cancelled: Asked before every batch.
        log: Takes lines that the user should see.
        strict: Whether a name that a hook leaves behind without a scope is an error.
        metrics: What an evaluation measures, by name; by default what ``args.test_metric`` says.

    Raises:
        UsageError: An argument is of no use.
        UnknownNameError: There is no such metric, or no such argument of one.
    """

    def __init__(
        self,
        backend: Backend,
        data: Any = None,
        *,
        args: Args = None,
        finetune_args: Args = None,
        loader: LoaderArgs | None = None,
        seed: SeedTree | int | None = None,
        only_for_eval: bool = False,
        optimizer_state: str = "per_routine",
        report: Report | None = None,
        cancelled: Callable[[], bool] | None = None,
        log: Callable[[str], object] = _LOG.warning,
        strict: bool = False,
        metrics: Mapping[str, Metric] | None = None,
    ) -> None:
        if optimizer_state not in _POLICIES:
            raise UsageError(f"optimizer_state must be one of {', '.join(_POLICIES)}, got {optimizer_state!r}.")
        if backend.scheduler_unit not in SCHEDULER_UNITS:
            raise UsageError(
                f"A scheduler steps per {', '.join(SCHEDULER_UNITS)}, not per {backend.scheduler_unit!r}.",
                cure="Set scheduler_unit to one of these.",
            )
        self.args = _as_args(args)
        self.finetune_args = None if finetune_args is None else _as_args(finetune_args)
        self.loader = loader
        self.seed = seed if isinstance(seed, SeedTree) else SeedTree.root(seed)
        self.optimizer_state = optimizer_state
        self.strict = strict
        asked = self.args.test_metric, self.args.test_metric_args
        self.metrics = make_metrics(*asked) if metrics is None else dict(metrics)
        self.log = log
        self.leaks: tuple[str, ...] = ()
        self.routines = 0  # trainings so far; each has an order of samples of its own
        self._plugins: list[str] = []
        self._backend = backend
        self.ctx = Context(self, backend)
        self._cancelled, self._report, self._report_every = cancelled, report, self.args.log_interval
        sets = _default_sets(
            only_for_eval, reports=report is not None and self._report_every > 0, cancels=cancelled is not None,
            scheduler_unit=backend.scheduler_unit if backend.has_scheduler() else "", measured=bool(self.metrics),
            talks=isinstance(backend.optimizer, PlanOptimizer),
        )  # fmt: skip
        self.hooks: dict[Phase, HookSet] = {phase: hooks.copy() for phase, hooks in sets.items()}
        self.ctx.grad_clip = self.args.grad_clip or 0.0
        if not only_for_eval:
            for each in hooks_for(self.args):
                for phase in each.phases:
                    self.hooks[phase].add(each)
        self.set_data({} if data is None else data)

    # data --------------------------------------------------------------------------------------------------

    def parse_data(self, data: Any) -> split_data.Parsed:
        """``{split}_data``, ``{split}_loader`` and ``num_{split}_data`` of each split; to be overridden."""
        return split_data.parse_data(data)

    def set_data(self, data: Any) -> None:
        """Take other data, in any form that `parse_data` understands."""
        self.ctx.data = split_data.by_split(self.parse_data(data))
        self._sources: dict[str, BatchSource | None] = {}

    def source(self, split: str) -> BatchSource | None:
        """What batches of ``split`` are drawn from; None if there is no data."""
        if split not in self._sources and split in self.ctx.data:
            self._sources[split] = split_data.source_of(split, self.ctx.data[split], self.ctx.backend.wrap)
        return self._sources.get(split)

    # routines ----------------------------------------------------------------------------------------------

    def train(self, split: str = "train", *, hooks: HookSet | None = None, with_params: bool = True) -> FitResult:
        """Train for as long as the training arguments say.

        Args:
            split: What to train on.
            hooks: Hooks for this time only, instead of the trainer's own; an empty set is a set.
            with_params: Whether to copy the parameters into the result.

        Raises:
            DatasetError: There is no such data, or it makes no batch.
            PlanRunError: A loss is NaN or infinite.
        """
        return self._run(Phase.TRAIN, split, hooks, with_params)

    def finetune(self, split: str = "train", *, hooks: HookSet | None = None, with_params: bool = True) -> FitResult:
        """Train with the arguments, optimizer and hooks of fine-tuning; see `train`."""
        return self._run(Phase.FINETUNE, split, hooks, with_params)

    def evaluate(
        self, split: str = "test", *, hooks: HookSet | None = None, batch_size: int | None = None
    ) -> FitResult:
        """One full pass over a split, in its own order.

        Args:
            split: What to test on; without data it is told and nothing found.
            hooks: Hooks for this time only, instead of the trainer's own.
            batch_size: Samples per batch; by default ``args.test_batch_size``, or else all in one if there is a
                ``testing_step``, and 1024 if there is none.
        """
        if self.source(split) is None:
            self.log(f"There is no data in split {split!r}: nothing was tested.")
            return FitResult()
        return self._run(Phase.EVAL, split, hooks, False, batch_size)

    def measure(self, outputs: Any, targets: Any) -> None:
        """Add a batch to the metrics of ``test_metric``; for hooks of an evaluation.

        Args:
            outputs: What the model put out, in the framework's own arrays.
            targets: What it should have been.

        Raises:
            PlanError: There are no targets, or a metric cannot be made of these.
        """
        if targets is None:
            raise PlanError(
                "The test data has no targets, so that test_metric has nothing to compare with.",
                cure="Give DataManager a target.",
            )
        to_numpy = self.ctx.backend.to_numpy
        self.ctx.meter.add_states(self.metrics, to_numpy(outputs), to_numpy(targets))

    # parameters --------------------------------------------------------------------------------------------

    def get_params(self) -> Params:
        """The parameters, copied: later training does not change them."""
        return self.ctx.backend.get_params()

    def update(self, params: Mapping[str, Any], *, strict: bool = True) -> None:
        """Take over parameters; what is given is not changed.

        Args:
            params: By name.
            strict: Whether all of the model's must be there; otherwise the others stay.

        Raises:
            ParamsError: A name is unknown or missing, or a shape or dtype differs; it is named.
        """
        given = params if isinstance(params, Params) else Params.from_arrays(params)
        backend = self.ctx.backend
        if not strict:
            own = backend.get_params()
            given = Params.from_arrays({**own, **{name: given[name] for name in given}})
        backend.set_params(given)

    def save_model(self, path: Path | str, cur_round: int = -1) -> None:
        """Save all models, optimizers, schedulers, random streams, and the round."""
        checkpoint.save(Path(path), [b.save_state() for b in self.backends()], cur_round, self.routines)

    def load_model(self, path: Path | str) -> int:
        """Go on from what `save_model` wrote, and return its round.

        Raises:
            UsageError: The file is not there.
            CodecError: It is something else.
            ParamsError: It is of another model.
        """
        states, cur_round, self.routines = checkpoint.load(Path(path), len(self.backends()))
        for backend, state in zip(self.backends(), states, strict=True):
            backend.load_state(state)
        return cur_round

    # hooks -------------------------------------------------------------------------------------------------

    def hook_set(self, phase: Phase | str, model_idx: int = 0) -> HookSet:
        """The hooks of a phase."""
        if model_idx != 0:
            raise UsageError(f"This trainer has one model, so model_idx must be 0, got {model_idx!r}.")
        return self.hooks[Phase.of(phase)]

    def add_hook(self, hook: Any, trigger: Trigger | str | None = None, **where: Any) -> Hook:
        """Add a hook to every phase that it names; see `HookSet.add` for ``where``."""
        made = make_hook(hook, trigger, name=where.get("name", ""))
        for phase in made.phases:
            for hooks in self._sets_of(phase):
                hooks.add(made, **where)
        return made

    def install(self, plugin: str, hooks: Iterable[Hook]) -> None:
        """Add the hooks of a plugin to all phases.

        Raises:
            PluginError: It is installed already.
        """
        made = list(hooks)
        if plugin in self._plugins:
            raise PluginError(f"The hooks of plugin {plugin!r} are installed already.", plugin=plugin)
        sets = [each for phase in Phase for each in self._sets_of(phase)]
        if made:  # all or nothing: it is tried on copies
            for each in sets:
                copy = each.copy()
                copy.install(plugin, made)
                copy.compile()
        for each in sets:
            each.install(plugin, made)
        self._plugins.append(plugin)

    def uninstall(self, plugin: str) -> None:
        """Remove the hooks of a plugin; the table is what it was before it was installed."""
        for phase in Phase:
            for hooks in self._sets_of(phase):
                hooks.uninstall(plugin)
        self._plugins.remove(plugin)

    def describe(self) -> HookTable:
        """All hooks in the order of calls; print it."""
        return HookTable(
            HookRow(phase.value, trigger.value, order, each.name, each.plugin, model)
            for phase in Phase
            for model, hooks in enumerate(self._sets_of(phase))
            for trigger in Trigger
            for order, each in enumerate(hooks[trigger])
        )

    # for hooks and drivers ---------------------------------------------------------------------------------

    def backends(self) -> list[Backend]:
        """The backends of all models."""
        return [self._backend]

    def close(self, error: BaseException | None = None) -> None:
        """Release what hooks set for the run.

        Args:
            error: What has ended the run, if it did not end well. What is raised while things are released is added to
                it as notes; where there is none, the first of that is raised.
        """
        settle(error, self.ctx.frames.clear())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(error)


@functools.lru_cache(maxsize=64)
def _default_sets(only_for_eval: bool, **wanted: Any) -> Mapping[Phase, HookSet]:
    """What trainers begin with copies of; put in order once, as there is a trainer for every task."""
    hooks = [each for each in default_hooks(**wanted) if not only_for_eval or Phase.EVAL in each.phases]
    sets = {phase: HookSet(phase, hooks) for phase in Phase}
    for each in sets.values():
        each.compile()
    return sets


def _as_args(args: Args) -> TrainingArgs:
    return args if isinstance(args, TrainingArgs) else TrainingArgs.from_dict(args)
