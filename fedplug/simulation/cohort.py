"""The engine that trains several virtual nodes at once, with their parameters stacked."""

from __future__ import annotations

import logging
import math
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

from fedplug.core.cohort import CohortError
from fedplug.core.errors import UsageError
from fedplug.core.messages import TaskKey, TrainRequest
from fedplug.core.numbers import is_whole
from fedplug.core.plan_source import PlanBundle
from fedplug.simulation.cohort_training import CohortResult, CohortTraining
from fedplug.simulation.engines import Emit, Engine, SerialEngine, Task, Trained
from fedplug.simulation.set_up_once import LastSetUp
from fedplug.simulation.virtual_data import VirtualData

if TYPE_CHECKING:
    from fedplug.core.plugins import PluginHost

_LOG = logging.getLogger("fedplug.simulation")


class CohortEngine(Engine):
    """Several nodes at once, in the caller's thread, where the plan's framework can stack their parameters.

    The result is that of training one by one up to rounding: within 1e-5 of each array's largest value. Plans that
    cannot be trained so, and nodes with something of their own (kept state, extra arrays), train one by one; the log
    of ``fedplug.simulation`` says why.

    Args:
        size: The most nodes at once; by default, what suits model and machine.
        compile: Whether the steps are compiled, which takes a C++ compiler and some time in the first round.
        lean: Whether the lean step may be taken where nodes train one by one.

    Raises:
        UsageError: ``size`` is no whole number of at least 2.
    """

    together: ClassVar[bool] = True
    tolerance: float = 1e-5

    def __init__(self, size: int | None = None, *, compile: bool = False, lean: bool = True) -> None:  # noqa: A002
        if size is not None and not is_whole(size, 2):
            raise UsageError(
                f"size must be a whole number of at least 2, got {size!r}.",
                cure="Leave it out for what suits the model, or use SerialEngine to train one by one.",
            )
        self._size = size
        self._compile = compile
        self._serial = SerialEngine(lean=lean)
        self._last = LastSetUp(self._set_up)  # what it refuses is trained one by one for good
        self._waiting: dict[TaskKey, Task] = {}
        self._groups: dict[TaskKey, list[Task]] = {}  # of those that wait, with whom each is to be trained
        self._done: dict[TaskKey, CohortResult] = {}
        self._alone: set[TaskKey] = set()  # what could not be trained with the others

    def open(self, data: VirtualData, host: PluginHost) -> None:
        """As `Engine.open`."""
        super().open(data, host)
        self._serial.open(data, host)

    def submit(self, task: Task) -> None:
        """As `Engine.submit`."""
        self._waiting[task.request.key] = task

    def cancel(self, key: TaskKey) -> None:
        """As `Engine.cancel`."""
        self._waiting.pop(key, None)
        self._groups.pop(key, None)
        self._done.pop(key, None)
        self._alone.discard(key)
        self._last.forget(key)

    def run(self, task: Task, emit: Emit) -> Trained:
        """As `Engine.run`."""
        key = task.request.key
        found = self._done.pop(key, None)
        if found is None:
            if key not in self._alone and _is_plain(task) and not self._last.is_refused(task.request, task.plan):
                self._train_with(task)
                found = self._done.pop(key, None)
            if found is None:
                self.cancel(key)
                return self._serial.run(task, emit)
        for sign in found.signs:
            emit(sign)
        return Trained(found.reply, found.params, {})

    def has_result(self, key: TaskKey) -> bool:
        """As `Engine.has_result`."""
        return key in self._done

    def close(self) -> None:
        """As `Engine.close`."""
        self._waiting.clear()
        self._groups.clear()
        self._done.clear()
        self._alone.clear()
        self._last.clear()
        self._serial.close()

    def _train_with(self, task: Task) -> None:
        """Train a task and others that wait, if they can be trained together."""
        tasks = [task]
        try:
            training = self._last.get(task.request, task.plan)
            tasks = self._cohort(task, training)
            following = (self._waiting[key].request for key in self._groups if key in self._waiting)
            found = training.run([each.request for each in tasks], task.params, self.data, following)
        except CohortError as why:
            if why.for_good:
                self._last.refuse(task.request, task.plan)
            self._alone.update(each.request.key for each in tasks)
            which = "its nodes" if why.for_good else f"{len(tasks)} of its nodes"
            self._last.tell(f"{task.plan.class_name} trains {which} one by one: {why}.")
            return
        for each, result in zip(tasks, found, strict=True):
            key = each.request.key
            self._waiting.pop(key, None)
            if math.isfinite(result.reply.metrics["loss"]):
                self._done[key] = result
            else:  # the plan's own loop can say more about it
                self._alone.add(key)
        self._last.tell(f"{task.plan.class_name} trains with stacked parameters, several nodes at once.")

    def _set_up(self, request: TrainRequest, plan: PlanBundle) -> CohortTraining:
        return CohortTraining(request, plan, self.host, compiled=self._compile)

    def _cohort(self, task: Task, training: CohortTraining) -> list[Task]:
        """Those that are trained together with ``task``: of all that wait, nodes of about the same size."""
        most = training.most(task.params)
        if most < 2:
            raise CohortError("the model is so large that several of them at once would not be faster")
        key = task.request.key
        if key not in self._groups or self._waiting.get(key) is not task:
            self._groups.pop(key, None)
            self._waiting[key] = task
            self._divide(task, training, min(most, self._size or most))
        group = self._groups[key]
        for each in group:
            self._groups.pop(each.request.key, None)
        return [each for each in group if self._waiting.get(each.request.key) is each]

    def _divide(self, task: Task, training: CohortTraining, most: int) -> None:
        """Say with whom ``task`` and all others that can be trained together are to be trained; once for a round."""
        fitting = [
            each
            for key, each in self._waiting.items()
            if each.params is task.params
            and key not in self._groups
            and key not in self._alone
            and _is_plain(each)
            and training.fits(each.request, each.plan)
        ]
        sizes = {each.request.key: len(self.data.dataset(each.request.key.node_id)) for each in fitting}
        fitting.sort(key=lambda each: (-sizes[each.request.key], each.request.key.node_id))
        count = -(-len(fitting) // most)
        bounds = [number * len(fitting) // count for number in range(count + 1)]
        for low, high in pairwise(bounds):
            group = fitting[low:high]
            self._groups.update((each.request.key, group) for each in group)


def _is_plain(task: Task) -> bool:
    """Whether a node trains from the global parameters, its data, and nothing else."""
    request = task.request
    has_more = request.aux or task.aux or request.acked_state or task.base is not None
    return request.train and not has_more
