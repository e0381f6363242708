"""Methods of federated learning that are nothing but hooks.

None of them knows a framework: they see parameters and gradients as named arrays of whatever kind, through the
`Backend`. Each object belongs to one trainer; what it remembers lives in the context, for one routine.
"""

from __future__ import annotations

from typing import Any

from fedplug.core.errors import UsageError
from fedplug.core.trainer.context import Context
from fedplug.core.trainer.defaults import OWNER, TRAINING
from fedplug.core.trainer.hooks import Hook
from fedplug.core.trainer.points import Phase, Scope, Trigger
from fedplug.core.training_args import TrainingArgs


def hooks_for(args: TrainingArgs) -> list[Hook]:
    """The hooks that training arguments ask for."""
    hooks: list[Hook] = []
    if args.fedprox_mu:
        hooks += fedprox(args.fedprox_mu)
    if args.grad_clip:
        hooks += gradient_clipping()
    return hooks


def fedprox(mu: float) -> list[Hook]:
    """FedProx: keeps a node's model near the one that it was sent.

    The node minimises ``h(w) = F(w) + mu/2 * ||w - w0||^2``, where ``w0`` are the trainable parameters as the routine
    began (Li et al., Federated Optimization in Heterogeneous Networks, MLSys 2020, equation 2). The term is added to
    ``loss_task`` as a value and its gradient, ``mu * (w - w0)``, to the gradient: this is the same, and needs no graph.

    Args:
        mu: The weight, > 0.
    """
    if not mu > 0:
        raise UsageError(f"fedprox needs mu > 0, got {mu!r}.")

    def remember(ctx: Context) -> None:
        ctx.set("fedprox_start", ctx.backend.snapshot(), Scope.ROUTINE)

    def loss(ctx: Context) -> None:
        start = ctx.fedprox_start
        # one that was frozen as the routine began is free now, and has no place to be held at
        gaps = {name: array - start[name] for name, array in ctx.backend.trainable().items() if name in start}
        ctx.set("fedprox_gaps", gaps, Scope.BATCH)
        term = 0.5 * mu * sum((gap * gap).sum() for gap in gaps.values())
        ctx.loss_regular = term if ctx.loss_regular is None else ctx.loss_regular + term
        ctx.loss_task = ctx.loss_task + term

    def gradient(ctx: Context) -> None:
        ctx.backend.add_gradients({name: mu * gap for name, gap in ctx.fedprox_gaps.items()})

    return [
        Hook(remember, Trigger.ON_FIT_START, (Phase.TRAIN,), "fedprox_start", OWNER),
        Hook(loss, Trigger.ON_BATCH_FORWARD, (Phase.TRAIN,), "fedprox", OWNER, after=("regularizer",)),
        Hook(
            gradient, Trigger.ON_BATCH_BACKWARD, (Phase.TRAIN,), "fedprox", OWNER, before=("step",), after=("backward",)
        ),
    ]


def gradient_clipping(limit: float | None = None) -> list[Hook]:
    """Shorten the gradient to a norm of at most ``limit``: ``g <- g * min(1, limit / ||g||)``.

    (Pascanu et al., On the difficulty of training recurrent neural networks, ICML 2013, algorithm 1.) It comes last
    before the step, so that what other hooks add to the gradient is clipped too.

    Args:
        limit: The norm, > 0; None: ``ctx.grad_clip``, as it is at each batch, where 0 means no limit.
    """
    if limit is not None and not limit > 0:
        raise UsageError(f"gradient_clipping needs a limit > 0, got {limit!r}.")

    def clip(ctx: Context) -> None:
        norm = ctx.grad_clip if limit is None else limit
        if norm > 0:
            ctx.backend.clip_gradients(norm)

    return [
        Hook(clip, Trigger.ON_BATCH_BACKWARD, TRAINING, "grad_clip", OWNER, ("step",), ("backward",), last=True),
    ]


def control_variates(common: str = "control_variate", own: str = "own_control_variate") -> list[Hook]:
    """Correct each gradient by control variates: ``g <- g - c_i + c``.

    (Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, ICML 2020, algorithm 1,
    line 10.) Both are named arrays in ``ctx.inbox``; a missing one counts as zero.

    Args:
        common: Name of ``c``, the same for all nodes.
        own: Name of ``c_i``, the node's own.
    """

    def prepare(ctx: Context) -> None:
        parts = [(sign, ctx.inbox[name]) for sign, name in ((1.0, common), (-1.0, own)) if name in ctx.inbox]
        native = [(sign, ctx.backend.native(arrays)) for sign, arrays in parts]
        correction: dict[str, Any] = {}
        for sign, arrays in native:
            for name, array in arrays.items():
                correction[name] = sign * array if name not in correction else correction[name] + sign * array
        ctx.set("control_correction", correction, Scope.ROUTINE)

    def correct(ctx: Context) -> None:
        ctx.backend.add_gradients(ctx.control_correction)

    before = ("step",)
    return [
        Hook(prepare, Trigger.ON_FIT_START, (Phase.TRAIN,), "control_variates", OWNER),
        Hook(correct, Trigger.ON_BATCH_BACKWARD, (Phase.TRAIN,), "control_variates", OWNER, before, ("backward",)),
    ]
