"""Scaffold at a node, as hooks of the training loop: gradients are corrected, and the control variate is renewed."""

from __future__ import annotations

from typing import Any

from fedplug.core.node_terms import NodeTerm
from fedplug.core.trainer import Context, Hook, Phase, Scope, Trigger
from fedplug.core.trainer.methods import control_variates
from fedplug_scaffold.scaffold import AUX

_COMMON, _OWN = "scaffold_common", "scaffold_own"


def scaffold_hooks() -> list[Hook]:
    """What a node does in a round of `Scaffold`.

    ``c`` comes in ``ctx.inbox["scaffold"]``, ``c_i`` from what the node has kept; `control_variates` corrects the
    gradients by them. The uncorrected ones are added up, and their mean over the steps is the new ``c_i``. A second
    model of the trainer, and trainings within the training, have no part in it.
    """

    def begin(ctx: Context) -> None:
        if not _is_shared(ctx):
            return
        term = NodeTerm(AUX)
        term.begin(ctx)
        for name, arrays in ((_COMMON, term.common), (_OWN, term.own)):
            if arrays is not None:
                ctx.inbox[name] = arrays
        ctx.set("scaffold_term", term, Scope.ROUTINE)
        ctx.set("scaffold_sum", {}, Scope.ROUTINE)

    def collect(ctx: Context) -> None:
        if not _is_shared(ctx):
            return
        total: dict[str, Any] = ctx.scaffold_sum
        for name, gradient in ctx.backend.gradients().items():
            if name in total:
                total[name] += gradient
            elif name not in ctx.backend.local_names:
                total[name] = gradient * 1

    def end(ctx: Context) -> None:
        if not _is_shared(ctx):
            return
        term: NodeTerm = ctx.scaffold_term
        steps, total = ctx.num_steps, ctx.scaffold_sum
        new = None
        if steps and total:
            shared = {n: each for n, each in ctx.backend.trainable().items() if n not in ctx.backend.local_names}
            means = {n: total[n] / steps if n in total else each * 0 for n, each in shared.items()}
            new = ctx.backend.to_numpy(means)
        term.end(ctx, new)

    train = (Phase.TRAIN,)
    return [
        Hook(begin, Trigger.ON_FIT_START, train, "scaffold_begin", before=("control_variates",)),
        Hook(collect, Trigger.ON_BATCH_BACKWARD, train, "scaffold_collect", after=("backward",), first=True),
        *control_variates(_COMMON, _OWN),
        Hook(end, Trigger.ON_FIT_END, train, "scaffold_end"),
    ]


def _is_shared(ctx: Context) -> bool:
    return ctx.depth == 1 and ctx.cur_model_idx == 0
