"""`MultiModelTrainer`: several models on the same data, one after the other or side by side."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from fedplug.core.errors import ParamsError, UnknownNameError, UsageError
from fedplug.core.metrics.sums import METRIC, findings, merged
from fedplug.core.params import Params
from fedplug.core.trainer.backend import Backend
from fedplug.core.trainer.context import OF_MODEL
from fedplug.core.trainer.frames import Frame
from fedplug.core.trainer.hook_set import HookSet
from fedplug.core.trainer.hooks import HookFunction, HookPlan
from fedplug.core.trainer.loop import Feed, run_routine
from fedplug.core.trainer.points import Phase, Scope, Trigger
from fedplug.core.trainer.result import FitResult
from fedplug.core.trainer.trainer import Trainer

MODES = ("sequential", "parallel")
Reducer = Callable[[list[float]], float]
REDUCERS: dict[str, Reducer] = {"mean": statistics.fmean, "sum": sum, "last": lambda values: values[-1]}

_NO_FRAMES: tuple[list[Frame], list[dict[str, Any]]] = ([], [])


@dataclass
class ModelSlot:
    """One model of several.

    Attributes:
        name: Its name; the number, unless it is renamed.
        backend: Model, optimizer and scheduler.
        hooks: Its hooks, by phase.
        fields: Its own fields of the context while another model is the current one; None: fresh ones.
        frames: Its values with a scope meanwhile.
    """

    name: str
    backend: Backend
    hooks: dict[Phase, HookSet]
    fields: tuple[Any, ...] | None = None
    frames: tuple[list[Frame], list[dict[str, Any]]] = _NO_FRAMES


class MultiModelTrainer(Trainer):
    """Trains several models. Each has its own optimizer, scheduler, hooks, counters and values with a scope.

    ``sequential``: for each model: `_switch_model_ctx`, its whole routine, `_interact_to_other_models`.

    ``parallel``: one routine over one stream of batches; at each trigger, for each model: its hooks,
    `_interact_to_other_models`, `_switch_model_ctx` to the next one, and at last back to the first. A stop signal
    of one model stops all.

    ``shared`` is a dict for hooks of all models, empty when an outermost routine begins, and emptied when it ends.

    Args:
        model_nums: How many models.
        models_interact_mode: ``sequential`` or ``parallel``.
        backend: The first model; the others begin as copies of it.
        data: As for `Trainer`.
        base_trainer: A trainer of one model to begin from, instead of ``backend`` and ``data``: its model becomes
            the first one, its data is shared, its hooks are copied.
        reducer: Makes one number of those of all models: ``mean``, ``sum``, ``last``, or a function of a list.
        interact: Called with the context after a model's turn; or override `_interact_to_other_models`.
        **options: As for `Trainer`.

    Raises:
        UsageError: The number of models is not a whole number from 1 up.
        UnknownNameError: There is no such mode or reducer.
    """

    def __init__(
        self,
        model_nums: Any,
        models_interact_mode: str = "sequential",
        backend: Backend | None = None,
        data: Any = None,
        *,
        base_trainer: Trainer | None = None,
        reducer: str | Reducer = "mean",
        interact: HookFunction | None = None,
        **options: Any,
    ) -> None:
        if isinstance(model_nums, bool) or not isinstance(model_nums, int) or model_nums < 1:
            raise UsageError(f"model_nums must be a whole number >= 1, got {model_nums!r}.")
        if models_interact_mode not in MODES:
            raise UnknownNameError("models_interact_mode", str(models_interact_mode), MODES)
        if isinstance(reducer, str) and reducer not in REDUCERS:
            raise UnknownNameError("reducer", reducer, REDUCERS)
        if (backend is None) == (base_trainer is None):
            raise UsageError("A MultiModelTrainer needs either a backend or a base_trainer.")
        if base_trainer is not None:
            backend = base_trainer.ctx.backend
            same = ("args", "finetune_args", "loader", "seed", "optimizer_state", "strict", "log", "metrics")
            options = {name: getattr(base_trainer, name) for name in same} | options
        assert backend is not None
        super().__init__(backend, data, **options)
        if base_trainer is not None:
            self.hooks = {phase: hooks.copy() for phase, hooks in base_trainer.hooks.items()}
            self._plugins = list(base_trainer._plugins)
            self._cancelled, self._report = base_trainer._cancelled, base_trainer._report
            self._report_every = base_trainer._report_every
            if data is None:
                self.ctx.data, self._sources = base_trainer.ctx.data, base_trainer._sources
        self.model_nums = model_nums
        self.models_interact_mode = models_interact_mode
        self.reducer: Reducer = REDUCERS[reducer] if isinstance(reducer, str) else reducer
        self.interact = interact
        self.cur_trigger = Trigger.ON_FIT_END
        self.shared: dict[str, Any] = {}
        self._floor = 1
        self.slots = [ModelSlot("0", backend, self.hooks)]
        for i in range(1, model_nums):
            copies = {phase: hooks.copy() for phase, hooks in self.hooks.items()}
            self.slots.append(ModelSlot(str(i), backend.clone(), copies))

    # the page's names --------------------------------------------------------------------------------------

    @property
    def hooks_in_train_multiple_models(self) -> list[HookSet]:
        """The hooks of training of each model."""
        return self._sets_of(Phase.TRAIN)

    @property
    def hooks_in_eval_multiple_models(self) -> list[HookSet]:
        """The hooks of evaluation of each model."""
        return self._sets_of(Phase.EVAL)

    def hook_set(self, phase: Phase | str, model_idx: int = 0) -> HookSet:
        """The hooks of a phase, of one model."""
        return self.slots[self._checked(model_idx)].hooks[Phase.of(phase)]

    def _switch_model_ctx(self, next_model_idx: int | None = None) -> None:
        """Make another model the current one; by default the next, and after the last the first.

        To be overridden, with a call of this one. Called at the points that the class names.
        """
        ctx = self.ctx
        last = ctx.cur_model_idx
        if next_model_idx is None:
            next_model_idx = (last + 1) % self.model_nums
        index = self._checked(next_model_idx)
        if index != last:
            self._go_to(index)

    def _interact_to_other_models(self) -> None:
        """What a model does with the others after its turn; ``interact`` by default. To be overridden."""
        if self.interact is not None:
            self.interact(self.ctx)

    @contextmanager
    def switch(self, model_idx: int) -> Iterator[None]:
        """Make a model the current one for the block; the one before comes back whatever happens."""
        before = self.ctx.cur_model_idx
        self._switch_model_ctx(model_idx)
        try:
            yield
        finally:
            self._switch_model_ctx(before)

    # parameters --------------------------------------------------------------------------------------------

    def get_params(self) -> Params:
        """The parameters of all models, as ``0/weight``, ``1/weight``, ...; of a single one by their own names."""
        if self.model_nums == 1:
            return super().get_params()
        found = [slot.backend.get_params() for slot in self.slots]
        return Params.from_arrays({f"{i}/{name}": each[name] for i, each in enumerate(found) for name in each})

    def update(self, params: Mapping[str, Any], *, strict: bool = True) -> None:
        """Take over the parameters of all models, named as `get_params` names them."""
        if self.model_nums == 1:
            super().update(params, strict=strict)
            return
        apart: list[dict[str, Any]] = [{} for _ in self.slots]
        for name, array in params.items():
            number, _, rest = name.partition("/")
            if not rest or not number.isdecimal() or int(number) >= self.model_nums:
                raise ParamsError(f"{name!r} names no parameter of {self.model_nums} models.", cure="E.g. '0/weight'.")
            apart[int(number)][rest] = array
        before = self.get_params()
        try:
            for i, each in enumerate(apart):
                with self.switch(i):
                    super().update(each, strict=strict)
        except ParamsError:
            self.update(before)
            raise

    def backends(self) -> list[Backend]:
        """The backends of all models."""
        return [slot.backend for slot in self.slots] if hasattr(self, "slots") else super().backends()

    # how routines run --------------------------------------------------------------------------------------

    def _sets_of(self, phase: Phase) -> list[HookSet]:
        return [slot.hooks[phase] for slot in self.slots]

    def _drive(self, phase: Phase, feed: Feed, hooks: HookSet | None) -> list[FitResult]:
        before, floor = self.ctx.cur_model_idx, self._floor
        outer = [(slot.fields, slot.frames) for slot in self.slots]
        self._floor = len(self.ctx.frames.open)
        for slot in self.slots:
            slot.fields, slot.frames = None, _NO_FRAMES
        if self.ctx.depth == 1:
            self.shared = {}
        plans = [(hooks or slot.hooks[phase]).compile() for slot in self.slots]
        try:
            if self.models_interact_mode == "sequential":
                return self._one_by_one(phase, feed, plans)
            return self._side_by_side(phase, feed, plans)
        finally:
            if self.ctx.cur_model_idx != before:
                self._switch_model_ctx(before)
            for slot, (fields, frames) in zip(self.slots, outer, strict=True):
                slot.fields, slot.frames = fields, frames
            self._floor = floor
            if self.ctx.depth == 1:
                self.shared = {}

    def _one_by_one(self, phase: Phase, feed: Feed, plans: list[HookPlan]) -> list[FitResult]:
        ctx = self.ctx
        start = (ctx.cur_mode, ctx.cur_split, ctx.loop_plan, ctx.began)
        results = []
        for i, (slot, plan) in enumerate(zip(self.slots, plans, strict=True)):
            self._switch_model_ctx(i)
            ctx.begin(phase, *start[:3])
            ctx.began = start[3]
            with self._ready(slot.backend, phase):
                run_routine(ctx, plan, feed)
            self.cur_trigger = Trigger.ON_FIT_END
            self._interact_to_other_models()
            results.append(self._slot_result())
        return results

    def _side_by_side(self, phase: Phase, feed: Feed, plans: list[HookPlan]) -> list[FitResult]:
        ctx = self.ctx
        with ExitStack() as stack:
            if ctx.cur_model_idx != 0:
                self._switch_model_ctx(0)
            ctx.begin_model()
            for slot in self.slots:
                stack.enter_context(self._ready(slot.backend, phase))
            try:
                run_routine(ctx, self._interleaved(phase, plans), feed)
                results = []
                for i in range(self.model_nums):
                    self._go_to(i)
                    results.append(self._slot_result())
                return results
            finally:
                self._go_to(0)
                self._release(Scope.ROUTINE)

    def _interleaved(self, phase: Phase, plans: list[HookPlan]) -> HookPlan:
        """One plan that calls the hooks of all models at each trigger, switching in between."""
        calls: dict[str, tuple[HookFunction, ...]] = {}
        for trigger in Trigger:
            if phase is Phase.EVAL and trigger is Trigger.ON_BATCH_BACKWARD:
                continue
            line: list[HookFunction] = [self._first_model(trigger)]
            for i, plan in enumerate(plans):
                line += [*getattr(plan, trigger.value), self._turn_over((i + 1) % self.model_nums)]
            if trigger in _ENDS:
                scope = _ENDS[trigger]
                line.append(lambda _, scope=scope: self._release(scope))  # type: ignore[misc]
            calls[trigger.value] = tuple(line)
        return HookPlan(phase, **calls)  # type: ignore[arg-type]

    def _first_model(self, trigger: Trigger) -> HookFunction:
        def begin(ctx: Any) -> None:
            self.cur_trigger = trigger
            if ctx.cur_model_idx != 0:  # a hook of another model has raised
                self._go_to(0)

        return begin

    def _turn_over(self, index: int) -> HookFunction:
        def turn_over(_: Any) -> None:
            self._interact_to_other_models()
            if self.model_nums > 1:
                self._switch_model_ctx(index)

        return turn_over

    def _go_to(self, index: int) -> None:
        """Exchange the fields and frames of the current model for another's."""
        ctx = self.ctx
        if index == ctx.cur_model_idx:
            return
        now, then = self.slots[ctx.cur_model_idx], self.slots[index]
        scopes = [frame.scope for frame in ctx.frames.open[self._floor :]]
        now.fields = ctx.save(OF_MODEL)
        now.frames = ctx.frames.unhook(self._floor)
        ctx.cur_model_idx, ctx.backend = index, then.backend
        if then.fields is None:
            ctx.begin_model()
        else:
            ctx.restore(then.fields, OF_MODEL)
        frames, values = then.frames
        missing = [Frame(scope) for scope in scopes[len(frames) :]]
        ctx.frames.rehook([*frames, *missing][: len(scopes)], [*values, *({} for _ in missing)][: len(scopes)])
        then.fields, then.frames = None, _NO_FRAMES

    def _release(self, scope: Scope) -> None:
        """Release the values of ``scope``, and of those within, of all models but the current one."""
        here, depth = self.ctx.cur_model_idx, _DEPTH[scope]
        problems: list[Exception] = []
        for i, slot in enumerate(self.slots):
            if i == here or slot.fields is None:
                continue
            if any(frame.shadows for frame in slot.frames[0][depth:]):
                self._go_to(i)
                problems += self.ctx.frames.clear_above(self._floor + depth)
                self._go_to(here)
            slot.fields = tuple(
                [None if name in _OF_BATCH else value for name, value in zip(OF_MODEL, slot.fields or (), strict=True)]
            )
        if problems:
            raise problems[0]

    def _reduced(self, slots: list[FitResult]) -> FitResult:
        names = {name: None for slot in slots for name in slot.metrics}
        metrics = {name: self.reducer([s.metrics[name] for s in slots if name in s.metrics]) for name in names}
        count = round(self.reducer([slot.num_samples for slot in slots]))
        # States add up over models as over nodes: each model's answer to a sample counts.
        picked = slots[-1:] if self.reducer is REDUCERS["last"] else slots
        states = merged({n: s for n, s in slot.sums.items() if n.startswith(METRIC)} for slot in picked)
        found = findings(states, self.metrics)
        return FitResult(
            count, metrics=metrics | found.scalars, steps=sum(slot.steps for slot in slots), slots=tuple(slots),
            sums=states, values=found.values,
        )  # fmt: skip

    def _checked(self, index: Any) -> int:
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(self.slots):
            raise UsageError(f"There is no model {index!r}.", cure=f"Use 0 to {len(self.slots) - 1}.")
        return index


_ENDS = {Trigger.ON_BATCH_END: Scope.BATCH, Trigger.ON_EPOCH_END: Scope.EPOCH, Trigger.ON_TEARDOWN: Scope.ROUTINE}
_DEPTH = {Scope.ROUTINE: 0, Scope.EPOCH: 1, Scope.BATCH: 2}
_OF_BATCH = ("loss_batch", "loss_regular", "loss_task", "y_prob")
