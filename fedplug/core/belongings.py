"""What a plan's code has besides its plans: the globals of its modules, its classes, and what these hold.

It outlasts a training, and the next one finds it as it was left. A simulation that sets a plan up once, and finds out
too late that it must not, does a training again: then all of this has to be as it was before.
"""

from __future__ import annotations

import functools
import random
import sys
from collections import deque
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from fedplug.core.code_reach import content
from fedplug.core.helper_import import is_of_plan, modules_of
from fedplug.core.plan_source import bundle_of

_MOST = 1 << 16
"""Containers with more elements, and arrays with more values, are not copied."""


class Belongings:
    """Notes what a plan's code has, and brings it back.

    Args:
        plan_class: The class of the plan, as it was loaded from what has travelled.
    """

    def __init__(self, plan_class: type) -> None:
        self._root = plan_class.__module__
        self._kept: list[_Kept] = []
        self._seen: set[int] = set()
        self._held: list[object] = []  # an identity is one only as long as the object lives
        self._noted: list[Any] | None = None
        if bundle_of(plan_class) is None:
            self._add(plan_class)
        else:
            for name in modules_of(self._root):
                self._add(sys.modules.get(name))

    def note(self) -> None:
        """Note how all of it is now."""
        self._noted = [kept.read() for kept in self._kept]

    def forget(self) -> None:
        """Forget what was noted."""
        self._noted = None

    def changed(self) -> str:
        """What is not as it was noted; empty if nothing, or if nothing was noted."""
        for kept, before in zip(self._kept, self._noted or (), strict=False):
            if not kept.is_still(before):
                return kept.name
        return ""

    def undo(self) -> None:
        """Bring back what was noted, if anything, and forget it."""
        for kept, before in zip(self._kept, self._noted or (), strict=False):
            if not kept.is_still(before):
                kept.write(before)
        self.forget()

    def _add(self, thing: Any, name: str = "") -> None:
        if id(thing) in self._seen or isinstance(thing, str | bytes | int | float | None):
            return
        self._seen.add(id(thing))
        self._held.append(thing)
        if isinstance(thing, staticmethod | classmethod):
            self._add(thing.__func__, name)
        elif isinstance(thing, MethodType):
            self._add(thing.__self__, name)
        elif isinstance(thing, functools.partial):
            self._add((*thing.args, *thing.keywords.values()), name)
        elif isinstance(thing, FunctionType):
            if self._is_own(thing):
                cells = map(content, thing.__closure__ or ())
                self._add((*cells, *(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()), name)
        elif isinstance(thing, ModuleType | type):
            if self._is_own(thing):
                self._add_names(thing, thing.__name__.removeprefix(f"{self._root}."))
        elif isinstance(thing, tuple | frozenset):
            for each in thing:
                self._add(each, name)
        elif type(thing) in _PARTS or isinstance(thing, np.ndarray):
            self._add_parts(thing, name)
        elif (stream := _stream(thing)) is not None:
            self._kept.append(_Kept(name, *stream, _same_state))
        elif self._is_own(type(thing)) and hasattr(thing, "__dict__"):
            self._add_names(thing, name)

    def _is_own(self, thing: Any) -> bool:
        module = thing.__name__ if isinstance(thing, ModuleType) else thing.__module__ or ""
        return is_of_plan(module, self._root)

    def _add_names(self, thing: Any, name: str) -> None:
        self._kept.append(_Kept(name, lambda: vars(thing).copy(), lambda before: _put_back(thing, before), _same_items))
        for inner, value in list(vars(thing).items()):
            if inner != "__builtins__":
                self._add(value, f"{name}.{inner}")

    def _add_parts(self, thing: Any, name: str) -> None:
        if len(thing) > _MOST or (isinstance(thing, np.ndarray) and thing.size > _MOST):
            return
        if isinstance(thing, np.ndarray):
            self._kept.append(_Kept(name, thing.copy, lambda before: np.copyto(thing, before), _same_bytes))
            return
        write, same = _PARTS[type(thing)]
        self._kept.append(_Kept(name, thing.copy, lambda before: write(thing, before), same))
        for each in thing.values() if isinstance(thing, dict) else thing:
            self._add(each, name)


class _Kept:
    """Something that can be read, brought back, and compared with what was read."""

    def __init__(
        self,
        name: str,
        read: Callable[[], Any],
        write: Callable[[Any], object],
        same: Callable[[Any, Any], bool],
    ) -> None:
        self.name, self.read, self.write, self._same = name, read, write, same

    def is_still(self, before: Any) -> bool:
        return self._same(self.read(), before)


def _put_back(thing: Any, before: dict[str, Any]) -> None:
    now = vars(thing).copy()
    for name in now.keys() - before.keys():
        delattr(thing, name)
    for name, value in before.items():
        if name not in now or now[name] is not value:
            setattr(thing, name, value)


def _same_items(now: dict[Any, Any], before: dict[Any, Any]) -> bool:
    return now.keys() == before.keys() and all(now[name] is value for name, value in before.items())


def _same_elements(now: Any, before: Any) -> bool:
    return len(now) == len(before) and all(map(_is, now, before))


def _same_bytes(now: Any, before: Any) -> bool:
    return bool(now.tobytes() == before.tobytes()) if now.dtype != object else _same_elements(now.flat, before.flat)


def _is(one: object, other: object) -> bool:
    return one is other


def _same_state(now: Any, before: Any) -> bool:
    return bool(np.array_equal(_flat(now), _flat(before)))


def _flat(state: Any) -> Any:
    return np.array(list(_leaves(state)), dtype=object)


def _leaves(state: Any) -> Iterator[Any]:
    if isinstance(state, dict | tuple | list):
        for each in state.values() if isinstance(state, dict) else state:
            yield from _leaves(each)
    elif hasattr(state, "tolist"):
        yield str(state.tolist())
    else:
        yield state


def _write_list(thing: Any, before: Any) -> None:
    thing[:] = before


def _write_other(thing: Any, before: Any) -> None:
    thing.clear()
    (thing.extend if isinstance(thing, deque) else thing.update)(before)


_PARTS: dict[type, tuple[Callable[[Any, Any], None], Callable[[Any, Any], bool]]] = {
    list: (_write_list, _same_elements),
    bytearray: (_write_list, lambda now, before: bool(now == before)),
    deque: (_write_other, _same_elements),
    set: (_write_other, lambda now, before: bool(now == before)),
    dict: (_write_other, _same_items),
}


def _stream(thing: Any) -> tuple[Callable[[], Any], Callable[[Any], object]] | None:
    """How the state of a generator of random numbers is read and written; None if it is none."""
    if isinstance(thing, np.random.Generator):
        bits = thing.bit_generator
        return lambda: bits.state, lambda before: setattr(bits, "state", before)
    if isinstance(thing, random.Random):
        return thing.getstate, thing.setstate
    if not isinstance(thing, type) and callable(getattr(type(thing), "get_state", None)):
        return thing.get_state, thing.set_state  # those of NumPy's old generators and of torch
    return None
