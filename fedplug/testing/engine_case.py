"""What the checks of engines have in common: an engine on the data of some nodes, its tasks, what must come of them."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from fedplug.core.local_state import LocalState
from fedplug.core.messages import LogLine, Progress, TaskKey, TrainRequest
from fedplug.core.params import Array, Params
from fedplug.core.plugins import PluginHost, default_host
from fedplug.core.rng import SeedTree
from fedplug.simulation.engines import Engine, SerialEngine, Task, Trained
from fedplug.simulation.partitions import IID
from fedplug.simulation.virtual_data import OwnData, SharedData, VirtualData
from fedplug.testing.compare import equal_bits
from fedplug.testing.engine_plans import Wandering
from fedplug.testing.plan_case import PlanCase
from fedplug.testing.registry import LawBrokenError, Profile, Subject

NODES = 5
PATIENCE = 180.0
"""Seconds after which a law that has come to no end counts as broken."""

THREAD = "fedplug-engine-check"
"""Name of the threads in which laws are tried."""

MOST_TOLERANCE = 1e-5
"""The largest `Engine.tolerance` that the laws let pass."""

Sign = Progress | LogLine


@dataclass(frozen=True)
class EngineCase:
    """An engine under test.

    Attributes:
        make: Gives a new engine: its class, or a function.
        plan: A training plan that the engine is made for, such as one of a framework whose steps it takes over, with
            the samples of all nodes together. It is tried besides the kit's own plan, which needs no framework.
        host: The plugins to use; all installed ones by default.
        patience: Seconds after which a law that has come to no end counts as broken.
    """

    make: Callable[[], Engine]
    plan: PlanCase | None = None
    host: PluginHost | None = None
    patience: float = PATIENCE

    @property
    def plans(self) -> Iterable[PlanCase]:
        """The plans to try: the kit's own, and the given one."""
        return (kit_plan(),) if self.plan is None else (kit_plan(), self.plan)


class EngineTrials:
    """Seeds of the plans: one, or four in the profile ``full``."""

    def seeded(self, subject: Subject, profile: Profile) -> Iterable[int]:
        """The seeds."""
        return range(4 if profile == "full" else 1)

    def drawn(self, subject: Subject) -> None:
        """None: a training takes its time."""


def kit_plan(*, keeps: bool = False) -> PlanCase:
    """The kit's own plan, with samples for all nodes.

    Args:
        keeps: Whether it keeps an array at the node.
    """
    rng = np.random.default_rng(1)
    data = rng.standard_normal((4 * NODES + 3, 4)).astype(np.float32), rng.integers(0, 3, 4 * NODES + 3)
    args: dict[str, Any] = {"loader_args": {"batch_size": 2}, "optimizer_args": {"lr": 0.1}, "log_interval": 1}
    args |= {"test_ratio": 0.3, "test_on_global_updates": True}
    return PlanCase(Wandering, data, {"keeps": keeps}, args)


class Bench:
    """An engine that was opened on the data of some nodes, and another one that says what must come of its tasks.

    Args:
        case: The engine.
        plan: The plan that trains.
        seed: Root of all that the plan draws.
        shared: Whether the nodes share arrays; else each has arrays of its own.
    """

    def __init__(self, case: EngineCase, plan: PlanCase, seed: int = 0, *, shared: bool = True) -> None:
        self.plan, self.seed = plan, seed
        self.start = plan.start(seed)
        self._bundle = plan.bundle
        self.engine = case.make()
        if not isinstance(self.engine, Engine):
            raise LawBrokenError(f"What is made must be an Engine, but is {self.engine!r}.")
        host = case.host or default_host()
        data = _shared(plan) if shared else _own(plan)
        self.nodes: Sequence[str] = data.ids
        self._serial = SerialEngine()
        self._serial.open(data, host)
        self.engine.open(data, host)

    def task(
        self,
        node: str,
        params: Params | None = None,
        *,
        number: int = 0,
        attempt: int = 0,
        base: LocalState | None = None,
        aux: Mapping[str, Params] | None = None,
        train: bool = True,
        **model_args: Any,
    ) -> Task:
        """A task of one node.

        Args:
            node: Its id.
            params: The global parameters; the plan's first ones by default. One object for all nodes of a round.
            number: Number of the round.
            attempt: Number of the attempt at this round.
            base: What the node has kept in the round before.
            aux: Extra arrays.
            train: Whether to train; else there is only a test.
            model_args: Arguments for the plan's model besides those of the case.
        """
        request = TrainRequest(
            key=TaskKey(experiment_id="check", round=number, node_id=node, attempt=attempt),
            dataset_id=node,
            plan_class=self.plan.plan_class.__name__,
            model_args={**self.plan.model_args, **model_args},
            training_args=self.plan.args().dict(),
            seed=SeedTree.root(self.seed).child("round", number).child("node", node).seed63(),
            data_seed=self.seed + 1,
            acked_round=number - 1 if base is not None else -1,
            acked_state="0" * 64 if base is not None else "",
            total_rounds=3,
            aux=tuple(aux or ()),
            train=train,
        )
        return Task(request, self._bundle, self.start if params is None else params, aux or {}, base)

    def tasks(self, params: Params | None = None, **settings: Any) -> list[Task]:
        """A task for each node; see `task`."""
        return [self.task(node, params, **settings) for node in self.nodes]

    def submit(self, tasks: Iterable[Task]) -> None:
        """Tell the engine of tasks."""
        for task in tasks:
            self.engine.submit(task)

    def run(self, task: Task) -> tuple[Trained, list[Sign]]:
        """The result of a task that was submitted, and the signs of life that came meanwhile."""
        signs: list[Sign] = []
        return self.engine.run(task, signs.append), signs

    def expected(self, task: Task) -> tuple[Trained, list[Sign]]:
        """What the serial engine makes of a task."""
        signs: list[Sign] = []
        return self._serial.run(task, signs.append), signs

    def require(self, tasks: Iterable[Task], words: str) -> None:
        """Ask for the results of tasks that were submitted, in this order; they must be right.

        Raises:
            LawBrokenError: One is not.
        """
        for task in tasks:
            self.require_same(self.run(task)[0], task, words)

    def require_same(self, found: Trained, task: Task, words: str) -> None:
        """Require that ``found`` is what must come of a task.

        Raises:
            LawBrokenError: It is not.
        """
        wanted = self.expected(task)[0]
        place = f"{words}: the result of {task.request.key.node_id}"
        tolerance = tolerance_of(self.engine)
        if not isinstance(found, Trained):
            raise LawBrokenError(f"{place} must be a Trained, but is {found!r}.")
        facts, wanted_facts = _facts(found), _facts(wanted)
        if facts != wanted_facts:
            raise LawBrokenError(f"{place} must say {wanted_facts}, but says {facts}.")
        _same_numbers(found.reply.metrics, wanted.reply.metrics, tolerance, f"{place}, metrics")
        _same_arrays(found.params, wanted.params, tolerance, f"{place}, parameters")
        for name in wanted.aux:
            _same_arrays(found.aux[name], wanted.aux[name], tolerance, f"{place}, extra arrays {name!r}")
        if found.kept is not None and wanted.kept is not None:
            _same_arrays(found.kept.arrays, wanted.kept.arrays, tolerance, f"{place}, kept arrays")

    def close(self) -> None:
        """Close both engines."""
        self.engine.close()
        self._serial.close()


