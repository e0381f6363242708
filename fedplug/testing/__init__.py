"""The conformance kit: what plugin authors run to see whether their component keeps the rules.

Names are imported on first use, so that a test of an aggregator does not import transports, nor pytest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedplug.testing import oracles, strategies
    from fedplug.testing.agg_optimizer_checks import AGG_OPTIMIZER_CHECKS, check_agg_optimizer
    from fedplug.testing.aggregator_checks import AGGREGATOR_CHECKS, check_aggregator
    from fedplug.testing.cases import Case
    from fedplug.testing.components import check_offer
    from fedplug.testing.dataset_checks import DATASET_TYPE_CHECKS, check_dataset_type
    from fedplug.testing.engine_case import EngineCase
    from fedplug.testing.engine_checks import ENGINE_CHECKS, check_engine
    from fedplug.testing.kinds import checks_of
    from fedplug.testing.metric_checks import METRIC_CHECKS, check_metric
    from fedplug.testing.parametrize import parametrize_with_checks
    from fedplug.testing.plan_case import PlanCase
    from fedplug.testing.plan_checks import TRAINING_PLAN_CHECKS, check_training_plan
    from fedplug.testing.registry import Check, CheckResult, LawBrokenError, NotApplicableError, Subject, run_check
    from fedplug.testing.source_checks import DATA_MANAGER_CHECKS, check_data_manager
    from fedplug.testing.strategy_checks import STRATEGY_CHECKS, check_strategy
    from fedplug.testing.transport_case import TransportCase
    from fedplug.testing.transport_checks import check_transport

_HOMES = {
    "AGGREGATOR_CHECKS": "aggregator_checks",
    "AGG_OPTIMIZER_CHECKS": "agg_optimizer_checks",
    "DATA_MANAGER_CHECKS": "source_checks",
    "DATASET_TYPE_CHECKS": "dataset_checks",
    "ENGINE_CHECKS": "engine_checks",
    "METRIC_CHECKS": "metric_checks",
    "STRATEGY_CHECKS": "strategy_checks",
    "TRAINING_PLAN_CHECKS": "plan_checks",
    "Case": "cases",
    "Check": "registry",
    "CheckResult": "registry",
    "EngineCase": "engine_case",
    "LawBrokenError": "registry",
    "NotApplicableError": "registry",
    "PlanCase": "plan_case",
    "Subject": "registry",
    "TransportCase": "transport_case",
    "check_agg_optimizer": "agg_optimizer_checks",
    "check_aggregator": "aggregator_checks",
    "check_data_manager": "source_checks",
    "check_dataset_type": "dataset_checks",
    "check_engine": "engine_checks",
    "check_metric": "metric_checks",
    "check_offer": "components",
    "check_strategy": "strategy_checks",
    "check_training_plan": "plan_checks",
    "check_transport": "transport_checks",
    "checks_of": "kinds",
    "oracles": "",
    "parametrize_with_checks": "parametrize",
    "run_check": "registry",
    "strategies": "",
}

__all__ = [
    "AGGREGATOR_CHECKS",
    "AGG_OPTIMIZER_CHECKS",
    "DATASET_TYPE_CHECKS",
    "DATA_MANAGER_CHECKS",
    "ENGINE_CHECKS",
    "METRIC_CHECKS",
    "STRATEGY_CHECKS",
    "TRAINING_PLAN_CHECKS",
    "Case",
    "Check",
    "CheckResult",
    "EngineCase",
    "LawBrokenError",
    "NotApplicableError",
    "PlanCase",
    "Subject",
    "TransportCase",
    "check_agg_optimizer",
    "check_aggregator",
    "check_data_manager",
    "check_dataset_type",
    "check_engine",
    "check_metric",
    "check_offer",
    "check_strategy",
    "check_training_plan",
    "check_transport",
    "checks_of",
    "oracles",
    "parametrize_with_checks",
    "run_check",
    "strategies",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES[name]
    if not home:
        return importlib.import_module(f"{__name__}.{name}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    return value
