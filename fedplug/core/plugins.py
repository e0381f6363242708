"""The plugin host: finds plugins, checks them, keeps them apart, and calls their hooks.

Discovery never raises. A plugin that cannot be used becomes a `PluginRecord` that says why, and what to do.
"""

from __future__ import annotations

import functools
import importlib
import os
import traceback
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib.metadata import EntryPoint, PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from fedplug.core import hookspecs
from fedplug.core.components import (
    COMPONENT_HOOKS,
    Catalog,
    Component,
    Kind,
    Offer,
    broken_remark,
    import_cure,
    install_cure,
    label,
)
from fedplug.core.errors import FedplugError, PluginError, UnknownNameError, UsageError
from fedplug.core.hook_calls import HookCalls
from fedplug.core.hookspecs import HOOK_KINDS, Deny, HookKind
from fedplug.core.markers import API_VERSION, PROJECT
from fedplug.core.plugin_checks import (
    BUILTIN,
    PluginRecord,
    RefusedPlugin,
    distribution_of,
    hook_functions,
    installed_plugins,
    require_admission,
    require_api,
)

if TYPE_CHECKING:
    from fedplug.core.cohort import CohortAnswer
    from fedplug.core.context import RoundContext, RoundResult
    from fedplug.core.data import BatchSource, DataManager
    from fedplug.core.messages import DatasetCard, TrainRequest
    from fedplug.core.plan_source import PlanBundle
    from fedplug.core.trainer import Hook, TrainerInfo
    from fedplug.core.training_args import TrainingArgs
    from fedplug.core.training_plan import TrainingPlan


class _Hooks:
    """The hook functions of a plugin and nothing else, so that `pluggy` never looks at its other names."""

    def __init__(self, functions: Mapping[str, Any]) -> None:
        vars(self).update(functions)


