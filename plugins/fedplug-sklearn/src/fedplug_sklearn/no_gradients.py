"""What the plans without gradients share: no optimizer, and no arguments that are about one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from fedplug.core.errors import PlanError
from fedplug.core.plan_optimizer import PlanOptimizer
from fedplug.core.training_args import TrainingArgs


class NoOptimizer(PlanOptimizer):
    """In the place of an optimizer where the estimator makes its own steps."""

    @classmethod
    def of(cls, plan: Any, base: type[Any]) -> Self:
        """One for ``plan``.

        Raises:
            PlanError: It defines ``init_optimizer`` all the same.
        """
        if type(plan).init_optimizer is not base.init_optimizer:
            raise PlanError(
                f"{type(plan).__name__} defines init_optimizer, but its estimator learns without one.",
                cure="Leave it out.",
            )
        return cls()

    def step(self, params: Mapping[str, Any], gradients: Mapping[str, Any]) -> None:
        """Nothing to move."""


def refuse_gradient_args(plan: Any, args: TrainingArgs) -> None:
    """Refuse training arguments that change gradients.

    Raises:
        PlanError: There is one.
    """
    for name in ("fedprox_mu", "grad_clip"):
        if getattr(args, name):
            raise PlanError(
                f"training_args have {name}, but {type(plan).__name__} is not trained by gradients.",
                cure="Leave it out.",
            )
