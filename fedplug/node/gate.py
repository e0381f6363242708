"""The gate: everything that a request must pass before a worker sees it, and an update before it leaves.

The order is the order of cost, and what is charged is charged last: a request that is refused for another reason
costs no budget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fedplug.core.link import TaskReceived
from fedplug.core.plugin_checks import PluginRecord
from fedplug.node.approval.approvals import Approvals
from fedplug.node.audit.log import AuditLog
from fedplug.core.dataset_type import DatasetRecord
from fedplug.node.datasets.freshness import check_unchanged
from fedplug.node.datasets.memory import MemoryDataset
from fedplug.node.jobs import Job, Trained
from fedplug.node.policy.budget import Budget
from fedplug.node.policy.rules import check_request
from fedplug.node.policy.schema import Policy
from fedplug.node.policy.terms import Terms
from fedplug.node.release import check_outgoing
from fedplug.node.store import NodeStore


class Gate:
    """Applies the owner's rules to requests, and to what they bring about.

    Args:
        store: The node's store.
        policy: Gives the rules that are in force now.
        plugins: The plugins that are installed.
    """

    def __init__(self, store: NodeStore, policy: Callable[[], Policy], plugins: Iterable[PluginRecord] = ()) -> None:
        self.audit = AuditLog(store)
        self._store = store
        self._policy = policy
        self._plugins = tuple(plugins)

    @property
    def approvals(self) -> Approvals:
        """The owner's decisions about training plans."""
        return Approvals(self._store, self._policy())

    def admit(self, task: TaskReceived, dataset: DatasetRecord | MemoryDataset) -> Terms:
        """Check a request.

        Args:
            task: The request with its plan and its arrays.
            dataset: The data set that it names.

        Returns:
            What the plan must do as the request says, to be held against what it does.

        Raises:
            RefusedError: A rule forbids it.
            TrainingArgsError: Its training arguments are wrong.
        """
        policy, card = self._policy(), dataset.card()
        Approvals(self._store, policy).require(task.plan, dataset.name)
        asked = check_request(policy, task, card, self._plugins)
        if isinstance(dataset, DatasetRecord):
            check_unchanged(dataset, policy)
        charged = Budget(self._store, policy).charge(task, card)
        return charged if charged.samples else asked

    def release(self, job: Job, outcome: Trained) -> None:
        """Check what a training wants to send.

        Raises:
            RefusedError: It is more than was declared.
        """
        check_outgoing(job, outcome, self._policy())
