"""Breakpoints: what an experiment is after one is what it would have been without, and nothing half written counts."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from line_experiments import ARGS, Counting, Momentum, experiment, federation, load
from safetensors.numpy import load_file

from fedplug import Aggregator, Experiment, FedplugWarning, RandomStrategy
from fedplug.core.errors import BreakpointError, StoreError, UsageError
from fedplug.researcher import breakpoints
from fedplug.researcher.breakpoints import breakpoints_of, read_breakpoint


class Last(Aggregator):
    """The update of the last node, which no plugin offers."""

    def aggregate(self, start, updates, ctx):
        return updates[-1].params


@pytest.fixture(autouse=True)
def home(fedplug_dir: Path) -> Path:
    return fedplug_dir / "var" / "experiments"


@pytest.mark.parametrize(
    ("settings", "given"),
    [
        ({}, {}),
        ({"node_selection_strategy": RandomStrategy(0.5)}, {}),
        ({"agg_optimizer": Momentum}, {"agg_optimizer": Momentum}),
        ({"training_args": {**ARGS, "random_seed": 3}}, {}),
    ],
    ids=["all nodes", "random nodes", "momentum", "random_seed"],
)
@pytest.mark.parametrize("done", [1, 4])
def test_going_on_from_a_breakpoint_gives_the_bits_of_an_undisturbed_run(
    settings: dict[str, Any], given: dict[str, Any], done: int
) -> None:
    with experiment(**settings) as whole:
        whole.run()
    with experiment(**settings) as first:
        first.run(done)
    with load(**given) as second:
        assert (second.id, second.round_current(), second.round_limit()) == (first.id, done, 6)
        assert second.experimentation_path() == first.experimentation_path()
        assert second.training_replies() == first.training_replies()
        assert second.run() == 6 - done
        assert second.params() == whole.params()
        assert [sorted(r) for r in second.training_replies().values()] == [
            sorted(r) for r in whole.training_replies().values()
        ]
        assert len(second.history) == len(whole.history)


def test_a_breakpoint_holds_every_setting(home: Path) -> None:
    with experiment(
        nodes=["a", "b", "c"], model_args={"note": "x", "nan": float("nan")}, aggregator="fedaverage", tensorboard=True,
        retain_full_history=True, experimentation_folder="mine", test_ratio=0.2, test_on_global_updates=True,
        node_selection_strategy=RandomStrategy(count=2),
    ) as first:  # fmt: skip
        first.run(2)
    with load("mine") as second:
        for name in (
            "tags", "nodes", "training_args", "round_limit", "round_current", "save_breakpoints", "tensorboard", "seed",
            "retain_full_history", "experimentation_folder", "test_ratio", "test_on_global_updates",
            "aggregated_params",
        ):  # fmt: skip
            assert getattr(second, name)() == getattr(first, name)(), name
        np.testing.assert_equal(second.model_args(), first.model_args())
        assert second.training_data().data() == first.training_data().data()
        assert second.training_plan_bundle() == first.training_plan_bundle()
        assert second.strategy().count == 2
        assert second.history.records() == first.history.records()
        assert second.training_plan().model()["w"].tolist() == first.training_plan().model()["w"].tolist()
        assert second.training_plan_class().__name__ == "LinePlan"


def test_the_files_can_be_read_by_people_and_by_other_software() -> None:
    with experiment() as exp:
        exp.run(1)
        place = exp.experimentation_path() / "breakpoint_0001"
        stored = load_file(place / "params.safetensors")
        np.testing.assert_array_equal(stored["w"], exp.params()["w"])
        assert json.loads((place / "breakpoint.json").read_text())["round_current"] == 1
        assert "class LinePlan" in (place / "training_plan.py").read_text()
        assert not list(place.parent.rglob("*.part"))


def test_a_strategy_that_remembers_goes_on_where_it_was() -> None:
    with experiment(node_selection_strategy=Counting()) as exp:
        exp.run(3)
    with pytest.raises(BreakpointError, match=r"strategy, \S+\.Counting, could not be written down") as caught:
        load()
    assert "load_breakpoint(..., node_selection_strategy=...)" in caught.value.cure
    with load(node_selection_strategy=Counting) as exp:
        assert exp.strategy().rounds == 3


def test_a_component_of_another_class_begins_anew_with_a_warning() -> None:
    with experiment(node_selection_strategy=Counting()) as exp:
        exp.run(1)
    with pytest.warns(FedplugWarning, match="Counting is replaced by RandomStrategy"):
        load(node_selection_strategy=RandomStrategy(0.5)).close()


def test_an_aggregator_that_no_plugin_offers_must_be_given() -> None:
    with experiment(aggregator=Last()) as exp:
        exp.run(1)
    with pytest.raises(BreakpointError, match=r"Last, could not be written down .*no installed plugin offers"):
        load()
    with load(aggregator=Last) as exp:
        assert exp.run(1) == 1


def test_settings_can_be_changed_after_loading() -> None:
    with experiment(round_limit=2) as exp:
        exp.run()
    with load() as exp:
        exp.set_training_args({**ARGS, "epochs": 1})
        assert exp.run(1, increase=True) == 1
        assert exp.training_replies()[2]["a"]["steps"] * 2 == exp.training_replies()[1]["a"]["steps"]


def test_a_breakpoint_can_be_saved_by_hand_before_and_after_rounds() -> None:
    with experiment(save_breakpoints=False) as exp:
        first = exp.breakpoint()
        exp.run(1)
        assert breakpoints_of(exp.experimentation_path()) == [first]
        assert exp.breakpoint().name == "breakpoint_0001"
    with load(first) as exp:
        assert (exp.round_current(), exp.save_breakpoints()) == (0, False)
        assert exp.run(1) == 1


def test_an_earlier_breakpoint_may_be_chosen_and_nothing_is_overwritten() -> None:
    with experiment() as exp:
        exp.run(3)
        folder = exp.experimentation_path()
        third = (folder / "breakpoint_0003" / "params.safetensors").read_bytes()
    with load(folder / "breakpoint_0001") as exp:
        exp.set_training_args({**ARGS, "epochs": 1})
        exp.run(2)
    assert (folder / "breakpoint_0003" / "params.safetensors").read_bytes() != third
    assert (folder / "breakpoint_0003.replaced-1" / "params.safetensors").read_bytes() == third
    with load(folder) as exp:
        assert exp.round_current() == 3


def test_without_a_path_the_experiment_that_was_saved_last_goes_on() -> None:
    with experiment(experimentation_folder="zebra") as first, experiment(experimentation_folder="ant") as second:
        first.run(1)
        second.run(2)
        first.run(1)
        for name, when in (("zebra", 2_000), ("ant", 1_000)):
            os.utime(breakpoints_of(second.experimentation_path().parent / name)[-1] / "breakpoint.json", (when, when))
    with load() as exp:
        assert (exp.experimentation_folder(), exp.round_current()) == ("zebra", 2)


def test_what_is_not_there_is_told_with_what_is(home: Path) -> None:
    with pytest.raises(BreakpointError, match="There is no breakpoint in") as caught:
        load()
    assert "save_breakpoints=True" in caught.value.cure
    with experiment() as exp:
        exp.run(2)
    with pytest.raises(BreakpointError, match="no breakpoint at"):
        load("nothing")
    with pytest.raises(BreakpointError, match=r"is not a breakpoint|no breakpoint at") as caught:
        load(exp.experimentation_path() / "breakpoint_0007")
    assert "breakpoint_0001, breakpoint_0002" in caught.value.cure


def test_a_damaged_breakpoint_is_passed_over_for_the_one_before() -> None:
    with experiment() as exp:
        exp.run(3)
        folder = exp.experimentation_path()
    raw = bytearray((folder / "breakpoint_0003" / "params.safetensors").read_bytes())
    raw[-3] ^= 1
    (folder / "breakpoint_0003" / "params.safetensors").write_bytes(raw)
    (folder / "breakpoint_0002" / "breakpoint.json").write_text("{")
    with pytest.warns(FedplugWarning) as told:
        exp = load()
    with exp:
        assert exp.round_current() == 1
    assert sum("is damaged" in str(each.message) for each in told) == 2
    with pytest.raises(BreakpointError, match="is damaged"):
        load(folder / "breakpoint_0003")


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 3}, {"round_current": "x"}, {"arrays": -1}, {"arrays": 10**9}, {"unknown": 1},
        {"training_args": {"epoch": 1}}, {"model_args": {"a": {"$new": 1}}},
        {"plan": {"class_name": "P", "source": "", "dependencies": [], "helpers": {}, "hash": "0"}},
        {"rounds": {"file": "../x.jsonl", "nbytes": 1, "sha256": ""}}, {"history": {"version": 9}},
        {"acked": {"a": {"round": 0, "state_id": "A5" * 32}}}, {"acked": {"a": 0}},
        {"acked": {"a": {"round": 0, "state_id": "a5" * 32 + "\n"}}},
    ],
)  # fmt: skip
def test_a_manifest_that_was_tampered_with_is_refused(change: dict[str, Any]) -> None:
    with experiment() as exp:
        exp.run(1)
        manifest = exp.experimentation_path() / "breakpoint_0001" / "breakpoint.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **change}))
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the type is looked at below
        load(manifest.parent)
    assert type(caught.value).__module__ == "fedplug.core.errors"


def test_another_layout_is_told() -> None:
    with experiment() as exp:
        exp.run(1)
        manifest = exp.experimentation_path() / "breakpoint_0001" / "breakpoint.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "version": 99}))
    with pytest.raises(BreakpointError, match=r"another version of FedPlug \(layout 99, this one reads 1\)"):
        load(manifest.parent)


def test_a_breakpoint_that_others_may_write_is_not_executed() -> None:
    with experiment() as exp:
        exp.run(1)
        place = exp.experimentation_path() / "breakpoint_0001"
    place.chmod(0o777)
    with pytest.raises(BreakpointError, match="others may write to it") as caught:
        load(place)
    assert "trusted=True" in caught.value.cure
    load(place, trusted=True).close()


def test_what_differs_at_the_nodes_is_told_at_loading() -> None:
    with experiment(transport=federation("a", "b", "c")) as exp:
        exp.run(1)
    changed = federation("b", "c", "e")
    changed._data._datasets["b"] = federation("x").dataset("x")  # removed and added again: another data set
    with pytest.warns(FedplugWarning, match="Since the breakpoint was saved") as told:
        exp = load(transport=changed)
    text = str(told[0].message)
    with exp:
        assert exp.training_data().node_ids() == ["a", "b", "c"]
    assert "Node 'a' is not connected." in text
    assert "Node 'b' does not have the data set" in text
    assert "Node 'e' is new: it has data with these tags, and takes no part." in text
    assert "'c'" not in text


def test_a_full_disk_is_told_and_leaves_the_last_breakpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    with experiment() as exp:
        exp.run(1)
        folder = exp.experimentation_path()

        def full(path: Path, data: bytes) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(breakpoints, "_write", full)
            with pytest.raises(StoreError, match="No space left on device"):
                exp.run(1)
        assert exp.round_current() == 2
        assert [point.name for point in breakpoints_of(folder)] == ["breakpoint_0000", "breakpoint_0001"]
        assert not list(folder.glob(".*"))
        exp.run(1)  # first of all it saves what could not be saved
    assert [point.name for point in breakpoints_of(folder)] == [f"breakpoint_{n:04d}" for n in range(4)]


def test_drafts_of_a_crash_are_cleared_away_and_never_read() -> None:
    with experiment() as exp:
        exp.run(1)
        folder = exp.experimentation_path()
        shutil.copytree(folder / "breakpoint_0001", folder / ".breakpoint_0002.123.part")
        with load(folder) as second:
            assert second.round_current() == 1
        exp.run(1)
    assert not list(folder.glob(".*"))


def test_the_folder_of_another_experiment_is_not_mixed_with() -> None:
    with experiment(experimentation_folder="mine") as exp:
        exp.run(1)
    with (
        experiment(experimentation_folder="mine") as exp,
        pytest.raises(UsageError, match="breakpoints of another exp"),
    ):
        exp.run(1)
    with experiment(experimentation_folder="mine", save_breakpoints=False) as exp:
        exp.run(1)


def test_model_args_that_cannot_be_saved_are_named() -> None:
    with (
        experiment(model_args={"x": {1, 2}}, save_breakpoints=False) as exp,
        pytest.raises(UsageError, match=r"model_args\['x'\] holds a set"),
    ):
        exp.breakpoint()


def test_an_experiment_of_a_simulation_needs_it_again() -> None:
    with experiment() as exp:
        exp.run(1)
    with pytest.raises(BreakpointError, match="through an object") as caught:
        Experiment.load_breakpoint(progress="quiet")
    assert "transport=" in caught.value.cure


def test_history_of_parameters_stays_on_disk_and_across_a_breakpoint() -> None:
    with experiment(retain_full_history=True) as exp:
        exp.run(2)
        first_two = {number: kept["params"] for number, kept in exp.aggregated_params().items()}
    with load() as exp:
        exp.run(1)
        kept = exp.aggregated_params()
        assert list(kept) == [0, 1, 2]
        assert {number: kept[number]["params"] for number in (0, 1)} == first_two
        assert kept[2]["params"] is exp.params()
        with pytest.raises(KeyError):
            kept[3]
        (exp.experimentation_path() / "history" / "params_0001.safetensors").write_bytes(b"x")
        with pytest.raises(StoreError, match="round 1 cannot be read"):
            kept[0]


def test_a_breakpoint_of_every_round_reads_back_as_it_was_written() -> None:
    with experiment() as exp:
        for number in range(1, 4):
            exp.run(1)
            saved = read_breakpoint(exp.experimentation_path() / f"breakpoint_{number:04d}")
            snapshot, arrays = exp._snapshot(exp.experimentation_folder(), saved.snapshot.rounds)
            assert saved.arrays == tuple(arrays)
            assert msgspec.structs.replace(saved.snapshot, saved="") == msgspec.structs.replace(snapshot, saved="")
            assert {node: acked.round for node, acked in saved.snapshot.acked.items()} == dict.fromkeys(
                "abcd", number - 1
            )


# the rounds, beside the breakpoints --------------------------------------------------------------------------


def test_a_breakpoint_does_not_grow_with_the_rounds() -> None:
    with experiment(round_limit=12, training_args={**ARGS, "log_interval": 0}) as exp:
        exp.run()
        folder = exp.experimentation_path()
        sizes = [(point / "breakpoint.json").stat().st_size for point in breakpoints_of(folder, first=1)]
        assert sizes[-1] - sizes[0] < 100  # a digit here and there
        assert len((folder / "history" / "rounds.jsonl").read_bytes().splitlines()) == 12


def test_two_ways_from_one_breakpoint_keep_their_rounds_apart() -> None:
    federation_of_all = federation()
    with experiment(transport=federation_of_all) as first:
        first.run(3)
        folder, records = first.experimentation_path(), first.history.records()
    with load(folder / "breakpoint_0002") as second:
        second.set_training_args({**ARGS, "epochs": 1})
        second.run(2)
        assert second.training_replies()[2]["a"]["steps"] * 2 == second.training_replies()[1]["a"]["steps"]
        way = second.history.records()
    assert sorted(entry.name for entry in (folder / "history").iterdir()) == ["rounds-2.jsonl", "rounds.jsonl"]
    with load(folder / "breakpoint_0003.replaced-1") as back:
        assert back.history.records() == records
    with load(folder) as last:
        assert last.history.records() == way


def test_rounds_that_are_gone_or_changed_are_told() -> None:
    with experiment() as exp:
        exp.run(2)
        log = exp.experimentation_path() / "history" / "rounds.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole.replace(b"1", b"2", 1))
    with pytest.raises(BreakpointError, match="rounds of the breakpoint are damaged"):
        load(exp.experimentation_path() / "breakpoint_0002")
    log.write_bytes(whole[:-5])
    with pytest.warns(FedplugWarning, match="rounds of the breakpoint are damaged"):
        exp = load(exp.experimentation_path())
    with exp:
        assert exp.round_current() == 1
    log.unlink()
    with pytest.raises(BreakpointError, match="cannot be read from") as caught:
        load(exp.experimentation_path())
    assert "moved as a whole" in caught.value.cure


def test_a_log_that_could_not_be_written_goes_on_when_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    with experiment() as exp:
        exp.run(1)
        real = os.fsync

        def full(descriptor: int) -> None:
            if Path(f"/proc/self/fd/{descriptor}").readlink().name == "rounds.jsonl":
                raise OSError(28, "No space left on device")
            real(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(StoreError, match="No space left on device"):
                exp.run(1)
        assert os.fsync is real
        exp.run(1)
        replies = exp.training_replies()
    with load() as exp:
        assert exp.training_replies() == replies
        assert len(exp.history) == 3


@pytest.fixture(autouse=True)
def _no_surprising_warning() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
