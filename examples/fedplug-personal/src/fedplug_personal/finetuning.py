"""Fine-tuning before each evaluation: how good is the global model once a node has adapted it?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from fedplug.core.data import LoaderArgs
from fedplug.core.param_tags import matches
from fedplug.core.trainer import Backend, Context, FitResult, Hook, HookSet, Phase, Scope, Trainer, Trigger
from fedplug.core.training_plan import TrainingPlan
from fedplug_personal.settings import arguments, count, names


class FineTuningTrainer(Trainer):
    """Trains as usual. Each evaluation tests a copy of the model that has made a few local steps:

        theta_0 = w,   theta_{j+1} = theta_j - eta * gradient of F at theta_j,   j = 0 ... k-1

    (k steps of gradient descent on the node's own data from a common initialisation: the inner update of Finn et al.,
    Model-Agnostic Meta-Learning, ICML 2017, section 2.2, which Fallah et al., Personalized Federated Learning with
    Theoretical Guarantees, NeurIPS 2020, apply to nodes.)
    With ``layers``, the other parameters keep their values from ``w`` in every step.

    The model itself, its optimizer, and what is drawn for its training are the same as without fine-tuning. Metrics
    of the model before the steps have ``_of_global`` behind their names.

    Args:
        backend: The model.
        data: As for `Trainer`; the steps are made on ``train``.
        finetune_steps: k, >= 1.
        layers: Names or globs of the parameters that move; empty: all.
        finetune_optimizer_args: For the optimizer of the steps, over those of the training arguments.
        seeded: Gives a context in which the global random streams are seeded, and after which they are as before.
        **options: As for `Trainer`.
    """

    def __init__(
        self,
        backend: Backend,
        data: Any = None,
        *,
        finetune_steps: int = 1,
        layers: Sequence[str] = (),
        finetune_optimizer_args: Mapping[str, Any] | None = None,
        seeded: Callable[[int], AbstractContextManager[Any]] = nullcontext,
        **options: Any,
    ) -> None:
        super().__init__(backend, data, **options)
        loader = self.loader or LoaderArgs.merge(self.args.loader_args)
        drawn = {"batch_size": loader.batch_size, "shuffle": loader.shuffle, "drop_last": loader.drop_last}
        self.finetune_args = dataclasses.replace(
            self.args, num_updates=finetune_steps, batch_maxnum=None, loader_args={**(loader.extra or {}), **drawn},
            optimizer_args={**self.args.optimizer_args, **(finetune_optimizer_args or {})},
        )  # fmt: skip
        self._data = data
        self._layers = tuple(layers)
        self._seeded = seeded
        if self._layers:
            tuning = (Phase.FINETUNE,)
            self.add_hook(Hook(self._remember, Trigger.ON_FIT_START, tuning, "remember_frozen", "personal"))
            self.add_hook(Hook(self._freeze, Trigger.ON_BATCH_BACKWARD, tuning, "freeze", "personal", after=("step",)))

    def evaluate(
        self, split: str = "test", *, hooks: HookSet | None = None, batch_size: int | None = None
    ) -> FitResult:
        """Test the model, then a copy of it that is fine-tuned first."""
        plain = super().evaluate(split, hooks=hooks, batch_size=batch_size)
        if not plain.num_samples:
            return plain
        tuned = self.tuned().evaluate(split, hooks=hooks, batch_size=batch_size)
        metrics = {**tuned.metrics, **{f"{name}_of_global": value for name, value in plain.metrics.items()}}
        return dataclasses.replace(tuned, metrics=metrics)

    def tuned(self) -> Trainer:
        """A trainer whose model is a fine-tuned copy of this one's."""
        seed = self.seed.child("fine-tuning")
        twin = Trainer(
            self.ctx.backend.clone(), self._data, args=self.args, finetune_args=self.finetune_args,
            loader=self.loader, seed=seed, log=self.log,
        )  # fmt: skip
        twin.hooks = {phase: hooks.copy() for phase, hooks in self.hooks.items()}
        twin.ctx.inbox, twin.ctx.round = dict(self.ctx.inbox), self.ctx.round
        tuning = twin.hooks[Phase.FINETUNE]
        if "report" in tuning.names(Trigger.ON_BATCH_END):  # these steps are none of the training's
            tuning.remove("report", Trigger.ON_BATCH_END)
        before = twin.get_params()
        with self._seeded(seed.seed63()):
            after = twin.finetune().params
        if self._layers and after is not None:
            twin.update({name: (after if self._moves(name) else before)[name] for name in before})  # buffers too
        return twin

    def _moves(self, name: str) -> bool:
        return matches(name, *self._layers)

    def _remember(self, ctx: Context) -> None:
        start = {name: array for name, array in ctx.backend.snapshot().items() if not self._moves(name)}
        ctx.set("frozen", start, Scope.ROUTINE)

    def _freeze(self, ctx: Context) -> None:
        live = ctx.backend.trainable()
        for name, array in ctx.frozen.items():
            live[name][...] = array


class FineTuning(TrainingPlan):
    """Base of training plans, ahead of the framework's: ``class MyPlan(FineTuning, TorchTrainingPlan)``.

    See `FineTuningTrainer` for what is done, equation included.

    Attributes:
        finetune_steps: Steps before each evaluation.
        finetune_layers: Names or globs of the parameters that move in them, e.g. ``["head.*"]``; empty: all.
        finetune_optimizer_args: For ``init_optimizer`` before these steps, over those of the training arguments.
    """

    finetune_steps = 1
    finetune_layers: Sequence[str] = ()
    finetune_optimizer_args: Mapping[str, Any] = {}

    @classmethod
    def default_dependencies(cls) -> list[str]:
        """Those of the framework, and this class."""
        return [*super().default_dependencies(), "from fedplug_personal import FineTuning"]

    def make_trainer(self, backend: Backend, data: Any, **options: Any) -> FineTuningTrainer:
        """A trainer that fine-tunes a copy of the model before each evaluation."""
        return FineTuningTrainer(
            backend, data,
            finetune_steps=count(self, "finetune_steps"),
            layers=names(self, "finetune_layers"),
            finetune_optimizer_args=arguments(self, "finetune_optimizer_args"),
            seeded=type(self).seeded, **options,
        )  # fmt: skip
