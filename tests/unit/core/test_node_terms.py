"""Sums whose terms stay at the nodes: both ends, alone and together."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedplug import FedplugWarning, Params, RoundContext, Update
from fedplug.core.errors import PlanError, UpdateRejectedError, UsageError
from fedplug.core.local_state import StateBook
from fedplug.core.node_terms import NodeTerm, TermSum
from fedplug.core.numpy_backend import NumpyBackend
from fedplug.core.trainer import Trainer

NAME = "sums"
MISSING = "it brings no term; the node needs a hat"


def context(model: Mapping[str, Any], sent: Mapping[str, Any], state: StateBook | None = None, local: Any = ()) -> Any:
    """The context of a training whose round has brought ``sent``."""
    backend = NumpyBackend(dict(model), lambda data, target: None)
    backend.local_names = frozenset(local)
    ctx = Trainer(backend).ctx
    ctx.inbox[NAME], ctx.state = Params.from_arrays(sent), state
    return ctx


def begun(ctx: Any) -> NodeTerm:
    term = NodeTerm(NAME)
    term.begin(ctx)
    return term


def after(book: StateBook) -> StateBook:
    """The next round's book, where this round has counted."""
    return StateBook(book.result())


def lists(arrays: Mapping[str, Any] | None) -> Any:
    return None if arrays is None else {name: np.asarray(array).tolist() for name, array in arrays.items()}


MODEL = {"w": np.zeros(2), "b": np.zeros((), np.float32)}
FIRST = {"generation": 4}


# the end at a node -----------------------------------------------------------------------------------------


def test_a_node_sends_its_term_whole_and_then_by_how_much_it_has_changed():
    book = StateBook()
    ctx = context(MODEL, FIRST, book)
    term = begun(ctx)
    assert (term.common, term.own, list(term.parts)) == (None, None, ["w", "b"])
    term.end(ctx, {"w": np.array([1.0, 2.0]), "b": np.float32(5)})
    sent = ctx.outbox[NAME]
    assert lists(sent) == {"delta/w": [1, 2], "delta/b": 5, "generation": 4, "fresh": 1}
    assert (sent["delta/w"].dtype, sent["delta/b"].dtype) == (np.float64, np.float32)

    book = after(book)
    ctx = context(MODEL, {"generation": 4, "common/w": [0.5, 0.5], "common/b": np.float32(1)}, book)
    term = begun(ctx)
    assert lists(term.common) == {"w": [0.5, 0.5], "b": 1}
    assert lists(term.own) == {"w": [1, 2], "b": 5}
    term.end(ctx, {"w": np.array([4.0, 1.0]), "b": np.float32(5)})
    assert lists(ctx.outbox[NAME]) == {"delta/w": [3, -1], "delta/b": 0, "generation": 4, "fresh": 0}
    assert lists(begun(context(MODEL, FIRST, after(book))).own) == {"w": [4, 1], "b": 5}


def test_what_is_missing_in_a_term_is_zero_and_whole_numbers_and_local_parameters_have_none():
    model = {**MODEL, "seen": np.zeros((), np.int64), "mine": np.zeros(3), "half": np.zeros(1, np.float16)}
    ctx = context(model, FIRST, StateBook(), local=["mine"])
    term = begun(ctx)
    assert list(term.parts) == ["w", "b", "half"]
    term.end(ctx, {"half": np.ones(1, np.float16), "mine": np.ones(3), "seen": np.int64(1)})
    sent = ctx.outbox[NAME]
    assert lists(sent) == {"delta/w": [0, 0], "delta/b": 0, "delta/half": [1], "generation": 4, "fresh": 1}
    assert sent["delta/half"].dtype == np.float32


def test_without_a_change_nothing_is_sent_and_the_term_is_kept():
    book = StateBook()
    ctx = context(MODEL, FIRST, book)
    begun(ctx).end(ctx, None)
    assert (ctx.outbox, book.is_empty) == ({}, True)
    begun(ctx).end(ctx, {"w": np.ones(2)})
    book = after(book)
    ctx = context(MODEL, FIRST, book)
    begun(ctx).end(ctx, None)
    assert ctx.outbox == {}
    assert lists(begun(context(MODEL, FIRST, after(book))).own) == {"w": [1, 1], "b": 0}


