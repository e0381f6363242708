"""Whether the owner's rules allow a request."""

from __future__ import annotations

from fedplug.core.link import TaskReceived
from fedplug.core.node_dataset import NodeDataset
from fedplug.node.datasets.base import DatasetRecord
from fedplug.node.policy.schema import Policy


def check_request(policy: Policy, task: TaskReceived, dataset: DatasetRecord | NodeDataset) -> None:
    """Check a request against the rules that need no memory of earlier ones.

    Raises:
        RefusedError: A rule forbids it (code ``"policy"``); names the rule, its line, and what was asked.
    """
