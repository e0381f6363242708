"""Worker processes of a simulation: the bits of one process, and what becomes of workers that die."""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from engine_kit import Together, federation, outcome, outcome_of
from walk_plan import Walk

from fedplug import QuorumStrategy, RandomStrategy, hookimpl
from fedplug.core.errors import EngineError, PlanSourceError, RoundError, UsageError
from fedplug.core.messages import TaskKey, TrainRequest
from fedplug.core.params import Params
from fedplug.core.plan_source import PlanBundle, bundle_plan
from fedplug.core.plugins import PluginHost
from fedplug.node import MemoryDataset
from fedplug.simulation import IID, Engine, Faults, Federation, SerialEngine
from fedplug.simulation.engines import Task
from fedplug.simulation.process_channel import Channel
from fedplug.simulation.process_tasks import TaskTable
from fedplug.simulation.processes import ProcessEngine


@pytest.fixture(scope="module")
def workers() -> Iterator[Federation]:
    """A federation with two workers, which tests use one after the other."""
    with closing(federation(ProcessEngine(workers=2))) as made:
        yield made


def engine_of(made: Federation) -> ProcessEngine:
    assert isinstance(made._engine, ProcessEngine)
    return made._engine


# the same as in one process ------------------------------------------------------------------------------------


class Remembering(Walk):
    """Keeps an array and a number between rounds, in a section of its own."""

    def training_step(self, data: Any, target: Any) -> Any:
        book = self.node_state()
        seen = book.values("walk").get("seen", 0)
        before = book.arrays("walk")
        drift = before["drift"] if before is not None else np.zeros(4, np.float32)
        book.keep("walk", {"drift": drift + data.mean(0)}, {"seen": seen + 1})
        gap = self.model()["w"] - drift - np.float32(seen)
        return float(gap @ gap), {"w": gap}


class Odd(Walk):
    """Takes arguments that msgpack would not give back as they are."""

    def init_model(self, model_args: dict[str, Any]) -> dict[str, Any]:
        rows, columns = model_args["shape"]
        assert type(model_args["shape"]) is tuple
        assert model_args["names"] == {"a", "b"}
        return {"w": model_args["start"][:rows, :columns].reshape(-1)}


ODD = {"shape": (2, 2), "names": {"a", "b"}, "start": np.arange(6, dtype=np.float32).reshape(2, 3)}


@pytest.mark.parametrize(
    ("plan", "settings"),
    [
        (Walk, {}),
        (Walk, {"training_args": {"test_ratio": 0.4, "test_on_local_updates": True, "test_on_global_updates": True}}),
        (Walk, {"node_selection_strategy": RandomStrategy(count=3), "rounds": 4}),
        (Walk, {"training_args": {"epochs": None, "num_updates": 1, "log_interval": 0}}),
        (Remembering, {"rounds": 3}),
        (Odd, {"model_args": ODD}),
    ],
)
def test_parameters_figures_and_signs_are_those_of_one_process(workers, plan, settings) -> None:
    found = outcome(workers, plan, **settings)
    assert found == outcome_of("serial", plan, **settings)
    assert any(np.asarray(found["params"][name]).any() for name in found["params"])


def test_the_workers_of_one_round_are_those_of_the_next(workers) -> None:
    outcome(workers)
    pids = engine_of(workers).pids
    assert len(set(pids)) == 2
    outcome(workers)
    assert engine_of(workers).pids == pids


def test_nodes_with_data_of_their_own_have_them_as_they_are() -> None:
    rng = np.random.default_rng(1)
    frame = np.asfortranarray(rng.standard_normal((5, 4)).astype(np.float32))
    arrays = {"x": rng.standard_normal((3, 4)).astype(np.float32), "y": ["u", "v", "w"], "z": np.zeros((3, 0))}
    nodes = {
        "lille": {"x": frame, "y": np.array(["a", "bc", "d", "e", "f"]), "z": np.zeros((5, 0))},
        "nice": MemoryDataset("sea", arrays, tags=["simulation"], target="y"),
    }
    expected = outcome(Federation(nodes), Describing)
    with closing(Federation(nodes, engine=ProcessEngine(workers=2))) as made:
        assert outcome(made, Describing) == expected
    assert expected["params"]["w"].any()


