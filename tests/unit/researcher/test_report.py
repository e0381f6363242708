"""The HTML report: one file, whole, safe whatever nodes and users write, the same for the same input."""

from __future__ import annotations

import math
import re
import sys
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import pytest
from made_up_rounds import add, some_history, tick

from fedplug.core.context import RoundContext
from fedplug.core.errors import StoreError, UsageError
from fedplug.researcher.history import History
from fedplug.researcher.report import write_report
from fedplug.researcher.report_parts import matrix, plain_text

WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SETTINGS = {"aggregator": "FedAverage()", "seed": 7, "Training arguments": {"epochs": 2, "dp_args": None}}
EVIL = '<script>alert("x")</script><img src=http://evil.example/x onerror=alert(1)>'
VOID = {"meta", "br", "line", "img", "link", "input"}


class Page(HTMLParser):
    """What a browser would see; complains about tags that do not fit."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words, self.open = [], [], [], []
        self.cells, self.tables = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.open

    def handle_data(self, data):
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    @property
    def text(self):
        return " ".join(self.words)

    def table(self, first_head):
        return next(table for table in self.tables if table[0][0] == first_head)


def report(tmp_path, history, settings=SETTINGS, **more):
    path = write_report(tmp_path / "report.html", history, settings, generated=WHEN, **more)
    return path.read_text(encoding="utf-8")


def test_it_tells_the_whole_story(tmp_path):
    text = report(tmp_path, some_history(private=True), title="Hearts", planned_rounds=5, plan_source="class Plan: ...")
    page = Page(text)
    for words in ("Hearts", "3 of 5 rounds done.", "2026-01-02 03:04:05 UTC", "Loss while training", "12.0 s", "300 B"):
        assert words in page.text, words
    for heading in ("Curves", "Confusion matrix", "Nodes", "Rounds", "Differential privacy", "Settings"):
        assert f"<h2>{heading}</h2>" in text
    nodes = page.table("node")
    assert nodes[0][:5] == ["node", "samples", "steps", "rounds", "time spent"]
    assert nodes[3][:5] == ["clinic-2n002", "10", "6", "2 of 3", "5.0 s"]
    rounds = page.table("round")
    assert rounds[2][:7] == ["2", "2", "1", "4.0 s", "2.5 s", "100 B", "50 B"]
    dropped = [table for table in page.tables if table[0] == ["node", "round", "reason"]]
    assert dropped == [[["node", "round", "reason"], ["clinic-2", "2", "it ran out of memory"]]]
    privacy = [table for table in page.tables if table[0] == ["node", "epsilon", "delta"]]
    assert privacy[0][1:] == [
        ["clinic-0", "3", "1e-05"],
        ["clinic-1", "3.1", "1e-05"],
        ["clinic-2", "3.2", "1e-05"],
        ["all nodes together", "3.2", "1e-05"],
    ]
    assert page.table("class")[2:] == [["0", "8", "2"], ["1", "1", "11"]]
    settings = [table for table in page.tables if table[0] == ["name", "value"]]
    assert settings == [
        [["name", "value"], ["aggregator", "FedAverage()"], ["seed", "7"]],
        [["name", "value"], ["epochs", "2"], ["dp_args", "none"]],
    ]
    assert "class Plan: ..." in page.text


def test_accounts_of_privacy_count_more_than_what_nodes_say(tmp_path):
    accounts = {
        "n000": {"type": "central", "epsilon": 1.25, "delta": 1e-5, "rounds": 3},
        "n001": {"type": "central", "epsilon": math.inf, "delta": 1e-5, "rounds": 2, "reason": "<b>no noise"},
    }
    text = report(tmp_path, some_history(private=True), privacy=accounts)
    (table,) = [table for table in Page(text).tables if table[0][:2] == ["node", "epsilon"]]
    assert table == [
        ["node", "epsilon", "delta", "reason", "rounds", "type"],
        ["clinic-0", "1.25", "1e-05", "-", "3", "central"],
        ["clinic-1", "inf", "1e-05", "<b>no noise", "2", "central"],
    ]


def test_curves_are_pictures_with_words_for_those_who_cannot_see(tmp_path):
    page = Page(report(tmp_path, some_history()))
    labels = [value for tag, name, value in page.attributes if (tag, name) == ("div", "aria-label")]
    assert "Loss while training, all nodes together: 1.01 after 1 round, 0.3433 after 3 rounds." in labels
    assert "Loss of 3 nodes over 9 optimizer steps." in labels
    assert page.tags.count("figure") == 6
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 100
    used = {value for _, name, value in page.attributes if name.endswith("href")}
    assert used <= {f"#{name}" for name in ids}


def test_it_needs_nothing_from_outside_and_no_script(tmp_path):
    text = report(tmp_path, some_history(), plan_source="x")
    page = Page(text)
    assert not {"script", "link", "iframe", "img", "object", "embed", "base", "form"} & set(page.tags)
    assert "default-src 'none'" in text
    assert not [value for _, name, value in page.attributes if re.search(r"(?i)https?:|//|javascript:", value)]
    assert "@import" not in text
    assert not re.findall(r"url\((?!#)", text)
    assert 'lang="en"' in text


def test_whatever_is_written_stays_text(tmp_path):
    history = History()
    names = {"n0": EVIL, f"n1{EVIL}": "\x1b[31m\u202eevil"}
    told = {"loss": 1.0, f"test_global_{EVIL}": 0.5, f"dp_{EVIL}": 1.0}
    add(
        history,
        0,
        dict.fromkeys(names, told),
        metrics=told,
        dropped={"n9": EVIL},
        values={f"test_global_{EVIL}": {EVIL: EVIL}, "test_local_m": [[EVIL]], f"test_local_{EVIL}": [[1]]},
        names=names,
        traffic={EVIL: 1},
    )
    settings = {EVIL: EVIL, "Training arguments": {EVIL: {EVIL: EVIL}}, "x": '"><svg onload=alert(1)>'}
    text = report(tmp_path, history, settings, title=EVIL, plan_source=f"{EVIL}</code></pre></details>{EVIL}\x00")
    page = Page(text)
    assert not {"script", "img"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert '<script>alert("x")</script>' in page.text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\x00" not in text


def test_the_same_input_gives_the_same_bytes(tmp_path):
    made = []
    for name in ("a", "b"):
        path = write_report(
            tmp_path / f"{name}.html", some_history(private=True), SETTINGS, generated=WHEN, plan_source="x = 1"
        )
        made.append(path.read_bytes())
    assert made[0] == made[1]
    other = write_report(tmp_path / "c.html", some_history(private=True), SETTINGS, plan_source="x = 1").read_text(
        "utf-8"
    )
    stamp = r"Report of [^<]*"
    assert re.sub(stamp, "", other) == re.sub(stamp, "", made[0].decode())


@pytest.mark.parametrize("nodes", [1, 7, 8, 60])
def test_legend_fits_the_curves(tmp_path, nodes):
    text = report(tmp_path, some_history(nodes=nodes, rounds=2))
    legend = re.search(r'<ul class="legend".*?</ul>', text)[0]
    assert legend.count("<li>") == (nodes + 1 if nodes <= 7 else 2)
    assert len(Page(text).table("node")) == nodes + 1


def test_a_running_experiment_without_a_round(tmp_path):
    history = History()
    assert "No round is finished yet." in report(tmp_path, history, {})
    history.round_started(RoundContext(round=0), ["n0"])
    tick(history, "n0", 0, 1, loss=2.0)
    text = report(tmp_path, history, {}, planned_rounds=1)
    assert "Loss step by step" in text
    assert "0 of 1 round done." in text


def test_an_evaluation_alone_and_a_round_without_anything(tmp_path):
    history = History()
    found = {"test_global_accuracy": 0.5}
    add(history, 0, {"n0": found}, metrics=found, dropped={"n1": "gone"}, trained=False)
    text = report(tmp_path, history)
    assert "Accuracy of the global model" in text
    assert ["n1", "test after 0", "gone"] in [row for table in Page(text).tables for row in table]
    add(history, 0, {}, dropped={"n0": "gone"}, traffic={})
    text = report(tmp_path, history)
    assert "Work that did not count" in text
    assert "Traffic of each round" not in text


def test_hundreds_of_rounds(tmp_path):
    text = report(tmp_path, some_history(nodes=2, rounds=150))
    assert "The 50 rounds before these are left out here." in text
    assert len(Page(text).table("round")) == 101


def test_figures_that_cannot_be_drawn(tmp_path):
    history = History()
    history.round_started(RoundContext(round=0), ["n0"])
    for step, value in enumerate((math.nan, math.inf, 1e308, -1e308)):
        tick(history, "n0", 0, step, loss=value)
    strange = {"loss": math.nan, "test_global_accuracy": math.inf, "dp_epsilon": math.inf}
    add(history, 0, {"n0": strange}, metrics=strange, values={"test_global_m": [[math.nan, math.inf], [1e308, 0]]})
    page = Page(report(tmp_path, history))
    assert [row[0] for row in page.table("node")] == ["node", "n0"]
    assert "inf" in page.table("node")[1]


def test_matrices_and_other_values(tmp_path):
    assert matrix("m", [[1, 2], [3]]) == ""
    assert matrix("m", np.ones((41, 41)).tolist()) == ""
    assert matrix("m", []) == ""
    assert "--share:0.750" in matrix("m", [[3, 1], [0, 0]])
    history = History()
    large = np.ones((50, 50))
    add(history, 0, {"n0": {}}, values={"test_global_confusion_matrix": large, "test_local_recall": [0.5, 1.0]})
    rows = Page(report(tmp_path, history, {})).table("result")[1:]
    assert rows[0][1].startswith("50 x 50 numbers, too many for this page")
    assert rows[1] == ["Recall after local training", "[0.5, 1.0]"]


def test_settings_as_people_read_them():
    assert [plain_text(value) for value in (None, True, False, "a", 1e-5, {"lr": 0.1}, ["é"])] == [
        "none", "yes", "no", "a", "1e-05", '{"lr": 0.1}', '["é"]',
    ]  # fmt: skip


def test_where_it_goes(tmp_path):
    folder = tmp_path / "there"
    folder.mkdir()
    assert write_report(folder, some_history(), {}) == folder / "report.html"
    assert write_report(str(folder / "x.HTM"), some_history(), {}).is_file()
    assert write_report(folder / "plain", some_history(), {}) == folder / "plain.html"
    assert sorted(path.name for path in folder.iterdir()) == ["plain.html", "report.html", "x.HTM"]


@pytest.mark.parametrize("name", ["r.pdf", "r.html.txt"])
def test_a_report_is_refused_a_name_of_another_kind_of_file(tmp_path, name):
    with pytest.raises(UsageError, match="ends like something else"):
        write_report(tmp_path / name, some_history(), {})
    assert list(tmp_path.iterdir()) == []


def test_a_report_makes_no_folder_as_an_exported_model_makes_none(tmp_path):
    (tmp_path / "file").write_text("x")
    for name in ("new", "file"):
        with pytest.raises(UsageError, match="There is no folder"):
            write_report(tmp_path / name / "x.html", some_history(), {})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def many_metrics():
    history = History()
    told = {"loss": 0.5} | {f"test_global_m{i}": float(i) for i in range(8)}
    told |= {"test_global_auc": 0.875, "test_global_auc_error_bound": 0.015625}
    add(history, 0, {"n": told}, metrics=told)
    return history


def test_what_finds_no_room_is_counted(tmp_path):
    text = Page(report(tmp_path, many_metrics())).text
    assert "and 4 more metrics: the curves show them." in text  # loss and nine of the test, six are shown
    assert text.count("And 4 more metrics: see the curves.") == 2


def test_an_error_bound_stands_beside_its_curve_and_nowhere_else(tmp_path):
    text = report(tmp_path, many_metrics())
    assert "last point exact to ±0.01562" in text
    assert "error" not in Page(text).text.casefold()


def test_the_old_report_stays_if_the_new_one_fails(tmp_path, monkeypatch):
    path = write_report(tmp_path / "r.html", some_history(), {}, generated=WHEN)
    before = path.read_bytes()

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(StoreError, match="No space left"):
        write_report(path, some_history(nodes=2), {})
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["r.html"]


def test_without_matplotlib_it_says_what_to_do(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError) as caught:
        write_report(tmp_path / "x.html", some_history(), {})
    assert caught.value.cure == "pip install 'fedplug[report]'"
    assert list(tmp_path.iterdir()) == []
