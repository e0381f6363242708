"""What nodes keep between rounds, through lost replies, restarts and crashes: the same bits as undisturbed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.nn.functional as F
from torch import nn

from fedplug import DataManager, Experiment
from fedplug.core.errors import RoundError
from fedplug.core.messages import LogLine, TaskFailure, TrainRequest
from fedplug.core.monitor import Monitor
from fedplug.core.params import Params
from fedplug.core.pool import TaskFailed, UpdateFetched
from fedplug.core.strategy import Decision, DefaultStrategy
from fedplug.node import Node, NodeStore
from fedplug.node.datasets.registry import inspect_file
from fedplug.node.policy.file import save_policy
from fedplug.node.policy.template import policy_text
from fedplug.simulation import Federation
from fedplug_torch import TorchTrainingPlan

NODES = ("lyon", "nice", "paris")
ROUNDS = 4


class KeepingPlan(TorchTrainingPlan):
    """Keeps norm layers and a head of its own; Adam's moments too where it is asked to."""

    def init_dependencies(self) -> list[str]:
        return ["import os", "from pathlib import Path"]

    def init_model(self, model_args):
        return nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))

    def tag_parameters(self, name):
        own = name in self.norm_layer_names() or self.matches(name, "3.*")
        return {"local", "persistent"} if own else set()

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        trap = self.model_args().get("trap", "")
        if trap and Path(trap, f"{self.node_id()}-{self.round()}").exists():
            Path(trap, f"{self.node_id()}-{self.round()}").unlink()
            os._exit(5)  # noqa: F821
        return F.cross_entropy(self.model()(data), target)

    def testing_step(self, data, target):
        return {"loss": F.cross_entropy(self.model()(data), target)}


def parts() -> dict[str, dict[str, Any]]:
    rng = np.random.default_rng(0)
    made = {}
    for index, node in enumerate(NODES):
        x = rng.normal(index, 1 + index, size=(24, 4)).astype(np.float32)
        made[node] = {"x": x, "y": (x[:, 0] > x[:, index + 1]).astype(np.int64)}
    return made


def experiment(transport: Any, **more: Any) -> Experiment:
    args = {"loader_args": {"batch_size": 8}, "keep_optimizer_state": True, "optimizer_args": {"lr": 0.05}}
    args |= {"test_ratio": 0.25, "test_on_global_updates": True}
    more.setdefault("training_args", args)
    return Experiment(
        training_plan_class=KeepingPlan, transport=transport, min_nodes=3, seed=5, progress="quiet",
        connect_timeout=60, **more,
    )  # fmt: skip


def facts(exp: Experiment) -> dict[int, dict[str, tuple[str, float, float]]]:
    """Return what was trained and tested: the local parts show in the losses, to the last bit."""
    return {
        number: {
            node: (reply["state"], reply["metrics"]["loss"], reply["metrics"]["test_global_loss"])
            for node, reply in replies.items()
        }
        for number, replies in exp.training_replies().items()
    }


def simulate(federation: Federation | None = None, rounds: int = ROUNDS, **more: Any) -> Experiment:
    with experiment(federation or Federation(parts()), tags="simulation", **more) as exp:
        exp.run(rounds)
    return exp


@pytest.fixture(scope="module")
def undisturbed() -> Experiment:
    return simulate()


def test_the_first_round_finds_nothing_and_later_ones_go_on(undisturbed: Experiment) -> None:
    states = [{state for state, *_ in replies.values()} for replies in facts(undisturbed).values()]
    assert states == [{"none"}, {"kept"}, {"kept"}, {"kept"}]
    assert list(undisturbed.params()) == ["1.weight", "1.bias"]


@pytest.mark.parametrize("off", ["parameters", "optimizer"])
def test_what_is_kept_matters(undisturbed: Experiment, off: str) -> None:
    if off == "optimizer":
        args = {**undisturbed.training_args(), "keep_optimizer_state": False}
        assert simulate(training_args=args).params() != undisturbed.params()
        return
    federation = Federation(parts())
    with experiment(federation, tags="simulation") as exp:
        exp.run(1)
        for states in federation._states.values():
            states.forget(exp.id)
        exp.run(1)
        assert facts(exp)[1] != facts(undisturbed)[1]


