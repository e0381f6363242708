"""What a ``training_step`` must return."""

from __future__ import annotations

import torch

from fedplug.core.errors import PlanError


def no_loss(value: object) -> PlanError:
    """The error for a ``training_step`` that returned ``value``, which is no loss."""
    if value is None:
        problem, cure = "nothing", "Is a return missing?"
    elif not isinstance(value, torch.Tensor):
        problem = f"a {type(value).__name__}"
        cure = "Return the tensor itself: loss, not loss.item()." if isinstance(value, int | float) else ""
    elif value.numel() != 1:
        problem = f"a tensor of shape {tuple(value.shape)}"
        cure = "Return the mean over the batch, e.g. loss.mean()."
    else:
        problem = "a loss that is detached from the model's parameters"
        cure = "Do not detach it or compute it under torch.no_grad(), and see that some parameter requires a gradient."
    return PlanError(f"training_step must return the loss as a scalar tensor, but returned {problem}.", cure=cure)
