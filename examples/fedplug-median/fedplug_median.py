"""Coordinate-wise median for FedPlug."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedplug import Aggregator, AggregatorTags, Component, Params, RoundContext, Update, hookimpl

__fedplug_api__ = 1


@hookimpl
def fedplug_register_aggregators() -> list[Component]:
    return [Component("median", "fedplug_median:Median", "Coordinate-wise median; ignores weights.")]


class Median(Aggregator):
    tags = AggregatorTags(weighted=False)

    def aggregate(self, start: Params, updates: Sequence[Update], ctx: RoundContext) -> Params:
        return Params.stack_reduce([u.params for u in updates], lambda x: np.median(x, axis=0))
