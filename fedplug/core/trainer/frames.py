"""Values that live for a while: frames of scopes over one flat namespace.

The namespace always shows the innermost value of a name; a frame remembers what a name showed before it, and
puts that back when it is released. So reading costs nothing, and only who sets a scoped value pays for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedplug.core.errors import UsageError
from fedplug.core.trainer.points import Scope

_MISSING: Any = object()


class Frame:
    """The values of one scope, from the moment it was opened until it is released."""

    __slots__ = ("callbacks", "scope", "shadows")

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.shadows: dict[str, Any] = {}
        self.callbacks: dict[str, Callable[[Any], object]] = {}


class FrameStack:
    """The open frames over ``names``, the namespace of a context.

    Args:
        names: The namespace.
    """

    __slots__ = ("_names", "open")

    def __init__(self, names: dict[str, Any]) -> None:
        self._names = names
        self.open: list[Frame] = [Frame(Scope.RUN)]

    def push(self, scope: Scope) -> None:
        """Open a frame."""
        self.open.append(Frame(scope))

    def pop(self) -> list[Exception]:
        """Close the innermost frame: its values go, what they hid shows again.

        Returns:
            What ``on_release`` functions raised; each was called whatever the others did.
        """
        frame = self.open.pop()
        return self._release(frame) if frame.shadows else []

    def clear(self) -> list[Exception]:
        """Release the values of the innermost frame, which stays open."""
        frame = self.open[-1]
        if not frame.shadows:
            return []
        self.open[-1] = Frame(frame.scope)
        return self._release(frame)

    def clear_above(self, depth: int) -> list[Exception]:
        """Release the values of all frames from number ``depth`` on, innermost first; the frames stay open."""
        problems: list[Exception] = []
        for i in range(len(self.open) - 1, depth - 1, -1):
            frame = self.open[i]
            self.open[i] = Frame(frame.scope)
            problems += self._release(frame)
        return problems

    def set(self, name: str, value: Any, scope: Scope, on_release: Callable[[Any], object] | None) -> None:
        """Set a value that lives as long as the innermost open frame of ``scope``.

        Raises:
            UsageError: No frame of that scope is open.
        """
        depth = next((i for i in range(len(self.open) - 1, -1, -1) if self.open[i].scope is scope), None)
        if depth is None:
            raise UsageError(
                f"ctx.{name} cannot be set for the {scope.value}: none is running.",
                cure="Set it inside a hook of a routine, or in the scope 'run'.",
            )
        frame = self.open[depth]
        inner = next((each for each in self.open[depth + 1 :] if name in each.shadows), None)
        if inner is not None:  # an inner frame hides it: the new value shows when that one is released
            frame.shadows.setdefault(name, inner.shadows[name])
            inner.shadows[name] = value
        else:
            frame.shadows.setdefault(name, self._names.get(name, _MISSING))
            self._names[name] = value
        if on_release is not None:
            frame.callbacks[name] = on_release

    def unhook(self, depth: int) -> tuple[list[Frame], list[dict[str, Any]]]:
        """Take off the frames above ``depth`` with their values, without releasing them; `rehook` puts them back."""
        frames, values = self.open[depth:], []
        for frame in reversed(frames):
            values.append({name: self._names.get(name, _MISSING) for name in frame.shadows})
            self._restore(frame)
        del self.open[depth:]
        return frames, values[::-1]

    def rehook(self, frames: list[Frame], values: list[dict[str, Any]]) -> None:
        """Put frames back on that were taken off."""
        for frame, shown in zip(frames, values, strict=True):
            for name, value in shown.items():
                frame.shadows[name] = self._names.get(name, _MISSING)
                if value is not _MISSING:
                    self._names[name] = value
            self.open.append(frame)

    def declared(self) -> frozenset[str]:
        """Names that belong to any open frame."""
        return frozenset(name for frame in self.open for name in frame.shadows)

    def _release(self, frame: Frame) -> list[Exception]:
        problems: list[Exception] = []
        for name, callback in reversed(frame.callbacks.items()):
            value = self._names.get(name, _MISSING)
            if value is not _MISSING:
                try:
                    callback(value)
                except Exception as error:  # noqa: BLE001 - the others must be released too
                    problems.append(error)
        self._restore(frame)
        return problems

    def _restore(self, frame: Frame) -> None:
        for name, before in frame.shadows.items():
            if before is _MISSING:
                self._names.pop(name, None)
            else:
                self._names[name] = before


class ScopeView:
    """One scope of a context: ``ctx.batch.x = 1`` is ``ctx.set("x", 1, "batch")``."""

    __slots__ = ("_ctx", "_scope")

    def __init__(self, ctx: Any, scope: Scope) -> None:
        object.__setattr__(self, "_ctx", ctx)
        object.__setattr__(self, "_scope", scope)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ctx.set(name, value, self._scope)