class Pool(Federation):
    """A federation whose network loses what it is told to lose, after the node has trained."""

    lose: frozenset[tuple[str, int]] = frozenset()

    def __init__(self, nodes: Mapping[str, Any]) -> None:
        super().__init__(nodes)
        self.requests: list[TrainRequest] = []
        self.left: dict[tuple[str, int, int], str] = {}
        """(node, round, attempt) → the name of what the training left."""

    def train(self, request: TrainRequest, plan: Any, params: Params, aux: Mapping[str, Params] | None = None) -> None:
        self.requests.append(request)
        super().train(request, plan, params, aux)

    def next_event(self, timeout: float | None, watch: Any = None) -> Any:
        event = super().next_event(timeout, watch)
        if isinstance(event, UpdateFetched):
            key = event.reply.key
            self.left[key.node_id, key.round, key.attempt] = event.reply.state_id
        if isinstance(event, UpdateFetched) and (event.reply.key.node_id, event.reply.key.round) in self.lose:
            return TaskFailed(TaskFailure(key=event.reply.key, code="lost", text="lost on the way"))
        return event


class WhoCanMayGo(DefaultStrategy):
    """Aggregates what it gets, from those that it is told to ask."""

    def __init__(self, without: frozenset[tuple[str, int]] = frozenset()) -> None:
        self.without = without

    def select(self, ctx: Any, nodes: Any) -> list[str]:
        return [node for node in nodes if (node, ctx.round) not in self.without]

    def judge(self, ctx: Any, state: Any) -> Decision:
        return Decision("wait" if state.missing else "enough")


def _final(exp: Experiment) -> tuple[str, Any]:
    return exp.params().fingerprint(), facts(exp)


def test_a_lost_reply_leaves_the_node_where_it_was() -> None:
    lost = frozenset({("nice", 0), ("lyon", 1), ("nice", 2)})
    pool = Pool(parts())
    pool.lose = lost
    disturbed = simulate(pool, node_selection_strategy=WhoCanMayGo())
    reference = simulate(node_selection_strategy=WhoCanMayGo(without=lost))
    assert _final(disturbed) == _final(reference)
    acked = {(r.key.node_id, r.key.round): r.acked_round for r in pool.requests}
    assert [acked["nice", number] for number in range(ROUNDS)] == [-1, -1, 1, 1]
    assert [acked["lyon", number] for number in range(ROUNDS)] == [-1, 0, 0, 2]
    for request in pool.requests:
        acked_state = pool.left[request.key.node_id, request.acked_round, 0] if request.acked_round >= 0 else ""
        assert request.acked_state == acked_state
    assert all(pool.left.values())
    assert facts(disturbed)[1]["nice"][0] == "none"
    assert facts(disturbed)[3]["nice"][0] == "kept"


def test_another_attempt_at_a_round_starts_from_the_same_state(undisturbed: Experiment) -> None:
    pool = Pool(parts())
    with experiment(pool, tags="simulation") as exp:
        exp.run(2)
        pool.lose = frozenset({("paris", 2)})
        with pytest.raises(RoundError, match="lost on the way"):
            exp.run(1)
        pool.lose = frozenset()
        exp.run(2)
    assert _final(exp) == _final(undisturbed)
    assert {reply["attempt"] for reply in exp.training_replies()[2].values()} == {1}
    names = {node: [pool.left[node, 2, attempt] for attempt in (0, 1)] for node in NODES}
    assert all(first == again for first, again in names.values()), "an attempt repeated leaves the same state"
    assert len({first for first, _ in names.values()}) == len(NODES)


def test_a_state_that_is_gone_is_told_and_the_node_goes_on(undisturbed: Experiment) -> None:
    heard: list[str] = []
    federation = Federation(parts())
    with experiment(federation, tags="simulation") as exp:
        exp.add_monitor(_Listener(heard))
        exp.run(2)
        federation._states["nice"].forget(exp.id)
        exp.run(2)
    states = {node: [replies[node][0] for replies in facts(exp).values()] for node in NODES}
    assert states["nice"] == ["none", "kept", "absent", "kept"]
    assert states["lyon"] == states["paris"] == ["none", "kept", "kept", "kept"]
    assert len(heard) == 1
    assert "The state of round 2" in heard[0]
    assert "fresh local state" in heard[0]
    assert exp.params() != undisturbed.params()


def test_a_new_model_takes_nothing_of_the_old_one_along() -> None:
    with experiment(Federation(parts()), tags="simulation") as exp:
        exp.run(1)
        exp.set_model_args({"other": 1})
        exp.run(1)
        assert {state for state, *_ in facts(exp)[1].values()} == {"none"}


