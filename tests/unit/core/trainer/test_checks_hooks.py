"""Acceptance checks of hooks and their order: 10 to 20, by number."""

from __future__ import annotations

import functools
import importlib.util
import itertools
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from fedplug import hookimpl
from fedplug.core.errors import PluginError, UnknownNameError, UsageError
from fedplug.core.plugins import PluginHost
from fedplug.core.trainer import Hook, HookSet, Phase, hook, hooks_of

_spec = importlib.util.spec_from_file_location("trainer_kit", Path(__file__).with_name("trainer_kit.py"))
kit = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(kit)


T = "on_epoch_end"


def noop(ctx):
    pass


def three():
    hooks = HookSet("train")
    for name in "abc":
        hooks.add(noop, T, name=name)
    return hooks


def test_check_10_add_is_last_and_positions_are_checked():
    hooks = three()
    hooks.add(noop, T, name="d")
    hooks.add(noop, T, name="e", index=0)
    hooks.add(noop, T, name="f", index=5)
    hooks.add(noop, T, name="g", index=-1)
    assert "".join(hooks.names(T)) == "eabcdfg"
    for wrong in (-2, 8, 1.0, True):
        with pytest.raises(UsageError, match="Use 0 to 7, or -1"):
            hooks.add(noop, T, name="x", index=wrong)


@pytest.mark.parametrize(
    ("mode", "expected"), [("before", ["nabc", "anbc", "abnc"]), ("after", ["anbc", "abnc", "abcn"])]
)
def test_check_11_next_to_a_base(mode, expected):
    for base, order in zip("abc", expected, strict=True):
        hooks = three()
        hooks.add(noop, T, name="n", **{mode: base})
        assert "".join(hooks.names(T)) == order


def test_check_12_unknown_names_are_errors_that_list_the_known():
    t = kit.trainer()
    with pytest.raises(UnknownNameError, match=r"no trigger named 'on_epoch_ends'\.\nDid you mean 'on_epoch_end'"):
        t.register_hook_in_train(noop, "on_epoch_ends")
    with pytest.raises(UnknownNameError, match=r"hook at on_batch_forward in phase train named 'forwad'(.|\n)*forward"):
        t.register_hook_in_train(noop, "on_batch_forward", base_hook="forwad")
    with pytest.raises(UnknownNameError, match="finish"):
        t.reset_hook_in_train("on_fit_end", "nothing")
    with pytest.raises(UnknownNameError, match=r"insert mode named 'behind'(.|\n)*after, before"):
        t.register_hook_in_train(noop, T, base_hook="x", insert_mode="behind")
    with pytest.raises(UnknownNameError, match=r"phase named 'trial'(.|\n)*eval, finetune, train"):
        hook(T, phases="trial")(noop)


def test_check_13_replace_keeps_the_place_or_changes_nothing():
    hooks = three()
    hooks.replace("b", noop, T, name="n")
    assert "".join(hooks.names(T)) == "anc"
    with pytest.raises(UnknownNameError):
        hooks.replace("zzz", noop, T, name="m")
    assert "".join(hooks.names(T)) == "anc"
    t = kit.trainer()
    t.replace_hook_in_train(noop, "on_batch_backward", "step")
    assert t.hooks_in_train.names("on_batch_backward") == ("backward", "noop")
    t.replace_hook_in_train(noop, "on_batch_backward")
    assert t.hooks_in_train.names("on_batch_backward") == ("noop",)


def test_check_14_remove_and_clear_touch_one_phase_and_trigger():
    t = kit.trainer()
    handle = t.register_hook_in_train(noop, T)
    other = t.register_hook_in_eval(noop, T)
    assert t.hooks_in_train.remove(handle) is handle
    assert t.hooks_in_eval.names(T) == ("noop",)
    assert t.reset_hook_in_eval(T, "noop") == 0
    t.hooks_in_eval.add(other)
    assert t.hooks_in_eval.remove(noop) is other
    before = t.hooks_in_eval.names("on_fit_end")
    assert t.reset_hook_in_train("on_fit_end") == -1
    assert t.hooks_in_train.names("on_fit_end") == ()
    assert t.hooks_in_train.names("on_batch_end") == ("accumulate",)
    assert t.hooks_in_eval.names("on_fit_end") == before
    copy = t.hooks_in_train.copy()
    copy.clear("on_batch_end")
    assert t.hooks_in_train.names("on_batch_end") == ("accumulate",)


