"""Hooks of the local loop: one function with its place in time and in order."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from fedplug.core.errors import UsageError
from fedplug.core.trainer.points import Phase, Trigger

if TYPE_CHECKING:
    from fedplug.core.trainer.context import Context

HookFunction = Callable[["Context"], object]
"""What a hook does; its result is ignored."""


@dataclass(frozen=True, slots=True, eq=False)
class Hook:
    """A function that a routine calls at one point in time. Usually made by `hook`.

    Attributes:
        fn: Called with the `Context` and nothing else.
        trigger: When.
        phases: The phases it belongs to.
        name: What others call it by; the function's own name by default.
        plugin: Who brought it; empty for a researcher's own, ``fedplug`` for the loop's.
        before: Names of hooks of the same trigger that must come later.
        after: Names of hooks of the same trigger that must come earlier.
        first: Ahead of all that do not say so.
        last: Behind all that do not say so.

    Raises:
        UsageError: ``fn`` cannot be called with one argument, has no name, or ``first`` and ``last`` are both set.
        UnknownNameError: There is no such trigger or phase.
    """

    fn: HookFunction
    trigger: Trigger
    phases: tuple[Phase, ...] = (Phase.TRAIN,)
    name: str = ""
    plugin: str = ""
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    first: bool = False
    last: bool = False

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        put("trigger", Trigger.of(self.trigger))
        put("phases", tuple(Phase.of(phase) for phase in _names(self.phases)))
        put("before", _names(self.before))
        put("after", _names(self.after))
        put("name", self.name or _name_of(self.fn))
        if not callable(self.fn):
            raise UsageError(f"A hook must be callable, but got a {type(self.fn).__name__}.")
        if self.first and self.last:
            raise UsageError(f"The hook {self.name!r} cannot be both first and last.")

    def __call__(self, ctx: Context) -> object:
        """Call the function."""
        return self.fn(ctx)

    def __get__(self, instance: object, owner: type | None = None) -> Hook:
        """As a method of a training plan: the same hook, bound to the plan."""
        if instance is None:
            return self
        return dataclasses.replace(self, fn=self.fn.__get__(instance, owner))

    @property
    def qualified(self) -> str:
        """``plugin:name``, which no two hooks of a trigger share."""
        return f"{self.plugin}:{self.name}" if self.plugin else self.name

    def answers_to(self, name: str) -> bool:
        """Whether ``name`` (``name`` or ``plugin:name``) means this hook."""
        return name in (self.name, self.qualified)


def hook(
    trigger: Trigger | str,
    *,
    phases: Iterable[Phase | str] | str = (Phase.TRAIN,),
    name: str = "",
    before: Iterable[str] | str = (),
    after: Iterable[str] | str = (),
    first: bool = False,
    last: bool = False,
) -> Callable[[Callable[..., object]], Hook]:
    """Make a hook of a function, or of a method of a training plan.

    Args:
        trigger: When to call it, e.g. ``"on_epoch_end"``.
        phases: In which phases: ``"train"``, ``"eval"``, ``"finetune"``, or several.
        name: Its name; the function's by default.
        before: Names of hooks that must come later.
        after: Names of hooks that must come earlier.
        first: Ahead of all that do not say so.
        last: Behind all that do not say so.

    Example:
        >>> @hook("on_epoch_end")
        ... def show(ctx):
        ...     print(ctx.cur_epoch_i)
    """

    def decorate(fn: Callable[..., object]) -> Hook:
        return make_hook(
            fn, trigger, phases=phases, name=name, before=before, after=after, first=first, last=last, method_too=True
        )

    return decorate


def make_hook(
    fn: Any,
    trigger: Trigger | str | None = None,
    *,
    phases: Iterable[Phase | str] | str = (Phase.TRAIN,),
    name: str = "",
    plugin: str = "",
    before: Iterable[str] | str = (),
    after: Iterable[str] | str = (),
    first: bool = False,
    last: bool = False,
    method_too: bool = False,
) -> Hook:
    """A hook of any callable; a `Hook` stays what it is, but for trigger, name and plugin if they are given.

    Args:
        fn: A function, a partial, an object with ``__call__``, or a hook.
        trigger: When to call it; not needed for a hook.
        phases: In which phases.
        name: Its name; the function's by default.
        plugin: Who brings it.
        before: Names of hooks that must come later.
        after: Names of hooks that must come earlier.
        first: Ahead of all that do not say so.
        last: Behind all that do not say so.
        method_too: Whether it may be a method that is not bound yet.

    Raises:
        UsageError: It cannot be called with a context alone, has no name, or has no trigger.
        UnknownNameError: There is no such trigger or phase.
    """
    if isinstance(fn, Hook):
        asked: dict[str, Any] = {"trigger": trigger, "name": name, "plugin": plugin}
        changes = {key: value for key, value in asked.items() if value and value != getattr(fn, key)}
        return dataclasses.replace(fn, **changes) if changes else fn
    if trigger is None:
        raise UsageError("A plain function needs a trigger.", cure='E.g. add(my_function, "on_epoch_end").')
    _require_one_argument(fn, method_too)
    many: dict[str, Any] = {"phases": phases, "before": before, "after": after}
    return Hook(fn, Trigger.of(trigger), name=name, plugin=plugin, first=first, last=last, **many)


def hooks_of(owner: object) -> list[Hook]:
    """The hooks among an object's methods, bound to it, in the order of their definition, base classes first."""
    kind = type(owner)
    sizes = [len(base.__dict__) for base in kind.__mro__]  # they tell that a class has got attributes since
    known = _names_of.get(kind)
    if known is None or known[0] != sizes:
        known = _names_of[kind] = sizes, _hook_names(kind)
    return [getattr(owner, name) for name in known[1]]