class Describing(Walk):
    """Trains towards a digest of all that it sees of its data."""

    def training_data(self) -> Any:
        self.digest = [float(len(str(self.describe()))), float(sum(map(ord, str(self.describe()))))]
        return super().training_data()

    def describe(self) -> Any:
        arrays = self.dataset.arrays()
        return self.dataset.name, self.dataset.target, str(self.dataset.path), len(self.dataset), [
            (name, array.dtype.str, array.shape, array.flags.f_contiguous, array.flags.writeable, array.tolist())
            for name, array in arrays.items()
        ]  # fmt: skip

    def training_step(self, data: Any, target: Any) -> Any:
        return 1.0, {"w": np.float32([*self.digest, 1, 2])}


def test_faults_and_a_quorum_are_the_same() -> None:
    settings = {"node_selection_strategy": QuorumStrategy(0.3), "rounds": 3}
    faults = Faults(drop_out=0.3, spread=1.0, deadline=30)
    expected = outcome_of("serial", faults=faults, **settings)
    assert outcome_of(ProcessEngine(workers=2), faults=faults, **settings) == expected


def test_what_plans_print_and_what_the_log_says_is_as_in_one_process(capsys, caplog) -> None:
    caplog.set_level(logging.INFO, "fedplug.simulation")

    def said(engine: Engine) -> tuple[Any, list[str]]:
        caplog.clear()
        outcome_of(engine, Printing, rounds=1)
        return capsys.readouterr(), [each.message for each in caplog.records if each.name == "fedplug.simulation"]

    expected = said(SerialEngine())
    assert said(ProcessEngine(workers=2)) == expected
    assert expected[0].out.count("node-") == 8
    assert expected[0].err
    assert len(expected[1]) == 1


class Printing(Walk):
    def training_data(self) -> Any:
        print("this is", self.node_id())
        print("to the other stream", file=sys.stderr)
        return super().training_data()


def test_the_streams_of_the_simulation_s_own_process_do_not_move(workers) -> None:
    np.random.seed(3)
    before = np.random.get_state()[1].tolist()
    outcome(workers)
    assert np.random.get_state()[1].tolist() == before


# life and death ------------------------------------------------------------------------------------------------


def test_processes_begin_with_the_first_task_and_end_with_the_federation() -> None:
    engine = ProcessEngine(workers=2)
    made = federation(engine)
    assert engine.pids == ()
    expected = outcome(made)
    processes = [psutil.Process(pid) for pid in engine.pids]
    assert len(processes) == 2
    made.close()
    made.close()
    assert engine.pids == ()
    assert not any(process.is_running() for process in processes)
    assert outcome(made) == expected, "it can be used again"
    processes = [psutil.Process(pid) for pid in engine.pids]
    assert len(processes) == 2
    del made, engine
    gc.collect()
    assert not any(process.is_running() for process in processes), "nobody had to close it"


class Mortal(Walk):
    """A node's process is killed, in the middle of a training, as often as there are files to take away."""

    def training_step(self, data: Any, target: Any) -> Any:
        if self.node_id() == "node-3":
            for name in self.model_args()["lives"]:
                try:
                    os.unlink(name)  # noqa: PTH108
                except FileNotFoundError:
                    continue
                os.kill(os.getpid(), signal.SIGKILL)
        return super().training_step(data, target)


def lives(folder: Path, count: int) -> dict[str, Any]:
    names = [str(folder / f"life-{number}") for number in range(count)]
    for name in names:
        Path(name).touch()
    return {"lives": names}


def test_what_a_killed_worker_had_is_trained_by_another_with_the_same_bits(workers, tmp_path, caplog) -> None:
    caplog.set_level(logging.WARNING, "fedplug.simulation")
    found = outcome(workers, Mortal, model_args=lives(tmp_path, 1))
    assert not list(tmp_path.iterdir()), "it was killed"
    assert "killed by SIGKILL" in caplog.text
    assert found["params"] == outcome_of("serial", Mortal, model_args={"lives": []})["params"]


