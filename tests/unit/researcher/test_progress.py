"""Displays of a running experiment, on recorded consoles and with a clock that only the test moves."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fedplug.core.context import RoundContext, RoundResult
from fedplug.core.errors import UnknownNameError
from fedplug.core.messages import LogLine, NodeInfo, Progress, TaskKey, TrainReply
from fedplug.core.params import Params
from fedplug.researcher.progress import make_progress
from fedplug.researcher.progress.board import Board, display_names
from fedplug.researcher.progress.json_lines import JsonProgress
from fedplug.researcher.progress.live import LiveProgress, picture
from fedplug.researcher.progress.notebook import page, plain_page
from fedplug.researcher.progress.plain import PlainProgress, QuietProgress
from fedplug.researcher.progress.text import block, count, duration, metrics_line, one_line, size

PARAMS = Params.from_arrays({"w": np.zeros(2, dtype=np.float32)})
FOLDER = Path("/data/experiments/Experiment_0003")
EVIL = "\x1b[2J[bold red]evil[/]\r\n\u202eabc<script>"


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def key(number, node, attempt=0):
    return TaskKey(experiment_id="e", round=number, node_id=node, attempt=attempt)


def info(amount, name="hospital-{}"):
    return {f"n{i}": NodeInfo(node_id=f"n{i}", name=name.format(i)) for i in range(amount)}


def tick(node, number=0, step=40, total=100, seconds=2.0, loss=0.5, phase="train", attempt=0, samples=1280):
    return Progress(
        key=key(number, node, attempt), step=step, total_steps=total, samples=samples, seconds=seconds, phase=phase,
        metrics={} if loss is None else {"loss": loss},
    )  # fmt: skip


def reply(node, number=0, **metrics):
    return TrainReply(
        key=key(number, node), sample_count=300, steps=100, metrics=metrics or {"loss": 0.25}, timing={"train": 2.5}
    )


def result(nodes, number=0, dropped=None, seconds=4.0, **metrics):
    return RoundResult(
        params=PARAMS,
        replies={node: reply(node, number) for node in nodes},
        dropped=dropped or {},
        metrics=metrics or {"loss": 0.25, "accuracy": 0.94},
        seconds=seconds,
        traffic={"bytes_sent": 123_456, "bytes_received": 7_654_321},
    )


def board_of(amount, rounds=5, clock=None, names="hospital-{}"):
    clock = clock or Clock()
    board = Board(clock)
    board.started(FOLDER, info(amount, names), rounds)
    board.round_started(RoundContext(round=0), list(board.names))
    return board, clock


def drawn(board, width=100, height=30):
    console = Console(record=True, width=width, height=height, file=io.StringIO(), force_terminal=True)
    console.print(picture(board, width, height))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    assert len(text.splitlines()) < height
    return text


def line_with(text, word):
    return next(line for line in text.splitlines() if word in line)


def play(monitor, clock, nodes=2, rounds=2):
    """A short experiment as `Experiment` would tell it."""
    ids = [f"n{i}" for i in range(nodes)]
    monitor.message("waiting for 2 nodes")
    monitor.started(FOLDER, info(nodes), rounds)
    for number in range(rounds):
        ctx = RoundContext(round=number)
        monitor.round_started(ctx, ids)
        for node in ids:
            monitor.progress(node, tick(node, number, step=1))
        clock.now += 4.0
        for node in ids:
            monitor.replied(node, reply(node, number))
        monitor.round_ended(ctx, result(ids, number))
    monitor.stopped(rounds, None)
    monitor.close()
    monitor.close()


# --- the live picture ---


def test_picture_shows_round_time_and_each_node():
    board, clock = board_of(3)
    clock.now += 2.0
    board.progress("n0", tick("n0"))
    board.progress("n1", tick("n1", phase="test-global", step=0, loss=None))
    text = drawn(board)
    assert "Experiment_0003" in text
    assert "Round 1/5" in text
    assert "elapsed 2.0 s" in text
    row = line_with(text, "hospital-0").split()
    assert row[1] == "training"
    assert row[-4:] == ["0.5", "640", "3.0", "s"]  # loss, samples/s, and 60 steps at 20 steps/s
    assert "40/100" in row
    assert "testing" in line_with(text, "hospital-1")
    assert line_with(text, "hospital-2").split()[1] == "waiting"


def test_bar_is_as_long_as_the_work_done():
    from rich.progress_bar import ProgressBar

    from fedplug.researcher.progress.live import _bar

    board, _ = board_of(1)
    bar = _bar(board.progress("n0", tick("n0", step=25)))
    assert isinstance(bar, ProgressBar)
    assert bar.completed == pytest.approx(0.25)
    assert "━" in drawn(board)


def test_node_goes_through_all_states():
    board, _ = board_of(1)
    seen = [board.rows["n0"].state]
    for phase, step, total in (
        ("test-global", 5, 5),
        ("train", 1, 10),
        ("train", 10, 10),
        ("test-local", 1, 5),
        ("test-local", 5, 5),
    ):
        seen.append(board.progress("n0", tick("n0", step=step, total=total, phase=phase)).state)
    board.replied("n0", reply("n0"))
    seen.append(board.rows["n0"].state)
    assert seen == ["waiting", "testing", "training", "sending", "testing", "sending", "done"]
    assert board.progress("n0", tick("n0")) is None  # a late sign of life changes nothing
    assert board.rows["n0"].state == "done"


def test_dropped_node_shows_reason_and_comes_back_with_the_next_attempt():
    board, _ = board_of(2)
    board.dropped("n1", "lost for 20 s")
    assert "lost for 20 s" in line_with(drawn(board), "hospital-1")
    assert board.progress("n1", tick("n1")) is None
    assert board.progress("n1", tick("n1", attempt=1)).state == "training"
    assert "lost" not in drawn(board)


def test_progress_of_another_round_or_a_stranger_is_ignored():
    board, _ = board_of(1)
    assert board.progress("n0", tick("n0", number=7)) is None
    assert board.progress("stranger", tick("stranger")) is None
    assert list(board.rows) == ["n0"]


def test_finished_rounds_are_listed_with_metrics_time_and_bytes():
    board, clock = board_of(2)
    clock.now += 4.0
    board.round_ended(RoundContext(round=0), result(["n0"], dropped={"n1": "gone"}))
    text = drawn(board)
    assert line_with(text, "Sent").split() == ["Round", "Loss", "accuracy", "Nodes", "Time", "Sent", "Received"]
    assert line_with(text, "1/2").split() == ["1", "0.25", "0.94", "1/2", "4.0", "s", "123.5", "kB", "7.7", "MB"]


def test_time_left_over_the_rounds():
    board, clock = board_of(2, rounds=5)
    assert board.eta is None
    board.progress("n0", tick("n0", step=50, total=100, seconds=2.0))  # 2 s more for this round
    clock.now += 1.0
    assert board.eta == pytest.approx((1 + 1) * 5 - 1)
    clock.now += 3.0
    board.round_ended(RoundContext(round=0), result(["n0", "n1"], seconds=4.0))
    assert board.eta == pytest.approx(4 * 4.0)
    board.round_started(RoundContext(round=1), ["n0", "n1"])
    clock.now += 1.5
    assert board.eta == pytest.approx(4 * 4.0 - 1.5)
    assert "about 14.5 s left" in drawn(board)


@pytest.mark.parametrize("rounds", [0, None])
def test_without_a_number_of_rounds_there_is_no_total_and_no_time_left(rounds):
    board, _ = board_of(1, rounds=rounds)
    text = drawn(board)
    assert "Round 1 " in text
    assert "Round 1/" not in text
    assert "left" not in text.lower().replace("left\n", "")  # the column's head alone


def test_unknown_number_of_steps():
    board, _ = board_of(1)
    board.progress("n0", tick("n0", step=41, total=0))
    row = line_with(drawn(board), "hospital-0")
    assert "not known" in row
    assert " 41 " in row
    assert board.rows["n0"].eta(0.0) is None


def test_second_run_counts_its_own_rounds():
    board, _clock = board_of(1, rounds=2)
    board.started(FOLDER, info(1), 3)
    board.round_started(RoundContext(round=2), ["n0"])
    assert board.label(2) == "round 3/5"
    board.round_ended(RoundContext(round=2), result(["n0"], 2))
    assert board.done_rounds == 1


def test_three_hundred_nodes_fit_with_a_summary():
    board, _ = board_of(300)
    for i in range(290, 300):
        board.progress(f"n{i}", tick(f"n{i}"))
    board.dropped("n5", "gone")
    board.replied("n6", reply("n6"))
    text = drawn(board, height=24)
    assert text.count("training") == 11  # ten rows, and the summary
    assert "hospital-299" in text
    assert "hospital-5 " in text
    assert "hospital-6 " not in text
    assert "of all 300: 10 training, 1 dropped, 288 waiting, 1 done" in text


@pytest.mark.parametrize("width", [20, 38, 50, 70, 90, 200])
@pytest.mark.parametrize("height", [10, 24, 60])
@pytest.mark.parametrize("nodes", [1, 40])
def test_every_size_of_terminal(width, height, nodes):
    board, clock = board_of(nodes)
    clock.now += 4000.0
    board.round_ended(RoundContext(round=0), result(["n0"]))
    board.round_started(RoundContext(round=1), list(board.names))
    board.progress("n0", tick("n0", 1))
    text = drawn(board, width, height)
    assert "hospital-0" in text
    assert "traini" in text
    board.stopped()
    assert "hospital" not in drawn(board, width, height)


def test_figures_from_a_hostile_node_do_not_break_the_picture():
    board, _ = board_of(4)
    board.progress("n0", tick("n0", step=-5, total=-1, seconds=-1.0, loss=math.nan, samples=-3))
    board.progress("n1", tick("n1", step=2**63 - 1, total=1, seconds=math.inf, loss=-math.inf, samples=2**62))
    board.progress("n2", tick("n2", step=1, total=2**63 - 1, seconds=1e300, loss=1e308))
    board.progress("n3", tick("n3", step=1, total=2, seconds=math.nan, loss=5e-324))
    text = drawn(board)
    assert "nan" in line_with(text, "hospital-0")
    assert "-inf" in line_with(text, "hospital-1")
    assert "1e+308" in text
    board.round_ended(RoundContext(round=0), result(["n0"], seconds=math.nan, **{EVIL: math.inf, "x" * 500: 1.0}))
    assert "\x1b[2J" not in drawn(board)


# --- names and figures ---


@pytest.mark.parametrize("width", [40, 100])
def test_names_are_shown_and_not_obeyed(width):
    board = Board(Clock())
    board.started(Path(f"/x/{EVIL}"), {"n0": NodeInfo(node_id="n0", name=EVIL)}, 1)
    board.round_started(RoundContext(), ["n0"])
    board.dropped("n0", EVIL)
    console = Console(width=width, height=30, file=io.StringIO(), force_terminal=True)
    console.print(picture(board, width, 30))
    raw = console.file.getvalue()
    assert "[2J[bold" in raw  # markup stays text
    for harmful in ("\x1b[2J", "\u202e", "\r"):
        assert harmful not in raw


def test_nodes_of_one_name_are_told_apart():
    nodes = {f"node-000{i}": NodeInfo(node_id=f"node-000{i}", name="ward") for i in range(2)}
    nodes["other"] = NodeInfo(node_id="other")
    assert display_names(nodes) == {"node-0000": "ward (e-0000)", "node-0001": "ward (e-0001)", "other": "other"}


def test_text_is_made_safe():
    assert one_line("a\x1b[31mb\nc\x00d\u2028e\ud800") == "a�[31mb c�d�e�"
    assert one_line("Zürich 医院") == "Zürich 医院"
    assert one_line("x" * 100, 10) == "x" * 9 + "…"
    assert block("a\x07\nb") == "a�\nb"


def test_figures_are_short():
    assert [duration(s) for s in (0.04, 4.21, 59.96, 65, 3723, None, math.inf)] == [
        "0.0 s", "4.2 s", "1:00", "1:05", "1:02:03", "-", "-",
    ]  # fmt: skip
    assert [count(n) for n in (0, 1.25, 980, 12_345, 4_100_000, None, math.nan)] == [
        "0", "1.2", "980", "12.3k", "4.1M", "-", "-",
    ]  # fmt: skip
    assert [size(n) for n in (12, 1_500, 2_500_000, 3e9)] == ["12 B", "1.5 kB", "2.5 MB", "3.0 GB"]
    assert all(len(count(n)) <= 7 for n in (1e18, 2**63, 1e300, 999_999))


# --- live ---


def live():
    clock = Clock()
    console = Console(width=100, height=30, file=io.StringIO(), force_terminal=True, _environ={})
    return LiveProgress(console=console, clock=clock, auto_refresh=False), console.file, clock


def test_live_prints_messages_above_and_ends_with_one_line():
    monitor, out, clock = live()
    play(monitor, clock)
    text = out.getvalue()
    assert "waiting for 2 nodes" in text
    last = text.rstrip().splitlines()[-1]
    assert f"Finished 2 rounds in 8.0 s, final loss 0.25. Results: {FOLDER}" in last
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_live_says_of_an_error_only_that_it_stopped():
    monitor, out, _ = live()
    monitor.started(FOLDER, info(1), 3)
    monitor.round_started(RoundContext(), ["n0"])
    monitor.log("n0", LogLine(level="ERROR", text="[red]disk full\x1b[2J"))
    monitor.stopped(0, RuntimeError("secret"))
    text = out.getvalue()
    assert "hospital-0 error: [red]disk full�[2J" in text
    assert "Stopped after 0 rounds in 0.0 s." in text
    assert "secret" not in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_live_can_be_closed_in_the_middle_and_used_again():
    monitor, out, clock = live()
    monitor.started(FOLDER, info(1), 1)
    monitor.close()
    monitor.close()
    play(monitor, clock)
    assert out.getvalue().count("\x1b[?25l") == 2


# --- lines ---


def test_plain_lines():
    out, clock = io.StringIO(), Clock()
    play(PlainProgress(out, clock=clock), clock, rounds=1)
    assert out.getvalue().splitlines() == [
        "waiting for 2 nodes",
        f"{FOLDER}: 1 round with 2 nodes",
        "round 1/1: started with hospital-0, hospital-1",
        "round 1/1: hospital-0 replied, 100 steps, 300 samples, loss 0.25",
        "round 1/1: hospital-1 replied, 100 steps, 300 samples, loss 0.25",
        "round 1/1: done in 4.0 s, loss 0.25, accuracy 0.94, 2 of 2 nodes, 123.5 kB sent, 7.7 MB received",
        f"Finished 1 round in 4.0 s, final loss 0.25. Results: {FOLDER}",
    ]


def test_plain_progress_is_at_most_one_line_per_node_and_interval():
    out, clock = io.StringIO(), Clock()
    monitor = PlainProgress(out, clock=clock, every=5.0)
    monitor.started(FOLDER, info(2), 1)
    monitor.round_started(RoundContext(), ["n0", "n1"])
    begin = len(out.getvalue().splitlines())
    for i in range(1, 41):  # four signs of life a second, for ten seconds
        clock.now += 0.25
        monitor.progress("n0", tick("n0", step=i, seconds=i / 4))
    monitor.progress("n1", tick("n1", total=0, loss=None))
    lines = out.getvalue().splitlines()[begin:]
    assert lines == [
        "round 1/1: hospital-0 training, step 20/100, loss 0.5, 256 samples/s, 20.0 s left",
        "round 1/1: hospital-0 training, step 40/100, loss 0.5, 128 samples/s, 15.0 s left",
        "round 1/1: hospital-1 training, step 40, 640 samples/s",
    ]


def test_plain_does_not_list_three_hundred_names():
    out = io.StringIO()
    monitor = PlainProgress(out)
    monitor.started(FOLDER, info(300), 1)
    monitor.round_started(RoundContext(), list(info(300)))
    assert out.getvalue().splitlines()[-1] == "round 1/1: started with 300 nodes"


def test_plain_line_from_the_network_cannot_pose_as_ours():
    out = io.StringIO()
    monitor = PlainProgress(out)
    monitor.started(FOLDER, info(1), 1)
    monitor.log("n0", LogLine(level="info", text="hello\nround 1/1: done\x1b[A"))
    monitor.dropped("n0", "bad\nround 1/1: done")
    assert out.getvalue().splitlines()[1:] == [
        "hospital-0 info: hello",
        "    round 1/1: done�[A",
        "hospital-0 dropped: bad round 1/1: done",
    ]


def test_plain_on_a_stream_without_these_characters():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    PlainProgress(stream).message("Zürich")
    assert raw.getvalue() == b"Z\\xfcrich\n"


def test_quiet_says_only_what_went_wrong(capsys):
    monitor = make_progress("quiet")
    monitor.log("n0", LogLine(level="warning", text="slow"))
    play(monitor, Clock())
    assert capsys.readouterr() == ("", "")
    monitor.log("n0", LogLine(level="ERROR", text="disk full"))
    monitor.dropped("n1", "lost")
    assert capsys.readouterr().err.splitlines() == ["hospital-0 error: disk full", "hospital-1 dropped: lost"]
    assert isinstance(monitor, QuietProgress)


# --- json ---


def test_json_is_one_object_a_line_on_standard_output(capsys):
    clock = Clock()
    monitor = JsonProgress(clock=clock, wall=lambda: 0.0)
    play(monitor, clock, nodes=1, rounds=1)
    monitor.dropped("n0", EVIL)
    monitor.log("n0", LogLine(level="info", text="x", key=key(3, "n0")))
    monitor.stopped(1, ValueError("why"))
    out, err = capsys.readouterr()
    assert err == ""
    events = [json.loads(line) for line in out.splitlines()]
    assert all(list(event)[:3] == ["event", "time", "elapsed"] for event in events)
    assert {event["time"] for event in events} == {"1970-01-01T00:00:00.000+00:00"}
    facts = [{name: value for name, value in event.items() if name not in ("time", "elapsed")} for event in events]
    node = {"node": "n0", "name": "hospital-0"}
    traffic = {"bytes_sent": 123_456, "bytes_received": 7_654_321}
    assert facts == [
        {"event": "message", "text": "waiting for 2 nodes"},
        {"event": "started", "experiment": str(FOLDER), "rounds": 1, "nodes": [{"id": "n0", "name": "hospital-0"}]},
        {"event": "round_started", "round": 0, "nodes": ["n0"]},
        {"event": "progress", "round": 0, **node, "phase": "train", "step": 1, "total_steps": 100, "epoch": 0,
         "samples": 1280, "seconds": 2.0, "metrics": {"loss": 0.5}},
        {"event": "replied", "round": 0, **node, "samples": 300, "steps": 100, "metrics": {"loss": 0.25},
         "timing": {"train": 2.5}},
        {"event": "round_ended", "round": 0, "nodes": ["n0"], "dropped": {},
         "metrics": {"loss": 0.25, "accuracy": 0.94}, "seconds": 4.0, "traffic": traffic},
        {"event": "stopped", "rounds_done": 1, "ok": True, "error": None},
        {"event": "dropped", **node, "reason": EVIL},
        {"event": "log", "round": 3, **node, "level": "info", "text": "x"},
        {"event": "stopped", "rounds_done": 1, "ok": False, "error": {"type": "ValueError", "message": "why"}},
    ]  # fmt: skip
    assert events[5]["elapsed"] == 4.0
    assert out.isascii()
    assert "\x1b" not in out


def test_json_has_no_nan():
    out = io.StringIO()
    monitor = JsonProgress(out)
    monitor.progress("n0", tick("n0", total=0, loss=math.nan))
    event = json.loads(out.getvalue(), parse_constant=pytest.fail)
    assert event["metrics"] == {"loss": None}
    assert event["total_steps"] is None


# --- notebook, as text (test_progress_places.py runs a real one) ---


def test_notebook_page_escapes_and_shows_everything():
    board, _clock = board_of(30, names="<b>w{}</b>")
    board.progress("n0", tick("n0"))
    board.dropped("n1", EVIL)
    board.round_ended(RoundContext(round=0), result(["n0"], **{"<i>": 1.0, "loss": 0.5}))
    board.round_started(RoundContext(round=1), list(board.names))
    board.progress("n0", tick("n0", 1))
    html = page(board, ["<script>note"], "")
    assert "&lt;b&gt;w0&lt;/b&gt;" in html
    for harmful in ("<script>", "<i>", "<b>w", "\x1b"):
        assert harmful not in html
    assert '<progress value="0.4000" max="1">' in html
    assert "and 10 more; of all 30: 1 training, 29 waiting" in html
    assert "Round 2/5" in html
    text = plain_page(board, [], "Finished")
    assert "training, step 40/100, loss 0.5" in text
    assert text.endswith("Finished")


# --- which one ---


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def no_wish(monkeypatch):
    monkeypatch.delenv("FEDPLUG_PROGRESS", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.mark.parametrize(
    ("mode", "wish", "terminal", "expected"),
    [
        ("auto", "", True, LiveProgress),
        ("auto", "", False, PlainProgress),
        ("auto", "plain", True, PlainProgress),
        ("auto", "json", True, JsonProgress),
        ("auto", "quiet", False, QuietProgress),
        ("json", "quiet", True, JsonProgress),
        ("plain", "", True, PlainProgress),
        ("live", "", True, LiveProgress),
        ("live", "", False, PlainProgress),
    ],
)
def test_choice(mode, wish, terminal, expected, no_wish, monkeypatch):
    monkeypatch.setenv("FEDPLUG_PROGRESS", wish)
    assert type(make_progress(mode, file=Terminal() if terminal else io.StringIO())) is expected


@pytest.mark.parametrize("place", ["stderr", "stdout"])
def test_either_standard_stream_can_be_the_terminal(place, no_wish, monkeypatch):
    for name in ("stderr", "stdout"):
        monkeypatch.setattr(f"sys.{name}", Terminal() if name == place else io.StringIO())
    assert type(make_progress()) is LiveProgress


def test_dumb_and_ascii_terminals_get_lines(no_wish, monkeypatch):
    ascii_terminal = Terminal()
    ascii_terminal.encoding = "ascii"
    assert type(make_progress(file=ascii_terminal)) is PlainProgress
    monkeypatch.setenv("TERM", "dumb")
    assert type(make_progress(file=Terminal())) is PlainProgress


def test_unknown_modes_are_named(monkeypatch):
    with pytest.raises(UnknownNameError, match=r"no progress mode named 'jason'[^~]*Did you mean 'json'"):
        make_progress("jason")
    monkeypatch.setenv("FEDPLUG_PROGRESS", "loud")
    with pytest.raises(UnknownNameError, match=r"FEDPLUG_PROGRESS"):
        make_progress()


# --- a test without training is no round ---


def play_a_test(monitor):
    monitor.started(FOLDER, info(1), 1)
    monitor.round_started(RoundContext(round=0), ["n0"])
    monitor.round_ended(RoundContext(round=0), result(["n0"]))
    monitor.testing(RoundContext(round=1), ["n0"])


def test_plain_progress_calls_a_test_a_test():
    out, clock = io.StringIO(), Clock()
    monitor = PlainProgress(out, clock=clock)
    play_a_test(monitor)
    clock.now += 6
    monitor.progress("n0", tick("n0", 1, phase="test-global", loss=None))
    found = TrainReply(key=key(1, "n0"), sample_count=14, steps=0, metrics={"test_global_accuracy": 0.5})
    monitor.replied("n0", found)
    monitor.tested(RoundContext(round=1), result(["n0"], 1))
    monitor.stopped(1, None)
    lines = out.getvalue().splitlines()
    assert lines[3:5] == [
        "test: hospital-0 testing, step 40/100, 640 samples/s, 3.0 s left",
        "test: hospital-0 replied, 14 samples, test_global_accuracy 0.5",
    ]
    assert "2/1" not in out.getvalue()
    assert lines[-1].startswith("Finished 1 round")


def test_the_board_shows_a_test_and_counts_it_as_no_round():
    board, clock = board_of(2, rounds=1)
    board.round_ended(RoundContext(round=0), result(["n0", "n1"]))
    board.testing(RoundContext(round=1), ["n0", "n1"])
    board.progress("n0", tick("n0", 1, phase="test-global"))
    clock.now += 1
    assert board.status()[0] == "Test"
    assert len(board.status()) == 2  # no time left: there is no pace of tests
    text = drawn(board)
    assert "testing" in line_with(text, "hospital-0")
    assert plain_page(board, [], "").splitlines()[1].startswith("Test, elapsed")
    board.tested()
    assert board.status()[0] == "Round 1/1"
    assert len(board.finished) == 1


def test_after_a_test_rounds_are_rounds_again():
    board, _ = board_of(1)
    board.testing(RoundContext(round=0), ["n0"])  # and it fails: nobody says that it is over
    board.round_started(RoundContext(round=0), ["n0"])
    assert board.status()[0] == "Round 1/5"


def test_metrics_that_find_no_room_are_counted_and_bounds_are_left_out():
    metrics = {"loss": 1.0} | {f"m{i}": 2.0 for i in range(7)} | {"auc_error_bound": 0.1}
    assert metrics_line(metrics, 3) == "loss 1, m0 2, m1 2 and 5 more"
    assert metrics_line({"auc": 0.5, "auc_error_bound": 0.1}) == "auc 0.5"
