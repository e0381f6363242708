"""The conformance kit: what plugin authors run to see whether their component keeps the rules.

Names are imported on first use, so that a test of an aggregator does not import transports, nor pytest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedplug.testing.aggregator_checks import AGGREGATOR_CHECKS, check_aggregator, parametrize_with_checks
    from fedplug.testing.components import check_offer
    from fedplug.testing.metric_checks import METRIC_CHECKS, check_metric
    from fedplug.testing.registry import Check, CheckResult, LawBrokenError, run_check
    from fedplug.testing.transport_checks import check_transport

_HOMES = {
    "AGGREGATOR_CHECKS": "fedplug.testing.aggregator_checks",
    "METRIC_CHECKS": "fedplug.testing.metric_checks",
    "Check": "fedplug.testing.registry",
    "CheckResult": "fedplug.testing.registry",
    "LawBrokenError": "fedplug.testing.registry",
    "check_aggregator": "fedplug.testing.aggregator_checks",
    "check_metric": "fedplug.testing.metric_checks",
    "check_offer": "fedplug.testing.components",
    "check_transport": "fedplug.testing.transport_checks",
    "parametrize_with_checks": "fedplug.testing.aggregator_checks",
    "run_check": "fedplug.testing.registry",
}

__all__ = [
    "AGGREGATOR_CHECKS",
    "METRIC_CHECKS",
    "Check",
    "CheckResult",
    "LawBrokenError",
    "check_aggregator",
    "check_metric",
    "check_offer",
    "check_transport",
    "parametrize_with_checks",
    "run_check",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fedplug.testing' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value