def test_a_task_that_two_workers_have_died_of_is_its_node_s_failure_and_no_other_s(workers, tmp_path) -> None:
    strategy = QuorumStrategy(0.5)
    found = outcome(workers, Mortal, 1, model_args=lives(tmp_path, 3), node_selection_strategy=strategy)
    assert len(list(tmp_path.iterdir())) == 1, "it was given up after the second"
    assert set(found["replies"][0]) == {f"node-{number}" for number in range(8)} - {"node-3"}
    with pytest.raises(RoundError, match="Two worker processes died while they trained node 'node-3' by 'Mortal'"):
        outcome(workers, Mortal, 1, model_args=lives(tmp_path, 3))


def test_a_worker_that_dies_between_rounds_is_replaced(workers) -> None:
    expected = outcome(workers)
    victims = [psutil.Process(pid) for pid in engine_of(workers).pids]
    for victim in victims:
        victim.kill()
    psutil.wait_procs(victims, timeout=60)
    assert outcome(workers) == expected


def test_workers_that_cannot_begin_end_the_experiment(monkeypatch) -> None:
    made = federation(ProcessEngine(workers=2))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with closing(made), pytest.raises(EngineError, match=r"before they could train node 'node-.': it ended with"):
        outcome(made)
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(EngineError, match="cannot be started: No such file"):
        outcome(federation(ProcessEngine(workers=2)))


_ORPHANS = """
import os, sys, time
import numpy as np
from fedplug import Experiment
from fedplug.simulation import Federation
from fedplug.simulation.processes import ProcessEngine
from walk_plan import Walk

class Slow(Walk):
    def training_step(self, data, target):
        print(os.getpid(), flush=True)
        time.sleep(600)

engine = ProcessEngine(workers=2)
nodes = Federation({"a": (np.ones((2, 4)), np.ones(2)), "b": (np.ones((2, 4)), np.ones(2))}, engine=engine)
exp = Experiment(tags="simulation", transport=nodes, training_plan_class=Slow, training_args={"num_updates": 1},
                 round_limit=1, progress="quiet", save_breakpoints=False)
exp.run()
"""


