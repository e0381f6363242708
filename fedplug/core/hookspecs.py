"""Every hook of FedPlug, on one page.

A round, with the hooks at their places (those at the left margin run at the researcher)::

    PluginHost.discover()                            # once per process, at either side
        fedplug_register_training_plans()
        fedplug_register_aggregators()
        fedplug_register_agg_optimizers()
        fedplug_register_strategies()
        fedplug_register_data_managers()
        fedplug_register_dataset_types()
        fedplug_register_transports()
        fedplug_register_metrics()
        fedplug_register_engines()

    Experiment(training_plan_class=Net)
        fedplug_wrap_model(model)                    # only if Net is not a training plan already

    for each round:
        node_ids = strategy.select(ctx, nodes)
        fedplug_round_start(ctx, node_ids)
        for each node, on the node:
            fedplug_authorise_training(request, plan, dataset)   # before anything of the plan runs
            manager = plan.training_data()
            fedplug_wrap_data(manager, framework)    # what the training loop draws batches from
            fedplug_trainer_hooks(info)              # what the training loop calls, batch by batch
            train, reply
        in a simulation with engine="cohort", for several of them at once:
            fedplug_train_cohort(plan, args, compiled)   # once for a plan: what trains stacked nodes
        params = aggregator.aggregate(start, updates, ctx)
        fedplug_round_end(ctx, result)

No hook selects nodes or averages: those are components (`Strategy`, `Aggregator`), which an experiment
chooses by name, so that each has one owner.

A hook has one of six kinds, and its kind says what happens when a plugin raises (`HOOK_KINDS`):

======== ============================================== ====================================================
kind     rule                                           if a plugin raises
======== ============================================== ====================================================
collect  each plugin is called alone, at load           that plugin is ``failed``, the others go on
first    the first answer that is not None wins         the call is aborted; a note names the plugin
gather   all answers count, each under its plugin       the call is aborted with `PluginError`, which names
                                                        plugin, distribution and version
veto     one `Deny` refuses                             counts as `Deny`
fold     one's result is the next one's input;          the call is aborted with `PluginError`, which names
         None leaves the value as it is                 plugin, distribution and version
observe  results are ignored                            one warning per plugin and hook, counted; all goes on
======== ============================================== ====================================================

A plugin that does not come back cannot be stopped. Of hooks of the kinds veto and observe, for which the whole process
waits, the log names it after half a minute. Those of a training are its node's to end: it counts as stalled.

No hook of kind fold exists yet; the host has the mechanism, and later hooks only need a line here.

Plugins are asked in the order of their names, the core's own last; ``@hookimpl(tryfirst=True)`` moves one to
the front, ``trylast`` to the back. A plugin's function may leave out arguments that it does not need. All
hooks are called through the typed methods of `fedplug.core.plugins.PluginHost`, never directly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fedplug.core.markers import hookspec

if TYPE_CHECKING:
    from fedplug.core.cohort import CohortAnswer
    from fedplug.core.components import Component
    from fedplug.core.context import RoundContext, RoundResult
    from fedplug.core.data import BatchSource, DataManager
    from fedplug.core.messages import DatasetCard, TrainRequest
    from fedplug.core.plan_source import PlanBundle
    from fedplug.core.trainer import Hook, TrainerInfo
    from fedplug.core.training_args import TrainingArgs
    from fedplug.core.training_plan import TrainingPlan

HookKind = Literal["collect", "first", "gather", "veto", "fold", "observe"]

HOOK_KINDS: dict[str, HookKind] = {
    "fedplug_register_training_plans": "collect",
    "fedplug_register_aggregators": "collect",
    "fedplug_register_agg_optimizers": "collect",
    "fedplug_register_strategies": "collect",
    "fedplug_register_data_managers": "collect",
    "fedplug_register_dataset_types": "collect",
    "fedplug_register_transports": "collect",
    "fedplug_register_metrics": "collect",
    "fedplug_register_engines": "collect",
    "fedplug_wrap_model": "first",
    "fedplug_wrap_data": "first",
    "fedplug_train_cohort": "first",
    "fedplug_trainer_hooks": "gather",
    "fedplug_authorise_training": "veto",
    "fedplug_round_start": "observe",
    "fedplug_round_end": "observe",
}
"""The kind of each hook."""


@dataclass(frozen=True, slots=True)
class Allow:
    """A plugin's consent, for hooks of kind veto; the same as no answer."""


@dataclass(frozen=True, slots=True)
class Deny:
    """A refusal, for hooks of kind veto.

    Attributes:
        reason: Why, in words for whoever asked.
        plugin: Who refused; filled in by the host.
        broken: Whether the plugin could not answer; filled in by the host. Then the reason is what it raised, which
            may hold what only the node's owner is to see.
    """

    reason: str
    plugin: str = ""
    broken: bool = False


# collect: what a plugin offers -----------------------------------------------------------------------------


@hookspec
def fedplug_register_training_plans() -> Iterable[Component]:
    """Offer bases of training plans. Fires once, when plugins are loaded.

    Returns:
        Components whose targets are classes derived from `TrainingPlan`, named after their framework.
    """
    raise NotImplementedError


@hookspec
def fedplug_register_aggregators() -> Iterable[Component]:
    """Offer aggregators, for ``Experiment(aggregator="name")``. Fires once, when plugins are loaded.

    Returns:
        Components whose targets are classes derived from `Aggregator`.
    """
    raise NotImplementedError


