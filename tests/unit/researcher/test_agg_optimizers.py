"""Optimizers of the researcher: when they are called, what they send and take, and what they may not move."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from line_experiments import experiment, federation

from fedplug import AggOptimizer, Aggregator, DataManager, Experiment, NumpyTrainingPlan, Params, Update, hookimpl
from fedplug.core.aggregator import NodePayload
from fedplug.core.components import Component
from fedplug.core.context import RoundContext
from fedplug.core.errors import PluginError, RoundError, UnknownNameError, UpdateRejectedError, UsageError
from fedplug.core.plugins import PluginHost
from fedplug.core.quorum import QuorumStrategy
from fedplug.core.trainer import hook
from fedplug.simulation import Federation


class Diary(AggOptimizer):
    """Writes down what it is called for; goes all the way."""

    def __init__(self, sends: Any = None, refuses: Sequence[str] = ()) -> None:
        self.sends, self.refuses = sends or {}, refuses
        self.days: list[Any] = []

    def begin_round(self, ctx):
        self.days.append(("begin_round", ctx.round))
        return self.sends

    def check_update(self, update, start):
        self.days.append(("check", update.node_id))
        if update.node_id in self.refuses:
            raise UpdateRejectedError("it is not wanted here.")

    def take(self, update):
        self.days.append(("take", update.node_id))

    def advance(self, start, aggregated, ctx):
        self.days.append(("advance", ctx.round))
        return aggregated

    def state_dict(self):
        return {"days": [list(day) for day in self.days]}

    def load_state_dict(self, state):
        self.days = [tuple(day) for day in state["days"]]


class Middle(Aggregator):
    """All at once, in contrast to FedAverage; it may send something."""

    def __init__(self, payload: NodePayload | None = None) -> None:
        self.payload = payload

    def node_payload(self, node_id, ctx):
        return self.payload

    def aggregate(self, start, updates, ctx):
        return Params.stack_reduce([update.params for update in updates], lambda x: np.median(x, axis=0))


class Backwards(Federation):
    """Its nodes reply in the order of their names, backwards."""

    def train(self, request, plan, params, aux=None):
        super().train(request, plan, params, aux)
        self._order = sorted((seconds, -abs(number), key) for seconds, number, key in self._order)


def nodes(kind: type[Federation] = Federation, **more: Any) -> Federation:
    known = federation()
    datasets = {name: known.dataset(name) for name in known.nodes}
    return kind({name: (data.column("x"), data.column("y")) for name, data in datasets.items()}, **more)


def quick(**settings: Any) -> Experiment:
    return experiment(**{"save_breakpoints": False, "round_limit": 3, **settings})


# calls -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("aggregator", ["fedaverage", Middle()], ids=["one by one", "all at once"])
@pytest.mark.parametrize("kind", [Federation, Backwards])
def test_a_round_begins_checks_each_update_as_it_comes_takes_them_in_order_and_advances(kind, aggregator):
    diary = Diary()
    with quick(agg_optimizer=diary, aggregator=aggregator, transport=nodes(kind)) as exp:
        exp.run(2)
    arrivals = "abcd" if kind is Federation else "dcba"
    for number in (0, 1):
        day = diary.days[10 * number : 10 * (number + 1)]
        assert (day[0], day[-1]) == (("begin_round", number), ("advance", number))
        assert [node for what, node in day if what == "check"] == list(arrivals)
        assert [node for what, node in day if what == "take"] == list("abcd")
        assert all(day.index(("check", node)) < day.index(("take", node)) for node in "abcd")


def test_it_sees_what_the_nodes_started_from_and_what_became_of_their_updates():
    seen: list[tuple[Params, Params]] = []

    class Half(Diary):
        def advance(self, start, aggregated, ctx):
            seen.append((start, aggregated))
            return start + (aggregated - start) * 0.5

    with quick(agg_optimizer=Half()) as exp, quick() as plain:
        start = exp.params()
        exp.run(1)
        plain.run(1)
        assert seen == [(start, plain.params())]
        assert exp.params() == start + (plain.params() - start) * 0.5


def test_an_update_that_it_refuses_does_not_count():
    diary = Diary(refuses=["b"])
    with quick(agg_optimizer=diary, node_selection_strategy=QuorumStrategy(3)) as exp:
        exp.run(1)
        replies = exp.training_replies()[0]
    assert sorted(replies) == ["a", "c", "d"]
    assert [node for what, node in diary.days if what == "take"] == ["a", "c", "d"]
    with quick(nodes=["a", "c", "d"]) as without:
        without.run(1)
        assert without.params() == exp.params()


def test_where_all_are_needed_a_refusal_is_told_and_the_round_is_undone():
    diary = Diary(refuses=["b"])
    with quick(agg_optimizer=diary) as exp:
        before = exp.params()
        with pytest.raises(RoundError, match=r"b.*it is not wanted here\."):
            exp.run(1)
        assert exp.params() == before
    assert diary.days == [], "what the round has taught it is undone"


@pytest.mark.parametrize("method", ["begin_round", "check_update", "take", "advance"])
def test_whatever_it_raises_is_its_own_fault_and_is_undone(method, monkeypatch):
    def fail(self, *args):
        self.days.append(method)
        raise ZeroDivisionError("once")

    diary = Diary()
    with quick(agg_optimizer=diary) as exp, quick() as plain:
        exp.run(1)
        before = list(diary.days)
        with monkeypatch.context() as patch:
            patch.setattr(Diary, method, fail)
            with pytest.raises(RoundError, match=f"Optimizer Diary failed in {method}: ZeroDivisionError: once"):
                exp.run(1)
        assert diary.days == before
        exp.run(1)
        plain.run(2)
        assert exp.params() == plain.params()
        assert diary.days[len(before) :] == [(what, 1 if isinstance(who, int) else who) for what, who in before]


def test_a_test_asks_it_for_nothing():
    diary = Diary()
    with quick(agg_optimizer=diary, test_ratio=0.25) as exp:
        exp.evaluate()
    assert diary.days == []


def test_one_that_defines_advance_alone_will_do():
    class Stay(AggOptimizer):
        def advance(self, start, aggregated, ctx):
            return start

    with quick(agg_optimizer=Stay) as exp:
        before = exp.params()
        exp.run(2)
        assert exp.params() == before


# what travels ----------------------------------------------------------------------------------------------


class AskingPlan(NumpyTrainingPlan):
    """Sends back the names and sums of what it was sent."""

    def init_dependencies(self):
        return ["from fedplug import Params", "from fedplug.core.trainer import hook"]

    def init_model(self, model_args):
        return {"w": np.zeros(3), "seen": np.zeros((), np.int64), "running": np.zeros(2)}

    def buffer_names(self):
        return frozenset({"running"})

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    @hook("on_fit_end")
    def answer(self, ctx):
        sums = {name: sum(array.sum() for array in each.values()) for name, each in ctx.inbox.items()}
        ctx.outbox["answer"] = Params.from_arrays({"lr": self.optimizer_args()["lr"], **sums})

    def training_step(self, data, target):
        self.model()["seen"] += 1
        self.model()["running"] += 0.5
        residual = data @ self.model()["w"] - target
        gradients = {"w": 2 * data.T @ residual / len(residual), "seen": np.zeros(()), "running": np.zeros(2)}
        return (residual**2).mean(), gradients


def one(**values: float) -> dict[str, Params]:
    return {name: Params.from_arrays({"x": value}) for name, value in values.items()}


class Answers(Diary):
    def take(self, update: Update) -> None:
        self.days.append({name: float(each) for name, each in update.aux["answer"].items()})


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (None, {"lr": 0.02, "optimizer": 3.0}),
        (NodePayload(one(aggregator=2.0), {}), {"lr": 0.02, "aggregator": 2.0, "optimizer": 3.0}),
        (NodePayload({}, {"optimizer_args": {"lr": 0.5}}), {"lr": 0.5, "optimizer": 3.0}),
    ],
    ids=["nothing else", "arrays of the aggregator", "arguments of the aggregator"],
)
def test_what_it_sends_comes_to_all_nodes_beside_what_the_aggregator_sends(payload, expected):
    answers = Answers(one(optimizer=3.0))
    with quick(training_plan_class=AskingPlan, agg_optimizer=answers, aggregator=Middle(payload)) as exp:
        exp.run(1)
    assert [day for day in answers.days if isinstance(day, dict)] == [expected] * 4


def test_without_anything_to_send_the_aggregator_alone_is_heard():
    answers = Answers()
    aggregator = Middle(NodePayload(one(aggregator=2.0), {}))
    with quick(training_plan_class=AskingPlan, agg_optimizer=answers, aggregator=aggregator) as exp:
        exp.run(1)
    assert [day for day in answers.days if isinstance(day, dict)] == [{"lr": 0.02, "aggregator": 2.0}] * 4


def test_arrays_of_one_name_from_both_are_an_error_before_anything_is_sent():
    diary = Diary(one(same=1.0))
    with quick(agg_optimizer=diary, aggregator=Middle(NodePayload(one(same=2.0), {}))) as exp:
        with pytest.raises(UsageError, match="Aggregator and agg_optimizer both send extra arrays named 'same'"):
            exp.run(1)
        assert exp.round_current() == 0
    assert diary.days == []


# what it may not move --------------------------------------------------------------------------------------


class Away(AggOptimizer):
    """Moves everything far away."""

    def advance(self, start: Params, aggregated: Params, ctx: RoundContext) -> Params:
        return start.map(lambda array: array * 0 - 7)


def test_whole_numbers_and_buffers_are_those_of_the_aggregate():
    with quick(training_plan_class=AskingPlan, agg_optimizer=Away()) as exp:
        exp.run(1)
        steps = [reply["steps"] for reply in exp.training_replies()[0].values()]
        mean = np.average(steps, weights=[20, 25, 30, 35])
        assert exp.params()["w"].tolist() == [-7, -7, -7]
        assert exp.params()["seen"] == round(mean)
        np.testing.assert_allclose(exp.params()["running"], [mean / 2, mean / 2], rtol=1e-15)


# names -----------------------------------------------------------------------------------------------------


def hosted(target: Any) -> PluginHost:
    class Offers:
        @hookimpl
        def fedplug_register_agg_optimizers(self):
            return [Component("half", target, "Half the way.")]

    host = PluginHost.discover(only=["scaffold"])
    host.register(Offers(), "halving")
    return host


class Half(AggOptimizer):
    def advance(self, start, aggregated, ctx):
        return start + (aggregated - start) * 0.5


@pytest.mark.parametrize("name", ["half", "halving:half"])
def test_one_that_a_plugin_offers_goes_by_its_name(name):
    host = hosted(Half)
    with quick(agg_optimizer=name, host=host, transport=nodes(host=host)) as exp, quick(agg_optimizer=Half()) as plain:
        assert isinstance(exp.agg_optimizer(), Half)
        exp.run(2)
        plain.run(2)
        assert exp.params() == plain.params()


def test_a_name_that_nobody_offers_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match="no optimizer of the researcher named 'halve'") as caught:
        quick(agg_optimizer="halve", host=hosted(Half), transport=nodes())
    assert "half" in caught.value.cure


@pytest.mark.parametrize("target", [Middle, SimpleNamespace])
def test_what_is_no_optimizer_is_refused(target):
    with pytest.raises((UsageError, PluginError), match="optimizer"):
        quick(agg_optimizer="half", host=hosted(target), transport=nodes())
    with pytest.raises(UsageError, match="agg_optimizer must be an optimizer for the researcher") as caught:
        quick(agg_optimizer=target())
    assert "fedplug_declearn.Optimizer" in caught.value.cure