def test_workers_end_with_a_script_that_is_killed_and_that_guards_no_main(tmp_path) -> None:
    script = tmp_path / "script.py"
    script.write_text(_ORPHANS)
    kits = str(Path(__file__).parents[2] / "kits")
    path = os.pathsep.join([kits, os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    ) as process:  # fmt: skip
        assert process.stdout is not None
        first = int(process.stdout.readline())
        workers = psutil.Process(process.pid).children(recursive=True)
        assert first in [worker.pid for worker in workers]
        process.send_signal(signal.SIGKILL)
        _, alive = psutil.wait_procs(workers, timeout=60)
        assert not alive, "they have ended with it"


def test_an_interrupt_ends_the_workers_and_the_next_run_begins_anew(workers) -> None:
    task = next(tasks(workers, 1))
    engine = engine_of(workers)
    engine.submit(task)

    def interrupt(sign: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.run(task, interrupt)
    assert engine.pids == ()
    assert engine.run(task, lambda sign: None).params == SerialRun(workers)(task)
    assert outcome(workers) == outcome_of("serial")


@pytest.mark.parametrize("when", ["submit", "before it is sent", "cancel"])
def test_an_interrupt_in_the_middle_of_a_message_ends_the_workers_too(workers, monkeypatch, when: str) -> None:
    first, second = tasks(workers, 2)
    engine = engine_of(workers)
    kind, name = (TaskTable, "parcels") if when == "before it is sent" else (Channel, "flush")
    whole = getattr(kind, name)

    def cut_off(*_: Any, **__: Any) -> None:
        monkeypatch.setattr(kind, name, whole)
        raise KeyboardInterrupt

    if when == "cancel":
        engine.submit(first)
    monkeypatch.setattr(kind, name, cut_off)
    with pytest.raises(KeyboardInterrupt):
        engine.cancel(first.request.key) if when == "cancel" else engine.submit(first)
    assert engine.pids == ()
    engine.submit(second)
    for task in (first, second):
        assert engine.run(task, lambda sign: None).params == SerialRun(workers)(task)


def tasks(made: Federation, count: int, plan: type = Walk, round_number: int = 0, **args: Any) -> Iterator[Task]:
    bundle = bundle_plan(plan)
    params = Params.from_arrays({"w": np.zeros(4, np.float32)})
    for node in list(made.nodes)[:count]:
        request = TrainRequest(
            key=TaskKey(experiment_id="e", round=round_number, node_id=node), dataset_id=node,
            plan_class=bundle.class_name, seed=len(node),
            training_args={"num_updates": 2, "optimizer_args": {"lr": 0.1}, "log_interval": 1}, **args,
        )  # fmt: skip
        yield Task(request, bundle, params, {})


class SerialRun:
    """Trains tasks of a federation in this process."""

    def __init__(self, made: Federation) -> None:
        self.engine = SerialEngine()
        self.engine.open(made._data, made._host)

    def __call__(self, task: Task) -> Params:
        return self.engine.run(task, lambda sign: None).params


class Blocking(Walk):
    """Trains when somebody has written into a named pipe."""

    def training_step(self, data: Any, target: Any) -> Any:
        gate = self.model_args().get("gate")
        if gate:
            with open(gate) as file:
                file.read()
        return super().training_step(data, target)


def test_a_task_that_is_cancelled_is_forgotten_whether_it_waits_or_runs(workers, tmp_path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    engine, alone = engine_of(workers), SerialRun(workers)
    mine = list(tasks(workers, 8, Blocking, model_args={"gate": str(gate)}))
    for task in mine:
        engine.submit(task)
    for task in mine:
        engine.cancel(task.request.key)
    free = list(tasks(workers, 2, Blocking))
    for task in free:
        engine.submit(task)
    release = subprocess.Popen(["sh", "-c", f"while test -p {gate}; do : > {gate}; done"])
    try:
        for task in free:
            assert engine.run(task, lambda sign: None).params == alone(task)
    finally:
        gate.unlink()
        release.kill()
        release.wait()
    assert not engine._table.pending.keys() - {number for each in engine._handles.values() for number in each.assigned}
    engine.cancel(TaskKey(experiment_id="e", round=9, node_id="nobody"))


def test_it_is_known_which_results_are_there(workers) -> None:
    engine = engine_of(workers)
    first, second = tasks(workers, 2)
    for task in (first, second):
        engine.submit(task)
        assert not engine.has_result(task.request.key)
    engine.run(second, lambda sign: None)
    while not engine.has_result(first.request.key):
        engine._pump(None)
    engine.cancel(first.request.key)
    assert not any(engine.has_result(task.request.key) for task in (first, second))


class Failing(Walk):
    def training_step(self, data: Any, target: Any) -> Any:
        if self.node_id() == "node-2":
            raise ValueError("it does not like these data")
        return super().training_step(data, target)


def test_a_plan_that_raises_fails_with_the_same_words(workers) -> None:
    def failure(made: Federation) -> tuple[str, str]:
        with pytest.raises(RoundError) as caught:
            outcome(made, Failing, 1)
        return str(caught.value), caught.value.details

    found = failure(workers)
    assert found == failure(federation("serial"))
    assert "it does not like these data" in found[0]
    assert "training_step" in found[1]


# what cannot be ------------------------------------------------------------------------------------------------


class Local:
    class Inner(Engine):
        def run(self, task: Any, emit: Any) -> Any:
            raise NotImplementedError


@pytest.mark.parametrize("workers", [0, -1, True, 1.5, "2"])
def test_a_number_of_workers_that_cannot_be_is_refused(workers) -> None:
    with pytest.raises(UsageError, match="workers must be a whole number of at least 1"):
        ProcessEngine(workers)


def test_engines_that_workers_cannot_have_are_refused(monkeypatch) -> None:
    with pytest.raises(UsageError, match="must be a name or a class"):
        ProcessEngine(engine=SerialEngine())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="must be plain data"):
        ProcessEngine(lean=object())
    monkeypatch.setattr(Local.Inner, "__module__", "__main__")
    with pytest.raises(UsageError, match=r"cannot import the engine Local\.Inner"):
        ProcessEngine(engine=Local.Inner)
    for engine, options, text in [
        ("warp", {}, "warp"),
        ("processes", {}, "cannot have worker processes"),
        ("serial", {"fast": True}, "fast"),
    ]:
        with pytest.raises(UsageError, match=text):
            federation(ProcessEngine(engine=engine, **options))


def test_plugins_that_are_not_installed_are_refused() -> None:
    class Mine:
        @hookimpl
        def fedplug_round_start(self, ctx: Any, node_ids: Any) -> None:
            raise NotImplementedError

    host = PluginHost.discover()
    host.register(Mine(), "mine")
    with pytest.raises(UsageError, match="Plugin 'mine' was registered in this process"):
        federation(ProcessEngine(), host=host)


class Lazy(MemoryDataset):
    """Not quite a data set in memory."""


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ((np.array([{}, []], object), np.zeros(2)), "Array 'x' of node 'a' holds object"),
        (Lazy("a", {"x": np.zeros(2)}), "The data of node 'a' are a Lazy"),
    ],
)
def test_data_that_processes_cannot_share_are_refused(data, text) -> None:
    with pytest.raises(UsageError, match=text) as caught:
        Federation({"a": data}, engine=ProcessEngine())
    assert "serial" in caught.value.cure