def test_a_term_of_another_generation_or_another_model_is_dropped():
    book = StateBook()
    ctx = context(MODEL, FIRST, book)
    begun(ctx).end(ctx, {"w": np.ones(2)})
    book = after(book)
    assert begun(context(MODEL, FIRST, book)).own is not None
    assert begun(context(MODEL, {"generation": 5}, book)).own is None
    assert begun(context({"w": np.zeros(3), "b": MODEL["b"]}, FIRST, book)).own is None
    assert begun(context({"w": MODEL["w"]}, FIRST, book)).own is None
    assert begun(context(MODEL, FIRST, StateBook())).own is None
    assert begun(context(MODEL, FIRST, None)).own is None


def test_where_no_node_stands_behind_it_answers_and_keeps_nothing():
    ctx = context(MODEL, FIRST)
    begun(ctx).end(ctx, {"w": np.ones(2)})
    assert int(ctx.outbox[NAME]["fresh"]) == 1


@pytest.mark.parametrize(
    ("common", "message"),
    [
        ({"w": [0, 0]}, "'b' is trained here only"),
        ({"w": [0, 0], "b": 0, "c": 0}, "'c' is trained there only"),
        ({"w": [0, 0], "b": 0, "mine": 0}, "'mine' is trained there only"),
        ({"w": [0, 0, 0], "b": 0}, r"'w' has shape \[3\] there and \[2\] here"),
    ],
)
def test_what_the_researcher_sends_about_another_model_is_refused(common, message):
    sent = {f"common/{name}": np.array(each, np.float64) for name, each in common.items()}
    ctx = context({**MODEL, "mine": np.zeros(())}, {**FIRST, **sent}, local=["mine"])
    with pytest.raises(PlanError, match=message) as told:
        begun(ctx)
    assert "What the researcher has sent for 'sums'" in told.value.message
    assert "The same parameters must be trained at all nodes" in told.value.cure


# the end at the researcher ---------------------------------------------------------------------------------

START = Params.from_arrays({
    "w": np.zeros((2, 2), np.float32), "d": np.zeros(2), "b": np.zeros(2, np.float16), "n": np.int64(0),
})  # fmt: skip
W = np.ones((2, 2), np.float32)


def update(node: str = "p", generation: Any = 0, fresh: Any = 1, steps: int = 1, **delta: Any) -> Update:
    arrays = {f"delta/{name}": value for name, value in delta.items()}
    about = {"generation": generation, "fresh": fresh}
    sent = {**arrays, **{name: np.asarray(value) for name, value in about.items() if value is not None}}
    return Update(node, START, 1, steps, {NAME: Params.from_arrays(sent)})


def at(number: int, *nodes: str, **args: Any) -> RoundContext:
    return RoundContext(round=number, training_args=args, all_node_ids=nodes)


def one_round(sums: TermSum, updates: list[Update], number: int = 0) -> Any:
    sums.announce(at(number), {})
    for each in updates:
        sums.check(each, START)
    for each in updates:
        sums.take(each)
    return sums.settle(at(number))


def test_changes_are_added_up_in_double_precision():
    sums = TermSum(NAME, MISSING)
    tiny = np.float32(2**-40)
    found = one_round(sums, [update("p", w=W, d=np.ones(2)), update("q", w=W * tiny, d=np.ones(2))])
    assert lists(found) == {"w": [[1 + 2**-40] * 2] * 2, "d": [2, 2]}
    assert found["w"].dtype == np.float64
    assert (sums.nodes, set(sums.names)) == ({"p", "q"}, {"w", "d"})
    assert one_round(sums, [], 1) == {}


def test_a_round_that_is_broken_off_leaves_nothing():
    sums = TermSum(NAME, MISSING)
    sums.announce(at(0), {})
    sums.take(update("p", w=W))
    assert one_round(sums, [update("q", w=2 * W)], 0)["w"].tolist() == [[2, 2], [2, 2]]
    assert sums.nodes == {"q"}


def test_what_nodes_have_sent_is_not_changed():
    given = update("p", w=W)
    before = given.aux[NAME].fingerprint()
    one_round(TermSum(NAME, MISSING), [given, update("q", w=W)])
    assert Params.from_arrays(dict(given.aux[NAME])).fingerprint() == before


def test_what_all_should_know_travels_in_the_precision_of_the_terms():
    sums = TermSum(NAME, MISSING)
    assert lists(sums.announce(at(3), {})[NAME]) == {"generation": 3}
    one_round(sums, [update(generation=3, w=W, d=np.ones(2), b=np.ones(2, np.float32))], 3)
    sent = sums.announce(at(4), {name: np.full(2, 1 / 3) for name in "wdb"})[NAME]
    assert {n: a.dtype.name for n, a in sent.items() if a.ndim} == {
        "common/w": "float32", "common/d": "float64", "common/b": "float32"
    }  # fmt: skip
    assert int(sent["generation"]) == 3


