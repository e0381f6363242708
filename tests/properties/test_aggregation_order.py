"""The order in which replies arrive never changes a bit, once they are folded in the order of their nodes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedplug import Params, RoundContext, StreamingAggregator, Update, WeightedMean


class Mean(StreamingAggregator):
    def begin(self, start, ctx):
        return WeightedMean(start.spec)

    def accumulate(self, state, update):
        state.add(update.params, update.sample_count)

    def finalize(self, state):
        return state.result()


def updates_of(seed, count):
    rng = np.random.default_rng(seed)
    return [
        Update(
            f"node-{number}",
            Params.from_arrays({"w": rng.normal(0, 1e3, 40).astype(np.float32), "v": rng.normal(0, 1, 3), "n": number}),
            sample_count=int(rng.integers(1, 10_000)),
        )
        for number in range(count)
    ]


def fold_as_they_come(start, arrivals):
    """Fold a reply as soon as all before it are folded; early ones wait."""
    aggregator, waiting = Mean(), {}
    state = aggregator.begin(start, RoundContext())
    expected = sorted(update.node_id for update in arrivals)
    for update in arrivals:
        waiting[update.node_id] = update
        while expected and expected[0] in waiting:
            aggregator.accumulate(state, waiting.pop(expected.pop(0)))
    assert not waiting
    return aggregator.finalize(state)


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.data())
def test_arrival_order_never_changes_a_bit(seed, count, data):
    updates = updates_of(seed, count)
    in_order = Mean().aggregate(updates[0].params, updates, RoundContext())
    arrivals = data.draw(st.permutations(updates))
    assert fold_as_they_come(updates[0].params, arrivals) == in_order
    by_node = sorted(arrivals, key=lambda update: update.node_id)
    assert Mean().aggregate(updates[0].params, by_node, RoundContext()) == in_order


def test_the_order_of_folding_does_change_bits():
    """So the test above can fail: floating-point sums depend on their order."""
    one, tiny = (Params.from_arrays({"w": np.float64(value)}) for value in (1.0, 2.0**-53))
    forward, backward = (WeightedMean(one.spec), WeightedMean(one.spec))
    for params in (one, tiny, tiny):
        forward.add(params, 1)
    for params in (tiny, tiny, one):
        backward.add(params, 1)
    assert forward.result() != backward.result()
