"""The hooks of one phase: a list for each trigger that can be edited, and the order that follows from it."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from fedplug.core.errors import PluginError, UnknownNameError, UsageError
from fedplug.core.trainer.hooks import Hook, HookPlan, make_hook
from fedplug.core.trainer.points import Phase, Trigger

_MODES = ("before", "after")
_TRIGGERS = tuple(Trigger)


class HookSet:
    """The hooks of a phase. ``hooks["on_fit_end"]`` gives those of a trigger in the order of calls.

    Hooks stand in the order in which they were added, unless they were put elsewhere. What a hook says of
    itself (``first``, ``last``, ``before``, ``after``) is applied on top, when a routine begins.

    Args:
        phase: The phase.
        hooks: Hooks to begin with; those of other phases are left out.
    """

    def __init__(self, phase: Phase | str, hooks: Iterable[Hook] = ()) -> None:
        self.phase = Phase.of(phase)
        self._lists: dict[Trigger, tuple[Hook, ...]] = dict.fromkeys(_TRIGGERS, ())  # copies have the same object
        self._installed: frozenset[str] = frozenset()
        self._running = 0
        self._plan: HookPlan | None = None
        for each in hooks:
            if self.phase in each.phases:
                self._require_new(each)
                self._put(each.trigger, (*self._lists[each.trigger], each))

    # to edit -----------------------------------------------------------------------------------------------

    def add(
        self,
        hook: Any,
        trigger: Trigger | str | None = None,
        *,
        index: Any = None,
        before: Any = None,
        after: Any = None,
        name: str = "",
        plugin: str = "",
    ) -> Hook:
        """Add a hook: last by default.

        Args:
            hook: A hook, or any callable that takes the context.
            trigger: When to call it; not needed for a hook.
            index: Its position among the hooks of the trigger; -1 is last.
            before: A hook, or its name, that it is put directly before.
            after: A hook, or its name, that it is put directly behind.
            name: Its name; the function's by default.
            plugin: Who brings it.

        Returns:
            The hook, by which it can be removed.

        Raises:
            UsageError: The position does not exist, two positions are given, or the hook is there already.
            UnknownNameError: There is no such trigger or hook.
        """
        self._require_editable()
        new = make_hook(hook, trigger, name=name, plugin=plugin, phases=(self.phase,))
        there = self._lists[new.trigger]
        if sum(place is not None for place in (index, before, after)) > 1:
            raise UsageError("Give one of index, before and after, not several.")
        position = len(there)
        if index is not None:
            if isinstance(index, bool) or not isinstance(index, int) or not -1 <= index <= len(there):
                raise UsageError(
                    f"There is no position {index!r} among the {len(there)} hooks of {new.trigger}.",
                    cure=f"Use 0 to {len(there)}, or -1 for the end.",
                )
            position = len(there) if index == -1 else index
        elif before is not None:
            position = self._position(before, new.trigger)
        elif after is not None:
            position = self._position(after, new.trigger) + 1
        self._require_new(new)
        self._put(new.trigger, (*there[:position], new, *there[position:]))
        return new

    def remove(self, hook: Any, trigger: Trigger | str | None = None) -> Hook:
        """Take a hook out, and return it.

        Args:
            hook: What `add` returned, its function, or its name.
            trigger: Where to look; needed for a name or function that occurs at several triggers.

        Raises:
            UnknownNameError: There is none.
        """
        self._require_editable()
        where, position = self._find(hook, trigger)
        there = self._lists[where]
        self._put(where, (*there[:position], *there[position + 1 :]))
        return there[position]

    def replace(self, hook: Any, new: Any, trigger: Trigger | str | None = None, *, name: str = "") -> Hook:
        """Put ``new`` in the place of ``hook``, and return it.

        Raises:
            UnknownNameError: ``hook`` is not there; nothing has changed then.
        """
        self._require_editable()
        where, position = self._find(hook, trigger)
        there = self._lists[where]
        made = make_hook(new, where, name=name, phases=(self.phase,))
        self._require_new(made, instead=there[position])
        self._put(where, (*there[:position], made, *there[position + 1 :]))
        return made

    def clear(self, trigger: Trigger | str) -> None:
        """Remove all hooks of a trigger, the loop's own too."""
        self._require_editable()
        self._put(Trigger.of(trigger), ())

    def install(self, plugin: str, hooks: Iterable[Hook]) -> None:
        """Add the hooks of a plugin. Plugins stand in the order of their names, whoever came first.

        Raises:
            PluginError: The plugin is installed already.
        """
        self._require_editable()
        if plugin in self._installed:
            raise PluginError(
                f"The hooks of plugin {plugin!r} are installed already.", cure="Install it once.", plugin=plugin
            )
        made = [make_hook(each, plugin=plugin) for each in hooks if self.phase in each.phases]
        for new in made:
            self._require_new(new)
        for new in made:
            there = self._lists[new.trigger]
            later = [i for i, h in enumerate(there) if h.plugin in self._installed and h.plugin > plugin]
            position = later[0] if later else len(there)
            self._put(new.trigger, (*there[:position], new, *there[position:]))
        self._installed |= {plugin}

    def uninstall(self, plugin: str) -> None:
        """Remove the hooks of a plugin.

        Raises:
            UnknownNameError: It is not installed.
        """
        self._require_editable()
        if plugin not in self._installed:
            raise UnknownNameError("installed plugin", plugin, self._installed)
        for trigger, there in self._lists.items():
            self._put(trigger, tuple(h for h in there if h.plugin != plugin))
        self._installed -= {plugin}

    # to look at --------------------------------------------------------------------------------------------

    def names(self, trigger: Trigger | str) -> tuple[str, ...]:
        """Names of the hooks of a trigger in the order of calls."""
        return tuple(each.name for each in self[trigger])

    def copy(self) -> HookSet:
        """Another set with the same hooks, which may be edited."""
        twin = object.__new__(HookSet)
        twin.phase, twin._running = self.phase, 0
        twin._lists, twin._installed = self._lists, self._installed  # which are never changed in place
        twin._plan = self._plan  # it is made anew when the set is edited
        return twin

    def compile(self) -> HookPlan:
        """What a routine calls.

        Raises:
            PluginError: A hook wants to be before or after one that does not exist, or in a circle.
        """
        if self._plan is None:
            self._plan = HookPlan.compile(self.phase, {t: tuple(_ordered(hooks)) for t, hooks in self._lists.items()})
        return self._plan

    def __getitem__(self, trigger: Trigger | str) -> tuple[Hook, ...]:
        return self.compile().hooks[Trigger.of(trigger)]

    def __iter__(self) -> Iterator[Hook]:
        return (each for trigger in Trigger for each in self[trigger])

    def __len__(self) -> int:
        return sum(map(len, self._lists.values()))

    def __bool__(self) -> bool:
        return True  # an empty set is a set: nothing is to be called

    def __repr__(self) -> str:
        lines = [f"  {t}: {', '.join(h.qualified for h in self[t])}" for t in Trigger if self._lists[t]]
        return "\n".join([f"HookSet({self.phase})", *lines])

    def lock(self) -> None:
        """Refuse edits until `unlock`, which is to be called as often; for the loop."""
        self._running += 1

    def unlock(self) -> None:
        """Take back a `lock`."""
        self._running -= 1

    # helpers -----------------------------------------------------------------------------------------------

    def _require_editable(self) -> None:
        if self._running:
            raise UsageError(
                f"The hooks of phase {self.phase.value!r} cannot be edited while a routine runs.",
                cure="Edit them before or after it, or pass an edited copy: trainer.train(hooks=...).",
            )

    def _put(self, trigger: Trigger, hooks: tuple[Hook, ...]) -> None:
        """Replace the hooks of a trigger."""
        self._lists = {**self._lists, trigger: hooks}
        self._plan = None

    def _require_new(self, new: Hook, instead: Hook | None = None) -> None:
        for each in self._lists[new.trigger]:
            if each is not instead and (each.plugin, each.name) == (new.plugin, new.name):
                raise UsageError(
                    f"There is a hook {new.qualified!r} at {new.trigger} already.",
                    cure="Replace it, or give the new one another name: add(..., name=...).",
                )

    def _position(self, hook: Any, trigger: Trigger | str) -> int:
        return self._find(hook, trigger)[1]

    def _find(self, hook: Any, trigger: Trigger | str | None) -> tuple[Trigger, int]:
        """Where a hook stands that is given as such, by name, or by its function."""
        if trigger is None and isinstance(hook, Hook):
            trigger = hook.trigger
        triggers = list(Trigger) if trigger is None else [Trigger.of(trigger)]
        every = [(t, i, each) for t in triggers for i, each in enumerate(self._lists[t])]
        if isinstance(hook, str):
            found = [(t, i) for t, i, each in every if each.answers_to(hook)]
        else:
            found = [(t, i) for t, i, each in every if each is hook or each.fn == hook]
        where = f"hook at {triggers[0]} in phase {self.phase.value}" if trigger else f"hook in phase {self.phase.value}"
        if not found:
            name = hook if isinstance(hook, str) else getattr(hook, "name", "") or repr(hook)
            raise UnknownNameError(where, name, {each.name for _, _, each in every})
        if len(found) > 1:
            known = sorted(f"{each.qualified} at {t}" for t, i, each in every if (t, i) in found)
            raise UsageError(
                f"{hook!r} means several hooks: {', '.join(known)}.", cure="Give the trigger or plugin:name."
            )
        return found[0]


