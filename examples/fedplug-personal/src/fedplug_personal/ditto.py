"""Ditto: beside the global model, each node trains a personal one that is kept near it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from fedplug.core.local_state import StateBook
from fedplug.core.params import Params
from fedplug.core.trainer import (
    Backend,
    Context,
    FitResult,
    Hook,
    HookSet,
    LoopPlan,
    MultiModelTrainer,
    Phase,
    Trainer,
    Trigger,
)
from fedplug.core.training_plan import TrainingPlan
from fedplug_personal.settings import arguments, count, number

SECTION = "ditto"  # of the node's state


class DittoTrainer(MultiModelTrainer):
    """Trains the global model as usual, then the personal one, each for its own number of steps.

    The node wants the ``v`` that minimises

        h(v; w*) = F(v) + lambda/2 * ||v - w*||^2,   where w* minimises G(F_1(w), ..., F_K(w))

    (Li et al., Ditto: Fair and Robust Federated Learning Through Personalization, ICML 2021, equations 1 and 2). As in
    algorithm 1 there, the global model ``w`` that the round began with stands for ``w*``, and each step is

        v <- v - eta * (gradient of F at v + lambda * (v - w)).

    Model 0 is the global one, model 1 the personal one. `train` reports samples, steps and parameters of the global
    model alone; `evaluate` gives the metrics of the personal model, and those of the global model with ``_of_global``
    behind their names. The personal model is stored in the node's state after each training.

    Args:
        backend: The global model; the personal one begins as a copy of it if none is stored.
        data: As for `Trainer`.
        ditto_lambda: Weight of the distance, >= 0; 0: the node trains for itself.
        personal_steps: Steps of the personal model; None: as many as the global one makes.
        personal_optimizer_args: For the personal model, over those of the training arguments.
        state: What the node keeps between rounds.
        **options: As for `Trainer`.
    """

    def __init__(
        self,
        backend: Backend,
        data: Any = None,
        *,
        ditto_lambda: float = 1.0,
        personal_steps: int | None = None,
        personal_optimizer_args: Mapping[str, Any] | None = None,
        state: StateBook | None = None,
        **options: Any,
    ) -> None:
        super().__init__(2, "sequential", backend, data, **options)
        self.ditto_lambda = ditto_lambda
        self.personal_steps = personal_steps
        self.personal_optimizer_args = {**self.args.optimizer_args, **(personal_optimizer_args or {})}
        self.state = state if state is not None else StateBook()
        self._global: dict[str, Any] = {}  # w, as the round began
        for slot, name in zip(self.slots, ("global", "personal"), strict=True):
            slot.name = name
        kept = self.state.arrays(SECTION)
        if kept is not None:
            self.personal.set_params(kept)
        hooks = self.hook_set(Phase.TRAIN, 1)
        hooks.add(Hook(self._count_steps, Trigger.PLAN_ROUTINE, name="personal_steps", plugin="personal"))
        hooks.add(
            Hook(
                self._stay_near, Trigger.ON_BATCH_BACKWARD, name="ditto", plugin="personal",
                before=("step",), after=("backward",),
            )
        )  # fmt: skip

    @property
    def personal(self) -> Backend:
        """The personal model."""
        return self.slots[1].backend

    def get_params(self) -> Params:
        """The parameters of the global model: nothing else is ever sent."""
        return self.slots[0].backend.get_params()

    def update(self, params: Mapping[str, Any], *, strict: bool = True) -> None:
        """Take over parameters of the global model."""
        Trainer.update(self, params, strict=strict)

    def train(self, split: str = "train", *, hooks: HookSet | None = None, with_params: bool = True) -> FitResult:
        """Train both models. The result is the global model's, with ``loss_of_personal`` among the metrics."""
        self._global = self.slots[0].backend.snapshot()
        if self.optimizer_state == "per_routine" or not self.routines:
            self.personal.make_optimizer(self.personal_optimizer_args)
        try:
            result = super().train(split, hooks=hooks, with_params=with_params)
        finally:
            self._global = {}
        self.state.keep(SECTION, self.personal.get_params())
        own, personal = result.slots
        metrics = {**own.metrics, **{f"{name}_of_personal": value for name, value in personal.metrics.items()}}
        return dataclasses.replace(result, num_samples=own.num_samples, steps=own.steps, metrics=metrics)

    def evaluate(
        self, split: str = "test", *, hooks: HookSet | None = None, batch_size: int | None = None
    ) -> FitResult:
        """Test the personal model, and the global one to compare it with."""
        result = super().evaluate(split, hooks=hooks, batch_size=batch_size)
        if not result.slots:
            return result
        shared, personal = result.slots
        metrics = {**personal.metrics, **{f"{name}_of_global": value for name, value in shared.metrics.items()}}
        found = {"metrics": metrics, "sums": personal.sums, "values": personal.values}
        return dataclasses.replace(result, num_samples=personal.num_samples, **found)

    def _count_steps(self, ctx: Context) -> None:
        plan, steps = ctx.loop_plan, self.personal_steps
        if steps is not None and not self.args.dry_run:
            batches = min(plan.batches, steps)
            ctx.loop_plan = LoopPlan(-(-steps // batches), batches, steps % batches or batches, steps)

    def _stay_near(self, ctx: Context) -> None:
        """Adds the gradient of ``lambda/2 * ||v - w||^2``."""
        gaps = {name: array - self._global[name] for name, array in ctx.backend.trainable().items()}
        ctx.backend.add_gradients({name: self.ditto_lambda * gap for name, gap in gaps.items()})


class Ditto(TrainingPlan):
    """Base of training plans, ahead of the framework's: ``class MyPlan(Ditto, TorchTrainingPlan)``.

    The plan is written as for plain FedAvg. See `DittoTrainer` for what is done with it, equations included.

    Attributes:
        ditto_lambda: Weight of the distance to the global model.
        personal_steps: Steps of the personal model in a round; None: as many as the global model makes.
        personal_optimizer_args: For the personal model's ``init_optimizer``, over those of the training arguments.
    """

    ditto_lambda = 1.0
    personal_steps: int | None = None
    personal_optimizer_args: Mapping[str, Any] = {}

    @classmethod
    def default_dependencies(cls) -> list[str]:
        """Those of the framework, and this class."""
        return [*super().default_dependencies(), "from fedplug_personal import Ditto"]

    def make_trainer(self, backend: Backend, data: Any, **options: Any) -> DittoTrainer:
        """Two models instead of one."""
        return DittoTrainer(
            backend, data,
            ditto_lambda=number(self, "ditto_lambda"),
            personal_steps=count(self, "personal_steps", optional=True),
            personal_optimizer_args=arguments(self, "personal_optimizer_args"),
            state=self.node_state(), **options,
        )  # fmt: skip
