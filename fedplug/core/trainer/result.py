"""What routines return, and the table of hooks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedplug.core.metrics.base import Metric
from fedplug.core.metrics.sums import MEAN, findings
from fedplug.core.params import Array, Params


@dataclass(frozen=True)
class FitResult:
    """What a routine came to.

    Attributes:
        num_samples: Samples seen, counting those of every epoch.
        params: The parameters afterwards, copied; None if they were not asked for, and after an evaluation.
        metrics: What was found, by name; never of an earlier routine.
        aux: What hooks put into ``ctx.outbox``.
        steps: Optimizer steps made.
        seconds: Wall time.
        cpu_seconds: Time of the processor, all threads of the process together.
        stopped: Why a hook stopped it early; empty if it went to its end.
        leaks: Names that hooks left behind in the context without a scope.
        slots: The results of each model, where there are several.
        sums: Of an evaluation, what ``metrics`` and ``values`` are made of, to be added to those of other nodes; see
            `fedplug.core.metrics.sums`.
        values: What was found that is no number, by name, e.g. a confusion matrix.
    """

    num_samples: int = 0
    params: Params | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    aux: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    stopped: str = ""
    leaks: tuple[str, ...] = ()
    slots: tuple[FitResult, ...] = ()
    sums: Mapping[str, Array] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def loss(self) -> float:
        """The metric ``loss``; of a training, the mean loss over the samples."""
        return self.metrics["loss"]


def complete_sums(result: FitResult, metrics: Mapping[str, Metric]) -> dict[str, Array]:
    """The sums of an evaluation, including numbers that hooks added to ``ctx.metrics``, which count as means.

    Args:
        result: The evaluation.
        metrics: What was measured.
    """
    sums = dict(result.sums)
    known = findings(sums, metrics).scalars
    for name, value in result.metrics.items():
        if name not in known:
            sums[MEAN + name] = np.array([value * result.num_samples, result.num_samples], np.float64)
    return sums


@dataclass(frozen=True, slots=True)
class HookRow:
    """A line of the table of hooks.

    Attributes:
        phase: The phase.
        trigger: The point in time.
        order: Which of those at the trigger, from 0, in the order of calls.
        name: The hook's name.
        plugin: Who brought it; empty for the researcher.
        model: Of which model, where there are several.
    """

    phase: str
    trigger: str
    order: int
    name: str
    plugin: str
    model: int = 0


class HookTable(tuple[HookRow, ...]):
    """All hooks of a trainer in the order of calls; ``str`` of it is a table to print."""

    __slots__ = ()

    def __str__(self) -> str:
        several = any(row.model for row in self)
        head = ("phase", "trigger", "order", "hook", "plugin", *(("model",) if several else ()))
        rows = [head] + [
            (r.phase, r.trigger, str(r.order), r.name, r.plugin or "-", *((str(r.model),) if several else ()))
            for r in self
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
        return "\n".join(line.rstrip() for line in lines)
