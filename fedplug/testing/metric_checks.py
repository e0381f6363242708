"""The laws of metrics, on samples of three kinds; each metric is tested on those that it can measure."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from fedplug.core.metrics import Metric
from fedplug.core.params import Array
from fedplug.testing.registry import Check, CheckResult, LawBrokenError, OnFail, Profile, Subject, law, run_checks

COUNT = 40

EPSILONS = 64
"""Rounding errors, in units of eps(float64) times the sum of all parts' magnitudes, that the law forgives."""

Samples = tuple[str, Array, Array]


class MetricTrials:
    """Seeds of random samples: one, or twenty in the profile ``full``."""

    def seeded(self, subject: Subject, profile: Profile) -> Iterable[int]:
        """The seeds."""
        return range(20 if profile == "full" else 1)

    def drawn(self, subject: Subject) -> None:
        """None: a seed is as good as another."""


# the laws --------------------------------------------------------------------------------------------------------


def check_additive(metric: Metric, seed: int) -> None:
    """The state of the union of two sets of samples is the sum of their states, whatever their order."""
    for kind, outputs, targets in _measurable(metric, seed):
        whole = _state(metric, kind, outputs, targets)
        order = np.random.default_rng(seed + 1).permutation(COUNT)
        for cuts in ([1], [COUNT // 2], [5, 6, COUNT - 1]):
            parts = [_state(metric, kind, outputs[rows], targets[rows]) for rows in np.split(order, cuts)]
            if any(part.shape != whole.shape for part in parts):
                shapes = [part.shape for part in parts]
                raise LawBrokenError(
                    f"States must have the same length for every batch, but those of {kind} have {shapes}, and that "
                    f"of all together {whole.shape}."
                )
            total, size = sum(parts), sum(np.abs(part) for part in parts)
            if not (np.abs(total - whole) <= EPSILONS * np.finfo(np.float64).eps * size).all():
                raise LawBrokenError(
                    f"The states of {len(parts)} parts of {COUNT} {kind} add up to {total}, but the state of all "
                    f"together is {whole}."
                )


def check_value(metric: Metric, seed: int) -> None:
    """A state comes to named values, and reading it does not change it."""
    for kind, outputs, targets in _measurable(metric, seed):
        state = _state(metric, kind, outputs, targets)
        before = state.copy()
        found: object = metric.value(state)
        if not (isinstance(found, Mapping) and found and all(isinstance(name, str) for name in found)):
            raise LawBrokenError(f"value must return a dict of values by name, but returned {found!r}.")
        if not np.array_equal(state, before):
            raise LawBrokenError(f"value has changed the state it was given, from {before} to {state}.")


def check_own_states(metric: Metric, seed: int) -> None:
    """No state of real samples, nor a sum of such states, is refused."""
    for kind, outputs, targets in _measurable(metric, seed):
        for rows in (slice(0, 1), slice(1, COUNT), slice(0, COUNT)):
            state = _state(metric, kind, outputs[rows], targets[rows])
            metric.check(state)
            metric.check(3 * state)  # the same samples at three nodes


_TRIALS = MetricTrials()


def _of_no_use(metric: Any) -> str:
    if any(True for _ in _measurable(metric, 0)):
        return ""
    return "it can measure neither probabilities, nor scores of classes, nor real numbers"


METRIC_CHECKS: tuple[Check, ...] = (
    law(check_additive, trials=_TRIALS, absent=_of_no_use),
    law(check_value, trials=_TRIALS, absent=_of_no_use),
    law(check_own_states, trials=_TRIALS, absent=_of_no_use),
)
"""All laws of metrics."""


def check_metric(
    metric: Metric | Subject,
    on_fail: OnFail = "raise",
    profile: Profile = "quick",
    *,
    expected_failures: Mapping[str, str] | None = None,
) -> list[CheckResult]:
    """Test a metric against every law.

    Args:
        metric: An instance.
        on_fail: ``"raise"`` to stop at the first law that is broken, ``"report"`` to go on.
        profile: ``"quick"`` or ``"full"``.
        expected_failures: Id of a law that it breaks and will break → why.

    Returns:
        One result per law: ``pass``, ``fail`` or ``xfail``; ``skip`` where it can measure none of the samples, which
        are probabilities of class 1, scores of three classes, and real numbers.

    Raises:
        LawBrokenError: A law is broken, and ``on_fail`` is ``"raise"``.
    """
    subject = Subject.of(metric).with_options(expected_failures)
    return run_checks(METRIC_CHECKS, subject, on_fail=on_fail, profile=profile)


# samples ---------------------------------------------------------------------------------------------------------


def _samples(seed: int) -> Iterator[Samples]:
    rng = np.random.default_rng(seed)
    yield "probabilities", rng.random(COUNT), rng.integers(0, 2, COUNT)
    yield "scores of three classes", rng.normal(size=(COUNT, 3)), rng.integers(0, 3, COUNT)
    yield "real numbers", rng.normal(size=COUNT), rng.normal(size=COUNT)


def _measurable(metric: Metric, seed: int) -> Iterator[Samples]:
    """The kinds of samples of which the metric makes a state at all."""
    for kind, outputs, targets in _samples(seed):
        try:
            metric.state(outputs.copy(), targets.copy())
        except Exception:  # noqa: BLE001, S112 - a metric may be for other samples, and says so as it likes
            continue
        yield kind, outputs, targets


def _state(metric: Metric, kind: str, outputs: Array, targets: Array) -> Array:
    given: tuple[Any, Any] = copy.deepcopy((outputs, targets))
    state = np.asarray(metric.state(*given))
    if state.ndim != 1 or state.dtype.kind not in "biuf" or not state.size:
        raise LawBrokenError(f"A state must be a vector of numbers, but that of {kind} is {state!r}.")
    if not all(np.array_equal(now, before) for now, before in zip(given, (outputs, targets), strict=True)):
        raise LawBrokenError("Outputs and targets are read-only, but state has changed them.")
    return state.astype(np.float64)
