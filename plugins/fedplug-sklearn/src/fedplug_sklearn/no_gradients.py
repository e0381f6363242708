"""`RowsPlan`: what the plans share whose estimator knows by itself what to do with a batch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from fedplug.core.errors import PlanError
from fedplug.core.plan_optimizer import PlanOptimizer
from fedplug.core.trainer import Backend
from fedplug.core.training_args import TrainingArgs
from fedplug_sklearn.backend import RowsBackend
from fedplug_sklearn.plan import SKLearnTrainingPlan


class NoOptimizer(PlanOptimizer):
    """In the place of an optimizer where the estimator makes its own steps."""

    def step(self, params: Mapping[str, Any], gradients: Mapping[str, Any]) -> None:
        """Nothing to move."""


class RowsPlan(SKLearnTrainingPlan):
    """Base of the plans that are not trained by gradients."""

    @abstractmethod
    def batch_loss(self, data: Any, target: Any) -> float:
        """The loss of a batch, before it is learnt."""

    @abstractmethod
    def learn(self, data: Any, target: Any) -> None:
        """Let the estimator learn a batch."""

    def training_step(self, data: Any, target: Any) -> Any:
        """The loss of a batch. The loop asks `batch_loss` and then calls `learn`, so this cannot be overridden."""
        return self.batch_loss(data, target)

    def make_backend(self) -> Backend:
        """This plan's estimator, for the loop."""
        return RowsBackend.for_plan(self)

    def check_args(self, args: TrainingArgs) -> None:
        """Refuse training arguments that change gradients, and methods that would never be called.

        Raises:
            PlanError: There is one.
        """
        super().check_args(args)
        name = type(self).__name__
        for method, base in (("init_optimizer", SKLearnTrainingPlan), ("training_step", RowsPlan)):
            if getattr(type(self), method) is not getattr(base, method):
                raise PlanError(
                    f"{name} defines {method}, but its estimator learns by itself: it would never be called.",
                    cure="Leave it out.",
                )
        for given in ("fedprox_mu", "grad_clip"):
            if getattr(args, given):
                raise PlanError(
                    f"training_args have {given}, but {name} is not trained by gradients.", cure="Leave it out."
                )
        if args.keep_optimizer_state:
            raise PlanError(
                f"keep_optimizer_state is set, but {name} has no optimizer, and what an estimator remembers beside its "
                "parameters is not kept.",
                cure="Leave it out.",
            )

    def _build_optimizer(self, optimizer_args: Mapping[str, Any]) -> PlanOptimizer:
        return NoOptimizer()
