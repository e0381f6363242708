"""Data that a training plan reads by itself."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

from fedplug.core.datasets.base import PlanDataset, Transform
from fedplug.core.errors import PlanError


class CustomDataset(PlanDataset):
    """Base of a data set of one's own, for files of a kind that no ready class knows, or samples made of several rows.

    Example:
        >>> class Pairs(CustomDataset):
        ...     def read(self):
        ...         self.rows = self.node.table(without=[self.node.target])
        ...
        ...     def __len__(self):
        ...         return len(self.rows) - 1
        ...
        ...     def get_item(self, index):
        ...         return self.rows[index], self.rows[index + 1]
    """

    # for classes whose __init__ does not call this one's
    transform: Transform = None
    target_transform: Transform = None
    _node: Any = None

    @property
    def path(self) -> Path:
        """Where the node's data lie on the node: a file or a folder, only to be read.

        Raises:
            UsageError: It is not bound to a node's data yet; `read` is the first that may use it.
        """
        found: Path = self.node.path
        return found

    @abstractmethod
    def read(self) -> None:
        """Open the data at ``self.path``, or take them from ``self.node``. Called once, before anything else."""

    @abstractmethod
    def get_item(self, index: int) -> tuple[Any, Any]:
        """Data and target of one sample; the target is None if there is none.

        Args:
            index: Its number, from 0.
        """

    def connect(self) -> None:
        """As `PlanDataset.connect`."""
        self.read()

    def sample(self, index: int) -> tuple[Any, Any]:
        """As `PlanDataset.sample`."""
        pair: object = self.get_item(index)
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise PlanError(
                f"{type(self).__name__}.get_item must return (data, target), but returned a {type(pair).__name__}.",
                cure="Where there is no target, return (data, None).",
            )
        return pair
