"""A component written down as its constructor's arguments, and made again."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest

from fedplug.core.component_config import config_of, make
from fedplug.core.errors import UnknownNameError, UsageError
from fedplug.core.plugins import default_host
from fedplug.core.quorum import OverSelection, QuorumStrategy
from fedplug.core.strategy import DefaultStrategy, RandomStrategy

EXAMPLES = {
    ("strategy", "random"): {"fraction": 0.25, "count": None},
    ("strategy", "quorum"): {
        "quorum": 1.0, "deadline": 60, "fraction": None, "count": 7, "wait_for": "quorum",
    },
    ("strategy", "over-selection"): {"count": 4, "extra": 0.5, "deadline": None},
    ("aggregator", "fedaverage"): {"weighting": "steps"},
    ("aggregator", "fedprox"): {"mu": 0.5, "weighting": "uniform"},
    ("aggregator", "krum"): {"hostile": 2},
    ("aggregator", "multi-krum"): {"hostile": 2, "keep": 3},
    ("aggregator", "norm-clipping"): {"limit": 2.5},
    ("agg_optimizer", "declearn"): {"lr": 0.1, "modules": [["adam", {"beta_1": 0.9, "beta_2": 0.99, "amsgrad": False,
                                                                     "eps": 1e-07, "round_reset": False}]]},
}  # fmt: skip
"""Arguments other than the defaults; a component that is not here is made without any."""


@pytest.mark.parametrize("kind", ["strategy", "aggregator", "agg_optimizer"])
def test_every_component_of_our_own_plugins_survives_being_written_down(kind):
    offers = default_host().components(kind)
    assert offers
    for offer in offers:
        cls = offer.load()
        given = EXAMPLES.get((kind, offer.component.name), {})
        config = config_of(cls(**given))
        assert {**config, **given} == config
        again = json.loads(json.dumps(config))
        assert again == config
        assert [type(again[name]) for name in config] == [type(config[name]) for name in config]
        assert config_of(make(cls, again)) == config


def test_the_arguments_stand_in_the_order_of_the_signature():
    assert config_of(DefaultStrategy(patience=5)) == {"patience": 5, "silence": 900.0}
    assert list(config_of(RandomStrategy(count=3))) == ["fraction", "count", "patience", "silence"]
    assert list(config_of(OverSelection(3))) == ["count", "extra", "deadline", "silence"]
    assert isinstance(make(QuorumStrategy, {"quorum": 2}), QuorumStrategy)


class Holds:
    def __init__(self, value=None):
        self.value = value


def test_values_become_plain_data_of_their_own():
    given = {"a": [1, (2.5, "x")], "b": {"deep": np.float32(0.5), "whole": np.int64(7), "truth": np.bool_(True)}}
    component = Holds(given)
    config = config_of(component)
    assert config == {"value": {"a": [1, [2.5, "x"]], "b": {"deep": 0.5, "whole": 7, "truth": True}}}
    assert type(config["value"]["b"]["whole"]) is int
    assert config["value"]["b"]["truth"] is True
    config["value"]["a"].append("more")
    assert len(component.value["a"]) == 2


@pytest.mark.parametrize("value", [object(), {1: 2}, {"x": {3}}, [b"bytes"], np.zeros(2), float("inf"), len])
def test_what_is_no_plain_data_is_refused_by_name(value):
    with pytest.raises(UsageError, match=r"Argument 'value' of Holds is no plain data") as caught:
        config_of(Holds(value))
    assert "load_breakpoint" in caught.value.cure


class Renames:
    def __init__(self, rate):
        self._rate = rate


class TakesAnything:
    def __init__(self, *rates):
        self.rates = rates


def test_an_argument_that_is_not_kept_is_named():
    with pytest.raises(UsageError, match=r"Renames does not keep its argument 'rate'") as caught:
        config_of(Renames(1))
    assert "self.rate = rate" in caught.value.cure
    with pytest.raises(UsageError, match=r"TakesAnything takes \*rates"):
        config_of(TakesAnything(1))


@dataclass
class Plain:
    rate: float
    steps: int = 3


def test_a_dataclass_needs_nothing_special():
    assert config_of(Plain(0.5)) == {"rate": 0.5, "steps": 3}
    assert make(Plain, {"rate": 0.5, "steps": 4}) == Plain(0.5, 4)


def test_arguments_of_another_class_are_refused():
    with pytest.raises(UnknownNameError, match="no argument of RandomStrategy named 'fracton'") as caught:
        make(RandomStrategy, {"fracton": 0.5})
    assert "'fraction'" in caught.value.cure
    with pytest.raises(UsageError, match="Plain cannot be made without its argument 'rate'"):
        make(Plain, {"steps": 1})
    with pytest.raises(UsageError, match="fraction must lie in"):
        make(RandomStrategy, {"fraction": 7})