class PluginHost(HookCalls):
    """All plugins of a process. Use `discover` or `default_host`; an empty host is for tests.

    Args:
        specs: The module with the hooks.
        kinds: The kind of each hook.
    """

    def __init__(self, specs: Any = hookspecs, kinds: Mapping[str, HookKind] = HOOK_KINDS) -> None:
        super().__init__(specs, kinds)
        self._unusable: list[PluginRecord] = []
        self._catalog = Catalog()

    # life cycle ------------------------------------------------------------------------------------------------

    @classmethod
    def discover(cls, only: Collection[str] | None = None, *, found: Iterable[EntryPoint] | None = None) -> PluginHost:
        """Load the core's own components and all installed plugins.

        Args:
            only: Names of the plugins to load; the others become ``blocked``. None means those that the
                environment variable ``FEDPLUG_PLUGINS`` lists (separated by commas; empty for none), and all
                if it is not set.
            found: The entry points to consider, instead of those of the installed distributions.
        """
        host = cls()
        host.register(importlib.import_module("fedplug.builtin"), BUILTIN, dist=PROJECT, version=_core_version())
        listed = os.environ.get("FEDPLUG_PLUGINS")
        if only is None and listed is not None:
            only = [name for part in listed.split(",") if (name := part.strip())]
        points, problem = installed_plugins() if found is None else (found, "")
        if problem:
            cure = "Find the broken package with: pip check"
            host._unusable.append(PluginRecord("(environment)", state="failed", error=problem, cure=cure))
        ordered = sorted(points, key=lambda point: (point.name, distribution_of(point)[0]))
        names = Counter(point.name for point in ordered)
        usable: list[tuple[PluginRecord, Any]] = []
        for point in ordered:
            dist, dist_version = distribution_of(point)
            record = PluginRecord(point.name, dist, dist_version, module=point.value)
            try:
                require_admission(record, names, only)
                usable.append((record, point.load()))
            except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a stranger's module raises
                host._refuse(record, error)
        for record, plugin in reversed(usable):  # pluggy asks the one registered last first
            host._take(record, plugin)
        for name in [] if problem else sorted(set(only or ()) - set(names) - {BUILTIN}):
            cure = UnknownNameError("plugin", name, names).cure
            host._unusable.append(PluginRecord(name, state="failed", error="It is not installed.", cure=cure))
        return host

    def register(self, plugin: Any, name: str, *, dist: str = "", version: str = "") -> PluginRecord:
        """Take in a module, or any object with hook functions, as a plugin that is not installed.

        Raises:
            UsageError: A plugin of that name is there already.
        """
        if name in self._records:
            raise UsageError(f"There is a plugin named {name!r} already.")
        record = PluginRecord(name, dist, version, module=getattr(plugin, "__name__", type(plugin).__name__))
        self._take(record, plugin)
        return record

    def _take(self, record: PluginRecord, plugin: Any) -> None:
        """Check a plugin that was loaded, register it, and collect what it offers."""
        try:
            record.api = getattr(plugin, "__fedplug_api__", API_VERSION)
            require_api(record)
            functions = hook_functions(plugin, self._specs)
            record.hooks = tuple(sorted(functions))
            self._records[record.name] = record
            self._manager.register(_Hooks(functions), record.name)
        except Exception as error:  # noqa: BLE001 - a stranger's module can raise anything
            self._refuse(record, error)
            return
        for hook, kind in COMPONENT_HOOKS.items():
            if hook in record.hooks and hook in self._specs:
                for _, offered in self._collect(hook, plugin=record.name):
                    self._offer(record, kind, offered)

    def _offer(self, record: PluginRecord, kind: Kind, offered: Any) -> None:
        """Put what a collect hook returned into the catalog; a plugin that returns nonsense fails."""
        try:
            for component in offered:
                if not isinstance(component, Component):
                    raise PluginError(
                        f"It offers {component!r} as {kind.replace('_', ' ')}.",
                        cure='Return a list of Component("name", "package.module:Class").',
                    )
                offer = Offer(kind, record.name, component)
                self._catalog.add(offer)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the hook may be a generator that raises
            self._refuse(record, error)

    def _refuse(self, record: PluginRecord, error: BaseException) -> None:
        """Take a plugin out, with all that it offered, and keep the reason."""
        if isinstance(error, RefusedPlugin):
            record.state, record.error, record.cure = error.state, error.error, error.cure
        else:
            record.state = "failed"
            record.details = "".join(traceback.format_exception(error))
            known = isinstance(error, FedplugError)
            record.error = getattr(error, "message", "") if known else f"{type(error).__name__}: {error}"
            record.cure = (getattr(error, "cure", "") if known else "") or import_cure(error, record.name)
        if self._records.get(record.name) is record:
            del self._records[record.name]
            self._catalog.remove(record.name)
            if self._manager.has_plugin(record.name):
                self._manager.unregister(name=record.name)
        self._unusable.append(record)

    # what there is -----------------------------------------------------------------------------------------------

    @property
    def records(self) -> list[PluginRecord]:
        """All plugins, usable or not: the core's first, then sorted by name and distribution."""
        for record in self._records.values():
            clashes = [
                (offer, other)
                for offer in self._catalog.offers(plugin=record.name)
                for other in self._catalog.conflicts(offer)
            ]
            record.state = "conflict" if clashes else "ok"
            if clashes:
                offer, other = clashes[0]
                name = offer.component.name
                record.error = f"Plugin {other.plugin!r} offers the {label(offer.kind)} {name!r} too."
                record.cure = f"Write {offer.qualified!r} or {other.qualified!r} instead of {name!r}."
        every = [*self._records.values(), *self._unusable]
        return sorted(every, key=lambda r: (r.name != BUILTIN, r.name, r.dist != PROJECT, r.dist))

    def components(self, kind: Kind | None = None, *, plugin: str | None = None) -> list[Offer]:
        """What plugins offer, of one kind or all, by one plugin or all; nothing is imported."""
        return self._catalog.offers(kind, plugin=plugin)

    def component(self, kind: Kind, name: str) -> Any:
        """The component called ``name``, imported on first use: usually a class.

        Args:
            kind: ``"training_plan"``, ``"aggregator"``, ``"agg_optimizer"``, ``"strategy"``, ``"data_manager"``,
                ``"dataset_type"``, ``"transport"``, ``"metric"`` or ``"engine"``.
            name: Its name, or ``"plugin:name"``.

        Raises:
            UnknownNameError: There is none; says what to install, or which names are near.
            ComponentConflictError: Several plugins offer it.
            PluginError: It cannot be imported.
        """
        return self._catalog.find(kind, name, broken=self._broken()).load()

    def _broken(self) -> list[str]:
        return sorted({record.name for record in self._unusable})

    # one typed method per hook -----------------------------------------------------------------------------------

    def wrap_model(self, model: type) -> PlanBundle:
        """Turn a bare model class into a training plan.

        Raises:
            UsageError: No plugin knows how to.
            PluginError: A plugin returned something that is no plan.
        """
        from fedplug.core.plan_source import PlanBundle

        broken = broken_remark(self._broken())
        found = self._first("fedplug_wrap_model", PlanBundle, model=model)
        if found is None:
            raise UsageError(
                f"{model.__module__}.{model.__qualname__} is no training plan, and no plugin can make one of it.",
                cure=f"Derive it from a training plan such as TorchTrainingPlan. {broken}".strip(),
            )
        return found

    def wrap_data(self, manager: DataManager, framework: str) -> BatchSource:
        """Turn what ``training_data`` returned into what the training loop draws from.

        Raises:
            UsageError: No plugin serves the framework.
            PluginError: A plugin returned something that is no `BatchSource`.
        """
        from fedplug.core.data import BatchSource

        expected: type[BatchSource] = BatchSource  # type: ignore[type-abstract]
        found = self._first("fedplug_wrap_data", expected, manager=manager, framework=framework)
        if found is None:
            broken = self._broken()
            install = install_cure("training_plan", framework, broken) or "Install the plugin of that framework."
            raise UsageError(
                f"No plugin on this node serves data to {framework!r} training plans.",
                cure=f"{install} {broken_remark(broken)}".strip(),
            )
        return found

    def train_cohort(self, plan: TrainingPlan, args: TrainingArgs, *, compiled: bool = False) -> CohortAnswer:
        """What trains several nodes at once by ``plan``, which was set up; or why nothing does.

        Args:
            plan: The plan, with its optimizer.
            args: The training arguments.
            compiled: Whether compiled steps are asked for.

        Raises:
            PluginError: A plugin returned something else.
        """
        from fedplug.core.cohort import CohortAnswer, NotStacked

        found = self._first("fedplug_train_cohort", CohortAnswer, plan=plan, args=args, compiled=compiled)
        return found or NotStacked(f"no plugin trains several nodes of framework {plan.framework!r} at once")

    def trainer_hooks(self, info: TrainerInfo, *, plugin: str | None = None) -> dict[str, list[Hook]]:
        """The hooks that plugins add to a training, by plugin, sorted by its name.

        Args:
            info: The training.
            plugin: Ask only this plugin.

        Raises:
            PluginError: A plugin raised, or gave something that is no hook; a training must not go on without it.
        """
        from fedplug.core.trainer import Hook

        found: dict[str, list[Hook]] = {}
        for impl, answer in self._gather("fedplug_trainer_hooks", plugin=plugin, info=info):
            for each in answer:
                if not isinstance(each, Hook):
                    what = f"gave a {type(each).__name__} that is no Hook, such as @hook(...) makes,"
                    raise self._misbehaved(impl, "fedplug_trainer_hooks", what)
            found[impl.plugin_name] = answer
        return dict(sorted(found.items()))

    def authorise_training(self, request: TrainRequest, plan: PlanBundle, dataset: DatasetCard) -> Deny | None:
        """Ask all plugins whether a training may take place; the first refusal, or None.

        Args:
            request: What the researcher asks for.
            plan: The training plan, as text.
            dataset: The data set that it names.
        """
        return self._veto("fedplug_authorise_training", request=request, plan=plan, dataset=dataset)

    def round_start(self, ctx: RoundContext, node_ids: Sequence[str]) -> None:
        """Tell observers that a round begins."""
        self._observe("fedplug_round_start", ctx=ctx, node_ids=tuple(node_ids))

    def round_end(self, ctx: RoundContext, result: RoundResult) -> None:
        """Tell observers that a round is complete."""
        self._observe("fedplug_round_end", ctx=ctx, result=result)


@functools.cache
def default_host() -> PluginHost:
    """The host of this process: all installed plugins, discovered on first use."""
    return PluginHost.discover()


def _core_version() -> str:
    try:
        return version(PROJECT)
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "unknown"
