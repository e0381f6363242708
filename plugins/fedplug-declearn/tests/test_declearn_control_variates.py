"""Scaffold: equal to declearn's own loop, and through losses, failures and forgeries it converges to the optimum.

Two bowls, ``1/2 x^2`` and ``10/2 (x - 1)^2``, and 20 steps a round: FedAvg ends at .609, the optimum is 10/11. Whatever
parts the sum at the researcher from what the nodes hold moves the end for ever, so the end tells.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from declearn.optimizer import Optimizer as Theirs
from declearn_kit import BEST, TWO, Bowl, Net, Weights, WhoCanMayGo, bowls, experiment, vector
from torch import nn

from fedplug import DataManager, Experiment, FedplugWarning, Monitor, NumpyTrainingPlan, Params, RoundContext, Update
from fedplug.core.errors import RoundError, UpdateRejectedError, UsageError
from fedplug.core.node_terms import NodeTerm, TermSum
from fedplug.core.quorum import QuorumStrategy
from fedplug.core.trainer import hook
from fedplug_declearn import Optimizer
from fedplug_declearn.scaffold import AUX, ScaffoldClient
from fedplug_scaffold import FedAverage
from fedplug_torch import TorchTrainingPlan

CLIENT = {"num_updates": 20, "optimizer_args": {"lr": 0.05, "modules": ["scaffold-client"]}}
THREE = {**TWO, "z": (4.0, -2.0)}
BEST_OF_THREE = (10 * 1 - 4 * 2) / 15


def server() -> Optimizer:
    return Optimizer(lr=1.0, modules=["scaffold-server"])


def scaffold(net: Net, plan: type = Bowl, **settings: Any) -> Experiment:
    return experiment(net, plan, **{"training_args": CLIENT, "agg_optimizer": server(), **settings})


def end_of(exp: Experiment) -> float:
    return float(exp.params()["x"])


def alone(
    curves: Mapping[str, tuple[float, float]],
    rounds: int,
    steps: Mapping[str, int] | int = 20,
    without: Any = (),
    begins: Any = (),
    counted: Any = None,
) -> list[float]:
    """What declearn's own optimizers make of the bowls, in a plain loop; ``x`` after each round.

    Args:
        curves: The bowls.
        rounds: How many rounds.
        steps: Of each node in a round.
        without: ``(node, round)`` that take no part.
        begins: Rounds before which both sides are made anew.
    """
    x, found = np.zeros(()), []
    sums: Any = None
    clients: dict[str, Any] = {}
    for number in range(rounds):
        if sums is None or number in begins:
            sums = Theirs(lrate=1.0, modules=["scaffold-server"])
            clients = {node: Theirs(lrate=0.05, modules=["scaffold-client"]) for node in curves}
        sums.start_round()
        sent = sums.collect_aux_var()
        ends, total = [], None
        for node in sorted(curves):
            if (node, number) in without:
                continue
            a, b = curves[node]
            client, y = clients[node], x
            client.process_aux_var(sent)
            client.start_round()
            for _ in range(steps if isinstance(steps, int) else steps[node]):
                moves = client.compute_updates_from_gradients(Weights({"x": y}), vector({"x": a * (y - b)}))
                y = y + moves.coefs["x"]
            ends.append(y)
            delta = client.collect_aux_var()["scaffold"]
            total = delta if total is None else total + delta
        sums.process_aux_var({"scaffold": total})
        mean = sum(ends[1:], ends[0]) / len(ends)
        x = x + sums.compute_updates_from_gradients(Weights({"x": x}), vector({"x": x - mean})).coefs["x"]
        found.append(float(x))
    return found


def held(exp: Experiment, net: Net) -> dict[str, Any]:
    """The control variates that the nodes go on from, node by node."""
    found = {}
    for node, acked in exp._acked.items():
        state = net.states(node).load(exp.id, exp.training_data().data()[node].dataset_id, acked.round, acked.state_id)
        if state is not None:
            found[node] = {n.removeprefix(f"{AUX}/"): state.arrays[n] for n in state.arrays if n.startswith(AUX)}
    return found


def summed(exp: Experiment) -> Any:
    return exp.agg_optimizer().state_dict()["scaffold"]["sum"]


# the algorithm ---------------------------------------------------------------------------------------------


def test_scaffold_converges_to_the_optimum_at_the_rate_that_was_measured():
    errors = {}
    with scaffold(Net(bowls(TWO))) as exp:
        for number in range(1, 41):
            exp.run(1)
            errors[number] = abs(end_of(exp) - BEST)
    assert [errors[n] for n in (5, 10, 20)] == pytest.approx([1.7e-2, 3.1e-4, 1.1e-7], rel=0.05)
    assert errors[40] < 2e-14


def test_fedavg_does_not():
    with experiment(Net(bowls(TWO))) as exp:
        exp.run(40)
        assert end_of(exp) == pytest.approx(0.6091934519, abs=1e-10)


@pytest.mark.parametrize(
    "without",
    [
        set(),
        {(node, number) for number in range(30) for place, node in enumerate("pqz") if (number + place) % 3 == 0},
        {("z", number) for number in range(5)},
    ],
    ids=["all nodes", "two of three in turn", "one comes later"],
)
def test_it_has_the_bits_of_declearns_own_loop(without):
    with scaffold(Net(bowls(THREE)), node_selection_strategy=WhoCanMayGo(without)) as exp:
        found = []
        for _ in range(30):
            exp.run(1)
            found.append(end_of(exp))
    assert found == alone(THREE, 30, without=without)
    assert found[-1] == pytest.approx(BEST_OF_THREE, abs=0.01)


def test_nodes_may_make_different_numbers_of_steps():
    rows = {"p": 3, "q": 8, "z": 5}
    args = {"epochs": 2, "optimizer_args": CLIENT["optimizer_args"]}
    with scaffold(Net(bowls(THREE, rows)), training_args=args) as exp:
        found = []
        for _ in range(60):
            exp.run(1)
            found.append(end_of(exp))
    assert found == alone(THREE, 60, {node: 2 * count for node, count in rows.items()})
    assert found[-1] == pytest.approx(BEST_OF_THREE, abs=1e-6)


def test_the_weights_of_the_mean_do_not_move_the_end():
    """Control variates count each node once, and a model that stays where it is must make them cancel."""
    with scaffold(Net(bowls(TWO, {"p": 1, "q": 3})), aggregator=FedAverage("samples")) as exp:
        exp.run(60)
        assert end_of(exp) == pytest.approx(BEST, abs=1e-12)


def test_other_modules_may_follow():
    args = {**CLIENT, "optimizer_args": {"lr": 0.02, "modules": ["scaffold-client", ("momentum", {"beta": 0.5})]}}
    both = Optimizer(lr=0.5, modules=["scaffold-server", ("momentum", {"beta": 0.3})])
    with scaffold(Net(bowls(TWO)), training_args=args, agg_optimizer=both) as exp:
        exp.run(80)
        assert end_of(exp) == pytest.approx(BEST, abs=1e-9)


def test_the_sum_at_the_researcher_is_that_of_what_the_nodes_hold():
    net = Net(bowls(THREE), lose={("q", 1), ("z", 2), ("p", 5)})
    turns = {("z", 0), ("p", 3), ("q", 4)}
    with scaffold(net, node_selection_strategy=WhoCanMayGo(turns)) as exp:
        for _ in range(8):
            exp.run(1)
            kept = [each["x"] for each in held(exp, net).values()]
            assert float(summed(exp)["x"]) == pytest.approx(float(sum(kept)), abs=1e-13)
    assert len(kept) == 3


# what travels, and what is kept where ----------------------------------------------------------------------


def test_a_node_sends_its_change_and_keeps_the_rest():
    net = Net(bowls(TWO))
    with scaffold(net) as exp:
        exp.run(3)
        assert set(exp.agg_optimizer().state_dict()["scaffold"]) == {"terms", "sum"}
        assert list(held(exp, net)["p"]) == ["x"]
    assert {name for _, aux in net.received for name in aux} == {AUX}
    assert {name for _, aux in net.received for name in aux[AUX]} == {"delta/x", "generation", "fresh"}
    assert [sorted(aux[AUX]) for _, aux in net.sent] == 2 * [["generation"]] + 4 * [["common/x", "generation"]]
    assert [int(aux[AUX]["fresh"]) for _, aux in net.received] == [1, 1, 0, 0, 0, 0]


class PersonalBowl(NumpyTrainingPlan):
    """A number that is shared and one that stays; both are added up."""

    def init_dependencies(self):
        return ["from fedplug_declearn import Optimizer"]

    def init_model(self):
        return {"own": np.zeros(()), "x": np.zeros(())}

    def tag_parameters(self, name):
        return {"local", "persistent"} if name == "own" else set()

    def init_optimizer(self, optimizer_args):
        return Optimizer(**optimizer_args)

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), batch_size=1)

    def training_step(self, data, target):
        error = self.model()["x"] + self.model()["own"] - target[0]
        return 0.5 * data[0] * error**2, {"x": data[0] * error, "own": data[0] * error}


def test_what_stays_at_the_node_stays_there_and_is_not_corrected():
    net = Net(bowls(TWO))
    with scaffold(net, PersonalBowl) as exp:
        exp.run(6)
        found = end_of(exp)
    travelled = [name for _, aux in [*net.sent, *net.received] for name in aux[AUX]]
    assert not [name for name in travelled if "own" in name]
    x, c, own, mine = 0.0, 0.0, dict.fromkeys(TWO, 0.0), dict.fromkeys(TWO, 0.0)
    for _ in range(6):
        ends = []
        for node, (a, b) in TWO.items():
            y, total = x, 0.0
            for _ in range(20):
                gradient = a * (y + own[node] - b)
                total += gradient
                y -= 0.05 * (gradient - (mine[node] - c))
                own[node] -= 0.05 * gradient
            mine[node] = total / 20
            ends.append(y)
        x, c = sum(ends) / 2, sum(mine.values()) / 2
    assert found == pytest.approx(x, abs=1e-14)


class Lines(TorchTrainingPlan):
    """A line through a plane, whose offset some nodes may hold still."""

    def init_dependencies(self):
        return ["from fedplug_declearn import Optimizer"]

    def init_model(self, model_args):
        made = nn.Linear(3, 1).double()
        made.bias.requires_grad_(self.node_id() not in model_args["frozen"])
        return made

    def init_optimizer(self, optimizer_args):
        return Optimizer(**optimizer_args)

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), shuffle=False)

    def training_step(self, data, target):
        return ((self.forward(data.double()).squeeze(1) - target) ** 2).mean()


def clouds() -> dict[str, Any]:
    rng = np.random.default_rng(8)
    x = {node: rng.normal(index, 1 + index, size=(16, 3)) for index, node in enumerate("pq")}
    return {node: (each, each @ np.array([1.0, -1.0, 2.0]) * (1 + len(node)) - each[:, 0]) for node, each in x.items()}


LINES = {"epochs": 2, "loader_args": {"batch_size": 4}, "optimizer_args": {"lr": 0.01, "modules": ["scaffold-client"]}}


@pytest.mark.parametrize("frozen", [[], ["p", "q"]], ids=["all trained", "offset frozen"])
def test_layers_of_torch_have_the_bits_of_declearns_own_loop(frozen):
    net = Net(clouds())
    with scaffold(net, Lines, training_args=LINES, model_args={"frozen": frozen}) as exp:
        start = exp.params()
        exp.run(4)
        found = exp.params()
    names = ["weight"] if frozen else ["weight", "bias"]
    assert all(sorted(aux[AUX])[:-2] == sorted(f"delta/{name}" for name in names) for _, aux in net.received)

    values = {name: torch.tensor(start[name]) for name in start}
    sums = Theirs(lrate=1.0, modules=["scaffold-server"])
    clients = {node: Theirs(lrate=0.01, modules=["scaffold-client"]) for node in "pq"}
    for _ in range(4):
        sent, ends, total = sums.collect_aux_var(), [], None
        for node, (x, y) in clouds().items():
            module = nn.Linear(3, 1).double()
            module.load_state_dict(values)
            params = {name: dict(module.named_parameters())[name] for name in names}
            clients[node].process_aux_var(sent)
            for low in [0, 4, 8, 12] * 2:
                module.zero_grad()
                x4 = torch.tensor(x[low : low + 4].astype(np.float32)).double()
                error = module(x4).squeeze(1) - torch.tensor(y[low : low + 4].astype(np.float32))
                (error**2).mean().backward()
                moves = clients[node].compute_updates_from_gradients(
                    Weights({n: p.detach() for n, p in params.items()}), vector({n: p.grad for n, p in params.items()})
                )
                with torch.no_grad():
                    for name, param in params.items():
                        param += moves.coefs[name]
            ends.append({name: each.detach() for name, each in module.state_dict().items()})
            delta = clients[node].collect_aux_var()["scaffold"]
            total = delta if total is None else total + delta
        sums.process_aux_var({"scaffold": total})
        gaps = {name: values[name] - (ends[0][name] + ends[1][name]) / 2 for name in values}
        moves = sums.compute_updates_from_gradients(Weights(values), vector(gaps))
        values = {name: values[name] + moves.coefs[name] for name in values}
    for name in found:
        np.testing.assert_allclose(found[name], values[name].numpy(), rtol=0, atol=1e-15)
    assert np.array_equal(found["bias"], start["bias"]) == bool(frozen)


def test_nodes_that_train_other_layers_are_told_apart():
    net, turns = Net(clouds()), WhoCanMayGo(strict=True)
    settings: dict[str, Any] = {"training_args": LINES, "node_selection_strategy": turns}
    with scaffold(net, Lines, model_args={"frozen": ["q"]}, **settings) as exp:
        with pytest.raises(RoundError, match="those of other nodes differ: only one has 'bias'"):
            exp.run(1)
        turns.without = {("q", 0)}
        exp.run(1)
        before = len(net.received)
        with pytest.raises(RoundError, match="'bias' is trained there only") as caught:
            exp.run(1)
    assert "The same parameters must be trained at all nodes" in str(caught.value)
    assert [node for node, _ in net.received[before:]] == ["p"], "the other is told before it has trained"


def test_whoever_freezes_a_layer_later_begins_anew():
    net = Net(clouds())
    with scaffold(net, Lines, training_args=LINES, model_args={"frozen": []}) as exp:
        exp.run(2)
        exp.set_model_args({"frozen": ["p", "q"]})
        exp.set_agg_optimizer(server())
        exp.run(2)
        assert list(summed(exp)) == ["weight"]


# what may go wrong -----------------------------------------------------------------------------------------


def disturbed() -> float:
    """Where it ends when a node has lost its state, and later a reply was lost."""
    net = Net(bowls(TWO), lose={("q", 6)})
    with scaffold(net, node_selection_strategy=WhoCanMayGo()) as exp:
        exp.run(3)
        net.forget("p", exp)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FedplugWarning)
            exp.run(60)
        return end_of(exp)


def test_in_spite_of_a_lost_state_and_a_lost_reply_it_converges_to_the_optimum():
    assert disturbed() == pytest.approx(BEST, abs=1e-12)


BEGIN, END, SETTLE = NodeTerm.begin, NodeTerm.end, TermSum.settle


def keeps_nothing(patch: pytest.MonkeyPatch) -> None:
    def end(self: NodeTerm, ctx: Any, term: Any) -> None:
        state, ctx.state = ctx.state, None
        END(self, ctx, term)
        ctx.state = state

    patch.setattr(NodeTerm, "end", end)


def never_rolls_back(patch: pytest.MonkeyPatch) -> None:
    live: dict[str, Any] = {}

    def begin(self: NodeTerm, ctx: Any) -> None:
        BEGIN(self, ctx)
        if self.own is not None:
            self.own = live[Net.training]

    def end(self: NodeTerm, ctx: Any, term: Any) -> None:
        END(self, ctx, term)
        live[Net.training] = term

    patch.setattr(NodeTerm, "begin", begin)
    patch.setattr(NodeTerm, "end", end)


def begins_no_generation(patch: pytest.MonkeyPatch) -> None:
    def settle(self: TermSum, ctx: Any) -> Any:
        self._lost = []
        return SETTLE(self, ctx)

    patch.setattr(TermSum, "settle", settle)


def has_the_wrong_sign(patch: pytest.MonkeyPatch) -> None:
    client_begin = ScaffoldClient.begin

    def begin(self: ScaffoldClient, ctx: Any) -> None:
        client_begin(self, ctx)
        self.module.delta = -1.0 * self.module.delta

    patch.setattr(ScaffoldClient, "begin", begin)


@pytest.mark.parametrize("bug", [keeps_nothing, never_rolls_back, begins_no_generation, has_the_wrong_sign])
def test_where_it_ends_tells_of_a_bug(bug, monkeypatch):
    bug(monkeypatch)
    with np.errstate(all="ignore"):
        try:
            end = disturbed()
        except RoundError:  # it has gone beyond all bounds
            return
    assert abs(end - BEST) > 1e-3


def test_a_lost_reply_rolls_the_node_back():
    lost = {("q", 3), ("p", 7), ("q", 8)}
    with scaffold(Net(bowls(TWO), lose=lost), node_selection_strategy=WhoCanMayGo()) as exp:
        exp.run(40)
        found = end_of(exp)
    assert found == alone(TWO, 40, without=lost)[-1]


def test_a_state_that_is_gone_begins_a_new_generation():
    net = Net(bowls(TWO))
    with scaffold(net) as exp:
        exp.run(4)
        net.forget("p", exp)
        with pytest.warns(FedplugWarning, match="'p' went on without what was kept for 'declearn.scaffold'") as told:
            exp.run(1)
        assert len(told) == 1
        assert (summed(exp), exp.agg_optimizer().state_dict()["scaffold"]["terms"]["generation"]) == (0.0, 5)
        exp.run(1)
        assert [int(aux[AUX]["fresh"]) for _, aux in net.received[-4:]] == [1, 0, 1, 1]
        exp.run(40)
        assert end_of(exp) == pytest.approx(BEST, abs=1e-12)


def test_a_round_that_failed_is_repeated_with_the_same_bits():
    net = Net(bowls(TWO), lose={("q", 0), ("q", 4)})
    with scaffold(net) as exp:
        found = []
        for number in range(10):
            if number in (0, 4):
                with pytest.raises(RoundError, match="lost on the way"):
                    exp.run(1)
                net.lose.discard(("q", number))
            exp.run(1)
            found.append(end_of(exp))
    assert found == alone(TWO, 10)


class PausingBowl(NumpyTrainingPlan):
    """As `Bowl`, but that a node may skip all batches of a round."""

    def init_dependencies(self):
        return ["from fedplug_declearn import Optimizer", "from fedplug.core.trainer import hook"]

    def init_model(self):
        return {"x": np.zeros(())}

    def init_optimizer(self, optimizer_args):
        return Optimizer(**optimizer_args)

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), batch_size=1)

    @hook("on_batch_start")
    def pause(self, ctx):
        if [self.node_id(), self.round()] in self.model_args()["pauses"]:
            ctx.skip_batch()

    def training_step(self, data, target):
        error = self.model()["x"] - target[0]
        return 0.5 * data[0] * error**2, {"x": data[0] * error}


def test_a_node_that_makes_no_step_keeps_its_control_variate():
    net, pauses = Net(bowls(TWO)), [["q", 0], ["p", 2], ["q", 3]]
    with scaffold(net, PausingBowl, model_args={"pauses": pauses}) as exp:
        for number in range(6):
            exp.run(1)
            kept = [each["x"] for each in held(exp, net).values()]
            assert float(summed(exp)["x"]) == pytest.approx(float(sum(kept)), abs=1e-13)
            assert len(kept) == (2 if number else 1)
        exp.run(40)
        assert end_of(exp) == pytest.approx(BEST, abs=1e-12)
    assert sum(not aux for _, aux in net.received) == 3


def test_it_goes_on_from_a_breakpoint_with_the_same_bits(fedplug_dir: Path):
    net = Net(bowls(TWO))
    with scaffold(net, save_breakpoints=True) as exp:
        exp.run(3)
    with Experiment.load_breakpoint(transport=net, progress="quiet") as again:
        again.run(5)
        assert end_of(again) == alone(TWO, 8)[-1]


def test_from_an_earlier_breakpoint_it_takes_another_way(fedplug_dir: Path):
    """What the nodes hold is that of the way that was left: they begin anew."""
    net = Net(bowls(TWO))
    with scaffold(net, save_breakpoints=True) as exp:
        exp.run(5)
        place = exp.experimentation_path() / "breakpoint_0002"
    with Experiment.load_breakpoint(place, transport=net, progress="quiet") as again:
        with pytest.warns(FedplugWarning, match="'p', 'q' went on without what was kept"):
            again.run(1)
        again.run(40)
        assert end_of(again) == pytest.approx(BEST, abs=1e-12)


def test_an_optimizer_that_is_replaced_begins_anew_with_all_nodes():
    with scaffold(Net(bowls(TWO))) as exp:
        exp.run(3)
        exp.set_agg_optimizer(server())
        found = []
        for _ in range(7):
            exp.run(1)
            found.append(end_of(exp))
    assert found == alone(TWO, 10, begins={3})[3:]


def test_a_node_that_is_taken_out_of_the_experiment_leaves_nothing_behind():
    with scaffold(Net(bowls(THREE))) as exp:
        exp.run(5)
        exp.set_nodes(["p", "q"])
        with pytest.warns(FedplugWarning, match="sum of 'declearn.scaffold' held 'z', which left the experiment"):
            exp.run(1)
        exp.run(14)
        found = end_of(exp)
    assert found == alone(THREE, 20, without={("z", number) for number in range(5, 20)}, begins={5})[-1]


class Listening(Monitor):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def log(self, node_id: str, line: Any) -> None:
        self.heard.append(line.text)


def test_to_turn_it_on_in_the_middle_is_no_loss():
    """Earlier rounds left nothing at the nodes, so that nothing is missing there."""
    monitor = Listening()
    with experiment(Net(bowls(TWO))) as exp:
        exp.add_monitor(monitor)
        exp.run(2)
        exp.set_training_args(CLIENT)
        exp.set_agg_optimizer(server())
        exp.run(40)
        assert end_of(exp) == pytest.approx(BEST, abs=1e-12)
        states = [exp.training_replies()[number]["p"]["state"] for number in (1, 2, 3)]
    assert (monitor.heard, states) == ([], ["none", "none", "kept"])


# only one side ---------------------------------------------------------------------------------------------


def test_without_the_researchers_part_the_nodes_say_what_is_missing():
    net = Net(bowls(TWO))
    with (
        experiment(net, training_args=CLIENT) as exp,
        pytest.raises(RoundError, match="'scaffold-client' needs its counterpart, and the researcher has none") as told,
    ):
        exp.run(1)
    assert "Optimizer(lr=1.0, modules=['scaffold-server'])" in str(told.value)
    assert net.received == []


def test_without_the_nodes_part_they_say_what_is_missing_before_they_train():
    net = Net(bowls(TWO))
    args = {**CLIENT, "optimizer_args": {"lr": 0.05}}
    with (
        scaffold(net, training_args=args) as exp,
        pytest.raises(RoundError, match="'scaffold-server' needs its counterpart, and the plan's optim") as told,
    ):
        exp.run(1)
    assert "Optimizer(lr=..., modules=['scaffold-client'])" in str(told.value)
    assert net.received == []


class PlainBowl(NumpyTrainingPlan):
    def init_model(self):
        return {"x": np.zeros(())}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), batch_size=1)

    def training_step(self, data, target):
        error = self.model()["x"] - target[0]
        return 0.5 * data[0] * error**2, {"x": data[0] * error}


def test_a_plan_with_another_optimizer_is_told_when_it_brings_nothing():
    args = {**CLIENT, "optimizer_args": {"lr": 0.05}}
    with (
        scaffold(Net(bowls(TWO)), PlainBowl, training_args=args) as exp,
        pytest.raises(RoundError, match="it brings nothing for the researcher's 'scaffold-server'") as told,
    ):
        exp.run(1)
    assert "Optimizer(lr=..., modules=['scaffold-client'])" in str(told.value)


def test_with_differential_privacy_it_is_refused_before_anything_is_sent():
    net = Net(bowls(TWO))
    args = {**CLIENT, "dp_args": {"type": "central", "sigma": 1.0, "clip": 1.0}}
    with scaffold(net, training_args=args) as exp:
        with pytest.raises(UsageError, match=r"differential privacy .* does not cover") as told:
            exp.run(1)
        assert "Leave dp_args" in told.value.cure
    assert net.sent == []


def test_a_model_of_other_shapes_needs_a_new_optimizer_and_says_so():
    net = Net(bowls(TWO))
    with scaffold(net, ManyBowls, model_args={"size": 1}) as exp:
        exp.run(1)
        exp.set_model_args({"size": 3}, keep_weights=False)
        with pytest.raises(RoundError, match=r"'x' has shape \[1\] there and \[3\] here") as told:
            exp.run(1)
        assert "begin with a new aggregator or agg_optimizer" in str(told.value)
        exp.set_agg_optimizer(server())
        assert exp.run(2) == 2


class ManyBowls(NumpyTrainingPlan):
    def init_dependencies(self):
        return ["from fedplug_declearn import Optimizer"]

    def init_model(self, model_args):
        return {"x": np.zeros(model_args["size"])}

    def init_optimizer(self, optimizer_args):
        return Optimizer(**optimizer_args)

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), batch_size=1)

    def training_step(self, data, target):
        error = self.model()["x"] - target[0]
        return 0.5 * data[0] * (error**2).sum(), {"x": data[0] * error}


# a node that lies ------------------------------------------------------------------------------------------


def changed(**values: Any) -> Any:
    """What a node sends, with some arrays replaced, or left out (None); ``__`` stands for a slash."""

    def forge(extra: Mapping[str, Params]) -> dict[str, Params]:
        arrays = {**extra[AUX], **{name.replace("__", "/"): value for name, value in values.items()}}
        return {AUX: Params.from_arrays({name: each for name, each in arrays.items() if each is not None})}

    return forge


OTHER = "its 'declearn.scaffold' holds other arrays than it should"
UNFIT = "its 'declearn.scaffold' of {!r} does not fit the model"
FORGED = {
    "nothing": (lambda extra: {}, "it brings nothing"),
    "another name": (lambda extra: {"declearn.other": extra[AUX]}, "it brings nothing"),
    "a parameter too many": (changed(delta__y=np.zeros(())), UNFIT.format("y")),
    "an empty name": (changed(delta__=np.zeros(())), UNFIT.format("")),
    "a wrong shape": (changed(delta__x=np.zeros(2)), UNFIT.format("x")),
    "whole numbers": (changed(delta__x=np.int64(1)), UNFIT.format("x")),
    "another precision": (changed(delta__x=np.float32(1)), UNFIT.format("x")),
    "NaN": (changed(delta__x=np.float64("nan")), "values that are not finite"),
    "infinity": (changed(delta__x=np.float32("inf")), "values that are not finite"),
    "huge": (changed(delta__x=np.float64(1e300)), "whose squares are too large for float64"),
    "a number": (changed(delta__x=None, delta=np.float64(1)), OTHER),
    "a vector and a number": (changed(delta=np.float64(1)), OTHER),
    "no vector": (changed(delta__x=None), OTHER),
    "an old generation": (changed(generation=np.int64(7)), "of another generation"),
    "no generation": (changed(generation=None), OTHER),
    "half a generation": (changed(generation=np.float64(0)), "of another generation"),
    "many generations": (changed(generation=np.zeros(2, np.int64)), "of another generation"),
    "no freshness": (changed(fresh=None), OTHER),
}


class Dropped(Monitor):
    def __init__(self) -> None:
        self.reasons: list[tuple[str, str]] = []

    def dropped(self, node_id: str, reason: str) -> None:
        self.reasons.append((node_id, reason))


@pytest.mark.parametrize("how", FORGED)
def test_a_node_that_sends_nonsense_is_dropped_and_the_round_goes_on(how):
    forge, reason = FORGED[how]
    net, honest = Net(bowls(THREE)), Net(bowls(TWO))
    net.forged["z"] = forge
    monitor = Dropped()
    with scaffold(net, node_selection_strategy=QuorumStrategy(2)) as exp, scaffold(honest) as without:
        exp.add_monitor(monitor)
        for _ in range(3):
            exp.run(1)
            without.run(1)
            assert exp.params() == without.params()
        assert exp.agg_optimizer().state_dict() == without.agg_optimizer().state_dict()
    assert [node for node, _ in monitor.reasons] == ["z", "z", "z"]
    assert all(reason in told for _, told in monitor.reasons)


@pytest.mark.parametrize("fresh", [0, 1])
def test_a_node_that_lies_about_its_memory_makes_all_begin_anew(fresh):
    net = Net(bowls(TWO))
    with scaffold(net) as exp:
        if fresh:  # a lie in the second round, or else in the first
            exp.run(1)
        net.forged["q"] = changed(fresh=np.int64(fresh))
        with pytest.warns(FedplugWarning, match="'q' went on without"):
            exp.run(1)
        del net.forged["q"]
        exp.run(50)
        assert end_of(exp) == pytest.approx(BEST, abs=1e-12)


# the researcher's end alone --------------------------------------------------------------------------------

MODEL = Params.from_arrays({"w": np.zeros((2, 2), np.float32), "b": np.zeros(2, np.float16), "n": np.int64(0)})


def update(node: str = "p", generation: int = 0, steps: int = 1, **delta: Any) -> Update:
    arrays = {f"delta/{name}": value for name, value in delta.items()}
    about = {"generation": np.int64(generation), "fresh": np.int64(1)}
    return Update(node, MODEL, 1, steps, {AUX: Params.from_arrays({**arrays, **about})})


def one_round(optimizer: Optimizer, updates: list[Update], number: int = 0) -> Any:
    ctx = RoundContext(round=number)
    sent = optimizer.begin_round(ctx)[AUX]
    for each in updates:
        optimizer.check_update(each, MODEL)
        optimizer.take(each)
    optimizer.advance(MODEL, MODEL, ctx)
    return sent


def test_two_nodes_that_send_other_parameters_are_told_apart_from_the_first_round_on():
    optimizer = server()
    before = optimizer.state_dict()
    optimizer.begin_round(RoundContext())
    optimizer.check_update(update(w=np.ones((2, 2), np.float32)), MODEL)
    for other in ({"b": np.ones(2, np.float32)}, {"w": np.ones((2, 2), np.float32), "b": np.ones(2, np.float32)}):
        with pytest.raises(UpdateRejectedError, match="only one has 'b'"):
            optimizer.check_update(update("q", **other), MODEL)
    optimizer.load_state_dict(before)  # the round has failed: in the next attempt nobody has sent anything yet
    optimizer.begin_round(RoundContext())
    optimizer.check_update(update("q", b=np.ones(2, np.float32)), MODEL)


def test_half_precision_travels_in_single_and_its_sum_is_double():
    optimizer = server()
    one_round(optimizer, [update(node, b=np.full(2, 60_000, np.float32)) for node in "pqz"])
    assert optimizer.state_dict()["scaffold"]["sum"]["b"].dtype == np.float64
    sent = one_round(optimizer, [], 1)["common/b"]
    assert sent.dtype == np.float32
    assert sent.tolist() == [60_000, 60_000]


@pytest.mark.parametrize(
    ("array", "fits"),
    [
        (np.full(2, 65_504, np.float32), True),
        (np.full(2, 65_505, np.float32), False),
        (np.array([0, -1e5], np.float32), False),
    ],
)
def test_a_change_must_fit_into_the_parameters_own_precision(array, fits):
    optimizer = server()
    optimizer.begin_round(RoundContext())
    if fits:
        optimizer.check_update(update(b=array), MODEL)
    else:
        with pytest.raises(UpdateRejectedError, match="'b' is too large"):
            optimizer.check_update(update(b=array), MODEL)


def test_whole_numbers_have_no_control_variate():
    optimizer = server()
    optimizer.begin_round(RoundContext())
    with pytest.raises(UpdateRejectedError, match="'n' does not fit the model"):
        optimizer.check_update(update(n=np.zeros(())), MODEL)


def test_an_update_without_a_step_needs_no_change():
    optimizer = server()
    optimizer.begin_round(RoundContext())
    optimizer.check_update(Update("p", MODEL, 1, 0), MODEL)
    optimizer.take(Update("p", MODEL, 1, 0))
    optimizer.advance(MODEL, MODEL, RoundContext())
    found = optimizer.state_dict()["scaffold"]
    assert (found["sum"], found["terms"]["nodes"]) == (0.0, [])


def test_the_optimizers_state_does_not_depend_on_the_order_of_nodes():
    states = []
    for nodes in ("pqz", "zqp"):
        optimizer = server()
        one_round(optimizer, [update(node, b=np.ones(2, np.float32)) for node in nodes])
        states.append(optimizer.state_dict())
    assert states[0] == states[1]
    assert states[0]["scaffold"]["terms"]["nodes"] == ["p", "q", "z"]