def test_arguments_that_cannot_be_pickled_are_the_failure_of_the_nodes_that_get_them(workers) -> None:
    engine = engine_of(workers)
    (task,) = tasks(workers, 1, model_args={"f": lambda: 1})
    with pytest.raises(UsageError, match="model_args hold something that cannot be given to worker processes"):
        engine.run(task, lambda sign: None)


# what trains inside --------------------------------------------------------------------------------------------


def test_an_engine_that_trains_several_at_once_gets_the_same_groups_each_time() -> None:
    def groups() -> list[dict[str, float]]:
        found = outcome_of(ProcessEngine(workers=2, engine=Together, value=2.0), nodes=50, rounds=3)
        return [
            {node: reply["metrics"]["together"] for node, reply in replies.items()}
            for replies in found["replies"].values()
        ]

    first = groups()
    assert first == groups()
    assert set(first[0].values()) == {17.0, 8.0}
    assert first[0] == first[1] == first[2]


def test_the_inner_engine_gets_its_arguments(caplog) -> None:
    caplog.set_level(logging.INFO, "fedplug.simulation")
    expected = outcome_of("serial")
    caplog.clear()
    assert outcome_of(ProcessEngine(workers=1, engine=SerialEngine, lean=False)) == expected
    assert not caplog.records, "it did not try the lean step"


def test_the_data_are_in_memory_once_however_many_workers_there_are() -> None:
    x = np.ones((96 * 1024, 256), np.float32)
    engine = ProcessEngine(workers=2)
    with closing(Federation.from_arrays(x, np.zeros(len(x)), partition=IID(2048), engine=engine)) as made:
        outcome(made, Touching, rounds=1, node_selection_strategy=RandomStrategy(count=4))
        for pid in engine.pids:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in text.splitlines()[1:]}
            assert sizes["Rss"] > x.nbytes, "the data are mapped"
            assert sizes["Private_Dirty"] + sizes["Private_Clean"] < x.nbytes


class Touching(Walk):
    def training_step(self, data: Any, target: Any) -> Any:
        return 1.0, {"w": data[0, :4]}


def test_what_goes_wrong_before_a_training_is_its_own_failure_and_the_worker_goes_on(workers) -> None:
    engine = engine_of(workers)
    first, second = tasks(workers, 2)
    broken = dataclasses.replace(first, plan=PlanBundle("no name", "class Walk: pass"))
    engine.submit(broken)
    engine.submit(second)
    with pytest.raises(PlanSourceError, match="the name of its class cannot be one"):
        engine.run(broken, lambda sign: None)
    assert engine.run(second, lambda sign: None).params == SerialRun(workers)(second)