def tolerance_of(engine: Engine) -> float:
    """What an engine promises.

    Raises:
        LawBrokenError: It is no promise.
    """
    told: object = engine.tolerance
    if not (isinstance(told, int | float) and 0 <= told <= MOST_TOLERANCE):
        raise LawBrokenError(f"tolerance must be a number from 0 to {MOST_TOLERANCE:g}, but is {told!r}.")
    return float(told)


def in_time(case: EngineCase, *bodies: Callable[[], None]) -> None:
    """Run all ``bodies`` at once, each in a thread of its own, which is left behind if it comes to no end.

    Raises:
        LawBrokenError: One has not ended in time.
    """
    raised: list[BaseException] = []

    def go(body: Callable[[], None]) -> None:
        try:
            body()
        except BaseException as error:  # noqa: BLE001 - it is raised again below
            raised.append(error)

    threads = [threading.Thread(target=go, args=(body,), name=THREAD, daemon=True) for body in bodies]
    for thread in threads:
        thread.start()
    ends = time.monotonic() + case.patience
    for thread in threads:
        thread.join(max(0.0, ends - time.monotonic()))
    if raised:
        raise raised[0]
    if any(thread.is_alive() for thread in threads):
        raise LawBrokenError(f"The engine has come to no end within {case.patience:g} s.")


# data ----------------------------------------------------------------------------------------------------------------


def _shared(plan: PlanCase) -> VirtualData:
    whole = plan.dataset
    return SharedData(whole.arrays(), IID(NODES), SeedTree.root(2).child("partition"), ("check",), whole.target)


def _own(plan: PlanCase) -> VirtualData:
    """Every node has arrays of its own, each more samples than the one before."""
    whole = plan.dataset
    cuts = np.cumsum(np.arange(1, NODES + 1)) * len(whole) // (NODES * (NODES + 1) // 2)
    parts = np.split(np.arange(len(whole)), cuts[:-1])
    arrays = whole.arrays()
    nodes = {f"node-{place}": {name: arrays[name][rows] for name in arrays} for place, rows in enumerate(parts)}
    return OwnData(nodes, ("check",), whole.target)


# results -------------------------------------------------------------------------------------------------------------


def _facts(result: Trained) -> dict[str, Any]:
    """What of a result must be equal whatever the tolerance."""
    reply = msgspec.to_builtins(msgspec.structs.replace(result.reply, timing={}, metrics={}))
    kept = None if result.kept is None else result.kept.values
    return {**reply, "metrics": sorted(result.reply.metrics), "extra arrays": sorted(result.aux), "kept": kept}


def _same_numbers(found: Mapping[str, float], wanted: Mapping[str, float], tolerance: float, words: str) -> None:
    for name, value in wanted.items():
        if not math.isclose(found[name], value, rel_tol=tolerance, abs_tol=tolerance):
            raise LawBrokenError(f"{words}: {name} must be {value!r} within {tolerance:g}, but is {found[name]!r}.")


def _same_arrays(found: Params, wanted: Params, tolerance: float, words: str) -> None:
    if not isinstance(found, Params):
        raise LawBrokenError(f"{words}: these must be Params, but are {found!r}.")
    if difference := wanted.spec.difference(found.spec):
        raise LawBrokenError(f"{words}: they must be laid out as with the serial engine, but {difference}.")
    if equal_bits(found, wanted):
        return
    for name in wanted:
        got, right = _wide(found[name]), _wide(wanted[name])
        off, allowed = np.abs(got - right).max(initial=0.0), tolerance * np.abs(right).max(initial=0.0)
        if not off <= allowed or (tolerance == 0 and found[name].tobytes() != wanted[name].tobytes()):
            raise LawBrokenError(
                f"{words}: array {name!r} is off by {off:.3g} from that of the serial engine; {allowed:.3g} is allowed."
                f" It must be\n{wanted[name]}\nbut is\n{found[name]}"
            )


def _wide(array: Array) -> Array:
    return array.astype(np.float64)
