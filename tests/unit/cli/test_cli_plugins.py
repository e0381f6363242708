"""``fedplug plugins`` and what all commands share: exit codes, errors, help."""

from __future__ import annotations

import json
import signal
import types

import pytest

import fedplug
from fedplug import Component, FedplugError, hookimpl
from fedplug.cli import main, output
from fedplug.core.errors import UsageError
from fedplug.core.plugins import PluginHost


@pytest.fixture
def host(monkeypatch):
    """A host with the core, a good plugin and a bad one, which the commands see as the default host."""
    host = PluginHost.discover(only=[], found=[])

    def offer():
        return [Component("mean", "fedplug.core.strategy:DefaultStrategy", "Not a mean.", {"n": "how many"})]

    good = types.SimpleNamespace(fedplug_register_strategies=hookimpl(offer))
    host.register(good, "good", dist="fedplug-good", version="1.2")
    host.register(types.SimpleNamespace(fedplug_round_strat=hookimpl(lambda ctx: None)), "misspelt", dist="d")
    host.register(types.SimpleNamespace(fedplug_register_transports=hookimpl(lambda: 1 / 0)), "noisy", dist="d")
    monkeypatch.setattr("fedplug.cli.plugins.default_host", lambda: host)
    return host


def test_list_shows_status_and_cure(host, capsys):
    assert main(["plugins", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["PLUGIN", "DIST", "VERSION", "API", "STATUS", "PROVIDES"]
    assert [line.split()[0] for line in lines[1:5]] == ["builtin", "good", "misspelt", "noisy"]
    assert lines[2].split(maxsplit=5) == ["good", "fedplug-good", "1.2", "1", "ok", "strategies: mean"]
    assert "There is no hook named 'fedplug_round_strat'." in lines[3]
    assert "misspelt: Did you mean 'fedplug_round_start'?" in lines[6]
    assert lines[6].endswith("(more: fedplug plugins show misspelt)")


def test_list_as_json(host, capsys):
    assert main(["plugins", "list", "--json"]) == 0
    listed = {entry["plugin"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert listed["good"]["provides"] == {
        "strategies": [{"name": "mean", "summary": "Not a mean.", "options": {"n": "how many"}}]
    }
    assert listed["noisy"]["status"] == "failed"
    assert listed["noisy"]["error"] == "ZeroDivisionError: division by zero"
    assert listed["noisy"]["cure"]


def test_show_tells_all_about_a_plugin(host, capsys):
    assert main(["plugins", "show", "good"]) == 0
    text = capsys.readouterr().out
    for words in (
        "good: ok (fedplug-good 1.2",
        "fedplug_register_strategies",
        "strategy 'mean': Not a mean.",
        "n: how",
    ):
        assert words in text


def test_show_prints_the_traceback_of_a_plugin_that_failed(host, capsys):
    assert main(["plugins", "show", "noisy"]) == 0
    text = capsys.readouterr().out
    assert "Traceback" in text
    assert "ZeroDivisionError: division by zero" in text
    assert main(["plugins", "show", "noisy", "--json"]) == 0
    assert "Traceback" in json.loads(capsys.readouterr().out)["details"]


def test_check_ends_with_0_for_a_good_plugin(host, capsys):
    assert main(["plugins", "check", "good"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "strategies/mean",
        "  pass   loads, select, repeatable, decision, early, ends, often, unasked, config, resume, undone",
        "1 component, 11 passed, 0 skipped, 0 failed",
    ]


def test_check_ends_with_1_for_a_plugin_that_cannot_be_used(host, capsys):
    assert main(["plugins", "check", "noisy"]) == 1
    text = capsys.readouterr().out
    assert "ZeroDivisionError" in text
    assert "noisy: failed" in text


@pytest.mark.parametrize("command", ["show", "check"])
def test_an_unknown_plugin_ends_with_2_and_the_nearest_name(host, capsys, command):
    assert main(["plugins", command, "godo"]) == 2
    error = capsys.readouterr().err
    assert error.splitlines() == [
        "Error: There is no plugin named 'godo'.",
        "Did you mean 'good'? Known: builtin, good, misspelt, noisy.",
    ]


def test_a_traceback_only_with_debug_at_any_place(host, capsys):
    assert main(["plugins", "show", "godo", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err
    assert main(["--debug", "plugins", "show", "godo"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_wrong_usage_ends_with_2(capsys):
    assert main(["plugins", "lst"]) == 2
    assert "'list'" in capsys.readouterr().err
    assert main(["plugns"]) == 2
    assert "Did you mean 'plugins'?" in capsys.readouterr().err


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fedplug {fedplug.__version__}\n"


def test_help_lists_the_groups(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for words in ("demo", "node", "plugins", "--debug", "Start with: fedplug demo"):
        assert words in text


@pytest.mark.parametrize(
    ("error", "code"), [(UsageError("u", cure="c"), 2), (FedplugError("f"), 1), (RuntimeError("r"), 1)]
)
def test_exit_codes_of_errors(monkeypatch, capsys, error, code):
    def fail():
        raise error

    monkeypatch.setattr("fedplug.cli.plugins.default_host", fail)
    assert main(["plugins", "list"]) == code
    text = capsys.readouterr().err
    assert "Traceback" not in text
    assert str(error).splitlines()[0] in text
    assert ("report what it prints" in text) == isinstance(error, RuntimeError)


def test_interrupt_ends_with_130_and_no_words(monkeypatch, capsys):
    monkeypatch.setattr("fedplug.cli.plugins.default_host", lambda: signal.raise_signal(signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it starts with &
    try:
        assert main(["plugins", "list"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err


def test_debug_shows_what_happened_on_the_node_and_notes(capsys):
    error = FedplugError("cause", cure="cure")
    error.details = "the node's traceback"
    error.add_note("Raised by plugin 'x'.")
    assert output.say_error(error, debug=True) == 1
    text = capsys.readouterr().err
    for words in ("the node's traceback", "Error: cause", "cure", "Raised by plugin 'x'."):
        assert words in text


def test_tables_are_aligned(capsys):
    output.say_table(("a", "name"), [(1, "x"), (100, "yy")])
    assert capsys.readouterr().out == "A    NAME\n1    x\n100  yy\n"
