"""Whether a data set is still what its owner registered."""

from __future__ import annotations

from fedplug.node.datasets.base import DatasetRecord
from fedplug.node.policy.schema import Policy


def check_unchanged(record: DatasetRecord, policy: Policy) -> None:
    """Check that the files of a data set lie where they may and are those that were registered.

    Raises:
        RefusedError: They were changed (code ``"dataset-changed"``), or lie outside the allowed roots (``"policy"``).
    """
