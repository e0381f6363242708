"""Plugins are found by entry points, in an order of their own, and never by luck."""

from __future__ import annotations

import json

import pytest

from fedplug import Component, hookimpl
from fedplug.core.errors import ComponentConflictError, PluginError, UnknownNameError, UsageError
from fedplug.core.plugins import PluginHost, default_host


def states(host):
    return {record.name: record.state for record in host.records}


def test_the_core_is_a_plugin_like_any_other(fake_plugins):
    host = fake_plugins.host()
    assert states(host) == {"builtin": "ok"}
    names = {(offer.kind, offer.component.name) for offer in host.components()}
    assert {("strategy", "all"), ("strategy", "random"), ("transport", "inproc"), ("training_plan", "numpy")} <= names


def test_records_are_sorted_by_name_whatever_the_order_of_the_path(fake_plugins):
    for name in ("zeta", "alpha", "mid"):
        fake_plugins.aggregators(name, name)
    assert list(states(fake_plugins.host())) == ["builtin", "alpha", "mid", "zeta"]
    points = sorted(fake_plugins.entry_points, key=lambda point: point.name, reverse=True)
    assert list(states(PluginHost.discover(found=points))) == ["builtin", "alpha", "mid", "zeta"]


def test_a_record_says_where_the_plugin_comes_from(fake_plugins):
    fake_plugins.aggregators("median", "median", dist="fake-median", version="2.5")
    record = fake_plugins.host().records[1]
    assert (record.dist, record.version, record.api, record.module) == ("fake-median", "2.5", 1, "fake_median")
    assert record.hooks == ("fedplug_register_aggregators",)


def test_only_loads_the_plugins_it_names(fake_plugins):
    fake_plugins.aggregators("wanted", "w")
    fake_plugins.add("other", "raise RuntimeError('imported although blocked')")
    host = fake_plugins.host(only=["wanted"])
    assert states(host) == {"builtin": "ok", "other": "blocked", "wanted": "ok"}


def test_the_environment_variable_names_the_plugins_to_load(fake_plugins, monkeypatch):
    fake_plugins.aggregators("a", "x")
    fake_plugins.aggregators("b", "y")
    monkeypatch.setenv("FEDPLUG_PLUGINS", " b , ")
    assert states(fake_plugins.host()) == {"builtin": "ok", "a": "blocked", "b": "ok"}
    monkeypatch.setenv("FEDPLUG_PLUGINS", "")
    assert states(fake_plugins.host()) == {"builtin": "ok", "a": "blocked", "b": "blocked"}


def test_a_listed_plugin_that_is_not_installed_is_reported(fake_plugins):
    fake_plugins.aggregators("median", "median")
    host = fake_plugins.host(only=["medain"])
    missing = next(record for record in host.records if record.name == "medain")
    assert missing.state == "failed"
    assert "'median'" in missing.cure


def test_components_load_on_use_and_not_before(fake_plugins):
    fake_plugins.add(
        "lazy",
        """
        @hookimpl
        def fedplug_register_aggregators():
            return [Component("late", "fake_lazy_target:Late"), Component("direct", dict)]
        """,
    )
    host = fake_plugins.host()
    assert host.component("aggregator", "direct") is dict
    fake_plugins.folder.joinpath("fake_lazy_target.py").write_text("class Late: pass\n")
    assert host.component("aggregator", "late").__name__ == "Late"


@pytest.mark.parametrize("target", ["fake_nowhere:Thing", "fedplug.core.errors:NoSuchThing"])
def test_a_target_that_cannot_be_imported_is_an_error_of_its_plugin(fake_plugins, target):
    source = f"""
        @hookimpl
        def fedplug_register_aggregators():
            return [Component("bad", {target!r})]
        """
    fake_plugins.add("half", source)
    with pytest.raises(PluginError, match=r"aggregator 'bad' of plugin 'half' cannot be loaded") as raised:
        fake_plugins.host().component("aggregator", "bad")
    assert raised.value.plugin == "half"
    assert raised.value.cure