_names_of: WeakKeyDictionary[type, tuple[list[int], list[str]]] = WeakKeyDictionary()
"""The hooks of classes: a plan is made for every task, and its class has a hundred attributes."""


def _hook_names(kind: type) -> list[str]:
    found: dict[str, None] = {}
    for base in reversed(kind.__mro__):
        for name, value in vars(base).items():
            if isinstance(value, Hook):
                found[name] = None
            elif name in found:
                del found[name]  # overridden by something that is no hook
    return list(found)


@dataclass(frozen=True, slots=True)
class HookPlan:
    """The hooks of one routine, resolved: what the loop calls. One tuple for each trigger, in order of calls.

    Attributes:
        phase: The phase.
        hooks: The same as hooks, to look at.
    """

    phase: Phase
    plan_routine: tuple[HookFunction, ...] = ()
    on_fit_start: tuple[HookFunction, ...] = ()
    on_epoch_start: tuple[HookFunction, ...] = ()
    on_batch_start: tuple[HookFunction, ...] = ()
    on_batch_forward: tuple[HookFunction, ...] = ()
    on_batch_backward: tuple[HookFunction, ...] = ()
    on_batch_end: tuple[HookFunction, ...] = ()
    on_epoch_end: tuple[HookFunction, ...] = ()
    on_fit_end: tuple[HookFunction, ...] = ()
    on_exception: tuple[HookFunction, ...] = ()
    on_teardown: tuple[HookFunction, ...] = ()
    hooks: Mapping[Trigger, tuple[Hook, ...]] = field(default_factory=dict)

    @classmethod
    def compile(cls, phase: Phase, hooks: Mapping[Trigger, tuple[Hook, ...]]) -> HookPlan:
        """The plan of ``hooks``, which are in order.

        Evaluation has no ``on_batch_backward``, whatever is registered; ``on_teardown`` runs in reverse.
        """
        calls: dict[str, Any] = {trigger.value: tuple(h.fn for h in each) for trigger, each in hooks.items()}
        if phase is Phase.EVAL:
            calls[Trigger.ON_BATCH_BACKWARD.value] = ()
        calls[Trigger.ON_TEARDOWN.value] = calls.get(Trigger.ON_TEARDOWN.value, ())[::-1]
        return cls(phase, hooks=dict(hooks), **calls)


def _names(value: Iterable[str] | str) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _name_of(fn: Any) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    name = getattr(fn, "__name__", "") or type(fn).__name__
    if name == "<lambda>":
        raise UsageError("A lambda needs a name to be a hook.", cure='E.g. add(lambda ctx: ..., trigger, name="mine").')
    return str(name)


def _require_one_argument(fn: Any, method_too: bool) -> None:
    if not callable(fn):
        raise UsageError(f"A hook must be callable, but got a {type(fn).__name__}.")
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # a built-in without a signature
        return
    for arguments in ((None,), (None, None)) if method_too else ((None,),):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return
    known = getattr(fn, "__name__", type(fn).__name__)
    raise UsageError(
        f"A hook is called with the context alone, but {known}{signature} takes other arguments.",
        cure="Write def my_hook(ctx): ..., or bind the others with functools.partial.",
    )