REFUSED = {
    "nothing": (Update("p", START, 1, 1), MISSING),
    "another name": (Update("p", START, 1, 1, {"sum": update(w=W).aux[NAME]}), MISSING),
    "no change": (update(), "its 'sums' holds other arrays than it should"),
    "no generation": (update(generation=None, w=W), "its 'sums' holds other arrays than it should"),
    "no freshness": (update(fresh=None, w=W), "its 'sums' holds other arrays than it should"),
    "something else": (
        Update("p", START, 1, 1, {NAME: Params.from_arrays({**update(w=W).aux[NAME], "delta": W})}),
        "its 'sums' holds other arrays than it should",
    ),
    "an old generation": (update(generation=1, w=W), "its 'sums' is of another generation"),
    "half a generation": (update(generation=0.0, w=W), "its 'sums' is of another generation"),
    "a generation that is true": (update(generation=False, w=W), "its 'sums' is of another generation"),
    "many generations": (update(generation=[0, 0], w=W), "its 'sums' is of another generation"),
    "half a freshness": (update(fresh=1.0, w=W), "its 'sums' does not say whether it is new"),
    "a freshness of two": (update(fresh=2, w=W), "its 'sums' does not say whether it is new"),
    "a freshness of minus one": (update(fresh=-1, w=W), "its 'sums' does not say whether it is new"),
    "an unknown parameter": (update(w=W, x=W), "its 'sums' of 'x' does not fit the model"),
    "a wrong shape": (update(w=np.ones(4, np.float32)), "its 'sums' of 'w' does not fit the model"),
    "double for single": (update(w=np.ones((2, 2))), "its 'sums' of 'w' does not fit the model"),
    "single for double": (update(d=np.ones(2, np.float32)), "its 'sums' of 'd' does not fit the model"),
    "half for half": (update(b=np.ones(2, np.float16)), "its 'sums' of 'b' does not fit the model"),
    "whole numbers": (update(n=np.int64(0)), "its 'sums' of 'n' does not fit the model"),
    "a term of whole numbers": (update(n=np.float32(0)), "its 'sums' of 'n' does not fit the model"),
    "not a number": (update(w=W * np.float32("nan")), "its 'sums' of 'w' is too large to be added up"),
    "huge": (update(w=W * np.float32(-1e20)), "its 'sums' of 'w' is too large to be added up"),
    "huge in double": (update(d=np.array([0, 1e155])), "its 'sums' of 'd' is too large to be added up"),
    "more than half precision holds": (update(b=np.full(2, 65505, np.float32)), "its 'sums' of 'b' is too large"),
}


@pytest.mark.parametrize("how", REFUSED)
def test_what_does_not_fit_is_refused_and_leaves_no_trace(how):
    refused, message = REFUSED[how]
    sums = TermSum(NAME, MISSING)
    sums.announce(at(0), {})
    before = sums.state_dict()
    with pytest.raises(UpdateRejectedError) as told:
        sums.check(refused, START)
    assert message in told.value.message
    assert sums.state_dict() == before


@pytest.mark.parametrize("fits", [update(w=W * np.float32(1e19)), update(d=np.array([-1e154, 0])),
                                  update(b=np.full(2, 65504, np.float32))])  # fmt: skip
def test_what_is_just_not_too_large_is_taken(fits):
    sums = TermSum(NAME, MISSING)
    assert one_round(sums, [fits])


def test_two_nodes_with_terms_of_other_parameters_are_told_apart():
    sums = TermSum(NAME, MISSING)
    first = sums.state_dict()
    sums.announce(at(0), {})
    sums.check(update(w=W), START)
    for other in ({"d": np.ones(2)}, {"w": W, "d": np.ones(2)}):
        with pytest.raises(UpdateRejectedError, match="its 'sums' and those of other nodes differ: only one has 'd'"):
            sums.check(update("q", **other), START)
    sums.load_state_dict(first)  # the round has failed: in the next attempt nobody has sent anything yet
    sums.announce(at(0), {})
    sums.check(update("q", d=np.ones(2)), START)


def test_a_node_that_made_no_step_needs_to_bring_nothing():
    sums = TermSum(NAME, MISSING)
    idle = Update("p", START, 1, 0)
    assert one_round(sums, [idle, update("q", w=W)]).keys() == {"w"}
    assert sums.nodes == {"q"}


@pytest.mark.parametrize("dp_args", [{"type": "central"}, {"type": "local"}])
def test_a_round_with_differential_privacy_is_refused(dp_args):
    with pytest.raises(UsageError, match="'sums' sends arrays beside the parameters, which differential privacy"):
        TermSum(NAME, MISSING).announce(at(0, dp_args=dp_args), {})


