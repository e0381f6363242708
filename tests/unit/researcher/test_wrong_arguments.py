"""Wrong arguments of `Experiment`: told together, by the names they should have, and without the data in them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedplug import AggOptimizer, Experiment
from fedplug.core.errors import SettingsError, UsageError
from fedplug.researcher.shown import shown
from fedplug.simulation import Federation


class Chatty:
    def __repr__(self) -> str:
        return "Chatty(\n" + "    line\n" * 10 + ")"


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        ("three", "'three'"),
        (None, "None"),
        (["a", 1], "['a', 1]"),
        ({"a": 1}, "a dict"),
        (np.arange(5), "an array"),
        ([np.arange(5)], "a list"),
        ((np.arange(5), np.arange(5)), "a tuple"),
        (AggOptimizer, "the class AggOptimizer"),
        (Chatty(), "a Chatty"),
        (Broken(), "a Broken"),
    ],
)
def test_what_was_passed_is_shown_without_its_content(value: Any, text: str) -> None:
    assert shown(value) == text


@pytest.mark.parametrize(
    "value",
    ["x" * 10_000, 10**5000, list(range(10_000)), b"x" * 1000, [["x" * 900]]],
    ids=["text", "huge number", "long list", "bytes", "nested"],
)
def test_whatever_was_passed_is_shown_in_a_few_words(value: Any) -> None:
    assert 0 < len(shown(value)) < 80


def test_data_in_the_place_of_a_federation_is_not_printed() -> None:
    rows = np.full((3, 2), 0.123456)
    with pytest.raises(UsageError) as caught:
        Experiment(transport={"a": (rows, rows[:, 0])}, progress="quiet")  # type: ignore[arg-type]
    assert caught.value.message == "transport must be an address or a federation, got a dict."
    assert caught.value.cure == "Wrap it: transport=fedplug.simulation.Federation({...})."


def test_an_optimizer_of_the_wrong_kind_is_told_in_one_line() -> None:
    with pytest.raises(UsageError, match="got a Chatty"):
        Experiment(agg_optimizer=Chatty(), progress="quiet")  # type: ignore[arg-type]


def test_everything_that_is_wrong_is_told_at_once_and_nothing_is_searched_for() -> None:
    wrong: dict[str, Any] = {
        "round_limit": "3", "seed": "x", "tags": 5, "model_args": [1], "min_nodes": 0, "connect_timeout": -1,
        "progress": "loud", "transport_options": {"insecure": True}, "transport": 7, "monitor": Chatty(),
    }  # fmt: skip
    with pytest.raises(SettingsError) as caught:
        Experiment(**wrong)
    assert len(caught.value.problems) == len(wrong)
    for name in (set(wrong) - {"progress"}) | {"progress mode named 'loud'"}:
        assert sum(name in problem for problem in caught.value.problems) >= 1, name
    assert "got 5" in str(caught.value)
    assert "(set_round_limit)" in str(caught.value)
    assert "(set_seed)" not in str(caught.value)


@pytest.mark.parametrize("tags", [[["#a"]], {}, [1], 3.5])
def test_odd_tags_are_told_beside_other_mistakes(tags: Any) -> None:
    with pytest.raises(SettingsError, match=r"(?s)tags must be.*round_limit must be"):
        Experiment(tags=tags, round_limit="many", progress="quiet")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["test_metric", "training_plan_class", "monitor", "aggregator", "nodes", "model_args"])
def test_an_array_in_the_wrong_place_is_refused_and_not_printed(name: str) -> None:
    wrong: dict[str, Any] = {name: np.full((2, 2), 0.123456)}
    with pytest.raises(UsageError) as caught:
        Experiment(**wrong, progress="quiet")
    assert name in str(caught.value)
    if name != "test_metric":  # training arguments have a rule of their own: the beginning is shown
        assert "0.123" not in str(caught.value)


@pytest.mark.parametrize("mode", [5, ["plain"], {"mode": "plain"}])
def test_a_progress_mode_may_be_anything_and_is_refused(mode: Any) -> None:
    with pytest.raises(UsageError, match="There is no progress mode"):
        Experiment(progress=mode)


def test_misspelt_arguments_are_told_with_the_nearest_names() -> None:
    with pytest.raises(UsageError) as caught:
        Experiment(round_limits=3, trainingargs={}, progress="quiet")  # type: ignore[call-arg]
    assert caught.value.message.splitlines() == [
        "Experiment has no argument 'round_limits'. Did you mean 'round_limit'?",
        "Experiment has no argument 'trainingargs'. Did you mean 'training_args'?",
    ]
    with pytest.raises(UsageError, match="load_breakpoint has no argument 'strategi'"):
        Experiment.load_breakpoint(strategi=1)  # type: ignore[call-arg]


def test_the_signature_can_still_be_looked_at() -> None:
    names = list(inspect.signature(Experiment).parameters)
    assert names[0] == "tags"
    assert names[-1] == "host"
    assert "trusted" in inspect.signature(Experiment.load_breakpoint).parameters


@pytest.mark.parametrize("seed", [-1, 0, 2**256 - 1, -(2**256) + 1])
def test_a_seed_goes_through_a_breakpoint(seed: int, fedplug_dir: Path) -> None:
    with Experiment(seed=seed, progress="quiet", transport=Federation({"a": ([[1.0]], [1.0])})) as exp:
        place = exp.breakpoint()
        with Experiment.load_breakpoint(place, progress="quiet", transport=exp.pool()) as back:
            assert back.seed() == seed


@pytest.mark.parametrize("seed", [2**256, 10**5000], ids=["just", "unprintable"])
def test_a_seed_that_is_too_large_is_refused(seed: int) -> None:
    with pytest.raises(UsageError, match="seed must have at most 256 bits"):
        Experiment(seed=seed, progress="quiet")
