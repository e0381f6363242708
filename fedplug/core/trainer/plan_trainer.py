"""A `Trainer` for a training plan on a node: the plan's backend and hooks, the plugins' hooks, the node's data."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fedplug.core.data import BatchSource, LoaderArgs
from fedplug.core.errors import UsageError
from fedplug.core.metrics.making import make_metrics
from fedplug.core.privacy import privacy_args
from fedplug.core.processes import ProcessTypes
from fedplug.core.rng import SeedTree
from fedplug.core.trainer.defaults import Report
from fedplug.core.trainer.hooks import hooks_of
from fedplug.core.trainer.info import TrainerInfo
from fedplug.core.trainer.trainer import Trainer
from fedplug.core.training_args import TrainingArgs
from fedplug.core.training_plan import TrainingPlan

if TYPE_CHECKING:
    from fedplug.core.plugins import PluginHost


def plan_trainer(
    plan: TrainingPlan,
    data: dict[str, BatchSource | None],
    loader: LoaderArgs | None = None,
    seed: SeedTree | int | None = None,
    *,
    host: PluginHost | None = None,
    report: Report | None = None,
    cancelled: Callable[[], bool] | None = None,
    **options: Any,
) -> Trainer:
    """The trainer of a plan that was set up.

    Args:
        plan: The plan; its methods that are hooks are added as the researcher's own.
        data: Batches by split.
        loader: How batches are drawn.
        seed: Root of the order of samples.
        host: Whose plugins' hooks are added; None: no plugin's.
        report: Takes signs of life.
        cancelled: Asked before every batch.
        **options: As for `Trainer`.

    Raises:
        PluginError: A plugin's hooks cannot be used.
        PlanError: The plan was not set up.
        UsageError: Local differential privacy is asked for, and the plan's trainer does not give it.
    """
    state = plan._state
    if host is not None and state.training_args.test_metric and "metrics" not in options:
        wanted = state.training_args
        options["metrics"] = make_metrics(wanted.test_metric, wanted.test_metric_args, host)
    train = data.get("train")
    if train is not None and plan.pre_processes:
        data = {**data, "train": plan.processed(train)}
    backend = plan.make_backend()
    backend.local_names = frozenset(plan.parameter_tags().local)
    trainer = plan.make_trainer(
        backend, data, args=state.training_args, loader=loader, seed=seed, report=report,
        cancelled=cancelled, **{"log": state.log, **options},
    )  # fmt: skip
    _require_protection(state.training_args, plan, trainer)
    trainer.ctx.inbox = dict(state.aux)
    trainer.ctx.state = state.state
    trainer.ctx.round = state.round
    if host is not None:
        info = TrainerInfo(plan.framework, plan.training_args(), state.node_id, state.round, tuple(state.aux))
        for plugin, hooks in host.trainer_hooks(info).items():
            trainer.install(plugin, hooks)
    for each in hooks_of(plan):
        trainer.add_hook(each)
    return trainer


def _require_protection(args: TrainingArgs, plan: TrainingPlan, trainer: Trainer) -> None:
    """``make_backend`` and ``make_trainer`` may be the plan's own: what they made must protect the samples too."""
    if not privacy_args(args, "local"):
        return
    if any(kind is ProcessTypes.DATA_LOADER for kind, _ in plan.pre_processes):
        raise UsageError(
            "dp_args ask for local differential privacy, but the plan changes batches by add_preprocess, which may mix "
            "samples, so that a bound on the gradient of each would bound nothing.",
            cure="Prepare the samples one by one in training_data, or leave dp_args out.",
        )
    changes = [getattr(method, "__name__", "a method") for kind, method in plan.pre_processes]
    changes += ["postprocess"] if getattr(plan, "postprocess", None) is not None else []
    if changes:
        raise UsageError(
            f"dp_args ask for local differential privacy, but {changes[0]} changes the parameters after the training, "
            "and what it changes has no noise.",
            cure="Leave it out, or use dp_args of type 'central', which covers whatever leaves the node.",
        )
    if not all(each.protects_samples for each in trainer.backends()):
        raise UsageError(
            "dp_args ask for local differential privacy, but the plan's make_backend or make_trainer made a backend "
            "that does not protect the gradients of samples.",
            cure="Leave make_backend as the framework defines it, and train one model; or leave dp_args out.",
        )
