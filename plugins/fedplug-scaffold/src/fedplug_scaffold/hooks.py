"""Scaffold at a node, as hooks of the training loop: gradients are corrected, and the control variate is renewed."""

from __future__ import annotations

import dataclasses
from typing import Any

from fedplug.core.node_terms import NodeTerm
from fedplug.core.trainer import Context, Hook, Phase, Scope, Trigger
from fedplug_scaffold.scaffold import AUX

_TRAIN = (Phase.TRAIN,)


def scaffold_hooks() -> list[Hook]:
    """What a node does in a round of `Scaffold`.

    ``c`` comes in ``ctx.inbox["scaffold"]``, ``c_i`` from what the node has kept. Right behind the backward pass the
    gradients are added up, and then ``c - c_i`` is added to them, before anybody clips them; the mean of the former is
    the new ``c_i``. What is frozen meanwhile is not corrected. A second model of the trainer, and trainings within the
    training, have no part in it.
    """
    behind, ahead = ("backward",), ("step",)
    hooks = [
        Hook(_begin, Trigger.ON_FIT_START, _TRAIN, "scaffold_begin", last=True),
        Hook(_collect, Trigger.ON_BATCH_BACKWARD, _TRAIN, "scaffold_collect", before=ahead, after=behind, first=True),
        Hook(_correct, Trigger.ON_BATCH_BACKWARD, _TRAIN, "scaffold_correct", before=ahead, after=behind),
        Hook(_end, Trigger.ON_FIT_END, _TRAIN, "scaffold_end"),
    ]
    return [_of_the_round(each) for each in hooks]


def _begin(ctx: Context) -> None:
    term = NodeTerm(AUX)
    term.begin(ctx)
    common, own = ctx.backend.native(term.common or {}), ctx.backend.native(term.own or {})
    correction = dict(common)
    for name, array in own.items():
        correction[name] = correction[name] - array if name in correction else -array
    ctx.set("scaffold_term", term, Scope.ROUTINE)
    ctx.set("scaffold_correction", correction, Scope.ROUTINE)
    ctx.set("scaffold_sum", {}, Scope.ROUTINE)


def _collect(ctx: Context) -> None:
    total: dict[str, Any] = ctx.scaffold_sum
    parts = ctx.scaffold_term.parts
    for name, gradient in ctx.backend.gradients().items():
        if name in total:
            total[name] += gradient
        elif name in parts:
            total[name] = _widened(gradient)


def _correct(ctx: Context) -> None:
    correction = ctx.scaffold_correction
    if correction:
        trained = ctx.backend.trainable()
        ctx.backend.add_gradients({name: array for name, array in correction.items() if name in trained})


def _end(ctx: Context) -> None:
    term: NodeTerm = ctx.scaffold_term
    steps, total = ctx.num_steps, ctx.scaffold_sum
    term.end(ctx, ctx.backend.to_numpy({name: each / steps for name, each in total.items()}) if steps else None)


def _of_the_round(hook: Hook) -> Hook:
    """``hook``, but for the training of the round alone, of the model that is shared."""

    def call(ctx: Context) -> None:
        if ctx.depth == 1 and ctx.cur_model_idx == 0:
            hook.fn(ctx)

    return dataclasses.replace(hook, fn=call)


def _widened(gradient: Any) -> Any:
    """A copy to add up in; half precision in single, which neither overflows nor loses small gradients."""
    if gradient.dtype.itemsize >= 4:
        return gradient * 1
    return gradient.float() if hasattr(gradient, "float") else gradient.astype("float32")
