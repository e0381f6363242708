"""All monitors of an experiment behind one: what one of them does wrong never stops a training."""

# ruff: noqa: D102 - each method passes on what Monitor documents
from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fedplug.core.context import RoundContext, RoundResult
from fedplug.core.errors import FedplugError, UsageError
from fedplug.core.messages import LogLine, NodeInfo, Progress, TrainReply
from fedplug.core.monitor import Monitor
from fedplug.researcher.shown import shown

T = TypeVar("T", bound=Monitor)

_log = logging.getLogger("fedplug.experiment")


class MonitorGroup(Monitor):
    """Passes every call on to each monitor, and leaves out one that raises.

    Args:
        progress: How progress is shown; see `fedplug.researcher.progress.make_progress`.
    """

    def __init__(self, progress: str) -> None:
        from fedplug.researcher.progress import make_progress

        self._members: list[Monitor] = [make_progress(progress)]
        self._listeners: dict[str, list[Monitor]] = {}  # by what is told: who does anything with it
        self._tensorboard: tuple[Path, Monitor] | None = None

    def add(self, monitor: Monitor) -> None:
        """Add a monitor.

        Raises:
            UsageError: It is not one.
        """
        if not isinstance(monitor, Monitor):
            raise UsageError(f"{shown(monitor)} is not a monitor.", cure="Derive from fedplug.Monitor.")
        self._set([*self._members, monitor])

    def replace(self, old: Monitor | None, new: T) -> T:
        """Put ``new`` in the place of ``old`` (or beside all others), and return it."""
        self._set([*(member for member in self._members if member is not old), new])
        return new

    def set_tensorboard(self, folder: Path | None, steps: Mapping[str, int] | None = None) -> None:
        """Write TensorBoard logs below ``folder`` from now on; None for none.

        Args:
            folder: Where.
            steps: Optimizer steps that each node has made already, if rounds were run before.

        Raises:
            UsageError: The package tensorboard is not installed.
        """
        if self._tensorboard and self._tensorboard[0] == folder and self._tensorboard[1] in self._members:
            return
        if self._tensorboard:
            if self._tensorboard[1] in self._members:  # one that was left out is closed already
                _close(self._tensorboard[1])
            self._set([member for member in self._members if member is not self._tensorboard[1]])
            self._tensorboard = None
        if folder is not None:
            from fedplug.researcher.monitor_tensorboard import TensorBoardMonitor

            monitor = TensorBoardMonitor(folder, steps)
            self._tensorboard = folder, monitor
            self.add(monitor)

    def message(self, text: str) -> None:
        self._tell("message", text)

    def started(self, experiment_path: Path, nodes: Mapping[str, NodeInfo], rounds: int) -> None:
        self._tell("started", experiment_path, nodes, rounds)

    def round_started(self, ctx: RoundContext, node_ids: Sequence[str]) -> None:
        self._tell("round_started", ctx, node_ids)

    def progress(self, node_id: str, progress: Progress) -> None:
        self._tell("progress", node_id, progress)

    def log(self, node_id: str, line: LogLine) -> None:
        self._tell("log", node_id, line)

    def replied(self, node_id: str, reply: TrainReply) -> None:
        self._tell("replied", node_id, reply)

    def dropped(self, node_id: str, reason: str) -> None:
        self._tell("dropped", node_id, reason)

    def back(self, node_id: str) -> None:
        self._tell("back", node_id)

    def asked(self, node_id: str, *, again: bool) -> None:
        self._tell("asked", node_id, again=again)

    def round_ended(self, ctx: RoundContext, result: RoundResult) -> None:
        self._tell("round_ended", ctx, result)

    def testing(self, ctx: RoundContext, node_ids: Sequence[str]) -> None:
        self._tell("testing", ctx, node_ids)

    def tested(self, ctx: RoundContext, result: RoundResult) -> None:
        self._tell("tested", ctx, result)

    def stopped(self, rounds_done: int, error: BaseException | None) -> None:
        self._tell("stopped", rounds_done, error)

    def close(self) -> None:
        self._tell("close")

    def _tell(self, what: str, *args: Any, **more: Any) -> None:
        listeners = self._listeners.get(what)
        if listeners is None:
            listeners = self._listeners[what] = [member for member in self._members if _listens(member, what)]
        for monitor in listeners:
            try:
                getattr(monitor, what)(*args, **more)
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not stop a training
                _tell_failure(monitor, "failed and is left out from now on", error)
                self._set([member for member in self._members if member is not monitor])
                if what != "close":
                    _close(monitor)

    def _set(self, members: list[Monitor]) -> None:
        self._members, self._listeners = members, {}


def _listens(monitor: Monitor, what: str) -> bool:
    """Whether a monitor does anything when it is told; thousands of nodes tell thousands of times."""
    return getattr(getattr(monitor, what), "__func__", None) is not getattr(Monitor, what)


def _close(monitor: Monitor) -> None:
    """Let a monitor that failed give back what it holds, such as the terminal."""
    try:
        monitor.close()
    except Exception as error:  # noqa: BLE001 - it has failed already
        _tell_failure(monitor, "could not be closed", error)


def _tell_failure(monitor: Monitor, what: str, error: Exception) -> None:
    """An error of FedPlug says itself what to do; of any other the place is needed."""
    if isinstance(error, FedplugError):
        _log.warning("%s %s: %s", type(monitor).__name__, what, error)
    else:
        _log.warning("%s %s.", type(monitor).__name__, what, exc_info=error)
