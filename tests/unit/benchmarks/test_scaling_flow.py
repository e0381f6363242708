from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scaling.fit import Fit
from benchmarks.scaling.flow import play
from benchmarks.scaling.model import CostModel, Fits, Load, Machine
from benchmarks.scaling.scenario import LIMITS, Scenario

ROUND = ("round", "MB", "sampled", "sampled MB")
FREE = Machine(bandwidth=math.inf, latency=0.0, node_bandwidth=math.inf)


def planted(*names, **costs):
    """A fit that came out as one likes."""
    features = {name: lambda _: 0.0 for name in names}
    return Fit(features, {name: costs.get(name.replace(" ", "_"), 0.0) for name in names}, (0.0,))


def costs_of(*, main=None, pump=None, native=None, header=0.0, connect=0.0):
    """A cost model in which only what is named costs anything."""
    nobody = planted("node", "node, keys")
    traffic = Fit({"sampled": lambda p: p.sampled}, {"sampled": header}, (0.0,))
    rounds = {
        name: planted(*ROUND, **(given or {})) for name, given in (("main", main), ("pump", pump), ("native", native))
    }
    rest = dict.fromkeys(("pump", "native", "bytes"), nobody)
    letting_in = Fit({"node": lambda _: 1.0}, {"node": connect}, (0.0,))
    fits = Fits(
        rounds=rounds, sent=traffic, received=traffic, rest=rest, connect=letting_in, memory=nobody,
        nodes=planted("task"), fold=planted("MB"), virtual=planted("node"),
    )  # fmt: skip
    return CostModel(fits)


def scenario(costs, fan_outs, model=1000.0, **more):
    return Scenario(costs=costs, fan_outs=fan_outs, **{"model": model, "machine": FREE, **more})


@given(st.integers(1, 200), st.floats(0, 1), st.floats(0, 1))
def test_a_thread_works_for_one_node_after_the_other(nodes, once, each):
    got = play(scenario(costs_of(main={"round": once, "sampled": each}), (nodes,)))
    assert got.seconds == pytest.approx(once + nodes * each)
    assert got.root["main"] == pytest.approx(once + nodes * each)
    assert got.counted == nodes


@given(st.integers(1, 100), st.floats(1, 1e6), st.floats(1, 60_000))
def test_a_network_carries_one_model_after_the_other(nodes, bandwidth, model):
    machine = Machine(bandwidth=bandwidth, latency=0.0, node_bandwidth=math.inf)
    got = play(scenario(costs_of(), (nodes,), model, machine=machine))
    # the last update follows the last model, all others have come meanwhile
    assert got.seconds == pytest.approx((nodes + 1) * model / bandwidth)
    assert got.root_down == got.root_up == pytest.approx(nodes * model)


def test_chunks_come_in_as_credit_allows():
    machine = Machine(bandwidth=math.inf, latency=0.0, node_bandwidth=1e6)
    nodes, chunks = 2 * LIMITS.pool_credit, 4
    got = play(scenario(costs_of(), (nodes,), chunks * LIMITS.chunk, machine=machine))
    # all go down side by side; up come 32 chunks at a time, so that at least every other line waits
    line = LIMITS.chunk / 1e6
    up = nodes * chunks * LIMITS.chunk / machine.credit_bandwidth(1e6)
    assert up == pytest.approx(2 * chunks * line)
    # the first ones take the credit for several chunks of one line, which come no sooner for it
    assert chunks * line + up <= got.seconds + 1e-9 <= chunks * line + 1.5 * up


def test_latency_is_paid_on_each_way():
    machine = Machine(bandwidth=math.inf, latency=0.25, node_bandwidth=math.inf)
    # a task, a request for the update, and the update
    assert play(scenario(costs_of(), (5,), machine=machine)).seconds == pytest.approx(0.75)


@given(st.integers(1, 60), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_an_aggregator_of_all_nodes_adds_what_it_is_to_the_root(nodes, once, each, network):
    """A tree whose lowest level has one aggregator is the flat federation, and one node more."""
    costs = costs_of(main={"round": once, "sampled": each}, pump={"sampled": each / 2})
    more = {
        "machine": Machine(bandwidth=1000 / max(network, 1e-3), latency=0.0, node_bandwidth=math.inf),
        "update": 1.0,
    }
    flat, one, tree = (play(scenario(costs, shape, **more)) for shape in ((nodes,), (1,), (nodes, 1)))
    # the aggregator's update leaves over its own line first, which a node of endless bandwidth does not notice
    card = 1000 / more["machine"].bandwidth
    assert tree.seconds == pytest.approx(flat.seconds + one.seconds + card)
    assert tree.counted == flat.counted
    assert tree.root_up == pytest.approx(one.root_up)


@given(st.integers(1, 12), st.integers(1, 12), st.floats(0, 1), st.floats(0, 1))
def test_levels_overlap_and_so_are_never_slower_than_one_after_the_other(low, high, once, each):
    costs = costs_of(main={"round": once, "sampled": each})
    got = play(scenario(costs, (low, high)))
    # the first sum is folded when all were asked, or when it is there; the others follow without a gap
    asked, there = once / 2 + high * each / 2, once / 2 + each / 2 + once + low * each
    assert got.seconds == pytest.approx(max(asked, there) + high * each / 2 + once / 2)
    assert got.seconds <= 2 * once + (low + high) * each + 1e-9


shapes = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)


