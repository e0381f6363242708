"""The laws of aggregators, in the order in which they are tested."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedplug.core.aggregator import Aggregator
from fedplug.testing.aggregator_algebra import (
    check_absence,
    check_consensus,
    check_homogeneous,
    check_hull,
    check_partition,
    check_repetition,
    check_scale,
    check_share,
    check_shift,
    check_symmetric,
)
from fedplug.testing.aggregator_contract import check_few, check_inputs, check_layout, check_tags
from fedplug.testing.aggregator_memory import (
    check_arrival,
    check_config,
    check_forgets,
    check_interleaved,
    check_resume,
    check_streaming,
    check_undone,
)
from fedplug.testing.aggregator_robust import check_breakdown, check_finite
from fedplug.testing.cases import Complete, cases
from fedplug.testing.hostile import HostileTrials
from fedplug.testing.play import AggregatorTrials, remembers
from fedplug.testing.registry import Check, CheckResult, OnFail, Profile, Subject, law, run_checks

_ROUND = AggregatorTrials()
_ROUNDS = AggregatorTrials(rounds=3)


def _shareless(aggregator: Any) -> str:
    case = next(cases(aggregator.tags.minimum_updates))
    return "largest_share gives None" if aggregator.largest_share(case.updates) is None else ""


def _not_between(aggregator: Any) -> str:
    return "it remembers rounds, and may keep its part of one in itself" if remembers(aggregator) else ""


AGGREGATOR_CHECKS: tuple[Check, ...] = (
    law(check_tags),
    law(check_layout, trials=_ROUND),
    law(check_inputs, trials=_ROUND),
    law(check_few, trials=AggregatorTrials(single=True)),
    law(check_arrival, trials=_ROUND),
    law(check_consensus, trials=_ROUND),
    law(check_symmetric, needs="symmetric", trials=_ROUND),
    law(check_homogeneous, needs="weighted", trials=_ROUND),
    law(check_absence, needs="weighted", trials=_ROUND),
    law(check_repetition, needs="weighted", trials=_ROUND),
    law(check_partition, needs="weighted", trials=_ROUND),
    law(check_hull, needs="convex", trials=_ROUND),
    law(check_scale, needs="scale_equivariant", trials=_ROUND),
    law(check_shift, needs="shift_equivariant", trials=_ROUND),
    law(check_streaming, needs="streaming", trials=_ROUND),
    law(check_interleaved, needs="streaming", trials=_ROUND, absent=_not_between),
    law(check_forgets, needs="streaming", trials=_ROUND),
    law(check_config, trials=_ROUND),
    law(check_resume, trials=_ROUNDS),
    law(check_undone, trials=_ROUNDS),
    law(check_finite, trials=_ROUND),
    law(check_breakdown, needs="breakdown", trials=HostileTrials()),
    law(check_share, trials=_ROUND, absent=_shareless),
)
"""All laws of aggregators."""


def check_aggregator(
    aggregator: Aggregator | Subject,
    on_fail: OnFail = "raise",
    profile: Profile = "quick",
    *,
    expected_failures: Mapping[str, str] | None = None,
    complete: Complete | None = None,
) -> list[CheckResult]:
    """Test an aggregator against every law that its tags claim.

    Args:
        aggregator: An instance; it is copied for every trial, so that no state is carried over.
        on_fail: ``"raise"`` to stop at the first law that is broken, ``"report"`` to go on.
        profile: ``"quick"`` or ``"full"``.
        expected_failures: Id of a law that it breaks and will break → why. It must break it.
        complete: Adds what its nodes send beside the parameters; see `Subject`.

    Returns:
        One result per law: ``pass``, ``fail``, ``skip`` or ``xfail``.

    Raises:
        LawBrokenError: A law is broken, and ``on_fail`` is ``"raise"``.
    """
    subject = Subject.of(aggregator).with_options(expected_failures, complete)
    return run_checks(AGGREGATOR_CHECKS, subject, on_fail=on_fail, profile=profile)