def test_an_unknown_name_gets_the_nearest_one(fake_plugins):
    with pytest.raises(UnknownNameError, match=r"Did you mean 'random'\?"):
        fake_plugins.host().component("strategy", "radnom")


@pytest.mark.parametrize(
    ("kind", "name", "extra"),
    [("aggregator", "fedaverage", "scaffold"), ("transport", "zmq", "zmq"), ("training_plan", "torch", "torch")],
)
def test_a_well_known_name_that_is_missing_says_what_to_install(fake_plugins, kind, name, extra):
    with pytest.raises(UnknownNameError, match=rf"pip install 'fedplug\[{extra}\]'"):
        fake_plugins.host().component(kind, name)


def test_a_well_known_plugin_that_is_installed_but_broken_is_not_to_be_installed_again(fake_plugins):
    fake_plugins.add("zmq", "import fake_not_installed")
    with pytest.raises(UnknownNameError) as raised:
        fake_plugins.host().component("transport", "zmq")
    assert "pip install" not in raised.value.cure
    assert "not usable: zmq" in raised.value.cure


def test_a_component_offered_twice_needs_its_plugins_name(fake_plugins):
    fake_plugins.aggregators("one", "median", "mean")
    fake_plugins.aggregators("two", "median")
    host = fake_plugins.host()
    assert states(host) == {"builtin": "ok", "one": "conflict", "two": "conflict"}
    with pytest.raises(ComponentConflictError, match="'one:median' or 'two:median'"):
        host.component("aggregator", "median")
    assert host.component("aggregator", "one:median") is object
    assert host.component("aggregator", "mean") is object


def test_two_plugins_of_one_name_are_both_left_out(fake_plugins):
    fake_plugins.aggregators("same", "x", dist="fake-first")
    fake_plugins.aggregators("same", "y", dist="fake-second")
    fake_plugins.aggregators("third", "z")
    records = fake_plugins.host().records
    assert [(record.dist, record.state) for record in records[1:]] == [
        ("fake-first", "conflict"),
        ("fake-second", "conflict"),
        ("fake-third", "ok"),
    ]


def test_nobody_can_take_the_name_of_the_core(fake_plugins):
    fake_plugins.aggregators("builtin", "x")
    host = fake_plugins.host()
    assert [(record.dist, record.state) for record in host.records] == [("fedplug", "ok"), ("fake-builtin", "conflict")]


def test_an_object_can_be_registered_by_hand():
    class Plugin:
        @hookimpl
        def fedplug_register_aggregators(self):
            return [Component("mine", int)]

    host = PluginHost()
    assert host.register(Plugin(), "hand").state == "ok"
    assert host.component("aggregator", "mine") is int
    with pytest.raises(UsageError, match="already"):
        host.register(Plugin(), "hand")


def test_an_unreadable_environment_is_reported_and_leaves_the_core(monkeypatch):
    def broken(**_):
        raise ValueError("bad metadata")

    monkeypatch.setattr("fedplug.core.plugin_checks.entry_points", broken)
    records = PluginHost.discover().records
    assert [record.state for record in records] == ["ok", "failed"]
    assert "bad metadata" in records[1].error


def test_the_default_host_is_made_once():
    assert default_host() is default_host()


def test_discovery_through_real_metadata_in_a_process_of_its_own(fake_plugins):
    fake_plugins.aggregators("median", "median")
    fake_plugins.add("noisy", "import fake_opacus")
    done = fake_plugins.run("plugins", "list", "--json")
    assert done.returncode == 0, done.stderr
    listed = {entry["plugin"]: entry for entry in json.loads(done.stdout)}
    assert listed["median"]["status"] == "ok"
    assert [each["name"] for each in listed["median"]["provides"]["aggregators"]] == ["median"]
    assert listed["noisy"]["status"] == "failed"
    assert listed["noisy"]["error"] == "ModuleNotFoundError: No module named 'fake_opacus'"
