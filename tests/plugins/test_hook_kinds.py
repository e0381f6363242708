"""The five kinds of hook and what each does with a plugin that raises, on hooks made for the test."""

from __future__ import annotations

import logging
import sys
import threading
import types
import warnings

import pytest

from fedplug import hookimpl
from fedplug.core import slow_calls
from fedplug.core.errors import PluginError
from fedplug.core.hook_calls import PluginWarning
from fedplug.core.hookspecs import HOOK_KINDS, Allow, Deny
from fedplug.core.markers import hookspec
from fedplug.core.plugins import PluginHost


class Specs:
    @staticmethod
    @hookspec
    def fedplug_gather(x):
        """collect"""

    @staticmethod
    @hookspec(firstresult=True)
    def fedplug_pick(x):
        """first"""

    @staticmethod
    @hookspec
    def fedplug_ask(x):
        """veto"""

    @staticmethod
    @hookspec
    def fedplug_pass_on(x, y):
        """fold"""

    @staticmethod
    @hookspec
    def fedplug_tell(x):
        """observe"""


KINDS = {
    "fedplug_gather": "collect",
    "fedplug_pick": "first",
    "fedplug_ask": "veto",
    "fedplug_pass_on": "fold",
    "fedplug_tell": "observe",
}


@pytest.fixture
def make_host():
    def make(**functions):
        """A host with one plugin per function, registered so that they are asked in the order given."""
        hook = functions.pop("hook")
        host = PluginHost(Specs, KINDS)
        for name, function in reversed(functions.items()):
            plugin = types.SimpleNamespace(**{hook: function})
            record = host.register(plugin, name, dist=f"dist-{name}", version="3.1")
            assert record.state == "ok", record.error
        return host

    return make


def boom(x):
    raise ValueError("boom")


def impl(function, **options):
    def fresh(x):
        return function(x)

    return hookimpl(fresh, **options)


def test_every_hook_has_a_kind_and_all_kinds_are_known():
    assert set(HOOK_KINDS.values()) <= {"collect", "first", "gather", "veto", "fold", "observe"}
    from fedplug.core import hookspecs

    assert set(HOOK_KINDS) == {name for name in vars(hookspecs) if name.startswith("fedplug_")}


def test_row_48_collect_calls_each_alone_and_takes_out_who_raises(make_host):
    host = make_host(hook="fedplug_gather", a=impl(lambda x: x + 1), b=impl(boom), c=impl(lambda x: x + 2))
    assert host._collect("fedplug_gather", x=1) == [("a", 2), ("c", 3)]
    assert {record.name: record.state for record in host.records} == {"a": "ok", "b": "failed", "c": "ok"}
    assert host._collect("fedplug_gather", x=1) == [("a", 2), ("c", 3)]


def test_first_takes_the_first_answer_and_asks_no_further(make_host):
    host = make_host(hook="fedplug_pick", a=impl(lambda _: None), b=impl(lambda x: x), c=impl(boom))
    assert host._first("fedplug_pick", int, x=5) == 5


def test_first_obeys_tryfirst_and_trylast(make_host):
    host = make_host(
        hook="fedplug_pick",
        a=impl(lambda _: "a", trylast=True),
        b=impl(lambda _: "b"),
        c=impl(lambda _: "c", tryfirst=True),
    )
    assert [each.plugin_name for each in host._impls("fedplug_pick")] == ["c", "b", "a"]
    assert host._first("fedplug_pick", str, x=0) == "c"


def test_row_48_first_aborts_with_a_note_that_names_the_plugin(make_host):
    host = make_host(hook="fedplug_pick", a=impl(boom), b=impl(lambda x: x))
    with pytest.raises(ValueError, match="boom") as raised:
        host._first("fedplug_pick", int, x=5)
    assert raised.value.__notes__ == ["Raised by plugin 'a' (dist-a 3.1) in fedplug_pick."]


def test_first_refuses_an_answer_of_another_type(make_host):
    host = make_host(hook="fedplug_pick", a=impl(lambda _: "text"))
    with pytest.raises(PluginError, match=r"Plugin 'a' \(dist-a 3\.1\) returned str, not int"):
        host._first("fedplug_pick", int, x=5)


