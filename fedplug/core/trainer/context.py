"""`Context`: what hooks share. Typed core fields, free attributes, and values that are released on time."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fedplug.core.errors import UsageError
from fedplug.core.trainer.frames import Frame, FrameStack, ScopeView
from fedplug.core.trainer.loop_plan import LoopPlan
from fedplug.core.trainer.meter import Meter
from fedplug.core.trainer.page_names import PageNames
from fedplug.core.trainer.points import Phase, Scope

if TYPE_CHECKING:
    from fedplug.core.local_state import StateBook
    from fedplug.core.params import Params
    from fedplug.core.trainer.backend import Backend
    from fedplug.core.trainer.trainer import Trainer

GO, SKIP_BATCH, STOP_EPOCH, STOP_ROUTINE = range(4)

OF_MODEL = (
    "loss_batch", "loss_regular", "loss_task", "y_prob", "batch_metrics", "meter", "loss_regular_total", "num_samples",
    "num_steps", "metrics", "next_report", "outputs",
)  # fmt: skip
"""Fields of which every model of a `MultiModelTrainer` has its own."""

_OF_ROUTINE = (
    *OF_MODEL, "cur_phase", "cur_mode", "cur_split", "cur_epoch_i", "cur_batch_i", "data_batch", "batch_size", "y_true",
    "loop_plan", "exception", "signal", "stop_reason", "began",
)  # fmt: skip

_PER_SPLIT = re.compile(
    r"num_(?P<a>\w+)_(?P<data>data)|num_samples_(?P<b>\w+)|loss_(?:batch_)?total_(?P<c>\w+)|"
    r"loss_regular_total_(?P<d>\w+)|(?P<e>\w+)_(?P<part>data|loader|y_true|y_prob)"
)


class Context(PageNames):
    """Everything that hooks read and write. A hook gets it as its only argument.

    Plain assignment, ``ctx.mine = 3``, keeps a value until it is deleted, or for as long as the scope of a name
    that has one. `set` gives a name a scope: the batch, the epoch, the routine, or the run of the trainer.

    Attributes:
        trainer: Whose context it is.
        backend: Model and optimizer of the framework.
        data: What the trainer was given, by split.
        regularizer: Called with the context; what it returns is added to the loss. None: nothing is.
        grad_clip: Largest norm of the gradient; 0: any.
        inbox: Arrays and values that came with the round, by name.
        outbox: What shall go back with the result, by name; emptied when an outermost routine begins.
        state: What the node keeps between rounds, to read and to write; None where no node stands behind.
        round: Number of the round, from 0.
        cur_model_idx: Which model is the current one; 0 where there is only one.
        cur_phase: ``train``, ``eval`` or ``finetune``; picks the hooks. None between routines.
        cur_mode: ``train``, ``finetune``, ``test`` or ``val``; empty between routines.
        cur_split: The split that is drawn from, e.g. ``"train"``; also called ``cur_dataset``.
        cur_epoch_i: Number of the epoch, from 0.
        cur_batch_i: Number of the batch in its epoch, from 0.
        data_batch: ``(data, target)`` of the current batch; None between batches.
        batch_size: Samples of the current batch.
        y_true: Labels of the current batch; also called ``label``.
        y_prob: Outputs of the model for the current batch, where the backend knows them; also called ``pred``.
        loss_batch: Loss of the current batch as the framework has it, or None.
        loss_regular: Value of the regularizing terms of the current batch.
        loss_task: What gradients are made of: loss_batch and loss_regular.
        batch_metrics: Metrics of the current batch of an evaluation.
        meter: Adds up losses and metrics.
        num_samples: Samples seen in this routine, counting those of every epoch.
        num_steps: Optimizer steps of this routine.
        loop_plan: The batches of this routine; a hook of ``plan_routine`` may replace it.
        metrics: What the routine found, by name.
        exception: What was raised, for hooks of ``on_exception`` and ``on_teardown``.
        stop_reason: Why the routine was stopped; empty if it was not.
    """

    __slots__ = (
        *_OF_ROUTINE, "__dict__", "__weakref__", "backend", "cur_model_idx", "data", "depth", "frames", "grad_clip",
        "inbox", "outbox", "regularizer", "round", "splits", "state", "trainer",
    )  # fmt: skip

    trainer: Trainer
    backend: Backend
    data: Mapping[str, Any]
    regularizer: Callable[[Context], Any] | None
    grad_clip: float
    inbox: dict[str, Any]
    outbox: dict[str, Params]
    state: StateBook | None
    round: int
    cur_model_idx: int
    cur_phase: Phase | None
    cur_mode: str
    cur_split: str
    cur_epoch_i: int
    cur_batch_i: int
    data_batch: Any
    batch_size: int
    y_true: Any
    y_prob: Any
    loss_batch: Any
    loss_regular: Any
    loss_task: Any
    loss_regular_total: Any  # unread until asked for, as losses are
    batch_metrics: dict[str, float]
    meter: Meter
    num_samples: int
    num_steps: int
    loop_plan: LoopPlan
    metrics: dict[str, float]
    next_report: int
    outputs: tuple[list[Any], list[Any]]
    exception: BaseException | None
    stop_reason: str
    began: float
    signal: int
    depth: int
    frames: FrameStack
    splits: dict[str, dict[str, Any]]

    if TYPE_CHECKING:  # free attributes; a real __setattr__ would slow down every assignment
        num_train_data: int
        num_val_data: int
        num_test_data: int
        num_samples_train: int
        num_samples_val: int
        num_samples_test: int
        loss_total_train: float
        loss_total_val: float
        loss_total_test: float

        def __setattr__(self, name: str, value: Any) -> None: ...
        def __delattr__(self, name: str) -> None: ...

    def __init__(self, trainer: Trainer, backend: Backend) -> None:
        self.trainer = trainer
        self.backend = backend
        self.data = {}
        self.regularizer = None
        self.grad_clip = 0.0
        self.inbox = {}
        self.outbox = {}
        self.state = None
        self.round = 0
        self.cur_model_idx = 0
        self.depth = 0
        self.splits = {}
        self.frames = FrameStack(self.__dict__)
        self.begin(None, "", "", LoopPlan(0, 0, 0, 0))

    # values with a scope -----------------------------------------------------------------------------------

    def set(self, name: str, value: Any, scope: Scope | str, on_release: Callable[[Any], object] | None = None) -> None:
        """Set ``ctx.name`` for as long as ``scope`` lasts.

        Args:
            name: The attribute.
            value: Its value; assigning another one later keeps the scope.
            scope: ``"batch"``, ``"epoch"``, ``"routine"``, or ``"run"`` (until the trainer is closed).
            on_release: Called with the value when it is released, also after an error.

        Raises:
            UsageError: No such scope is open, or ``name`` is a field that every context has.
            UnknownNameError: There is no such scope.
        """
        if hasattr(Context, name):
            raise UsageError(f"ctx.{name} is a field of every context and has no scope.", cure="Use another name.")
        self.frames.set(name, value, Scope.of(scope), on_release)

    @property
    def batch(self) -> ScopeView:
        """``ctx.batch.x = 1`` sets ``ctx.x`` until the end of the batch."""
        return ScopeView(self, Scope.BATCH)

    @property
    def epoch(self) -> ScopeView:
        """``ctx.epoch.x = 1`` sets ``ctx.x`` until the end of the epoch."""
        return ScopeView(self, Scope.EPOCH)

    @property
    def routine(self) -> ScopeView:
        """``ctx.routine.x = 1`` sets ``ctx.x`` until the end of the routine."""
        return ScopeView(self, Scope.ROUTINE)

    @property
    def run(self) -> ScopeView:
        """``ctx.run.x = 1`` sets ``ctx.x`` until the trainer is closed."""
        return ScopeView(self, Scope.RUN)

    def get(self, name: str, default: Any = None) -> Any:
        """``ctx.name``, or ``default`` if there is none."""
        return getattr(self, name, default)

    # signals -----------------------------------------------------------------------------------------------

    def skip_batch(self) -> None:
        """Leave out the rest of this batch, after the current trigger; ``on_batch_end`` still fires."""
        self.signal = max(self.signal, SKIP_BATCH)

    def stop_epoch(self) -> None:
        """End the epoch after the current trigger; ``on_batch_end`` and ``on_epoch_end`` still fire."""
        self.signal = max(self.signal, STOP_EPOCH)

    def stop_routine(self, reason: str = "a hook asked for it") -> None:
        """End the routine after the current trigger; the triggers of an end still fire."""
        self.signal = STOP_ROUTINE
        self.stop_reason = reason

    def __getattr__(self, name: str) -> Any:
        """Names of a split, such as ``num_val_data``, ``test_loader``, ``loss_total_train``, ``num_samples_test``."""
        match = None if name.startswith("_") else _PER_SPLIT.fullmatch(name)
        if match:
            split = next(match[group] for group in "abcde" if match[group])
            found = self._of_split(split, name, match["part"] or match["data"])
            if found is not None:
                return found[0]
        scopes = ", ".join(frame.scope.value for frame in reversed(self.frames.open))
        raise AttributeError(
            f"The context has no {name!r}: it is no core field, and no value of the open scopes ({scopes}) or of those "
            f"that hooks have set to stay.",
            name=name,
            obj=self,
        )

    def _of_split(self, split: str, name: str, part: str | None) -> tuple[Any] | None:
        """The value of a name that has a split in it, in a tuple; None if there is no such split."""
        if split not in self.data:
            return None
        if part in ("data", "loader"):
            return (self.data[split].get(name),)
        live = self._now() if split == self.cur_split and self.cur_phase is not None else self.splits.get(split, {})
        if part in ("y_true", "y_prob"):
            return (live.get(part, []),)
        return (live.get(name.removesuffix(f"_{split}").replace("batch_", ""), 0),)

    def _now(self) -> dict[str, Any]:
        trues, probs = self.outputs
        return {
            "num_samples": self.num_samples,
            "loss_total": self.loss_batch_total,
            "loss_regular_total": float(self.loss_regular_total),
            "y_true": trues,
            "y_prob": probs,
        }

    # for the loop ------------------------------------------------------------------------------------------

    def begin(self, phase: Phase | None, mode: str, split: str, plan: LoopPlan) -> None:
        """Reset what belongs to a routine."""
        self.cur_phase = phase
        self.cur_mode = mode
        self.cur_split = split
        self.loop_plan = plan
        self.cur_epoch_i = self.cur_batch_i = 0
        self.exception = None
        self.signal = GO
        self.stop_reason = ""
        self.began = 0.0
        self.data_batch = self.y_true = None
        self.batch_size = 0
        self.begin_model()

    def begin_model(self) -> None:
        """Reset what each model of a routine has of its own."""
        self.meter = Meter(self.backend.read)
        self.metrics = {}
        self.num_samples = self.num_steps = 0
        self.loss_regular_total = 0.0
        self.next_report = 1
        self.outputs = ([], [])
        self.forget_batch()

    def forget_batch(self) -> None:
        """Let go of what belongs to a batch, of the current model."""
        self.loss_batch = self.loss_regular = self.loss_task = self.y_prob = None
        self.batch_metrics = {}

    def save(self, names: tuple[str, ...] = _OF_ROUTINE) -> tuple[Any, ...]:
        """The values of fields, for `restore`."""
        return tuple([getattr(self, name) for name in names])

    def restore(self, values: tuple[Any, ...], names: tuple[str, ...] = _OF_ROUTINE) -> None:
        """Put back the values of fields."""
        for name, value in zip(names, values, strict=True):
            setattr(self, name, value)

    def remember_split(self) -> None:
        """Keep what this routine counted, for ``ctx.num_samples_train`` and its like."""
        self.splits[self.cur_split] = self._now()

    def detach(self, depth: int) -> tuple[list[Frame], list[dict[str, Any]]]:
        """Take off the frames above ``depth``, e.g. as another model's turn comes."""
        return self.frames.unhook(depth)
