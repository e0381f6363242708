"""Scaffold when replies, states, nodes and processes are lost, and when nodes lie.

Bowls, ``a / 2 (x - b)^2``, and 20 steps a round: what the paper's equations give is known, and the optimum too.
Whatever parts the sum at the researcher from what the nodes hold moves the end for ever.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scaffold_kit import (
    BEST,
    BEST_OF_THREE,
    THREE,
    TWO,
    Listener,
    Net,
    WhoCanMayGo,
    bowls,
    ends,
    experiment,
    of_paper,
    summed,
)

from fedplug import (
    DataManager,
    Experiment,
    FedplugWarning,
    NumpyTrainingPlan,
    Params,
    QuorumStrategy,
    RandomStrategy,
    RoundContext,
)
from fedplug.core.errors import RoundError, UsageError
from fedplug.core.node_terms import NodeTerm, TermSum
from fedplug.core.plugins import PluginHost
from fedplug.core.trainer import hook
from fedplug_scaffold import FedAverage, Scaffold, hooks
from fedplug_scaffold.scaffold import AUX


def near(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


# everything at once, and bugs that it finds ----------------------------------------------------------------

LOST = {("q", 3), ("z", 6), ("p", 10)}
TURNS = {("z", 0), ("z", 1), ("p", 4), ("q", 7)}
COUNTED = [[node for node in THREE if (node, number) not in LOST | TURNS] for number in range(14)]


def disturbed() -> list[float]:
    """Nodes of different sizes; one comes late, all miss rounds, replies are lost, and at last a state is."""
    net = Net(bowls(THREE, {"p": 1, "q": 4, "z": 2}), lose=LOST)
    with experiment(net, node_selection_strategy=WhoCanMayGo(TURNS)) as exp:
        found = ends(exp, 8)
        net.forget("p", exp)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FedplugWarning)
            return found + ends(exp, 6)


def expected() -> list[float]:
    return of_paper(THREE, COUNTED, forgets={("p", 8)}, begins={9})


def test_whatever_happens_the_nodes_and_the_researcher_agree():
    near(disturbed(), expected())


BEGIN, END, SETTLE, ANNOUNCE = NodeTerm.begin, NodeTerm.end, TermSum.settle, TermSum.announce
HOOK_BEGIN, ACCUMULATE = hooks._begin, Scaffold.accumulate


def has_the_wrong_sign(patch: pytest.MonkeyPatch) -> None:
    def begin(ctx: Any) -> None:
        HOOK_BEGIN(ctx)
        for name in ctx.scaffold_correction:
            ctx.scaffold_correction[name] = -ctx.scaffold_correction[name]

    patch.setattr(hooks, "_begin", begin)


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
        self.own = live.get(Net.training) if self.own is not None else None

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


def divides_by_those_who_take_part(patch: pytest.MonkeyPatch) -> None:
    def announce(self: TermSum, ctx: Any, common: Mapping[str, Any]) -> Any:
        share = len(ctx.all_node_ids) / len(ctx.node_ids)
        return ANNOUNCE(self, ctx, {name: array * share for name, array in common.items()})

    patch.setattr(TermSum, "announce", announce)


def weighs_by_samples(patch: pytest.MonkeyPatch) -> None:
    def accumulate(self: Scaffold, state: Any, update: Any) -> None:
        ACCUMULATE(self, state, update)
        state.mean.add(update.params, update.sample_count - 1)

    patch.setattr(Scaffold, "accumulate", accumulate)


def adds_up_corrected_gradients(patch: pytest.MonkeyPatch) -> None:
    correct, collect = hooks._correct, hooks._collect
    patch.setattr(hooks, "_collect", correct)
    patch.setattr(hooks, "_correct", collect)


@pytest.mark.parametrize(
    "bug",
    [
        has_the_wrong_sign, keeps_nothing, never_rolls_back, begins_no_generation, divides_by_those_who_take_part,
        weighs_by_samples, adds_up_corrected_gradients,
    ],
)  # fmt: skip
def test_a_bug_is_found(bug, monkeypatch):
    bug(monkeypatch)
    with np.errstate(all="ignore"):
        try:
            found = disturbed()
        except RoundError:  # it has gone beyond all bounds
            return
    assert not np.allclose(found, expected(), rtol=0, atol=1e-6)


def test_the_sum_at_the_researcher_is_that_of_what_the_nodes_hold():
    net = Net(bowls(THREE), lose=LOST)
    with experiment(net, node_selection_strategy=WhoCanMayGo(TURNS)) as exp:
        for _ in range(12):
            exp.run(1)
            held = [each["x"] for each in net.held(exp).values()]
            assert float(summed(exp)["x"]) == pytest.approx(float(sum(held)), abs=1e-12)
    assert len(held) == 3


# one thing at a time ---------------------------------------------------------------------------------------


def test_a_lost_reply_rolls_the_node_back():
    lost = {("q", 3), ("p", 7), ("q", 8)}
    with experiment(Net(bowls(TWO), lose=lost), node_selection_strategy=WhoCanMayGo()) as exp:
        found = ends(exp, 45)
    near(found, of_paper(TWO, [[node for node in TWO if (node, number) not in lost] for number in range(45)]))
    assert found[-1] == pytest.approx(BEST, abs=1e-6)


def test_a_state_that_is_gone_begins_a_new_generation():
    net = Net(bowls(TWO))
    with experiment(net) as exp:
        exp.run(4)
        net.forget("p", exp)
        with pytest.warns(FedplugWarning, match="'p' went on without what was kept for 'scaffold'") as told:
            exp.run(1)
        assert len(told) == 1
        assert "All nodes begin anew in round 6" in str(told[0].message)
        assert len(summed(exp)) == 0
        found = ends(exp, 35)
    near(found, of_paper(TWO, 40, forgets={("p", 4)}, begins={5})[5:])
    assert found[-1] == pytest.approx(BEST, abs=1e-6)
    assert [int(aux[AUX]["fresh"]) for _, aux in net.received[:14]] == [1, 1, *[0] * 6, 1, 0, 1, 1, 0, 0]


def test_a_node_that_is_selected_late_begins_with_a_control_variate_of_zero():
    late = {("z", number) for number in range(5)}
    with experiment(Net(bowls(THREE)), node_selection_strategy=WhoCanMayGo(late)) as exp:
        found = ends(exp, 90)
    near(found, of_paper(THREE, [TWO] * 5 + [THREE] * 85))
    assert found[-1] == pytest.approx(BEST_OF_THREE, abs=1e-6)


def test_a_node_that_joins_the_experiment_later_counts_from_then_on():
    with experiment(Net(bowls(THREE)), nodes=["p", "q"]) as exp:
        near(ends(exp, 5), of_paper(TWO, 5))
        exp.set_nodes(None)
        exp.set_training_data(None, from_tags=True)
        assert ends(exp, 90)[-1] == pytest.approx(BEST_OF_THREE, abs=1e-6)


def test_a_node_that_is_taken_out_of_the_experiment_leaves_nothing_behind():
    with experiment(Net(bowls(THREE))) as exp:
        exp.run(5)
        start = float(exp.params()["x"])
        exp.set_nodes(["p", "q"])
        with pytest.warns(FedplugWarning, match="sum of 'scaffold' held 'z', which left the experiment. All nodes beg"):
            exp.run(1)
        found = [float(exp.params()["x"]), *ends(exp, 39)]
        shifted = {node: (a, b - start) for node, (a, b) in TWO.items()}
        near(np.array(found) - start, of_paper(shifted, 40))
        assert found[-1] == pytest.approx(BEST, abs=1e-6)


def test_a_round_that_failed_is_repeated_with_the_same_bits():
    net = Net(bowls(TWO), lose={("q", 0), ("q", 4)})
    with experiment(Net(bowls(TWO))) as whole, experiment(net) as exp:
        for number in range(8):
            if number in (0, 4):
                with pytest.raises(RoundError, match="lost on the way"):
                    exp.run(1)
                net.lose.discard(("q", number))
            exp.run(1)
            whole.run(1)
            assert exp.params() == whole.params()


def test_a_test_of_the_model_changes_nothing():
    args = {"num_updates": 20, "optimizer_args": {"lr": 0.05}, "test_ratio": 0.5}
    data = bowls(TWO, {"p": 2, "q": 4})
    with experiment(Net(data), training_args=args) as exp:
        for _ in range(6):
            exp.evaluate()
            exp.run(1)
        found = float(exp.params()["x"])
    assert found == pytest.approx(of_paper(TWO, 6)[-1], abs=1e-12)


class PausingBowl(NumpyTrainingPlan):
    """As `Bowl`, but that a node may skip all batches of a round."""

    def init_dependencies(self):
        return ["from fedplug.core.trainer import hook"]

    def init_model(self):
        return {"x": np.zeros(())}

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
    with experiment(net, PausingBowl, model_args={"pauses": pauses}) as exp:
        for number in range(6):
            exp.run(1)
            held = [each["x"] for each in net.held(exp).values()]
            assert float(summed(exp)["x"]) == pytest.approx(float(sum(held)), abs=1e-12)
            assert len(held) == (2 if number else 1)
        assert ends(exp, 40)[-1] == pytest.approx(BEST, abs=1e-6)
    assert sum(not aux for _, aux in net.received) == 3


# breakpoints, and other aggregators ------------------------------------------------------------------------


def test_it_goes_on_from_a_breakpoint_with_the_same_bits(fedplug_dir: Path):
    turns = RandomStrategy(count=2)
    with experiment(Net(bowls(THREE)), aggregator=Scaffold(0.5), node_selection_strategy=turns) as whole:
        whole.run(8)
    net = Net(bowls(THREE))
    with experiment(net, aggregator=Scaffold(0.5), node_selection_strategy=turns, save_breakpoints=True) as exp:
        exp.run(3)
    with Experiment.load_breakpoint(transport=net, progress="quiet") as again:
        assert again.aggregator().server_lr == 0.5
        again.run(5)
        assert again.params() == whole.params()


def test_from_an_earlier_breakpoint_it_takes_another_way(fedplug_dir: Path):
    """What the nodes hold is that of the way that was left: they begin anew."""
    net = Net(bowls(TWO))
    with experiment(net, save_breakpoints=True) as exp:
        exp.run(5)
        place = exp.experimentation_path() / "breakpoint_0002"
    with Experiment.load_breakpoint(place, transport=net, progress="quiet") as again:
        with pytest.warns(FedplugWarning, match="'p', 'q' went on without what was kept"):
            again.run(1)
        assert ends(again, 40)[-1] == pytest.approx(BEST, abs=1e-6)


def test_an_aggregator_that_is_replaced_begins_anew_with_all_nodes():
    with experiment(Net(bowls(TWO))) as exp:
        found = ends(exp, 3)
        exp.set_aggregator(Scaffold())
        near(found + ends(exp, 7), of_paper(TWO, 10, begins={3}))


def test_one_that_comes_back_after_another_says_that_it_begins_anew():
    with experiment(Net(bowls(TWO))) as exp:
        exp.run(3)
        scaffold = exp.aggregator()
        exp.set_aggregator(FedAverage("uniform"))
        exp.run(2)
        exp.set_aggregator(scaffold)
        with pytest.warns(FedplugWarning, match="'p', 'q' went on without"):
            exp.run(1)
        assert ends(exp, 40)[-1] == pytest.approx(BEST, abs=1e-6)


def test_to_turn_it_on_in_the_middle_is_no_loss():
    listener = Listener()
    with experiment(Net(bowls(TWO)), aggregator=FedAverage("uniform")) as exp:
        exp.add_monitor(listener)
        exp.run(2)
        exp.set_aggregator("scaffold")
        assert ends(exp, 40)[-1] == pytest.approx(BEST, abs=1e-6)
        states = [exp.training_replies()[number]["p"]["state"] for number in (1, 2, 3)]
    assert (listener.heard, states) == ([], ["none", "none", "kept"])


def test_what_all_nodes_are_sent_is_made_once_a_round():
    aggregator = Scaffold()
    with experiment(Net(bowls(TWO)), aggregator=aggregator) as exp:
        exp.run(2)
    learnt = aggregator.state_dict()
    two, three = (RoundContext(round=2, all_node_ids=nodes) for nodes in (("p", "q"), ("p", "q", "z")))
    sent = aggregator.node_payload("p", two)
    assert aggregator.node_payload("q", two) is sent
    assert sent.aux[AUX]["common/x"] == learnt["sum"]["x"] / 2
    assert aggregator.node_payload("q", three).aux[AUX]["common/x"] == learnt["sum"]["x"] / 3
    aggregator.load_state_dict({**learnt, "sum": learnt["sum"] * 2})
    assert aggregator.node_payload("q", three).aux[AUX]["common/x"] == learnt["sum"]["x"] * 2 / 3


# refused before anything is sent ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"epochs": 2}, "Scaffold needs num_updates in the training arguments, so that all nodes make equally many"),
        ({}, "Scaffold needs num_updates in the training arguments, so that all nodes make equally many"),
        (
            {"num_updates": 5, "dp_args": {"type": "central", "sigma": 1.0, "clip": 1.0}},
            r"'scaffold' sends arrays beside the parameters, which differential privacy \(dp_args\) does not cover",
        ),
    ],
    ids=["epochs", "neither", "privacy"],
)
def test_what_it_cannot_work_with_is_refused_before_anything_is_sent(args, message):
    net = Net(bowls(TWO))
    with experiment(net, training_args=args) as exp, pytest.raises(UsageError, match=message):
        exp.run(1)
    assert net.sent == []


@pytest.mark.parametrize("rate", [0, -1, float("inf"), float("nan"), True, "1", None])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(UsageError, match="server_lr must be a number above 0"):
        Scaffold(rate)


# nodes that cannot, or lie ---------------------------------------------------------------------------------


def test_a_node_without_this_package_is_told_what_it_needs():
    net = Net(bowls(TWO), host=PluginHost.discover(only=["torch"]))
    with (
        experiment(net) as exp,
        pytest.raises(RoundError, match=r"it brings no control variate.* The node needs the package fedplug-scaffold"),
    ):
        exp.run(1)


def changed(**values: Any) -> Any:
    """What a node sends, with some arrays replaced, or left out (None); ``__`` stands for a slash."""

    def forge(extra: Mapping[str, Params]) -> dict[str, Params]:
        arrays = {**extra[AUX], **{name.replace("__", "/"): value for name, value in values.items()}}
        return {AUX: Params.from_arrays({name: each for name, each in arrays.items() if each is not None})}

    return forge


FORGED = {
    "nothing": (lambda extra: {}, "it brings no control variate"),
    "another name": (lambda extra: {"other": extra[AUX]}, "it brings no control variate"),
    "no change": (changed(delta__x=None), "its 'scaffold' holds other arrays than it should"),
    "something else": (changed(other=np.zeros(())), "its 'scaffold' holds other arrays than it should"),
    "no generation": (changed(generation=None), "its 'scaffold' holds other arrays than it should"),
    "no freshness": (changed(fresh=None), "its 'scaffold' holds other arrays than it should"),
    "an old generation": (changed(generation=np.int64(7)), "of another generation"),
    "half a generation": (changed(generation=np.float64(0)), "of another generation"),
    "many generations": (changed(generation=np.zeros(2, np.int64)), "of another generation"),
    "half a freshness": (changed(fresh=np.float64(0)), "does not say whether it is new"),
    "much freshness": (changed(fresh=np.int64(2)), "does not say whether it is new"),
    "a parameter too many": (changed(delta__y=np.zeros(())), "its 'scaffold' of 'y' does not fit the model"),
    "an empty name": (changed(delta__=np.zeros(())), "its 'scaffold' of '' does not fit the model"),
    "a wrong shape": (changed(delta__x=np.zeros(2)), "its 'scaffold' of 'x' does not fit the model"),
    "another precision": (changed(delta__x=np.float32(0)), "its 'scaffold' of 'x' does not fit the model"),
    "whole numbers": (changed(delta__x=np.int64(1)), "its 'scaffold' of 'x' does not fit the model"),
    "NaN": (changed(delta__x=np.float64("nan")), "values that are not finite"),
    "infinity": (changed(delta__x=np.float64("-inf")), "values that are not finite"),
    "huge": (changed(delta__x=np.float64(-1e300)), "whose squares are too large for float64"),
}


@pytest.mark.parametrize("how", FORGED)
@pytest.mark.parametrize("liar", ["a", "z"])
def test_a_node_that_sends_nonsense_is_dropped_and_the_round_goes_on(how, liar):
    forge, reason = FORGED[how]
    net, honest = Net(bowls({**TWO, liar: (4.0, -2.0)})), Net(bowls({**TWO, liar: (4.0, -2.0)}))
    net.forged[liar] = forge
    listener = Listener()
    alone = WhoCanMayGo({(liar, number) for number in range(3)})
    with (
        experiment(net, node_selection_strategy=QuorumStrategy(2)) as exp,
        experiment(honest, node_selection_strategy=alone) as without,
    ):
        exp.add_monitor(listener)
        for _ in range(3):
            exp.run(1)
            without.run(1)
            assert exp.params() == without.params()
        assert exp.aggregator().state_dict() == without.aggregator().state_dict()
    assert [node for node, _ in listener.dropped_nodes] == [liar] * 3
    assert all(reason in told for _, told in listener.dropped_nodes)


@pytest.mark.parametrize("fresh", [0, 1])
def test_a_node_that_lies_about_its_memory_makes_all_begin_anew(fresh):
    net = Net(bowls(TWO))
    with experiment(net) as exp:
        if fresh:  # a lie in the second round, or else in the first
            exp.run(1)
        net.forged["q"] = changed(fresh=np.int64(fresh))
        with pytest.warns(FedplugWarning, match="'q' went on without"):
            exp.run(1)
        del net.forged["q"]
        assert ends(exp, 40)[-1] == pytest.approx(BEST, abs=1e-6)
