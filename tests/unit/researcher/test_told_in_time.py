"""What an experiment tells before it is too late: at the first breakpoint, at ``run``, in an error's cure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedplug import (
    AggOptimizer,
    Aggregator,
    DataManager,
    DefaultStrategy,
    Experiment,
    FedplugWarning,
    NumpyTrainingPlan,
    Params,
)
from fedplug.core.errors import RoundError
from fedplug.simulation import Federation


class Plane(NumpyTrainingPlan):
    def init_model(self):
        return {"w": np.zeros(2)}

    def forward(self, data):
        return data @ self.model()["w"]

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        error = data @ self.model()["w"] - target
        return (error**2).mean(), {"w": 2 * error @ data / len(data)}


class Misnamed(DefaultStrategy):
    def __init__(self, k: int = 2) -> None:
        self.n = k


class WellNamed(DefaultStrategy):
    def __init__(self, k: int = 2) -> None:
        self.k = k


class Forgetful(AggOptimizer):
    def advance(self, start: Params, aggregated: Params, ctx: Any) -> Params:
        return None  # type: ignore[return-value]


class Adding(Aggregator):
    def aggregate(self, start: Params, updates: Any, ctx: Any) -> Params:
        return [update.params for update in updates]  # type: ignore[return-value]


class FailsLater(DefaultStrategy):
    def select(self, ctx: Any, nodes: Any) -> list[str]:
        if ctx.round:
            raise LookupError("no dice")
        return list(nodes)


def experiment(**settings: Any) -> Experiment:
    rng = np.random.default_rng(0)
    nodes = Federation({name: (rng.normal(size=(12, 2)), rng.normal(size=12)) for name in ("a", "b")})
    given = {"tags": "simulation", "training_plan_class": Plane, "round_limit": 2, "transport": nodes, "seed": 1}
    return Experiment(**{**given, "progress": "quiet", **settings})


# breakpoints that cannot make a part again ---------------------------------------------------------------------


def test_what_cannot_be_written_down_is_told_with_the_first_breakpoint_and_once(fedplug_dir: Path) -> None:
    with experiment(node_selection_strategy=Misnamed(), save_breakpoints=True) as exp:
        with pytest.warns(
            FedplugWarning, match=r"(?s)how to make Misnamed again.*'k'.*node_selection_strategy="
        ) as told:
            exp.run()
        assert len(told) == 1
        assert exp.round_current() == 2
        exp.breakpoint()  # warnings are errors here: it is not told again


def test_what_keeps_its_arguments_is_written_down_without_a_word(fedplug_dir: Path) -> None:
    with experiment(node_selection_strategy=WellNamed(), save_breakpoints=True) as exp:
        assert exp.run() == 2


def test_a_failed_round_says_how_another_process_goes_on(fedplug_dir: Path) -> None:
    settings = {"node_selection_strategy": FailsLater(), "experimentation_folder": "mine"}
    with experiment(save_breakpoints=True, **settings) as exp, pytest.raises(RoundError) as caught:
        exp.run()
    way = 'To go on in another process: Experiment.load_breakpoint("mine", transport=...).'
    assert caught.value.cure.endswith(way)
    assert str(caught.value).count(way) == 1
    with experiment(**settings | {"experimentation_folder": "other"}) as exp, pytest.raises(RoundError) as caught:
        exp.run()
    assert "load_breakpoint" not in str(caught.value)


def test_there_is_a_way_on_from_a_first_round_that_failed_if_there_are_breakpoints(fedplug_dir: Path) -> None:
    for saved in (True, False):
        with experiment(agg_optimizer=Forgetful(), save_breakpoints=saved) as exp, pytest.raises(RoundError) as caught:
            exp.run()
        assert ("load_breakpoint" in str(caught.value)) is saved


# metrics that nobody measures ----------------------------------------------------------------------------------


def test_a_metric_that_no_test_measures_is_told_at_run_and_once() -> None:
    with experiment(test_metric="mean_squared_error") as exp:
        with pytest.warns(FedplugWarning, match=r"nothing is tested.*\(True\), and set_test_ratio") as told:
            exp.run(1)
        assert len(told) == 1
        assert told[0].filename == __file__
        exp.run(1)


def test_a_metric_with_data_to_test_on_is_told_without_asking_for_more() -> None:
    with experiment(test_metric="mean_squared_error", test_ratio=0.25) as exp:
        with pytest.warns(FedplugWarning, match="nothing is tested") as told:
            exp.run_once()
        assert "set_test_ratio" not in str(told[0].message)


def test_a_metric_that_a_test_measures_is_no_reason_to_warn() -> None:
    with experiment(test_ratio=0.25) as exp:
        exp.run(1)  # warnings are errors here
        exp.set_test_metric("mean_squared_error")
        assert exp.run_once(test_after=True) == 1
        exp.set_test_on_local_updates(True)
        exp.run(1, increase=True)


# an optimizer or an aggregator that returns no parameters -------------------------------------------------------


def test_a_forgotten_return_is_asked_for() -> None:
    with experiment(agg_optimizer=Forgetful()) as exp, pytest.raises(RoundError) as caught:
        exp.run()
    assert caught.value.message == "Optimizer Forgetful returned nothing from advance."
    assert caught.value.cure == "Is a return missing?"


def test_something_else_than_parameters_is_told_with_what_it_should_be() -> None:
    with experiment(aggregator=Adding()) as exp, pytest.raises(RoundError) as caught:
        exp.run()
    assert caught.value.message == "Aggregator Adding returned list, not Params."
    assert "aggregate must return Params" in caught.value.cure
    assert "plugins check" not in caught.value.cure


def test_a_strategy_that_raises_is_told_with_its_line() -> None:
    with experiment(node_selection_strategy=FailsLater()) as exp, pytest.raises(RoundError) as caught:
        exp.run()
    line = next(
        i for i, text in enumerate(Path(__file__).read_text().splitlines(), 1) if 'LookupError("no dice")' in text
    )
    assert f"It happened in line {line} of {__file__}." in caught.value.cure
    assert isinstance(caught.value.__cause__, LookupError)


# what an experiment says of itself -----------------------------------------------------------------------------


def test_at_the_limit_it_is_not_called_ready(capsys: pytest.CaptureFixture[str]) -> None:
    with experiment(round_limit=1) as exp:
        assert str(exp.info()).endswith("Ready to run.")
        exp.run()
        found = exp.info()
        assert found.complete
        assert "Ready" not in str(found)
        assert str(found).endswith("set_round_limit(...) or run(1, increase=True) goes on.")
        assert repr(found).startswith("<ExperimentInfo: the round limit is reached")


def test_kept_parameters_say_how_many_rounds_they_are_of() -> None:
    with experiment(round_limit=1) as exp:
        assert repr(exp.aggregated_params()) == "KeptParams(0 rounds)"
        exp.run()
        assert repr(exp.aggregated_params()) == "KeptParams(1 round: 0)"
