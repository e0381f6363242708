"""How wide and how deep a tree of aggregators is to be.

A level in which each aggregator serves ``f`` children, one after the other at ``t`` seconds each, and then hands on
what it has, which takes ``L`` seconds for any ``f``, adds ``f t + L`` to a round; ``docs/scaling.md`` derives the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.scaling.model import CostModel, Load, Machine


def best_fan_out(child: float, level: float) -> float:
    """The real fan-out that makes ``d (f t + L)`` smallest, where ``f ** d`` leaves are to be reached.

    It solves ``f (ln f - 1) = L / t``; without ``L`` it is e.

    Args:
        child: ``t``, seconds for a child.
        level: ``L``, seconds for a level.

    Raises:
        ValueError: A time is negative, or ``child`` is 0.
    """
    if child <= 0 or level < 0:
        raise ValueError(f"A child takes more than 0 seconds and a level 0 or more, not {child} and {level}.")
    ratio = level / child
    low, high = math.e, math.e + 2 * ratio + 1  # at the upper end f (ln f - 1) > ratio: ln f - 1 > 0.5 beyond e ** 1.5
    while high * (math.log(high) - 1) < ratio:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if middle * (math.log(middle) - 1) < ratio:
            low = middle
        else:
            high = middle
    return high


def level_time(leaves: float, depth: int, children: Sequence[float], level: float) -> float:
    """Seconds of a tree of this depth whose fan-outs are the best ones: all its levels take equally long.

    The fan-outs ``f_i = G / t_i`` with ``G = (n t_1 ... t_d) ** (1 / d)`` make the sum of ``f_i t_i`` smallest while
    their product is ``n`` (the inequality of the means), so the time is ``d G + d L``.

    Args:
        leaves: ``n``.
        depth: ``d``.
        children: ``t_i`` from the leaves up; the last one stands for the levels above, too.
        level: ``L``.
    """
    times = [children[min(i, len(children) - 1)] for i in range(depth)]
    return depth * float((leaves * math.prod(times)) ** (1 / depth)) + depth * level


def fan_outs(leaves: int, depth: int, children: Sequence[float]) -> list[int]:
    """Whole fan-outs near the best ones, from the leaves up; their product reaches all leaves.

    Args:
        leaves: Number of leaves, at least 1.
        depth: Number of levels.
        children: As for `level_time`.
    """
    left, chosen = leaves, []
    for index in range(depth):
        rest = [children[min(i, len(children) - 1)] for i in range(index, depth)]
        wanted = (left * math.prod(rest)) ** (1 / len(rest)) / rest[0]
        width = left if index == depth - 1 else min(left, max(1, round(wanted)))
        chosen.append(width)
        left = math.ceil(left / width)
    return chosen


@dataclass(frozen=True)
class Plan:
    """A tree for a federation.

    Attributes:
        widths: Aggregators in each level, from the one that nodes connect to up to the root, which is 1.
        seconds: What a round takes beside the training, by the store-and-forward formula.
        why: What decides how many there are in the lowest level.
    """

    widths: tuple[int, ...]
    seconds: float
    why: str

    @property
    def aggregators(self) -> int:
        """How many there are, without the root."""
        return sum(self.widths[:-1])


def plan(costs: CostModel, load: Load, machine: Machine, seconds: float) -> Plan:
    """The smallest tree that holds all connections and keeps within a time, level by level.

    The lowest level is as wide as connections and nodes that train ask for; each level above it as wide as the partial
    sums of the one below. A level may take an equal part of the time.

    Args:
        costs: What a node costs an aggregator.
        load: What is asked of the whole tree.
        machine: What each aggregator has.
        seconds: What a round may take beside the training.

    Raises:
        ValueError: Not even a binary tree is fast enough.
    """
    most, what = costs.most_connected(machine, load.heartbeat)
    leaf = costs.child_seconds(load.model, machine)
    inner = costs.child_seconds(load.model, machine, update=2.0)
    level = level_seconds(costs, load.model, machine)
    for depth in range(1, 64):
        part = seconds / depth - level
        served = math.floor(part / leaf) if part > 0 else 0
        above = math.floor(part / inner) if part > 0 else 0
        if depth > 1 and above < 2:
            break
        if served < 1:
            continue
        needs = {what: math.ceil(load.connected / most), "time": math.ceil(load.sampled / served)}
        why = max(needs, key=lambda each: needs[each])
        widths = [max(needs.values())]
        while widths[-1] > 1 and len(widths) < depth:
            widths.append(math.ceil(widths[-1] / above))
        if widths[-1] > 1:
            continue
        taken = len(widths) * level + load.sampled / widths[0] * leaf
        taken += sum(below / width * inner for below, width in pairwise(widths))
        return Plan(tuple(widths), taken, "one is enough" if len(widths) == 1 else why)
    raise ValueError(f"No tree brings {load.sampled:g} updates of {load.model:g} bytes together in {seconds:g} s.")


def level_seconds(costs: CostModel, model: float, machine: Machine) -> float:
    """``L``: what a level takes for any number of children: digest and result, one way down, one way up."""
    way = 2 * machine.latency + 2 * costs.child_seconds(model, machine)
    return costs.round_extra(model) + way