@settings(max_examples=60)
@given(shapes, st.floats(0, 1), st.sampled_from([1e3, 3e6]), st.integers(0, 3), st.integers(0, 2**31), st.data())
def test_bytes_and_nodes_are_conserved(fan_outs, drop_out, model, spread, seed, data):
    most = fan_outs[1] - 1 if len(fan_outs) > 1 else 0
    dead = data.draw(st.integers(0, most))
    costs = costs_of(main={"sampled": 0.1}, pump={"sampled_MB": 0.01}, header=200.0, connect=0.01)
    given_ = scenario(
        costs, fan_outs, model, machine=Machine(bandwidth=1e7, latency=0.01, node_bandwidth=1e6), training=5.0,
        spread=float(spread), drop_out=drop_out, dead=dead, seed=seed,
    )  # fmt: skip
    got = play(given_)
    assert got.counted + got.lost == given_.leaves
    assert got.sent == pytest.approx(got.received)
    assert got.seconds >= got.slowest * (1 - 1e-9)
    if len(fan_outs) == 1:
        assert got.root_up == pytest.approx(got.counted * (model + 200.0))
        assert got.root_down == pytest.approx(given_.leaves * (model + 200.0))
    assert play(given_) == got


@pytest.mark.parametrize("model", [1e3, 3e6])
def test_nodes_of_a_dead_aggregator_are_counted_once(model):
    costs = costs_of(main={"sampled": 0.1}, connect=0.1)
    calm, struck = (play(scenario(costs, (4, 3), model, training=10.0, dead=dead)) for dead in (0, 1))
    assert calm.counted == struck.counted == 12
    # silence, the time to the next try, and the work for four more nodes
    assert calm.seconds + 8.0 <= struck.seconds <= calm.seconds + 8.0 + 4


def test_lost_nodes_cost_their_silence():
    got = play(scenario(costs_of(), (10,), training=3.0, drop_out=1.0))
    assert (got.counted, got.lost) == (0, 10)
    assert got.seconds == pytest.approx(3.0 + LIMITS.silence)


def test_signs_of_life_take_their_share_of_a_thread():
    costs = costs_of()
    rest = {name: Fit({"node": lambda p: p.nodes}, {"node": 1e-4}, (0.0,)) for name in ("pump", "native", "bytes")}
    object.__setattr__(costs, "fits", Fits(**{**vars(costs.fits), "rest": rest}))
    assert costs.rest_share("pump", Load(1000, 1, 1, heartbeat=4.0)) == pytest.approx(0.05)
    got = play(scenario(costs, (10,), connected=1000, training=20.0))
    assert got.root["pump"] == pytest.approx(0.1 * 20.0, rel=0.05)


def test_few_pieces_are_nearly_as_true_as_all():
    costs = costs_of(main={"sampled_MB": 1e-3}, pump={"sampled_MB": 2e-3}, native={"sampled_MB": 1e-3})
    machine = Machine(bandwidth=1e9, latency=0.001, node_bandwidth=1e8)
    every, few = (
        play(scenario(costs, (20,), 5e7, machine=machine, pieces=pieces)).seconds for pieces in (10**9, 12)
    )  # fmt: skip
    assert few == pytest.approx(every, rel=0.15)


@pytest.mark.parametrize("cores", [1, 2])
def test_who_shares_cores_takes_as_long_as_the_work_of_all(cores):
    costs = costs_of(main={"sampled": 0.01}, pump={"sampled": 0.02}, native={"sampled": 0.01})
    got = play(scenario(costs, (100,), node_seconds=0.04, cores=cores, hosts=4))
    work = 100 * (0.01 + 0.02 + 0.01 + 0.04)
    assert work / cores <= got.seconds + 1e-9 <= work / cores * 1.25


@pytest.mark.parametrize(
    ("shape", "more", "words"),
    [
        ((), {}, "at least 1"),
        ((3, 0), {}, "at least 1"),
        ((3,), {"pieces": 0}, "at least 1"),
        ((3, 2), {"dead": 2}, "let fewer die"),
        ((3,), {"dead": 1}, "let fewer die"),
    ],
    ids=["nobody", "no aggregator", "no pieces", "all aggregators die", "no aggregator that could die"],
)
def test_what_cannot_be_played_is_refused(shape, more, words):
    with pytest.raises(ValueError, match=words):
        scenario(costs_of(), shape, **more)