@hookspec
def fedplug_register_agg_optimizers() -> Iterable[Component]:
    """Offer optimizers of the researcher, for ``Experiment(agg_optimizer="name")``.

    Fires once, when plugins are loaded.

    Returns:
        Components whose targets are classes derived from `AggOptimizer`.
    """
    raise NotImplementedError


@hookspec
def fedplug_register_strategies() -> Iterable[Component]:
    """Offer strategies, for ``Experiment(node_selection_strategy="name")``. Fires once, when plugins are loaded.

    Returns:
        Components whose targets are classes derived from `Strategy`.
    """
    raise NotImplementedError


@hookspec
def fedplug_register_data_managers() -> Iterable[Component]:
    """Offer ways to hand data to the training loop. Fires once, when plugins are loaded.

    Returns:
        Components whose targets are classes derived from `BatchSource`.
    """
    raise NotImplementedError


@hookspec
def fedplug_register_dataset_types() -> Iterable[Component]:
    """Offer kinds of files that a node can hold, for ``fedplug node dataset add --type name``.

    Fires once, when plugins are loaded.

    Returns:
        Components whose targets are classes derived from `DatasetType`, under the same name.
    """
    raise NotImplementedError


@hookspec
def fedplug_register_transports() -> Iterable[Component]:
    """Offer transports, chosen by the scheme of an address. Fires once, when plugins are loaded.

    Returns:
        Components named after their scheme, whose targets are classes derived from `Transport`.
    """
    raise NotImplementedError


@hookspec
def fedplug_register_metrics() -> Iterable[Component]:
    """Offer metrics, for ``training_args["test_metric"]``. Fires once, when plugins are loaded.

    Returns:
        Components whose targets are classes derived from `Metric`, named in lower case.
    """
    raise NotImplementedError


@hookspec
def fedplug_register_engines() -> Iterable[Component]:
    """Offer engines of simulations, for ``Federation(engine="name")``. Fires once, when plugins are loaded.

    Returns:
        Components whose targets are classes derived from `fedplug.simulation.Engine`, made without arguments.
    """
    raise NotImplementedError


# first: the first plugin that knows what to do ---------------------------------------------------------------


@hookspec(firstresult=True)
def fedplug_wrap_model(model: type) -> PlanBundle | None:
    """Turn a bare model class into a training plan. Fires at the researcher, when an experiment is given one.

    Args:
        model: The class, such as one derived from ``torch.nn.Module``; not a training plan.

    Returns:
        The plan as it travels; None if this plugin does not know the class.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def fedplug_wrap_data(manager: DataManager, framework: str) -> BatchSource | None:
    """Turn what a plan's ``training_data`` returned into batches. Fires on the node, before it trains.

    Args:
        manager: The data as the user gave it.
        framework: The plan's framework, e.g. ``"torch"``.

    Returns:
        What the training loop draws from; None if this plugin does not serve the framework.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def fedplug_train_cohort(plan: TrainingPlan, args: TrainingArgs, compiled: bool) -> CohortAnswer | None:
    """Offer to train several virtual nodes at once. Fires in a simulation, once for a plan and its arguments.

    Args:
        plan: A plan that was set up with its optimizer, and leaves everything around its steps to the library.
        args: The training arguments.
        compiled: Whether the researcher asks for compiled steps.

    Returns:
        A `CohortTrainer`; `NotStacked` with the reason why this plan cannot be trained so; None if this plugin does not
        serve the plan's framework.
    """
    raise NotImplementedError


# gather: what all plugins have to add ------------------------------------------------------------------------


@hookspec
def fedplug_trainer_hooks(info: TrainerInfo) -> Iterable[Hook]:
    """Add hooks to the training loop. Fires on the node, before each training; and for ``fedplug plugins show``.

    Args:
        info: The training; only its defaults where nothing but the table is wanted.

    Returns:
        Hooks, as `fedplug.core.trainer.hook` makes them.
    """
    raise NotImplementedError


# veto: who may say no ------------------------------------------------------------------------------------------


@hookspec
def fedplug_authorise_training(request: TrainRequest, plan: PlanBundle, dataset: DatasetCard) -> Allow | Deny | None:
    """Say whether a training, or a test, may take place. Fires on the node, before anything of the plan runs.

    It fires after the owner's own rules, so it can only forbid more: neither an approval nor a rule is undone by it.

    Args:
        request: What the researcher asks for. Only to be read.
        plan: The training plan as it came: text, which nobody has executed.
        dataset: What researchers can see of the data set: no path, no row.

    Returns:
        `Deny` with a reason, which the researcher is told; `Allow` or None where this plugin has nothing against it.
    """
    raise NotImplementedError


# observe: what happens ---------------------------------------------------------------------------------------


@hookspec
def fedplug_round_start(ctx: RoundContext, node_ids: Sequence[str]) -> None:
    """A round begins. Fires at the researcher, after nodes were selected and before anything is sent.

    Args:
        ctx: The round.
        node_ids: The nodes that are asked to train, sorted.
    """
    raise NotImplementedError


@hookspec
def fedplug_round_end(ctx: RoundContext, result: RoundResult) -> None:
    """A round is complete. Fires at the researcher, after aggregation; not for a round that was aborted.

    Args:
        ctx: The round.
        result: What came out; read-only.
    """
    raise NotImplementedError
