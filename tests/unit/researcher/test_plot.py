"""The quick picture: what is drawn, also of names and figures that matplotlib would take for something else."""

from __future__ import annotations

import math
import sys

import pytest
from made_up_rounds import add, some_history

from fedplug.core.errors import UnknownNameError, UsageError
from fedplug.researcher.history import History
from fedplug.researcher.plot import plot
from fedplug.researcher.series import Series, all_series, words

PNG = b"\x89PNG\r\n\x1a\n"


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes]


def labels(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def lines(axes):
    """``[(xs, ys), ...]`` of the lines of a panel, the thickest first."""
    ordered = sorted(axes.get_lines(), key=lambda line: -line.get_linewidth())
    return [([float(x) for x in line.get_xdata()], [float(y) for y in line.get_ydata()]) for line in ordered]


def test_a_line_for_each_node_and_a_thick_one_for_all():
    figure = plot(some_history())
    assert titles(figure) == ["Loss while training", "Accuracy of the global model", "Accuracy after local training"]
    assert labels(figure) == ["all nodes together", "clinic-0", "clinic-1", "clinic-2"]
    together, first, _, third = lines(figure.axes[0])
    assert together == ([1.0, 2.0, 3.0], [1.01, pytest.approx(0.505), pytest.approx(1 / 3 + 0.01)])
    assert first == ([1.0, 2.0, 3.0], [1.0, 0.5, pytest.approx(1 / 3)])
    assert third[0] == [1.0, 3.0]  # it was dropped in round 2
    assert lines(figure.axes[1])[0][0] == [0.0, 1.0, 2.0]  # the global model before each round


def test_many_nodes_become_a_band():
    figure = plot(some_history(nodes=300))
    assert labels(figure) == ["all nodes together", "middle 80 % of the nodes"]
    assert [len(axes.get_lines()) for axes in figure.axes] == [1, 1, 1]
    assert figure._repr_png_().startswith(PNG)


def test_a_band_holds_the_middle_four_fifths():
    nodes = {f"n{i}": [(1.0, float(i))] for i in range(101)}
    assert Series("train", "loss", nodes=nodes).bands() == [(1.0, 10.0, 90.0)]
    assert Series("train", "loss", nodes={"n": [(1.0, math.nan)]}).bands() == []


def test_metrics_can_be_chosen_by_short_and_full_names():
    history = some_history(private=True)
    assert titles(plot(history, "accuracy")) == ["Accuracy of the global model", "Accuracy after local training"]
    chosen = plot(history, ["test_local_accuracy", "loss", "epsilon"])
    assert titles(chosen) == ["Accuracy after local training", "Loss while training", "Privacy: epsilon"]
    with pytest.raises(UnknownNameError, match="no metric named 'acuracy'") as caught:
        plot(history, "acuracy")
    assert "Did you mean 'accuracy'?" in str(caught.value)


def test_a_notebook_shows_it_and_pyplot_is_left_alone():
    before = "matplotlib.pyplot" in sys.modules
    assert plot(some_history())._repr_png_().startswith(PNG)
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_the_settings_of_the_user_are_neither_used_nor_changed():
    import matplotlib as mpl

    with mpl.rc_context({"axes.facecolor": "red", "font.size": 40.0}):
        figure = plot(some_history())
        assert mpl.rcParams["font.size"] == 40.0
        assert figure.axes[0].get_facecolor() == (1.0, 1.0, 1.0, 1.0)


def test_names_are_shown_as_they_are():
    names = {"n0": "$\\frac$", "n1": "_hidden", "n2": "東京", "n3": "a\x1b[31m\u202e" + "x" * 99}
    history = History()
    add(history, 0, {node: {"loss": 1.0, "$x^$": 2.0} for node in names}, metrics={"loss": 1.0}, names=names)
    figure = plot(history, ["loss", "$x^$"])
    assert labels(figure)[1:4] == ["$\\frac$", "_hidden", "東京"]
    assert len(labels(figure)[4]) == 24
    assert "\x1b" not in labels(figure)[4]
    assert figure._repr_png_().startswith(PNG)


def test_figures_that_cannot_be_drawn_are_gaps():
    history = History()
    for number, loss in enumerate((1.0, math.nan, math.inf, 1e300, 2.0)):
        add(history, number, {"n0": {"loss": loss}}, metrics={"loss": loss})
    figure = plot(history)
    values = lines(figure.axes[0])[0][1]
    assert [values[0], values[4]] == [1.0, 2.0]
    assert all(math.isnan(value) for value in values[1:4])
    assert figure._repr_png_().startswith(PNG)


def test_nothing_to_plot_yet():
    with pytest.raises(UsageError, match="no round is finished") as caught:
        plot(History())
    assert caught.value.cure == "Call run() first."


def test_a_round_without_metrics_is_an_empty_picture():
    history = History()
    add(history, 0, {"n0": {}})
    assert plot(history).axes == []


def test_without_matplotlib_it_says_what_to_do(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError) as caught:
        plot(some_history())
    assert caught.value.cure == "pip install 'fedplug[report]'"


def test_a_node_that_is_called_all_is_a_node():
    history = History()
    add(history, 0, {"all": {"loss": 1.0}}, metrics={"loss": 2.0})
    (series,) = all_series(history)
    assert series.together == [(1.0, 2.0)]
    assert series.nodes == {"all": [(1.0, 1.0)]}


def test_words_of_metrics():
    assert [words(name) for name in ("f1_score", "AUC", "mean_auc", "r2", "x\ny")] == [
        "F1 score", "AUC", "mean AUC", "R²", "x y",
    ]  # fmt: skip
