"""The history: records, summaries, pandas, and back from plain data that may be anything."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest
from made_up_rounds import add, some_history, tick

from fedplug.core.context import RoundContext
from fedplug.core.errors import CodecError, UsageError
from fedplug.researcher.history import History, rounds_behind


def found(history, **wanted):
    return [record for record in history.records() if wanted.items() <= record.items()]


def values(history, **wanted):
    return [record["value"] for record in found(history, **wanted)]


def test_one_flat_record_for_each_figure():
    history = History()
    told = {"loss": 0.5, "test_global_accuracy": 0.7, "test_local_f1_score": 0.8, "dp_epsilon": 1.5}
    add(history, 0, {"n0": told}, metrics={"loss": 0.25}, names={"n0": "paris"})
    common = {"round": 0, "samples": 10, "steps": 3}
    paris, everybody = {"node_id": "n0", "node": "paris"}, {"node_id": "all", "node": "all"}
    assert history.records() == [
        {**common, **paris, "phase": "train", "metric": "loss", "value": 0.5},
        {**common, **paris, "phase": "test_global", "metric": "accuracy", "value": 0.7},
        {**common, **paris, "phase": "test_local", "metric": "f1_score", "value": 0.8},
        {**common, **paris, "phase": "privacy", "metric": "epsilon", "value": 1.5},
        {**common, **paris, "phase": "timing", "metric": "train", "value": 2.0},
        {**common, **paris, "phase": "timing", "metric": "setup", "value": 0.5},
        {**common, **everybody, "phase": "train", "metric": "loss", "value": 0.25},
        {**common, **everybody, "phase": "timing", "metric": "round", "value": 4.0},
        {**common, **everybody, "phase": "traffic", "metric": "bytes_sent", "value": 100},
        {**common, **everybody, "phase": "traffic", "metric": "bytes_received", "value": 50},
    ]


def test_a_name_that_is_only_a_prefix_is_a_metric_of_its_own():
    history = History()
    add(history, 0, {"n0": {"test_global_": 1.0, "dp_": 2.0, "test_global": 3.0}})
    assert {record["metric"] for record in found(history, phase="train")} == {"test_global_", "dp_", "test_global"}


def test_counts_of_all_are_sums():
    history = some_history(private=True)
    last = found(history, round=2, node_id="all", phase="train", metric="loss")
    assert [(record["samples"], record["steps"]) for record in last] == [(30, 9)]
    assert values(history, node="clinic-0", phase="privacy", metric="epsilon") == [1.0, 2.0, 3.0]
    assert values(history, node_id="all", phase="privacy", metric="epsilon") == [1.2, 2.1, 3.2]


def test_summary_of_rounds():
    rounds = some_history().rounds()
    assert [each["round"] for each in rounds] == [0, 1, 2]
    assert rounds[1]["nodes"] == ["n000", "n001"]
    assert rounds[1]["dropped"] == {"n002": "it ran out of memory"}
    assert rounds[1]["samples"] == 20
    assert rounds[1]["seconds"] == 4.0
    assert rounds[1]["traffic"] == {"bytes_sent": 100, "bytes_received": 50}
    assert set(rounds[1]["metrics"]) == {"loss", "test_global_accuracy", "test_local_accuracy"}
    assert all(each["trained"] for each in rounds)


def test_evaluation_stands_beside_rounds_and_gives_way_to_the_round_of_its_number():
    history = some_history(rounds=2)
    add(history, 2, {"n000": {"test_global_accuracy": 0.9}}, metrics={"test_global_accuracy": 0.9}, trained=False)
    assert len(history) == 2
    assert [each["trained"] for each in history.rounds()] == [True, True, False]
    assert values(history, round=2, node_id="n000", phase="test_global") == [0.9]
    add(history, 2, {"n000": {"test_global_accuracy": 0.8, "loss": 1.0}}, metrics={"loss": 1.0})
    assert len(history) == 3
    assert values(history, round=2, node_id="n000", phase="test_global") == [0.8]
    assert values(history, round=2, node_id="all", phase="test_global") == [0.9]


def test_a_round_that_is_run_again_replaces_itself():
    history = some_history(rounds=2)
    add(history, 1, {"n000": {"loss": 7.0}})
    assert len(history) == 2
    assert values(history, round=1, phase="train", metric="loss") == [7.0]


def test_a_node_that_is_called_all_keeps_its_figures():
    history = History()
    add(history, 0, {"all": {"loss": 1.0}}, metrics={"loss": 2.0})
    assert values(history, phase="train", metric="loss") == [1.0, 2.0]
    assert [owner for owner, record in history.owned_records() if record["metric"] == "loss"] == ["all", None]


def test_matrices_are_kept_as_lists_of_every_round_and_large_ones_of_the_latest():
    history = some_history()
    assert values(history, metric="confusion_matrix") == [[[8, 2], [1, 9]], [[8, 2], [1, 10]], [[8, 2], [1, 11]]]
    assert history.values("test_global_confusion_matrix") == [[8, 2], [1, 11]]
    assert history.value_names() == ["test_global_confusion_matrix"]
    large = {"test_local_confusion_matrix": np.ones((101, 101))}
    for number in (3, 4):
        add(history, number, {"n000": {"loss": 1.0}}, values=large)
    assert [record["round"] for record in found(history, phase="test_local", metric="confusion_matrix")] == [4]


def test_a_nodes_own_matrix_is_kept_of_the_latest_round_also_after_a_breakpoint():
    history = History()
    add(history, 0, {"n0": {}}, node_values={"test_local_m": [[1]]})
    assert values(history, node_id="n0", metric="m") == [[[1]]]
    history = History.from_plain(history.to_plain())
    assert values(history, node_id="n0", metric="m") == [[[1]]]
    add(history, 1, {"n0": {}}, node_values={"test_local_m": [[2]]})
    assert values(history, node_id="n0", metric="m") == [[[2]]]


def test_names_and_ids():
    history = some_history(nodes=2, rounds=2)
    assert history.names() == {"n000": "clinic-0", "n001": "clinic-1"}
    add(history, 2, {"n009": {"loss": 1.0}})
    assert history.names()["n009"] == "n009"


def test_axis_counts_the_rounds_that_made_the_model():
    assert [rounds_behind(phase, 4) for phase in ("test_global", "test_local", "train")] == [4, 5, 5]


def test_frame_has_typed_columns_and_only_numbers():
    frame = some_history().frame()
    assert list(frame.columns) == ["round", "node_id", "node", "phase", "metric", "value", "samples", "steps"]
    assert str(frame["value"].dtype) == "float64"
    assert str(frame["round"].dtype) == "int64"
    assert "confusion_matrix" not in set(frame["metric"])
    losses = frame[(frame.phase == "train") & (frame.node == "clinic-1")].set_index("round")["value"]
    assert losses.to_dict() == {0: 1.01, 1: 0.51, 2: 1 / 3 + 0.01}
    assert len(History().frame()) == 0


def test_frame_without_pandas_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match=r"pip install pandas, or use history\.records\(\)"):
        History().frame()


def test_it_can_be_read():
    assert repr(History()) == "History(no rounds yet)"
    text = repr(some_history())
    assert (
        text == "History(3 rounds, 3 nodes; last loss 0.3433, test_global_accuracy 0.6677, test_local_accuracy 0.7677)"
    )
    history = some_history(rounds=25)
    add(history, 25, {"n000": {"<b>x": 1.0}}, metrics={"<b>x": 1.0})
    html = history._repr_html_()
    assert "6 earlier rounds not shown" in html
    assert "<th>&lt;b&gt;x</th>" in html
    assert html.count("<tr>") == 21
    assert not History()
    assert history


# --- training curves ---


def test_curves_count_steps_over_rounds_and_forget_failed_attempts():
    history = History()
    history.round_started(RoundContext(round=0), ["n0"])
    tick(history, "n0", 0, 1, loss=3.0)
    tick(history, "n0", 0, 5, loss=2.0)
    history.round_started(RoundContext(round=0), ["n0"])  # the round failed and is run again
    tick(history, "n0", 0, 1, loss=2.5, lr=0.1)
    tick(history, "n0", 0, 9, phase="test-local", loss=9.0)
    tick(history, "n0", 7, 1, loss=9.0)  # of no round that is on
    add(history, 0, {"n0": {"loss": 1.0}})
    tick(history, "n0", 0, 3, loss=9.0)  # a straggler
    history.round_started(RoundContext(round=1), ["n0"])
    tick(history, "n0", 1, 2, loss=1.0)
    assert history.curves() == {"n0": [(0, 1, 2.5), (1, 5, 1.0)]}
    assert history.curves("lr") == {"n0": [(0, 1, 0.1)]}


# --- breakpoints ---


def test_back_from_json_with_what_json_lacks():
    history = some_history(private=True)
    strange = {"nan": math.nan, "inf": math.inf, "minus": -math.inf, "tiny": 5e-324, "third": 1 / 3}
    nested = {"test_local_x": {"a": [1, 2.0, None, "nan", {"b": math.inf}], "m": np.array([[np.nan]])}}
    history.round_started(RoundContext(round=3), ["n000"])
    tick(history, "n000", 3, 1, loss=math.nan)
    add(history, 3, {"n000": strange}, metrics=strange, values=nested)
    add(history, 4, {"n000": {"loss": 1.0}}, trained=False)
    text = json.dumps(history.to_plain(), allow_nan=False)
    back = History.from_plain(json.loads(text))
    assert json.dumps(back.to_plain(), allow_nan=False) == text
    assert repr(back.records()) == repr(history.records())
    assert repr(back.rounds()) == repr(history.rounds())
    assert repr(back.curves()) == repr(history.curves())
    assert back.names() == history.names()
    back.round_started(RoundContext(round=4), ["n000"])  # and goes on where the first stood
    history.round_started(RoundContext(round=4), ["n000"])
    for each in (back, history):
        tick(each, "n000", 4, 1, loss=0.5)
    assert back.curves()["n000"][-1] == history.curves()["n000"][-1] == (4, 13, 0.5)


def broken(path, value):
    plain = json.loads(json.dumps(some_history().to_plain()))
    place = plain
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return plain


def nest(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "plain",
    [
        None,
        [],
        {},
        "history",
        b"bytes",
        broken(["version"], 2),
        broken(["version"], True),
        broken(["latest"], [0]),
        broken(["latest"], ["0", True]),
        broken(["names"], {"n0": 3}),
        broken(["extra"], 1),
        broken(["rounds"], {"0": {}}),
        broken(["rounds", 0, "round"], -1),
        broken(["rounds", 0, "round"], 2**70),
        broken(["rounds", 0, "trained"], 1),
        broken(["rounds", 0, "extra"], 1),
        broken(["rounds", 0, "seconds"], "4"),
        broken(["rounds", 0, "seconds"], {"$float": "12"}),
        broken(["rounds", 0, "seconds"], {"$float": ["nan"]}),
        broken(["rounds", 0, "metrics", "loss"], None),
        broken(["rounds", 0, "nodes", "n000", "samples"], -1),
        broken(["rounds", 0, "nodes", "n000", "samples"], 1.5),
        broken(["rounds", 0, "nodes", "n000", "metrics"], []),
        broken(["rounds", 0, "values", "x"], nest(1000)),
        broken(["rounds", 0, "values", "x"], object()),
        broken(["rounds", 0, "values", "x"], {1: 2}),
        broken(["training"], None),
        broken(["training", "curves", "n000", "loss", "points"], [[0, 1]]),
        broken(["training", "curves", "n000", "loss", "points"], [[0, -1, 1.0]]),
        broken(["training", "curves", "n000", "loss", "stride"], 0),
        broken(["training", "offsets", "n000"], "1"),
    ],
)
def test_nonsense_is_refused_with_a_typed_error(plain):
    with pytest.raises(CodecError, match=r"history|saved state"):
        History.from_plain(plain)