# real nodes ------------------------------------------------------------------------------------------------


def make_folders(folder: Path) -> None:
    for node, arrays in parts().items():
        np.savez(folder / f"{node}.npz", **arrays)
        with NodeStore.create(folder / node, name=node, node_id=node) as store:
            # The traps of these plans lie outside of their scratch folders.
            save_policy(folder / node, policy_text(approval="off").replace('isolation = "best"', 'isolation = "off"'))
            store.add_dataset(inspect_file(folder / f"{node}.npz", tags=["simulation"], target="y")[0])


@contextmanager
def nodes(url: str, folder: Path, processes: Sequence[str] = NODES) -> Iterator[dict[str, Node]]:
    """The nodes; those of ``processes`` train in worker processes, the others in this one."""
    with ExitStack() as stack:
        started = {
            node: stack.enter_context(
                Node(folder / node, url, worker="process" if node in processes else "inline", retry=0.05)
            )
            for node in NODES
        }
        for node in started.values():
            assert node.wait_connected(60)
        yield started


@pytest.mark.slow  # the worker that dies, below, and test_fedbn.py need the same bits of fewer processes
def test_nodes_with_processes_keep_the_same_bits(undisturbed: Experiment, inproc_url: str, tmp_path: Path) -> None:
    make_folders(tmp_path)
    with experiment(inproc_url) as exp:
        exp.pool()
        with nodes(inproc_url, tmp_path):
            exp.set_tags("simulation")
            exp.run(ROUNDS)
    assert _final(exp) == _final(undisturbed)


def test_nodes_that_are_started_anew_go_on_from_the_disk(
    undisturbed: Experiment, inproc_url: str, tmp_path: Path
) -> None:
    make_folders(tmp_path)
    with experiment(inproc_url) as exp:
        exp.pool()
        for number in range(ROUNDS):
            with nodes(inproc_url, tmp_path, ()):
                if not number:
                    exp.set_tags("simulation")
                exp.run(1)
    assert _final(exp) == _final(undisturbed)


def test_a_worker_that_dies_leaves_the_state_as_it_was(
    undisturbed: Experiment, inproc_url: str, tmp_path: Path
) -> None:
    make_folders(tmp_path)
    trap = tmp_path / "trap"
    trap.mkdir()
    (trap / "nice-2").touch()
    with experiment(inproc_url, model_args={"trap": str(trap)}) as exp:
        exp.pool()
        with nodes(inproc_url, tmp_path, ["nice"]):
            exp.set_tags("simulation")
            with pytest.raises(RoundError, match="exit code 5"):
                exp.run(ROUNDS)
            exp.run(2)
    assert not (trap / "nice-2").exists()
    assert _final(exp) == _final(undisturbed)


@pytest.mark.slow
def test_a_folder_whose_states_are_gone_is_told(inproc_url: str, tmp_path: Path) -> None:
    make_folders(tmp_path)
    with experiment(inproc_url) as exp:
        exp.pool()
        with nodes(inproc_url, tmp_path):
            exp.set_tags("simulation")
            exp.run(1)
        shutil.rmtree(tmp_path / "lyon" / "state")
        with nodes(inproc_url, tmp_path):
            exp.run(1)
    assert {node: state for node, (state, *_) in facts(exp)[1].items()} == {
        "lyon": "absent", "nice": "kept", "paris": "kept",
    }  # fmt: skip


# the ways of one experiment --------------------------------------------------------------------------------

Forget = Callable[[], None]
"""Lets all nodes forget what they keep of an experiment."""


@contextmanager
def saving(kind: str, url: str, folder: Path, *, rounds: int) -> Iterator[tuple[Experiment, Forget]]:
    """An experiment that saves breakpoints, after some rounds: simulated, or with nodes that keep states on disk."""
    federation = Federation(parts())
    with experiment(federation if kind == "simulated" else url, save_breakpoints=True) as exp, ExitStack() as stack:
        exp.pool()
        running: Mapping[str, Any] = {}
        if kind == "nodes":
            make_folders(folder)
            running = stack.enter_context(nodes(url, folder, ()))

        def forget() -> None:
            stores = [node._runtime._states for node in running.values()] or list(federation._states.values())
            assert len(stores) == len(NODES)
            for states in stores:
                states.forget(exp.id)

        exp.set_tags("simulation")
        exp.run(rounds)
        yield exp, forget


