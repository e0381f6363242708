"""Which training plans may run on which data sets, and until when."""

from __future__ import annotations

from fedplug.core.plan_source import PlanBundle
from fedplug.node.policy.schema import Policy
from fedplug.node.store import NodeStore


class Approvals:
    """The decisions of a node's owner about training plans.

    Args:
        store: The node's store.
        policy: The rules; with ``approval.mode = "off"`` every plan runs.
    """

    def __init__(self, store: NodeStore, policy: Policy) -> None:
        self._store = store
        self._policy = policy

    def require(self, bundle: PlanBundle, dataset_id: str) -> None:
        """Check that a plan may run on a data set now.

        Raises:
            RefusedError: It was not approved, was rejected, or its approval has ended (code ``"not-approved"``).
        """