class Callable:
    def __call__(self, ctx):
        ctx.trainer.seen.append("object")


def test_check_15_any_callable_can_be_a_hook():
    t = kit.trainer(epochs=1)
    t.seen = []
    t.hooks_in_train.add(Callable(), T)
    t.hooks_in_train.add(lambda ctx: t.seen.append("lambda"), T, name="mine")
    t.hooks_in_train.add(functools.partial(lambda what, ctx: t.seen.append(what), "partial"), T, name="bound")
    t.install("one", [Hook(lambda ctx: t.seen.append("one"), T, name="same")])
    t.install("two", [Hook(lambda ctx: t.seen.append("two"), T, name="same")])
    t.train()
    assert t.seen == ["object", "lambda", "partial", "one", "two"]
    with pytest.raises(UsageError, match="lambda needs a name"):
        t.hooks_in_train.add(lambda ctx: None, T)
    with pytest.raises(UsageError, match="called with the context alone"):
        t.hooks_in_train.add(lambda: None, T, name="none")
    with pytest.raises(UsageError, match="There is a hook 'mine' at on_epoch_end already"):
        t.hooks_in_train.add(noop, T, name="mine")
    with pytest.raises(UsageError, match="several hooks: one:same at on_epoch_end, two:same"):
        t.hooks_in_train.remove("same", T)
    assert t.hooks_in_train.remove("two:same", T).plugin == "two"


@pytest.mark.parametrize("order", list(itertools.permutations(["p1", "p2", "p3"])))
def test_check_16_the_order_does_not_depend_on_who_came_first(order):
    offers = {
        "p1": [Hook(noop, T, name="clip", last=True)],
        "p2": [Hook(noop, T, name="noise", after="clip"), Hook(noop, T, name="free2")],
        "p3": [
            Hook(noop, T, name="start", first=True),
            Hook(noop, T, name="early", before="own"),
            Hook(noop, T, name="free3"),
        ],
    }
    hooks = HookSet("train")
    hooks.add(noop, T, name="own")
    for plugin in order:
        hooks.install(plugin, offers[plugin])
    assert hooks.names(T) == ("start", "early", "own", "free2", "free3", "clip", "noise")


def test_check_16_a_circle_and_an_unknown_neighbour_name_the_plugins():
    hooks = HookSet("train")
    hooks.install("ape", [Hook(noop, T, name="a", before="b")])
    with pytest.raises(
        PluginError, match=r"'a' of plugin 'ape' at on_epoch_end wants to be next to 'b', but there is none"
    ):
        hooks.compile()
    hooks.install("bee", [Hook(noop, T, name="b", before="a")])
    with pytest.raises(PluginError, match=r"ape:a, bee:b .* circle \(plugins: ape, bee\)"):
        hooks.compile()


def test_check_17_editing_while_a_routine_runs_raises_and_it_goes_on_as_before():
    t = kit.trainer(epochs=2)
    caught = []

    def edit(ctx):
        for change in (
            lambda: t.register_hook_in_train(noop, T), lambda: t.hooks_in_eval.clear(T),
            lambda: t.reset_hook_in_train(T), lambda: t.install("late", []),
        ):  # fmt: skip
            with pytest.raises(UsageError, match="cannot be edited while a routine runs") as error:
                change()
            caught.append(error.value)

    t.hooks_in_train.add(edit, T)
    before = t.describe()
    t.train()
    assert len(caught) == 8
    assert t.describe() == before
    t.hooks_in_train.add(noop, T)


def test_check_18_a_plugin_is_installed_once_and_leaves_no_trace():
    t = kit.trainer()
    t.install("zoo", [Hook(noop, T, ("train", "eval"), "z")])
    before = t.describe()
    t.install("mid", [Hook(noop, T, ("train", "eval"), "m", first=True), Hook(noop, "on_fit_end", name="m")])
    with pytest.raises(PluginError, match="'mid' are installed already"):
        t.install("mid", [])
    assert t.describe() != before
    t.uninstall("mid")
    assert t.describe() == before
    with pytest.raises(PluginError, match="next to 'nobody'"):
        t.install("bad", [Hook(noop, T, name="b", after="nobody")])
    assert t.describe() == before
    with pytest.raises(UnknownNameError, match="installed plugin"):
        t.uninstall("mid")


