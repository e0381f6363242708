"""What the rest of a node asks of its journal of tasks, and the one of nodes that keep none."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

from fedplug.core.link import EarlierTasks
from fedplug.core.messages import TaskKey, TrainReply
from fedplug.core.params import Params


class TaskJournal(ABC):
    """What a node remembers of its tasks. Methods may be called from any thread.

    A task is named by its researcher (the address where the owner has chosen to reach them) and its key.
    """

    lasting: ClassVar[bool] = True
    """Whether any of it outlives the node's process."""

    @abstractmethod
    def earlier(self, researcher: str) -> EarlierTasks | None:
        """What earlier runs of the node have left for a researcher; None if nothing is ever remembered."""

    @abstractmethod
    def require_room(self, researcher: str, nbytes: int) -> None:
        """Refuse a training whose update would not find room.

        Args:
            researcher: Who asks for it.
            nbytes: How large its update will be, as far as that is known.

        Raises:
            RefusedError: The disk, or what the researcher may leave on it, is full (code ``"no-space"``).
        """

    @abstractmethod
    def begin(self, researcher: str, key: TaskKey) -> None:
        """Write down that a training begins; on disk when this returns.

        Raises:
            RefusedError: It was begun before; the code says how it ended.
            DiskFullError: There is no room even for that.
            StoreError: The journal cannot be used.
        """

    @abstractmethod
    def finish(
        self,
        researcher: str,
        reply: TrainReply,
        params: Params,
        aux: Mapping[str, Params],
        beside: Callable[[], object],
    ) -> bool:
        """Write the update of a training, which is finished with that; on disk when this returns.

        Args:
            researcher: Who asked for it.
            reply: The reply.
            params: Its parameters.
            aux: Its extra arrays.
            beside: Writes to the node's store what must be on disk before the update may be offered, in the same
                transaction. It is called again by itself if there is no room for the update.

        Returns:
            Whether the update is kept. If not, the disk is full.

        Raises:
            StoreError: The store cannot be used, or there is no room even for what ``beside`` writes.
        """

    @abstractmethod
    def end(self, researcher: str, key: TaskKey, how: str) -> None:
        """Write down how a task ended, and forget its update. Nothing happens if it was not begun, or has ended.

        That a small update was committed may reach the disk later, with the next record or by `settle`: if the node
        dies before that, it offers the update once more. If an end cannot be written, it is said in the log, and the
        node works on that task once more after a restart.
        """

    @property
    @abstractmethod
    def unsettled(self) -> bool:
        """Whether there are ends that `end` has left for later."""

    @abstractmethod
    def settle(self) -> None:
        """Bring to the disk what `end` has left for later. Nothing happens if that is nothing."""

    @property
    @abstractmethod
    def waiting(self) -> int:
        """How many finished updates are kept until they are taken."""

    @abstractmethod
    def close(self) -> None:
        """Give the files back. May be called twice."""


class NoTaskJournal(TaskJournal):
    """For nodes without a folder: what they know ends with their process."""

    lasting = False

    def earlier(self, researcher: str) -> EarlierTasks | None:
        """As `TaskJournal.earlier`."""
        return None

    def require_room(self, researcher: str, nbytes: int) -> None:
        """As `TaskJournal.require_room`."""

    def begin(self, researcher: str, key: TaskKey) -> None:
        """As `TaskJournal.begin`."""

    def finish(
        self,
        researcher: str,
        reply: TrainReply,
        params: Params,
        aux: Mapping[str, Params],
        beside: Callable[[], object],
    ) -> bool:
        """As `TaskJournal.finish`: the link holds the update in memory, which is all that is promised."""
        beside()
        return True

    def end(self, researcher: str, key: TaskKey, how: str) -> None:
        """As `TaskJournal.end`."""

    @property
    def unsettled(self) -> bool:
        """As `TaskJournal.unsettled`."""
        return False

    def settle(self) -> None:
        """As `TaskJournal.settle`."""

    @property
    def waiting(self) -> int:
        """As `TaskJournal.waiting`."""
        return 0

    def close(self) -> None:
        """As `TaskJournal.close`."""
