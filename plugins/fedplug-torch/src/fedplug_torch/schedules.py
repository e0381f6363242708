"""Learning-rate schedulers of a plan: made, checked, and brought to the round of the experiment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fedplug.core.errors import PlanError
from fedplug.core.flexible_calls import call_flexibly


def make_scheduler(make: Callable[..., Any], optimizer: torch.optim.Optimizer, rounds: int = 0) -> Any:
    """What ``init_scheduler(optimizer)`` returns, after ``rounds`` steps.

    Each round is a task of its own at a node, with a new optimizer. A scheduler that counts rounds is therefore
    brought to the number of the round, so that the rate does not depend on what a node has kept, or missed.

    Raises:
        PlanError: It returned something that is no scheduler, or that needs a metric for its steps.
    """
    made = call_flexibly(make, optimizer)
    if not callable(getattr(made, "step", None)):
        kind = "nothing (is a return missing?)" if made is None else f"a {type(made).__name__}"
        raise PlanError(
            f"init_scheduler must return a scheduler of torch.optim.lr_scheduler, but returned {kind}.",
            cure="E.g. return torch.optim.lr_scheduler.StepLR(optimizer, step_size=10).",
        )
    if isinstance(made, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise PlanError(
            "ReduceLROnPlateau steps by a metric, which a node does not know while it trains.",
            cure="Use a scheduler that counts, or lower training_args['optimizer_args']['lr'] between rounds.",
        )
    if rounds:
        # torch warns of a scheduler that steps before its optimizer; here, the optimizers were those of past rounds.
        called = getattr(optimizer, "_opt_called", False)
        optimizer._opt_called = True  # type: ignore[attr-defined] # what torch looks at
        for _ in range(rounds):
            made.step()
        optimizer._opt_called = called  # type: ignore[attr-defined]
    return made
