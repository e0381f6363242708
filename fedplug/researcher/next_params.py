"""From the aggregate of a round to the next global parameters: noise, then the researcher's optimizer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedplug.core.params import Params
from fedplug.core.update import Update
from fedplug.researcher.refusals import blamed, check_result
from fedplug.researcher.round_plan import RoundPlan


def check_for(job: RoundPlan, update: Update) -> None:
    """Refuse an update that privacy, the aggregator or the optimizer could not work with, as it arrives.

    Raises:
        UpdateRejectedError: It is one.
    """
    if job.privacy is not None:
        job.privacy.check(update)
    with blamed("Aggregator", job.aggregator, "check_update"):
        job.aggregator.check_update(update, job.params)
    if job.agg_optimizer is not None:
        with blamed("Optimizer", job.agg_optimizer, "check_update"):
            job.agg_optimizer.check_update(update, job.params)


def next_params(job: RoundPlan, aggregated: Params, updates: Sequence[Update]) -> Params:
    """The next global parameters.

    Args:
        job: The round.
        aggregated: What the aggregator made of the updates.
        updates: The updates that are in it, for privacy: their counts are of interest, their parameters may be gone.

    Raises:
        RoundError: The aggregator or the optimizer failed, or made something that are no parameters of this model.
    """
    check_result(aggregated, job.params, job.aggregator)
    if job.privacy is not None:
        aggregated = job.privacy.protect(aggregated, updates)
    if job.agg_optimizer is None:
        return aggregated
    with blamed("Optimizer", job.agg_optimizer, "advance"):
        moved = job.agg_optimizer.advance(job.params, aggregated, job.ctx)
    check_result(moved, job.params, job.agg_optimizer)
    return _with_buffers(moved, aggregated, job.ctx.buffers)


def _with_buffers(moved: Params, aggregated: Params, buffers: frozenset[str]) -> Params:
    """``moved``, but for what has no gradient: buffers and whole numbers, which are those of ``aggregated``.

    An adaptive step would make a running variance negative.
    """
    still = {each.name for each in moved.spec.tensors if each.is_exact}
    still |= buffers & moved.keys()
    if not still:
        return moved
    return Params.build(moved.spec, lambda name, out: np.copyto(out, (aggregated if name in still else moved)[name]))
