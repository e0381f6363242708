"""The gate: everything that a request must pass before a worker sees it, and an update before it leaves.

The order is the order of cost, and what is charged is charged last: a request that is refused for another reason
costs no budget.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import msgspec

from fedplug.core.dataset_type import DatasetRecord
from fedplug.core.errors import RefusedError
from fedplug.core.link import TaskReceived
from fedplug.core.messages import DatasetCard
from fedplug.node.approval.approvals import Approvals
from fedplug.node.audit.log import AuditLog
from fedplug.node.datasets.freshness import check_unchanged
from fedplug.node.datasets.memory import MemoryDataset
from fedplug.node.jobs import Job, Trained
from fedplug.node.policy.budget import Budget
from fedplug.node.policy.rules import check_request
from fedplug.node.policy.schema import Policy
from fedplug.node.policy.terms import Terms
from fedplug.node.release import check_outgoing
from fedplug.node.store import NodeStore

if TYPE_CHECKING:
    from fedplug.core.plugin_checks import PluginRecord
    from fedplug.core.plugins import PluginHost

_log = logging.getLogger("fedplug.node")


class Gate:
    """Applies the owner's rules to requests, and to what they bring about.

    Args:
        store: The node's store.
        policy: Gives the rules that are in force now.
        host: The plugins that are installed; None: there are none.
    """

    def __init__(self, store: NodeStore, policy: Callable[[], Policy], host: PluginHost | None = None) -> None:
        self.audit = AuditLog(store)
        self._store = store
        self._policy = policy
        self._host = host

    @property
    def approvals(self) -> Approvals:
        """The owner's decisions about training plans."""
        return Approvals(self._store, self._policy())

    def admit(
        self,
        task: TaskReceived,
        dataset: DatasetRecord | MemoryDataset,
        begin: Callable[[], object] = lambda: None,
    ) -> Terms:
        """Check a request, and charge what it costs.

        Args:
            task: The request with its plan and its arrays.
            dataset: The data set that it names.
            begin: Called once, when everything allows it; see `Budget.charge`.

        Returns:
            What the plan must do as the request says, to be held against what it does.

        Raises:
            RefusedError: A rule forbids it.
            TrainingArgsError: Its training arguments are wrong.
        """
        policy, card = self._policy(), dataset.card()
        Approvals(self._store, policy).require(task.plan, dataset.name)
        terms = check_request(policy, task, card, self._plugins())
        self._ask_plugins(task, card)
        if isinstance(dataset, DatasetRecord):
            check_unchanged(dataset, policy)
        return msgspec.structs.replace(terms, account=Budget(self._store, policy).charge(task, card, begin))

    def _plugins(self) -> Iterator[PluginRecord]:
        """The plugins, which few rules ask for: to list them takes as long as all other checks together."""
        if self._host is not None:
            yield from self._host.records

    def _ask_plugins(self, task: TaskReceived, card: DatasetCard) -> None:
        """Let the plugins of this node refuse.

        Raises:
            RefusedError: One does. What a plugin has raised stays here: it may hold what only the owner is to see.
        """
        denied = self._host.authorise_training(task.request, task.plan, card) if self._host else None
        if denied is None:
            return
        if denied.broken:
            _log.error("Plugin %r could not say whether %s may run: %s", denied.plugin, task.request.key, denied.reason)
            text = f"Plugin {denied.plugin!r} of this node could not say whether this may run, which counts as a no."
            raise RefusedError(text, code="policy", cure="The node's owner finds the cause in the node's log.")
        raise RefusedError(
            f"Plugin {denied.plugin!r} of this node refuses this: {denied.reason}",
            code="policy",
            cure="If the reason leaves you nothing to change, ask the node's owner.",
        )

    def release(self, job: Job, outcome: Trained) -> None:
        """Check what a training wants to send.

        Raises:
            RefusedError: It is more than was declared.
        """
        check_outgoing(job, outcome, self._policy())
