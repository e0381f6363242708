"""Local differential privacy for PyTorch plans: what Opacus must be there for, and which models it can protect."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from torch import nn

from fedplug.core.errors import PlanError, UsageError
from fedplug.core.params import Array

Spent = list[float | int]
"""``[sigma, sample rate, steps]``: so many steps of the sampled Gaussian mechanism."""

_FIX = (
    "Replace BatchNorm by GroupNorm, or wrap your model in opacus.validators.ModuleValidator.fix(model) in init_model."
)


def check_model(model: nn.Module) -> None:
    """Refuse a model whose samples cannot be told apart in its gradient.

    Raises:
        UsageError: Opacus is not installed.
        PlanError: With Opacus's reason, or ours, and what to do.
    """
    require_opacus()
    from opacus.grad_sample import GradSampleModule
    from opacus.validators import ModuleValidator

    training = model.training
    model.train()
    try:
        problems = [*ModuleValidator.validate(model, strict=False), *GradSampleModule.validate(model, strict=False)]
    finally:
        model.train(training)
    if problems:
        reason = " ".join(str(problems[0]).split())
        if reason.startswith("BatchNorm"):  # the rest of it says at length what the cure says
            reason = reason.partition(". ")[0].rstrip(".") + "."
        raise PlanError(f"Opacus cannot train this model with local differential privacy: {reason}", cure=_FIX)
    for name, module in model.named_modules():
        # Opacus looks at layers with trainable parameters only; one without any still mixes the samples of a batch.
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise PlanError(
                f"The model cannot be trained with local differential privacy: {name or 'it'} is a "
                f"{type(module).__name__}, which makes the output for a sample depend on the others in its batch.",
                cure=_FIX,
            )
        if getattr(module, "inplace", False) is True:
            raise PlanError(
                f"The model cannot be trained with local differential privacy: {name or 'it'} is a "
                f"{type(module).__name__} that works in place, and overwrites what Opacus needs.",
                cure="Leave out inplace=True.",
            )


def require_opacus() -> None:
    """Check that Opacus is installed.

    Raises:
        UsageError: It is not.
    """
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        import opacus  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"Local differential privacy needs Opacus, which cannot be imported here ({error}).",
            cure="At the researcher and at every node: pip install 'fedplug-torch[dp]'",
        ) from None
    finally:  # importing it sets up logging for the whole program, which is not for a library to do
        root.handlers[:] = handlers
        root.setLevel(level)


def spent_epsilon(history: Sequence[Spent], delta: float) -> float:
    """The epsilon of a history as Opacus's ``RDPAccountant`` works it out.

    (Mironov, Rényi Differential Privacy, CSF 2017; of a sample: Mironov et al., Rényi Differential Privacy of the
    Sampled Gaussian Mechanism, 2019, section 3.3.) The divergence of one step is kept: it takes most of a second.

    Returns:
        Epsilon, not below 0; infinite where a sigma is 0.
    """
    from opacus.accountants import RDPAccountant
    from opacus.accountants.analysis import rdp as analysis

    if not history:
        return 0.0
    spent = sum(int(steps) * _divergence(float(sigma), float(rate)) for sigma, rate, steps in history)
    with warnings.catch_warnings():
        # It would like more orders of the divergence than it has. The bound holds at each of them.
        warnings.filterwarnings("ignore", "Optimal order is the")
        epsilon, _ = analysis.get_privacy_spent(orders=RDPAccountant.DEFAULT_ALPHAS, rdp=spent, delta=delta)
    return max(0.0, float(epsilon))


@lru_cache(maxsize=64)
def _divergence(sigma: float, rate: float) -> Array:
    """The Rényi divergence of one step, at each of Opacus's orders."""
    from opacus.accountants import RDPAccountant
    from opacus.accountants.analysis import rdp as analysis

    orders = RDPAccountant.DEFAULT_ALPHAS
    return np.asarray(analysis.compute_rdp(q=rate, noise_multiplier=sigma, steps=1, orders=orders), np.float64)


def add_spent(history: list[Spent], sigma: float, rate: float, steps: int) -> None:
    """Note ``steps`` more steps in ``history``, as Opacus does: equal ones that follow each other are one entry."""
    if history and history[-1][:2] == [sigma, rate]:
        history[-1][2] = int(history[-1][2]) + steps
    elif steps:
        history.append([sigma, rate, steps])