def check_insert_mode(mode: str) -> str:
    """``mode`` if it is ``before`` or ``after``.

    Raises:
        UnknownNameError: It is neither.
    """
    if mode not in _MODES:
        raise UnknownNameError("insert mode", str(mode), _MODES)
    return mode


def _ordered(hooks: Sequence[Hook]) -> list[Hook]:
    """The hooks of a trigger in the order of calls: a stable topological sort.

    Ranks are first < others < last, then the position in the list. Of those whose predecessors are done, the one of
    lowest rank comes next; who must be before another counts with the other's rank if that is lower, so that a
    hook moves up to the one that it precedes instead of pushing that one down. Of several that precede the same
    one, their own ranks decide.
    """
    if not hooks:
        return []
    own: list[tuple[int, int]] = [((0 if h.first else 2 if h.last else 1), i) for i, h in enumerate(hooks)]
    if not any(h.before or h.after for h in hooks):
        return [hooks[i] for _, i in sorted(own)]
    ranks = list(own)
    later: list[set[int]] = [set() for _ in hooks]
    for i, each in enumerate(hooks):
        for name in each.before:
            later[i].add(_referred(name, i, hooks))
        for name in each.after:
            later[_referred(name, i, hooks)].add(i)
    waits = [0] * len(hooks)
    for successors in later:
        for j in successors:
            waits[j] += 1
    for _ in hooks:
        for i, each in enumerate(hooks):
            for j in later[i] if each.before else ():
                ranks[i] = min(ranks[i], ranks[j])
    ready = [(ranks[i], own[i], i) for i, count in enumerate(waits) if count == 0]
    heapq.heapify(ready)
    done: list[int] = []
    while ready:
        i = heapq.heappop(ready)[-1]
        done.append(i)
        for j in later[i]:
            waits[j] -= 1
            if waits[j] == 0:
                heapq.heappush(ready, (ranks[j], own[j], j))
    if len(done) < len(hooks):
        stuck = [hooks[i] for i in range(len(hooks)) if i not in done]
        raise PluginError(
            f"The hooks {', '.join(h.qualified for h in stuck)} at {stuck[0].trigger} want to be before and after each "
            f"other in a circle (plugins: {_plugins(stuck)}).",
            cure="Remove a before or after of one of them, or leave out one of the plugins.",
        )
    return [hooks[i] for i in done]


def _referred(name: str, who: int, hooks: Sequence[Hook]) -> int:
    found = [i for i, h in enumerate(hooks) if i != who and h.answers_to(name)]
    if len(found) == 1:
        return found[0]
    asking = hooks[who]
    owner = f" of plugin {asking.plugin!r}" if asking.plugin else ""
    names = ", ".join(h.qualified for i, h in enumerate(hooks) if i != who) or "none"
    problem = f"there are {len(found)} of that name" if found else "there is none"
    raise PluginError(
        f"The hook {asking.name!r}{owner} at {asking.trigger} wants to be next to {name!r}, but {problem}.",
        cure=f"At this trigger there are: {names}.",
        plugin=asking.plugin,
    )


def _plugins(hooks: list[Hook]) -> str:
    return ", ".join(sorted({h.plugin or "none, the researcher's own" for h in hooks}))
