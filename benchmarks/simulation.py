"""S1, S3, S4: rounds of a simulation over the plain loop, in turn in one process, and what idle nodes cost."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.clocks import Stopwatch
from benchmarks.common import Result, cpu_time
from benchmarks.federation import environment_variable
from benchmarks.plain_loop import BATCH, MLP, RATE, PlainLoop, fashion_mnist, greatest_difference
from fedplug import DataManager, Experiment, Monitor, RandomStrategy
from fedplug.core.context import RoundContext, RoundResult
from fedplug.core.params import Array, Params
from fedplug.core.rng import SeedTree
from fedplug.simulation import IID, CohortEngine, Engine, Federation, ProcessEngine, SerialEngine
from fedplug_torch import TorchTrainingPlan

ROOT = Path(__file__).parents[1]
SEED = 1
WARM_UP = 2


class MLPPlan(TorchTrainingPlan):
    """The model of the plain loop, as a researcher writes it."""

    class Net(nn.Module):
        """784-64-10."""

        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(784, 64)
            self.two = nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> Any:
            return self.two(F.relu(self.one(x)))

    def init_model(self) -> nn.Module:
        return self.Net()

    def init_optimizer(self, optimizer_args: dict[str, Any]) -> Any:
        settings = dict(optimizer_args)
        return getattr(torch.optim, settings.pop("kind", "SGD"))(self.model().parameters(), **settings)

    def training_data(self) -> DataManager:
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(self.forward(data), target)


SGD = {"kind": "SGD", "lr": RATE}
ADAM = {"kind": "Adam", "lr": 0.001}


@contextmanager
def simulation(
    federation: Federation,
    sampled: int,
    plan: type[TorchTrainingPlan] = MLPPlan,
    optimizer: Mapping[str, Any] = SGD,
) -> Iterator[Experiment]:
    """An experiment on a federation whose images are Fashion-MNIST, in a folder that is deleted afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="fedplug-bench-") as home,
        environment_variable("FEDPLUG_DIR", home),
        Experiment(
            tags="simulation", transport=federation, training_plan_class=plan, progress="quiet", seed=SEED,
            training_args={"loader_args": {"batch_size": BATCH}, "optimizer_args": dict(optimizer)},
            node_selection_strategy=RandomStrategy(count=sampled), round_limit=10_000, save_breakpoints=False,
        ) as exp,
    ):  # fmt: skip
        yield exp


class Pairs(Monitor):
    """After every round, the same round by the plain loop, which must come to the same model.

    Args:
        plain: The plain loop.
        exp: The experiment; its rounds are timed from the end of one call of this monitor to the next.
    """

    def __init__(self, plain: PlainLoop, exp: Experiment) -> None:
        self.plain = plain
        self.exp = exp
        self.figures: list[float] = []
        self.ceilings: list[float] = []
        self.walls: list[tuple[float, float]] = []  # of a round and of the plain one
        self.worst = 0.0
        self._start: dict[str, torch.Tensor] = {}
        self._watch = Stopwatch()  # of all processes: an engine may have workers

    def round_started(self, ctx: RoundContext, node_ids: Any) -> None:
        """Remember where the first round begins."""
        if not self._start:
            self._begin(self.exp.params())

    def round_ended(self, ctx: RoundContext, result: RoundResult) -> None:
        """Take the time, and run the plain loop."""
        taken, wall = self._watch.stop()
        orders = {
            node: SeedTree.root(ctx.seed.child("node", node).seed63()).child("order", "epoch", 0)
            .generator().permutation(len(self.plain.rows[node]))
            for node in result.replies
        }  # fmt: skip
        began = time.perf_counter()
        with cpu_time() as bare:
            expected = self.plain.round(self._start, orders)
        self.walls.append((wall, time.perf_counter() - began))
        self.figures.append(1000 * taken)
        self.ceilings.append(1000 * bare[0])
        self.worst = max(self.worst, greatest_difference(result.params, expected, list(expected)))
        self._begin(result.params)

    def _begin(self, params: Params) -> None:
        self._start = {name: torch.tensor(value) for name, value in params.items()}
        self._watch.start()


def measure(
    name: str,
    nodes: int,
    sampled: int,
    pairs: int,
    engine: Engine,
    how: str,
    target: float | None,
    model: type[nn.Module] = MLP,
    plan: type[TorchTrainingPlan] = MLPPlan,
    optimizer: Mapping[str, Any] = SGD,
    *,
    by_wall: bool = False,
) -> Result:
    """Rounds of a simulation and of the plain loop, in turn; ``plan`` trains what ``model`` is for the plain loop.

    Both move parameters by ``optimizer``: its ``kind``, and its settings.

    What counts is the CPU of all processes, or, with ``by_wall``, the time that passes: two processes take no less CPU.
    """
    x, y = fashion_mnist()
    torch.set_num_threads(1)
    federation = Federation.from_arrays(x, y, partition=IID(nodes), seed=SEED, engine=engine)
    rows = {node: federation.dataset(node).rows for node in federation.nodes}  # type: ignore[attr-defined]
    settings = dict(optimizer)
    by_hand = partial(getattr(torch.optim, settings.pop("kind")), **settings)
    with closing(federation), simulation(federation, sampled, plan, optimizer) as exp:
        found = Pairs(PlainLoop(x, y, rows, model(), by_hand), exp)
        exp.add_monitor(found)
        exp.run(pairs + WARM_UP)
    if found.worst > 1e-6:
        raise AssertionError(f"{name}: the simulation and the plain loop differ by {found.worst:.2g}")
    figures, ceilings = found.figures[WARM_UP:], found.ceilings[WARM_UP:]
    ratios = [round(a / b, 3) for a, b in zip(figures, ceilings, strict=True)]
    walls = found.walls[WARM_UP:]
    details = {
        "nodes": nodes, "sampled": sampled, "ratios": ratios, "difference": found.worst,
        "cpu_ms": round(statistics.median(figures), 3), "cpu_ratios": ratios,
        "wall_ms": round(1000 * statistics.median(wall for wall, _ in walls), 3),
        "wall_ratios": [round(wall / plain, 3) for wall, plain in walls],
    }  # fmt: skip
    unit = "ms CPU/round"
    if by_wall:
        figures, ceilings = ([1000 * pair[which] for pair in walls] for which in (0, 1))
        unit = "ms/round"
        details["ratios"] = details["wall_ratios"]  # what the target is about
    what = f"{model.__name__}, {nodes} nodes, {sampled} a round, {how}"
    return Result(name, what, statistics.median(figures), unit, statistics.median(ceilings), target, details)