@pytest.mark.parametrize(
    ("known", "told"),
    [({"p", "q"}, {"p": 1, "q": 0}), ({"q"}, {"p": 0, "q": 0})],
    ids=["one has lost its term", "one has a term that nobody knows"],
)
def test_a_node_that_goes_on_from_something_else_makes_all_begin_anew(known, told):
    sums = TermSum(NAME, MISSING)
    one_round(sums, [update(node, w=W) for node in sorted(known)])
    with pytest.warns(FedplugWarning, match="'p' went on without what was kept for 'sums'.* begin anew in round 7"):
        assert one_round(sums, [update(node, fresh=fresh, w=W) for node, fresh in told.items()], 5) is None
    assert (sums.nodes, set(sums.names)) == (set(), set())
    assert int(sums.announce(at(6), {})[NAME]["generation"]) == 6
    assert one_round(sums, [update(generation=6, d=np.ones(2))], 6).keys() == {"d"}


def test_a_node_that_has_left_the_experiment_makes_all_begin_anew():
    sums = TermSum(NAME, MISSING)
    one_round(sums, [update(node, w=W) for node in "pq"])
    assert not sums.begins_anew(at(1, "p", "q", "z"))
    assert not sums.begins_anew(at(1)), "nothing is known of the nodes"
    with pytest.warns(FedplugWarning, match="The sum of 'sums' held 'p', which left the experiment.* in round 3"):
        assert sums.begins_anew(at(2, "q", "z"))
    assert not sums.begins_anew(at(2, "q", "z"))
    assert int(sums.announce(at(2, "q", "z"), {})[NAME]["generation"]) == 2


def test_it_goes_on_from_its_state_which_is_plain_data():
    sums = TermSum(NAME, MISSING)
    one_round(sums, [update(node, generation=2, w=W, d=np.ones(2)) for node in "qp"], 2)
    state = sums.state_dict()
    again = TermSum(NAME, MISSING)
    again.load_state_dict(json.loads(json.dumps(state)))
    assert again.state_dict() == state
    assert again.nodes == {"p", "q"}
    found = [each.announce(at(3), {"w": W / 3})[NAME] for each in (sums, again)]
    assert found[0] == found[1]
    fresh = TermSum(NAME, MISSING)
    fresh.load_state_dict(json.loads(json.dumps(TermSum(NAME, MISSING).state_dict())))
    assert lists(fresh.announce(at(8), {})[NAME]) == {"generation": 8}


# both together ---------------------------------------------------------------------------------------------

EVENTS = st.sampled_from(["counts", "counts", "counts", "is lost", "has forgotten", "is away", "makes no step"])


@given(rounds=st.lists(st.tuples(EVENTS, EVENTS, EVENTS), min_size=1, max_size=10), seed=st.integers(0, 999))
def test_the_sum_is_that_of_what_the_nodes_hold_whatever_happens(rounds, seed):
    """Terms are small whole numbers, so that sums are exact."""
    rng = np.random.default_rng(seed)
    start = Params.from_arrays(MODEL)
    sums, total = TermSum(NAME, MISSING), {}
    books = {node: StateBook() for node in "pqz"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FedplugWarning)
        for number, events in enumerate(rounds):
            sent = sums.announce(at(number, "p", "q", "z"), total)[NAME]
            for node, event in zip("pqz", events, strict=True):
                if event == "is away":
                    continue
                book = StateBook() if event == "has forgotten" else StateBook(books[node].base)
                ctx = context(MODEL, sent, book)
                term = begun(ctx)
                idle = event == "makes no step"
                new = {"w": rng.integers(-9, 9, 2) + 0.0, "b": np.float32(rng.integers(-9, 9))}
                term.end(ctx, None if idle else new)
                if event != "is lost":
                    reply = Update(node, start, 1, int(not idle), ctx.outbox)
                    sums.check(reply, start)
                    sums.take(reply)
                    books[node] = after(book)
            change = sums.settle(at(number, "p", "q", "z"))
            if change is None:
                total = {}
            else:
                total = {name: total.get(name, 0) + each for name, each in change.items()} or total
                following = sums.announce(at(number + 1), {})[NAME]
                held = [begun(context(MODEL, following, StateBook(book.base))).own for book in books.values()]
                for name in total:
                    assert total[name].tolist() == sum(each[name] for each in held if each).tolist()
                assert sums.nodes == {node for node, each in zip("pqz", held, strict=True) if each}
