"""What a worker is given and what it gives back, whichever kind of worker it is."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fedplug.core.dataset_type import DatasetRecord
from fedplug.core.errors import (
    DatasetError,
    DiskFullError,
    FedplugError,
    ParamsError,
    PlanError,
    PlanSourceError,
    RefusedError,
    StoreError,
    UsageError,
)
from fedplug.core.local_state import LocalState
from fedplug.core.messages import LogLine, Progress, TaskFailure, TaskKey, TrainReply, TrainRequest
from fedplug.core.node_dataset import NodeDataset
from fedplug.core.params import Params
from fedplug.core.plan_source import PlanBundle
from fedplug.node.policy.terms import Terms

Emit = Callable[[Progress | LogLine], None]

_log = logging.getLogger("fedplug.node")

MAX_DETAILS = 8000
"""Longest end of a traceback that is sent to the researcher, in characters."""


@dataclass(frozen=True, eq=False)
class Job:
    """One training, with everything that it needs.

    Attributes:
        request: What to do.
        bundle: The training plan.
        params: The global parameters.
        aux: Extra arrays by name.
        dataset: The data set's record, or the data set itself if it lies in memory.
        state: What the last acknowledged round left at this node, if anything.
        cancelled: Set when the result is not wanted any more.
        noise_key: The key of the noise that protects the samples, for this request; empty if it asks for none.
        terms: What the rules have taken for granted, to be held against what the plan does.
    """

    request: TrainRequest
    bundle: PlanBundle
    params: Params
    aux: Mapping[str, Params]
    dataset: DatasetRecord | NodeDataset
    state: LocalState | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    noise_key: bytes = field(default=b"", repr=False)
    terms: Terms = field(default_factory=Terms)

    @property
    def key(self) -> TaskKey:
        """Which training this is."""
        return self.request.key


@dataclass(frozen=True)
class Trained:
    """A finished training; ``state`` is what the node keeps of it, which goes nowhere."""

    reply: TrainReply
    params: Params
    aux: Mapping[str, Params]
    state: LocalState | None = None


class Worker(ABC):
    """Runs plan code. `run` and `warm_up` belong to one thread; the other methods to any."""

    @abstractmethod
    def warm_up(self) -> None:
        """Get ready, so that the first training need not wait for it."""

    @abstractmethod
    def run(self, job: Job, emit: Emit) -> Trained | TaskFailure:
        """Train. Never raises because of a plan, its data, or the end of a process."""

    @abstractmethod
    def cancel(self, job: Job) -> None:
        """Make `run` of this job, now or later, return a failure with code ``"cancelled"`` soon."""

    @abstractmethod
    def close(self) -> None:
        """Stop what runs and give back processes. May be called twice."""


def failure(key: TaskKey, error: BaseException) -> TaskFailure:
    """What the researcher is told about an error: which kind, cause and cure, and where the plan raised.

    Errors of the node itself may hold paths or rows of data, so those go to the node's log only.
    """
    if isinstance(error, FedplugError) and not isinstance(error, StoreError):
        text = f"{error.message}\n{error.cure}".strip()
        details = str(getattr(error, "details", ""))[-MAX_DETAILS:]
    elif isinstance(error, DiskFullError):
        _log.error("Training %s failed: %s", key, error)
        text, details = "The disk of this node is full. Ask its owner to free some space.", ""
    else:
        _log.error("Training %s failed inside the node.", key, exc_info=error)
        text = f"The node failed with {type(error).__name__}; its owner finds the cause in the node's log."
        details = ""
    return TaskFailure(key=key, code=_code(error), text=text, details=details)


def cancelled(key: TaskKey) -> TaskFailure:
    """The failure of a training that was given up."""
    return TaskFailure(key=key, code="cancelled", text="The training was cancelled.")


def _code(error: BaseException) -> str:
    if isinstance(error, RefusedError):
        return error.code
    kinds: tuple[tuple[type[BaseException], str], ...] = (
        (DatasetError, "bad-dataset"),
        (DiskFullError, "no-space"),
        (PlanSourceError, "plan-source"),
        (PlanError, "plan-raised"),
        (ParamsError, "bad-params"),
        (UsageError, "bad-request"),
    )
    return next((code for kind, code in kinds if isinstance(error, kind)), "node-error")
