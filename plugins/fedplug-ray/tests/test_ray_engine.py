"""Trainings on a Ray cluster: the same bits as in one process, and what becomes of them when workers are lost.

The cluster is a real one, with four processors, and lives for this module: it is started as a user's own would be.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
from ray_plans import ARGS, Classifier, Slope, federation, steady, trained

from fedplug import Experiment, QuorumStrategy
from fedplug.core.errors import EngineError
from fedplug.core.messages import TaskKey
from fedplug.core.monitor import Monitor
from fedplug.core.training_environment import TRAINING_ENVIRONMENT
from fedplug.simulation import Engine
from fedplug_ray import RayEngine
from fedplug_ray import engine as engine_module
from fedplug_ray.cluster import Cluster

STORE = 200 * 2**20


@pytest.fixture(scope="module")
def cluster():
    before = dict(os.environ), signal.getsignal(signal.SIGTERM)
    joined = Cluster.join(None, processors=4, object_store_memory=STORE)
    folder = joined._folder
    yield joined
    joined.leave()
    assert not ray.is_initialized()
    assert not folder.exists()
    changed = {name for name in before[0].keys() | os.environ if before[0].get(name) != os.environ.get(name)}
    ours = {name for name in changed if name.startswith("RAY_") or name in TRAINING_ENVIRONMENT}
    assert ours <= {"RAY_CLIENT_MODE"}  # set by Ray's import
    assert signal.getsignal(signal.SIGTERM) is before[1]


@pytest.fixture(scope="module")
def nodes(cluster):
    """A federation whose two workers serve several tests, as each takes a second to begin."""
    engine = RayEngine(2)
    federation = steady(engine)
    yield federation
    pids = engine.worker_pids
    assert len(pids) == 2
    federation.close()
    psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=10)
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    assert ray.is_initialized()  # it was there before


@pytest.fixture
def own(cluster):
    """Make a federation with workers of its own."""
    made = []

    def make(*, workers: int = 1, **settings: Any):
        made.append(federation(RayEngine(workers, **settings)))
        return made[-1]

    yield make
    for each in made:
        each.close()


# the same as in one process ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "model_args", "args", "settings"),
    [
        (Classifier, {"hidden": 4000}, {}, {}),
        (
            Classifier,
            {"hidden": 8, "dropout": 0.5},
            {"keep_optimizer_state": True, "test_ratio": 0.3, "test_on_local_updates": True},
            {},
        ),
        (Classifier, {"hidden": 4000}, {"epochs": None, "num_updates": 3}, {"aggregator": "scaffold"}),
        (Slope, {"mask": np.arange(3)}, {}, {}),
    ],
    ids=["lean step", "random numbers, state, tests", "extra arrays, state", "without torch, arrays among arguments"],
)
def test_the_result_is_that_of_one_process_to_the_bit(nodes, caplog, plan, model_args, args, settings):
    settings["model_args"] = model_args
    caplog.set_level(logging.INFO, "fedplug.simulation")
    found = trained(nodes, plan, args, **settings)
    told = [record.message for record in caplog.records if plan.__name__ in record.message]
    caplog.clear()
    wanted = trained(steady("serial"), plan, args, **settings)
    assert len(wanted["signs"]) > 4
    assert any(wanted["dropped"])
    assert found == wanted
    assert told == [record.message for record in caplog.records if plan.__name__ in record.message]


def test_a_plan_that_fails_says_the_same(nodes):
    args = {"fails": ["n3", "n8"]}
    found, wanted = (trained(each, Slope, round_limit=1, model_args=args) for each in (nodes, steady("serial")))
    assert any("no such luck" in text for text in found["dropped"][0].values())
    assert found == wanted


# signs of life, and tasks that are not wanted any more ------------------------------------------------------------


def waiting(nodes: Any, folder: Path) -> Experiment:
    """A round in which the first node waits for a file in its second step, and says so by another."""
    return Experiment(
        tags="simulation", transport=nodes, training_plan_class=Slope,
        model_args={"folder": str(folder), "waits": ["n0"]}, training_args={**ARGS, "epochs": 3}, seed=5,
        progress="quiet", save_breakpoints=False, round_limit=1,
    )  # fmt: skip


def once_there_is(folder: Path, pattern: str, then: Callable[[Path], None]) -> threading.Thread:
    """Call ``then`` with the first file of a name."""

    def look() -> None:
        while not (found := list(folder.glob(pattern))):
            time.sleep(0.01)
        then(found[0])

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    return thread


def test_signs_of_life_come_while_a_training_goes_on(own, tmp_path):
    nodes = own()
    heard = []
    next_event = nodes.next_event

    def listening(timeout, watch=None):
        def hear(sign, node_id):
            heard.append((node_id, sign.step))
            (tmp_path / "go").touch()  # without a sign, it would wait for ever

        return next_event(timeout, hear)

    nodes.next_event = listening
    waiting(nodes, tmp_path).run()
    assert [step for node, step in heard if node == "n0"] == [1, 2, 3, 4, 5, 6]


def test_a_task_that_is_not_wanted_any_more_is_left_out(own, tmp_path):
    nodes = own()
    engine = nodes._engine
    run, ran = engine.run, []

    def cancelling(task, emit):
        if not ran:  # the first is being trained, and some of the others lie at the worker
            key = task.request.key
            keys = [TaskKey(experiment_id=key.experiment_id, round=0, node_id=f"n{number}") for number in range(1, 9)]
            once_there_is(tmp_path, "n0.*", lambda _: [engine.cancel(key) for key in keys])
            once_there_is(tmp_path, "n0.*", lambda _: (tmp_path / "go").touch())
        ran.append(task.request.key.node_id)
        return run(task, emit)

    engine.run = cancelling
    waiting(nodes, tmp_path).run()  # the federation has not heard of it, and asks for them all the same
    assert ran == [f"n{number}" for number in range(9)]
    assert not engine._jobs
    assert not engine._outgoing._held


# workers that are lost --------------------------------------------------------------------------------------------


def test_what_a_lost_worker_was_at_is_done_again_with_the_same_bits(own, tmp_path, caplog):
    def kill(mark: Path) -> None:
        os.kill(int(mark.suffix[1:]), signal.SIGKILL)
        (tmp_path / "go").touch()

    killer = once_there_is(tmp_path, "n0.*", kill)
    lost = waiting(own(workers=2), tmp_path)
    lost.run()
    killer.join()
    assert len(list(tmp_path.glob("n0.*"))) == 2  # it was begun by two processes
    whole = waiting(federation("serial"), tmp_path)
    whole.run()
    assert lost.params() == whole.params()
    assert [record.message for record in caplog.records if "was lost" in record.message]


def test_a_node_that_ends_its_worker_twice_has_failed_and_takes_no_other_with_it(own):
    strategy = QuorumStrategy(0.5)
    result = trained(own(), Slope, round_limit=1, node_selection_strategy=strategy, model_args={"kills": ["n4"]})
    assert list(result["dropped"][0]) == ["n4"]
    assert "ended 2 times, without a word" in result["dropped"][0]["n4"]
    assert len(result["replies"][0]) == 8


def test_an_interrupt_ends_the_workers_and_the_next_run_begins_anew(own):
    """It may come between the news of a result and the arrays that follow: then what comes next is none of the news."""

    class Interrupting(Monitor):
        armed = True

        def progress(self, node_id, progress):
            if self.armed:
                self.armed = False
                raise KeyboardInterrupt

    def experiment(nodes):
        return Experiment(
            tags="simulation", transport=nodes, training_plan_class=Classifier, model_args={"hidden": 4000},
            training_args=ARGS, seed=5, round_limit=1, progress="quiet",
        )  # fmt: skip

    nodes = own()
    with experiment(nodes) as exp:
        exp.add_monitor(Interrupting())
        with pytest.raises(KeyboardInterrupt):
            exp.run()
        assert nodes._engine.worker_pids == []
        exp.run()
        with experiment(federation("serial")) as whole:
            whole.run()
            assert exp.params() == whole.params()


# clusters that cannot be used -------------------------------------------------------------------------------------


@pytest.mark.slow  # versions are compared without a cluster too, in test_ray_parcels.py
def test_workers_of_other_versions_are_refused(own, monkeypatch):
    real = engine_module.versions
    monkeypatch.setattr(engine_module, "versions", lambda host: {**real(host), "fedplug": "0.0.9", "plugin odd": "3"})
    with pytest.raises(EngineError, match=r"fedplug is .* there and 0\.0\.9 here; plugin odd is missing there"):
        trained(own(), Slope, round_limit=1)


def test_more_workers_than_processors_are_refused(own):
    with pytest.raises(EngineError, match="5 workers need as many processors, but the Ray cluster has 4"):
        trained(own(workers=5), Slope)


class Rooted:
    """Can be copied, but not pickled."""

    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        raise TypeError("it stays here")


def test_arguments_that_cannot_travel_are_refused(nodes):
    with pytest.raises(EngineError, match="cannot be sent to the workers of a Ray cluster: TypeError: it stays here"):
        trained(nodes, Slope, round_limit=1, model_args={"tree": Rooted()})


@pytest.mark.slow
def test_workers_that_lack_the_plugin_are_refused(own, monkeypatch):
    module = types.ModuleType("only_here")
    exec("class Worker:\n    def hello(self, plugins): ...", vars(module))
    monkeypatch.setitem(sys.modules, "only_here", module)
    monkeypatch.setattr("fedplug_ray.crew.Worker", module.Worker)
    with pytest.raises(EngineError, match=r"cannot begin: .*only_here") as told:
        trained(own(), Slope, round_limit=1)
    assert "Install FedPlug" in told.value.cure


# in the workers ---------------------------------------------------------------------------------------------------


def test_a_cluster_of_ones_own_is_private(cluster):
    assert cluster.is_ours
    assert cluster._folder.stat().st_mode & 0o077 == 0
    sockets = list(cluster._folder.rglob("sockets/*"))
    assert sockets
    assert ray.get(ray.remote(lambda: (os.environ["RAY_AUTH_MODE"], len(os.environ["RAY_AUTH_TOKEN"]))).remote()) == (
        "token",
        64,
    )


def test_what_is_set_in_every_process_that_trains_is_set_in_workers_of_a_cluster_of_ones_own(cluster):
    def look(names):
        return {name: os.environ.get(name) for name in names}

    names = list(TRAINING_ENVIRONMENT)
    given = {name: value for name, value in look(names).items() if value is not None}
    assert ray.get(ray.remote(look).remote(names)) == {**TRAINING_ENVIRONMENT, **given}


@pytest.mark.slow  # another worker has to load torch
def test_the_engine_in_the_workers_takes_arguments(own, caplog):
    caplog.set_level(logging.INFO, "fedplug.simulation")
    found = trained(own(lean=False), Classifier, round_limit=1, model_args={"hidden": 8})
    assert "by the lean step" not in caplog.text
    assert found == trained(federation("serial"), Classifier, round_limit=1, model_args={"hidden": 8})


@pytest.mark.slow
def test_nodes_that_are_stacked_in_the_workers_come_to_the_same_bits_each_time(own):
    settings = {"model_args": {"hidden": 8}, "round_limit": 1}
    first, second = (trained(own(engine="cohort"), Classifier, **settings) for _ in range(2))
    assert first == second
    alone = trained(federation("serial"), Classifier, **settings)
    assert first["params"].allclose(alone["params"], rtol=1e-4, atol=1e-6)
    assert first["params"] != alone["params"]  # they were stacked


def test_the_program_of_the_page_runs_and_says_what_the_page_says(cluster, tmp_path, monkeypatch, capsys):
    page = Path(__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    file = tmp_path / "ray_readme_program.py"
    file.write_text(code, encoding="utf-8")  # a plan's text is read from its file
    module = types.ModuleType(file.stem)
    module.__file__ = str(file)
    monkeypatch.setitem(sys.modules, file.stem, module)
    exec(compile(code, str(file), "exec"), module.__dict__)
    assert capsys.readouterr().out == "True\n"
    assert isinstance(module.engine, Engine)
