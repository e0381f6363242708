"""A plugin that is broken in any way is listed with its error and a cure, and takes no other down."""

from __future__ import annotations

import pytest

BROKEN = {
    "missing module": ("import fake_opacus", "failed", "No module named 'fake_opacus'", "provides 'fake_opacus'"),
    "raises on import": ("raise RuntimeError('boom')", "failed", "RuntimeError: boom", "Report it"),
    "exits on import": ("raise SystemExit(3)", "failed", "SystemExit", "Report it"),
    "syntax error": ("def", "failed", "SyntaxError", "Report it"),
    "no hook at all": ("x = 1", "failed", "no hook", "@hookimpl"),
    "misspelt hook": (
        "@hookimpl\ndef fedplug_register_agregators():\n    return []",
        "failed",
        "no hook named 'fedplug_register_agregators'",
        "Did you mean 'fedplug_register_aggregators'?",
    ),
    "wrong argument": (
        "@hookimpl\ndef fedplug_round_start(ctx, nodes):\n    pass",
        "failed",
        "fedplug_round_start(ctx, nodes) asks for 'nodes'",
        "(ctx, node_ids)",
    ),
    "wrong keyword-only argument": (
        "@hookimpl\ndef fedplug_round_start(ctx, *, nodes):\n    pass",
        "failed",
        "asks for 'nodes'",
        "(ctx, node_ids)",
    ),
    "no decorator": ("def fedplug_round_start(ctx):\n    pass", "failed", "lacks its decorator", "Write @hookimpl"),
    "wrapper": (
        "@hookimpl(wrapper=True)\ndef fedplug_round_start(ctx):\n    yield",
        "failed",
        "is a wrapper",
        "Remove wrapper=True",
    ),
    "newer api": (
        "__fedplug_api__ = 2\n@hookimpl\ndef fedplug_round_start(ctx):\n    pass",
        "incompatible",
        "version 2 of FedPlug's hooks",
        "pip install --upgrade fedplug",
    ),
    "older api": (
        "__fedplug_api__ = 0\n@hookimpl\ndef fedplug_round_start(ctx):\n    pass",
        "incompatible",
        "version 0 of FedPlug's hooks",
        "pip install --upgrade fake-bad",
    ),
    "collect hook raises": (
        "@hookimpl\ndef fedplug_register_aggregators():\n    raise KeyError('x')",
        "failed",
        "KeyError: 'x'",
        "Report it",
    ),
    "collect hook raises half way": (
        "@hookimpl\ndef fedplug_register_aggregators():\n    yield Component('ghost', int)\n    raise KeyError('x')",
        "failed",
        "KeyError: 'x'",
        "Report it",
    ),
    "offers no component": (
        "@hookimpl\ndef fedplug_register_aggregators():\n    return ['median']",
        "failed",
        "It offers 'median' as aggregator",
        "Component(",
    ),
    "offers nothing": (
        "@hookimpl\ndef fedplug_register_aggregators():\n    pass",
        "failed",
        "TypeError",
        "Report it",
    ),
    "offers a name twice": (
        "@hookimpl\ndef fedplug_register_aggregators():\n    return [Component('ghost', int), Component('ghost', int)]",
        "failed",
        "two aggregators named 'ghost'",
        "another name",
    ),
    "bad component name": (
        "@hookimpl\ndef fedplug_register_aggregators():\n    return [Component('a:b', int)]",
        "failed",
        "'a:b' cannot be the name",
        "letters",
    ),
    "bad target": (
        "@hookimpl\ndef fedplug_register_aggregators():\n    return [Component('a', 'module')]",
        "failed",
        "has target 'module'",
        "package.module:Attribute",
    ),
    "second collect hook raises": (
        (
            "@hookimpl\ndef fedplug_register_aggregators():\n    return [Component('ghost', int)]\n\n"
            "@hookimpl\ndef fedplug_register_transports():\n    return 1 / 0"
        ),
        "failed",
        "ZeroDivisionError",
        "Report it",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_listed_with_its_cure_and_the_others_work(fake_plugins, case):
    source, state, error, cure = BROKEN[case]
    fake_plugins.add("bad", source)
    fake_plugins.aggregators("apt", "before")
    fake_plugins.aggregators("zen", "after")
    host = fake_plugins.host()
    records = {record.name: record for record in host.records}
    assert {name: record.state for name, record in records.items()} == {
        "builtin": "ok",
        "apt": "ok",
        "bad": state,
        "zen": "ok",
    }
    assert error in records["bad"].error
    assert cure in records["bad"].cure
    assert [offer.component.name for offer in host.components("aggregator")] == ["after", "before"]


def test_a_failed_plugins_other_hooks_are_never_called(fake_plugins):
    fake_plugins.add(
        "bad",
        """
        called = []

        @hookimpl
        def fedplug_register_aggregators():
            raise ValueError

        @hookimpl
        def fedplug_round_start(ctx):
            called.append(ctx)
        """,
    )
    host = fake_plugins.host()
    host.round_start(None, ["a"])
    import fake_bad

    assert fake_bad.called == []


def test_a_traceback_is_kept_for_show(fake_plugins):
    fake_plugins.add("bad", "def f():\n    raise RuntimeError('deep')\nf()")
    record = fake_plugins.host().records[1]
    assert "in f" in record.details
    assert "RuntimeError: deep" in record.details


def test_names_that_only_look_like_modules_attributes_are_not_imported(fake_plugins):
    """A module with a lazy ``__dir__`` must not be made to import what it names."""
    fake_plugins.add(
        "lazy",
        """
        asked = []

        def __dir__():
            return ["Heavy"]

        def __getattr__(name):
            if not name.startswith("__"):
                asked.append(name)
            raise AttributeError(name)

        @hookimpl
        def fedplug_register_aggregators():
            return []
        """,
    )
    assert fake_plugins.host().records[1].state == "ok"
    import fake_lazy

    assert fake_lazy.asked == []
