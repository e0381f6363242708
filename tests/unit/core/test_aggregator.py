from __future__ import annotations

import dataclasses

import pytest

from fedplug.core.aggregator import Aggregator, AggregatorTags, NodePayload, StreamingAggregator, update_weight
from fedplug.core.context import RoundContext
from fedplug.core.errors import UsageError
from fedplug.core.params import Params
from fedplug.core.update import Update

ONE = Params.from_arrays({"w": 1.0})
UPDATE = Update("a", ONE, sample_count=10, steps=4)


class First(Aggregator):
    def aggregate(self, start, updates, ctx):
        return updates[0].params


class Collecting(StreamingAggregator):
    def begin(self, start, ctx):
        return [start]

    def accumulate(self, state, update):
        state.append(update.node_id)

    def finalize(self, state):
        return state


def test_one_method_is_enough():
    aggregator = First()
    assert aggregator.aggregate(ONE, [UPDATE], RoundContext()) is ONE
    assert aggregator.tags == AggregatorTags()
    assert aggregator.node_payload("a", RoundContext()) is None
    aggregator.check({"epochs": 1})


def test_without_it_there_is_no_aggregator():
    with pytest.raises(TypeError, match="aggregate"):
        Aggregator()


def test_no_state_unless_it_is_written():
    aggregator = First()
    assert aggregator.state_dict() == {}
    aggregator.load_state_dict({})
    with pytest.raises(UsageError, match=r"First keeps no state, but was given \['momentum'\]"):
        aggregator.load_state_dict({"momentum": 1})


def test_streaming_folds_in_the_order_given_and_takes_an_iterator():
    updates = (Update(node, ONE, 1) for node in "cab")
    assert Collecting().aggregate(ONE, updates, RoundContext()) == [ONE, "c", "a", "b"]
    assert Collecting.tags.streaming


def test_tags_can_depend_on_the_instance():
    aggregator = First()
    aggregator.tags = AggregatorTags(weighted=False)
    assert First().tags.weighted


@pytest.mark.parametrize(("weighting", "weight"), [("samples", 10), ("steps", 4), ("uniform", 1)])
def test_weightings(weighting, weight):
    assert update_weight(UPDATE, weighting) == weight


def test_an_unknown_weighting_names_the_known_ones():
    with pytest.raises(UsageError, match="'samples', 'steps' or 'uniform'"):
        update_weight(UPDATE, "size")


@pytest.mark.parametrize("value", [AggregatorTags(), NodePayload({}, {}), UPDATE, RoundContext()])
def test_what_is_handed_over_is_frozen(value):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, dataclasses.fields(value)[0].name, None)