def test_veto_needs_one_refusal(make_host):
    host = make_host(hook="fedplug_ask", a=impl(lambda _: None), b=impl(lambda _: Allow()))
    assert host._veto("fedplug_ask", x=0) is None
    host = make_host(hook="fedplug_ask", a=impl(lambda _: Allow()), b=impl(lambda _: Deny("no")))
    assert host._veto("fedplug_ask", x=0) == Deny("no", "b")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (boom, "ValueError: boom"),
        (lambda _: sys.exit(3), "SystemExit: 3"),
        (lambda _: True, "instead of Allow or Deny"),
    ],
)
def test_row_48_veto_counts_an_error_and_nonsense_as_a_refusal(make_host, answer, reason):
    host = make_host(hook="fedplug_ask", a=impl(answer), b=impl(lambda _: Allow()))
    denied = host._veto("fedplug_ask", x=0)
    assert (denied.plugin, denied.broken) == ("a", True)
    assert reason in denied.reason


def test_fold_passes_the_result_on_in_the_order_of_names(make_host):
    host = make_host(
        hook="fedplug_pass_on",
        a=hookimpl(lambda x, y: [*x, y]),
        b=hookimpl(lambda x: None),
        c=hookimpl(lambda x: [*x, "c"]),
    )
    assert host._fold("fedplug_pass_on", "x", x=[], y="a") == ["a", "c"]


@pytest.mark.parametrize(
    ("bad", "words"), [(boom, "raised ValueError: boom"), (lambda x: "text", "returned str, not list")]
)
def test_row_48_fold_aborts_with_plugin_distribution_and_version(make_host, bad, words):
    host = make_host(hook="fedplug_pass_on", a=hookimpl(lambda x: None), b=impl(bad))
    with pytest.raises(PluginError, match=words) as raised:
        host._fold("fedplug_pass_on", "x", x=[], y=0)
    assert "'b' (dist-b 3.1)" in raised.value.message
    assert raised.value.plugin == "b"


def test_row_48_observe_warns_once_counts_and_goes_on(make_host):
    heard = []
    host = make_host(hook="fedplug_tell", a=impl(boom), b=impl(heard.append))
    with pytest.warns(PluginWarning, match=r"plugin 'a' \(dist-a 3\.1\) raised in fedplug_tell: ValueError: boom"):
        host._observe("fedplug_tell", x=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        host._observe("fedplug_tell", x=2)
    assert heard == [1, 2]
    assert host.observer_failures == {("a", "fedplug_tell"): 2}


@pytest.mark.parametrize(("hook", "call"), [("fedplug_ask", "_veto"), ("fedplug_tell", "_observe")])
def test_row_48_who_does_not_come_back_is_named_while_it_is_waited_for(make_host, monkeypatch, hook, call):
    monkeypatch.setattr(slow_calls, "SLOW", 0.01)
    lines, told = [], threading.Event()

    class Reader(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())
            told.set()

    reader = Reader()
    monkeypatch.setattr(slow_calls._log, "handlers", [reader])
    host = make_host(hook=hook, a=impl(lambda _: None if told.wait(60) else "never told"))
    assert getattr(host, call)(hook, x=1) is None
    assert len(lines) == 2
    assert f"Plugin 'a' (dist-a 3.1) has not come back from {hook}" in lines[0]
    assert "FEDPLUG_PLUGINS" in lines[0]
    assert "has come back" in lines[1]


def test_nothing_is_said_of_who_comes_back_in_time(make_host, caplog):
    host = make_host(hook="fedplug_tell", a=impl(lambda _: None))
    host._observe("fedplug_tell", x=1)
    assert not caplog.messages


def test_trace_prints_every_call(make_host, monkeypatch, capsys):
    monkeypatch.setenv("FEDPLUG_TRACE", "1")
    host = make_host(hook="fedplug_pick", a=impl(lambda _: None), b=impl(lambda x: x))
    host._first("fedplug_pick", int, x=5)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" (")[0] for line in lines] == [
        "fedplug: fedplug_pick a -> NoneType",
        "fedplug: fedplug_pick b -> int",
    ]


def test_no_trace_unless_asked_for(make_host, monkeypatch, capsys):
    monkeypatch.setenv("FEDPLUG_TRACE", "0")
    make_host(hook="fedplug_pick", a=impl(lambda x: x))._first("fedplug_pick", int, x=5)
    assert capsys.readouterr().err == ""
