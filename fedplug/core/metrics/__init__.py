"""Federated metrics: what a test measures, as sums that add up over batches and nodes.

The shipped metrics are components of the kind ``metric``, loaded when they are asked for; here is what they have
in common.
"""

from __future__ import annotations

from fedplug.core.metrics.base import Metric
from fedplug.core.metrics.making import make_metrics
from fedplug.core.metrics.sums import TEST_AUX, Findings, findings, merged
from fedplug.core.metrics.testing_step import as_metrics
from fedplug.core.metrics.types import MetricTypes

__all__ = ["TEST_AUX", "Findings", "Metric", "MetricTypes", "as_metrics", "findings", "make_metrics", "merged"]