def way(exp: Experiment, number: int, lr: float | None = None, heard: list[str] | None = None) -> Experiment:
    """The experiment as it was after some rounds, on a way of its own."""
    place = exp.experimentation_path() / f"breakpoint_{number:04d}"
    made = Experiment.load_breakpoint(place, transport=exp.pool(), progress="quiet")
    made.set_save_breakpoints(False)
    if lr is not None:
        made.set_training_args({**made.training_args(), "optimizer_args": {"lr": lr}})
    if heard is not None:
        made.add_monitor(_Listener(heard))
    return made


def alone(*steps: float | None) -> tuple[str, Any]:
    """What comes of one way alone: numbers of rounds, a learning rate from then on, None for states that are gone."""
    federation = Federation(parts())
    with experiment(federation, tags="simulation") as exp:
        for step in steps:
            if isinstance(step, float):
                exp.set_training_args({**exp.training_args(), "optimizer_args": {"lr": step}})
            elif step is None:
                for states in federation._states.values():
                    states.forget(exp.id)
            else:
                exp.run(step)
    return _final(exp)


def last_states(exp: Experiment) -> set[str]:
    return {reply["state"] for reply in exp.training_replies()[exp.round_current() - 1].values()}


KINDS = pytest.mark.parametrize("kind", ["simulated", "nodes"])


@KINDS
def test_two_copies_from_one_breakpoint_do_not_disturb_each_other(
    kind: str, inproc_url: str, tmp_path: Path, fedplug_dir: Path
) -> None:
    heard: list[str] = []
    with saving(kind, inproc_url, tmp_path, rounds=2) as (exp, _), way(exp, 2, heard=heard) as x, way(exp, 2, 0.2) as y:
        x.run(1)
        y.run(1)
        assert (last_states(x), last_states(y)) == ({"kept"}, {"kept"})
        assert _final(x) == alone(3)
        assert _final(y) == alone(2, 0.2, 1)
        y.run(1)
        assert last_states(y) == {"kept"}
        assert _final(y) == alone(2, 0.2, 2)
        assert heard == []
        x._attempt = 1  # the other copy has used the number 0 for this round, and a pool gives out no task twice
        x.run(1)
        assert last_states(x) == {"absent"}, "a node keeps the states of one way"
        assert _final(x) == alone(3, None, 1)
        x.run(1)
        assert last_states(x) == {"kept"}
        assert _final(x) == alone(3, None, 2)
    fresh = [text for text in heard if "fresh local state" in text]
    assert len(fresh) == len(NODES)
    assert all("state of round 3" in text for text in fresh)
    assert sum("round 3 comes from another way of the experiment" in text for text in heard) == len(NODES)


@KINDS
def test_a_way_back_and_forth_again_does_not_find_the_states_of_the_detour(
    kind: str, inproc_url: str, tmp_path: Path, fedplug_dir: Path
) -> None:
    with saving(kind, inproc_url, tmp_path, rounds=4) as (exp, _):
        with way(exp, 3, 0.2) as detour:
            detour.run(1)
            assert last_states(detour) == {"kept"}
            assert _final(detour) == alone(3, 0.2, 1)
        with way(exp, 4) as forth:
            forth.run(1)
            assert last_states(forth) == {"absent"}
            assert _final(forth) == alone(4, None, 1)


@KINDS
def test_the_same_way_again_is_no_other_way(kind: str, inproc_url: str, tmp_path: Path, fedplug_dir: Path) -> None:
    with saving(kind, inproc_url, tmp_path, rounds=3) as (exp, _):
        with way(exp, 2) as again:
            again.run(1)
            assert _final(again) == _final(exp)
        with way(exp, 3) as forth:
            forth.run(1)
            assert last_states(forth) == {"kept"}
            assert _final(forth) == alone(4)


@KINDS
def test_the_same_round_from_a_state_that_is_gone_leads_another_way(
    kind: str, inproc_url: str, tmp_path: Path, fedplug_dir: Path
) -> None:
    with saving(kind, inproc_url, tmp_path, rounds=3) as (exp, forget):
        forget()
        with way(exp, 2) as again:
            again.run(1)
            assert last_states(again) == {"absent"}
        with way(exp, 3) as forth:
            forth.run(1)
            assert last_states(forth) == {"absent"}
            assert _final(forth) == alone(3, None, 1)


class _Listener(Monitor):
    """A monitor that keeps the log lines."""

    def __init__(self, heard: list[str]) -> None:
        self._heard = heard

    def log(self, node_id: str, line: LogLine) -> None:
        self._heard.append(line.text)
