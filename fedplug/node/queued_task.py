"""A task in the node's queue."""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass, field

from fedplug.core.link import TaskReceived
from fedplug.core.messages import TaskKey
from fedplug.node.contact import Contact
from fedplug.node.jobs import Job


@dataclass(eq=False)
class QueuedTask:
    """A task in the queue, and later the job that is made of it.

    Attributes:
        contact: The researcher who asked for it.
        task: What it is.
        unwanted: Set when nobody wants its result any more.
        given_up: Whether that is because its researcher has cancelled it.
        job: What the worker is given.
        dataset_name: Name of the data set, once it is known.
    """

    contact: Contact
    task: TaskReceived
    unwanted: threading.Event = field(default_factory=threading.Event)
    given_up: bool = False
    job: Job | None = None
    dataset_name: str = ""

    @property
    def actor(self) -> str:
        """Who asked for it, for the audit log."""
        return f"researcher:{self.contact.url}"

    @functools.cached_property
    def facts(self) -> dict[str, str]:
        """What the audit log says of it; to be asked for once the name of the data set is known."""
        request, plan = self.task.request, self.task.plan
        return {
            "task": str(request.key),
            "plan": plan.hash,
            "plan_class": plan.class_name,
            "dataset": self.dataset_name,
            "dataset_id": request.dataset_id,
        }

    @property
    def nbytes(self) -> int:
        """Size of the arrays that came with it; those of its update are likely as large."""
        return self.task.params.nbytes + sum(each.nbytes for each in self.task.aux.values())

    def is_of(self, contact: Contact, key: TaskKey) -> bool:
        """Whether this is the task of that name, and that researcher's."""
        return self.contact is contact and self.task.request.key == key