def test_check_19_the_table_and_hooks_for_one_time():
    t = kit.trainer()
    t.install("zoo", [Hook(noop, "on_batch_backward", name="z", before="step")])
    rows = [(r.trigger, r.order, r.name, r.plugin) for r in t.describe() if r.phase == "train"]
    assert rows == [
        ("on_batch_forward", 0, "forward", "fedplug"), ("on_batch_forward", 1, "regularizer", "fedplug"),
        ("on_batch_backward", 0, "backward", "fedplug"), ("on_batch_backward", 1, "z", "zoo"),
        ("on_batch_backward", 2, "step", "fedplug"), ("on_batch_end", 0, "accumulate", "fedplug"),
        ("on_fit_end", 0, "finish", "fedplug"),
    ]  # fmt: skip
    assert str(t.describe()).splitlines()[0].split() == ["phase", "trigger", "order", "hook", "plugin"]
    before = t.describe()
    assert t.train(hooks=HookSet("train")).steps == 0
    assert t.evaluate(hooks=HookSet("eval")).metrics == {}
    assert t.describe() == before
    assert t.train().steps == 4


def discover(**functions):
    plugin = type("plugin", (), {name: staticmethod(f) for name, f in functions.items()})
    point = EntryPoint("wrong", "m:x", "fedplug")
    host = PluginHost.discover(found=[])
    return host.register(plugin, point.name)


@pytest.mark.parametrize(
    ("functions", "problem"),
    [
        ({"fedplug_trainer_hook": hookimpl(lambda info: [])}, "no hook named"),
        ({"fedplug_trainer_hooks": hookimpl(lambda info, ctx: [])}, "asks for 'ctx'"),
    ],
)
def test_check_20_a_misspelt_hook_fails_at_load(functions, problem):
    record = discover(**functions)
    assert (record.state, record.name) == ("failed", "wrong")
    assert problem in record.error


def test_a_hook_says_what_is_wrong_with_it():
    with pytest.raises(UsageError, match="both first and last"):
        Hook(noop, T, first=True, last=True)
    with pytest.raises(UsageError, match="plain function needs a trigger"):
        HookSet("train").add(noop)
    with pytest.raises(UsageError, match="must be callable"):
        HookSet("train").add(3, T)
    with pytest.raises(UsageError, match="one of index, before and after"):
        three().add(noop, T, index=0, before="a", name="x")
    assert HookSet(Phase.TRAIN, [Hook(noop, T, "eval")]).names(T) == ()
    assert "on_epoch_end: a, b, c" in repr(three())


def test_a_lambda_that_is_given_a_name_may_be_added_to_a_trainer():
    trainer = kit.trainer()
    seen = []
    trainer.add_hook(lambda ctx: seen.append(ctx.cur_epoch_i), T, name="mine")
    trainer.train()
    assert seen == [0]
    with pytest.raises(UsageError, match="A lambda needs a name"):
        trainer.add_hook(lambda ctx: None, T)


def test_a_hook_that_a_class_gets_later_is_found_too():
    class Plan:
        @hook("on_fit_end")
        def first(self, ctx):
            pass

    assert [each.name for each in hooks_of(Plan())] == ["first"]

    @hook("on_fit_end")
    def second(self, ctx):
        pass

    Plan.second = second
    assert [each.name for each in hooks_of(Plan())] == ["first", "second"]


def test_trainers_that_are_alike_have_hooks_of_their_own():
    one, other = kit.trainer(), kit.trainer()
    before = str(other.describe())
    for hooks in one.hooks.values():
        hooks.clear("on_fit_end")
        hooks.add(noop, T, name="mine")
    one.install("empty", [])
    one.install("theirs", [Hook(noop, T, name="theirs")])
    assert one.hooks_in_train.names(T) == ("mine", "theirs")
    assert one.hooks_in_train.names("on_fit_end") == ()
    assert str(other.describe()) == str(kit.trainer().describe()) == before


def test_trainers_that_are_alike_tell_those_who_wait_for_them():
    told = {"one": [], "other": []}
    for name, interval in (("one", 1), ("other", 2)):
        kit.trainer(report=lambda point, name=name: told[name].append(point.step), log_interval=interval).train()
    assert told == {"one": [1, 2, 3, 4], "other": [1, 2, 4]}
