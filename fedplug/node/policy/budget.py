"""What a data set has given so far: rounds, and privacy."""

from __future__ import annotations

from fedplug.core.link import TaskReceived
from fedplug.node.policy.schema import Policy
from fedplug.node.store import NodeStore


class Budget:
    """The account of each data set, over all researchers, in the node's store.

    Args:
        store: The node's store.
        policy: The rules.
    """

    def __init__(self, store: NodeStore, policy: Policy) -> None:
        self._store = store
        self._policy = policy

    def charge(self, task: TaskReceived) -> None:
        """Charge a request to its data set, on disk, before its first batch.

        The same task again costs nothing; another attempt costs again, as its noise is another one.

        Raises:
            RefusedError: The data set would give more than its owner allows (code ``"budget"``).
        """