def run_s1(quick: bool = False) -> list[Result]:
    """S1: 100 nodes of 600 images, 10 a round, by both loops, with Adam, stacked, in processes, and on Ray."""
    from fedplug_ray import RayEngine  # what it imports is not to count in the other workloads

    pairs = 5 if quick else 25
    return [
        measure("S1", 100, 10, pairs, SerialEngine(), "serial, lean step", 0.8),
        measure("S1", 100, 10, pairs, SerialEngine(lean=False), "serial, own loop", 1.05),
        measure("S1", 100, 10, pairs, SerialEngine(), "serial, lean step, Adam", None, optimizer=ADAM),
        measure("S1", 100, 10, pairs, CohortEngine(), "cohort", 0.6),
        measure("S1", 100, 10, pairs, ProcessEngine(2), "2 processes, lean step", 0.45, by_wall=True),
        measure("S1", 100, 10, pairs, ProcessEngine(2, "cohort"), "2 processes, cohort", 0.2, by_wall=True),
        measure("S1", 100, 10, pairs, RayEngine(2, engine="cohort"), "2 workers of Ray, cohort", None, by_wall=True),
    ]


def run_s3(quick: bool = False) -> list[Result]:
    """S3: 1,000 nodes of 60 images, 100 a round, by both loops, stacked, and in processes."""
    pairs = 3 if quick else 15
    return [
        measure("S3", 1000, 100, pairs, SerialEngine(), "serial, lean step", 0.7),
        measure("S3", 1000, 100, pairs, SerialEngine(lean=False), "serial, own loop", 1.1),
        measure("S3", 1000, 100, pairs, CohortEngine(), "cohort", 0.4),
        measure("S3", 1000, 100, pairs, ProcessEngine(2), "2 processes, lean step", 0.4, by_wall=True),
        measure("S3", 1000, 100, pairs, ProcessEngine(2, "cohort"), "2 processes, cohort", 0.2, by_wall=True),
    ]


class RoundTimes(Monitor):
    """CPU seconds of each round."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._began = 0.0

    def round_started(self, ctx: RoundContext, node_ids: Any) -> None:
        """The nodes are selected."""
        self._began = time.process_time()

    def round_ended(self, ctx: RoundContext, result: RoundResult) -> None:
        """The round is complete."""
        self.seconds.append(time.process_time() - self._began)


def run_s4(quick: bool = False) -> list[Result]:
    """S4: 10,000 nodes of 6 images, 100 a round: memory, and time over that with half of the nodes."""
    rounds = 4 if quick else 12
    x, y = fashion_mnist()
    torch.set_num_threads(1)
    half = x[:30_000], y[:30_000]
    many(*half, 5000, 2)  # what is slow the first time
    pairs = [(many(x, y, 10_000, rounds), many(*half, 5000, rounds)) for _ in range(1 if quick else 5)]
    ratios = [round(all_of_them / half_of_them, 3) for all_of_them, half_of_them in pairs]
    figure, ceiling = (1000 * statistics.median(each) for each in zip(*pairs, strict=True))
    details = {"nodes": 10_000, "sampled": 100, "rounds": rounds}
    memory = (resident(10_000, rounds) - resident(1000, rounds)) / 9000
    return [
        Result("S4", "memory, 10,000 nodes, 100 a round", memory, "bytes/node", None, 1024, details),
        Result("S4", "a round with 10,000 nodes over one with 5,000", figure, "ms CPU/round", ceiling, 1.1,
               {**details, "ratios": ratios}),
    ]  # fmt: skip


def many(x: Array, y: Array, nodes: int, rounds: int) -> float:
    """Seconds of a round."""
    times = RoundTimes()
    with simulation(Federation.from_arrays(x, y, partition=IID(nodes), seed=SEED), 100) as exp:
        exp.add_monitor(times)
        exp.run(rounds)
    return statistics.median(times.seconds[2:] or times.seconds)


_RESIDENT = """
import sys
from benchmarks.memory import rss
from benchmarks.simulation import IID, SEED, Federation, fashion_mnist, simulation
x, y = fashion_mnist()
with simulation(Federation.from_arrays(x, y, partition=IID(int(sys.argv[1])), seed=SEED), 100) as exp:
    exp.run(int(sys.argv[2]))
    print(rss())
"""


def resident(nodes: int, rounds: int) -> int:
    """Resident bytes of a process of its own after some rounds."""
    command = [sys.executable, "-c", _RESIDENT, str(nodes), str(rounds)]
    return int(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()[-1])
