"""The gate: everything that a request must pass before a worker sees it, and an update before it leaves.

The order is the order of cost, and what is charged is charged last: a request that is refused for another reason
costs no budget.
"""

from __future__ import annotations

from fedplug.core.link import TaskReceived
from fedplug.core.node_dataset import NodeDataset
from fedplug.node.approval.approvals import Approvals
from fedplug.node.audit.log import AuditLog
from fedplug.node.datasets.base import DatasetRecord
from fedplug.node.datasets.freshness import check_unchanged
from fedplug.node.jobs import Job, Trained
from fedplug.node.policy.budget import Budget
from fedplug.node.policy.rules import check_request
from fedplug.node.policy.schema import Policy
from fedplug.node.release import check_outgoing
from fedplug.node.store import NodeStore


class Gate:
    """Applies the owner's rules to requests, and to what they bring about.

    Args:
        store: The node's store.
        policy: The rules.
    """

    def __init__(self, store: NodeStore, policy: Policy) -> None:
        self.policy = policy
        self.audit = AuditLog(store)
        self.approvals = Approvals(store, policy)
        self._budget = Budget(store, policy)

    def admit(self, task: TaskReceived, dataset: DatasetRecord | NodeDataset) -> None:
        """Check a request.

        Args:
            task: The request with its plan and its arrays.
            dataset: The data set that it names.

        Raises:
            RefusedError: A rule forbids it.
        """
        self.approvals.require(task.plan, task.request.dataset_id)
        check_request(self.policy, task, dataset)
        if isinstance(dataset, DatasetRecord):
            check_unchanged(dataset, self.policy)
        self._budget.charge(task)

    def release(self, job: Job, outcome: Trained) -> None:
        """Check what a training wants to send.

        Raises:
            RefusedError: It is more than was declared.
        """
        check_outgoing(job, outcome, self.policy)
