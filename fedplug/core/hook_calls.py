"""How hooks are called: one method for each of the six kinds of `fedplug.core.hookspecs`.

`pluggy` supplies markers, registration and the order of calls. The calls are made here, because each kind has
its own rule for a plugin that raises, and every error must name the plugin.
"""

from __future__ import annotations

import inspect
import os
import sys
import time
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeVar

import pluggy

from fedplug.core.errors import PluginError
from fedplug.core.hookspecs import Allow, Deny, HookKind
from fedplug.core.markers import PROJECT
from fedplug.core.plugin_checks import PluginRecord
from fedplug.core.slow_calls import named_if_slow

T = TypeVar("T")


class PluginWarning(UserWarning):
    """A plugin that only observes has raised; what it observes goes on."""


class HookCalls(ABC):
    """The calling half of `PluginHost`.

    Args:
        specs: The module with the hooks.
        kinds: The kind of each hook.
    """

    def __init__(self, specs: Any, kinds: Mapping[str, HookKind]) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(specs)
        self._specs = {name: list(inspect.signature(getattr(specs, name)).parameters) for name in kinds}
        self._records: dict[str, PluginRecord] = {}
        self._trace = os.environ.get("FEDPLUG_TRACE", "") not in ("", "0")
        self.observer_failures: Counter[tuple[str, str]] = Counter()
        """How often an observing hook raised, by (plugin, hook)."""

    @abstractmethod
    def _refuse(self, record: PluginRecord, error: BaseException) -> None:
        """Take a plugin out, with all that it offered, and keep the reason."""

    def _collect(self, hook: str, *, plugin: str | None = None, **arguments: Any) -> list[tuple[str, Any]]:
        """Each plugin's answer, by plugin name; one that raises is taken out."""
        answers: list[tuple[str, Any]] = []
        for impl in self._impls(hook):
            if plugin in (None, impl.plugin_name):
                try:
                    answers.append((impl.plugin_name, self._call(impl, hook, arguments)))
                except (Exception, SystemExit) as error:  # noqa: BLE001 - isolation is the point
                    self._refuse(self._records[impl.plugin_name], error)
        return answers

    def _first(self, hook: str, expected: type[T], **arguments: Any) -> T | None:
        """The first answer that is not None, which must be an ``expected``; a plugin that raises aborts."""
        for impl in self._impls(hook):
            try:
                answer = self._call(impl, hook, arguments)
            except Exception as error:
                error.add_note(f"Raised by {self._who(impl)} in {hook}.")
                raise
            if isinstance(answer, expected):
                return answer
            if answer is not None:
                raise self._misbehaved(impl, hook, f"returned {type(answer).__name__}, not {expected.__name__}")
        return None

    def _gather(self, hook: str, *, plugin: str | None = None, **arguments: Any) -> list[tuple[Any, list[Any]]]:
        """Each plugin's answer as a list, with its implementation; one that raises aborts the call."""
        answers: list[tuple[Any, list[Any]]] = []
        for impl in self._impls(hook):
            if plugin in (None, impl.plugin_name):
                try:
                    answers.append((impl, list(self._call(impl, hook, arguments))))
                except Exception as error:
                    problem = f"raised {type(error).__name__}: {error}"
                    raise self._misbehaved(impl, hook, problem) from error
        return answers

    def _veto(self, hook: str, **arguments: Any) -> Deny | None:
        """The first refusal, or None. A plugin that raises, or answers nonsense, refuses."""
        for impl in self._impls(hook):
            try:
                with named_if_slow(_capital(self._who(impl)), hook):
                    answer = self._call(impl, hook, arguments)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - who cannot decide, refuses
                return Deny(f"{type(error).__name__}: {error}", impl.plugin_name, broken=True)
            if isinstance(answer, Deny):
                return Deny(answer.reason, impl.plugin_name)
            if answer is not None and not isinstance(answer, Allow):
                return Deny(f"It answered {answer!r} instead of Allow or Deny.", impl.plugin_name, broken=True)
        return None

    def _fold(self, hook: str, name: str, **arguments: Any) -> Any:
        """Pass the argument ``name`` through all plugins; None leaves it as it is, and its type must stay."""
        value = arguments[name]
        for impl in self._impls(hook):
            try:
                answer = self._call(impl, hook, {**arguments, name: value})
            except Exception as error:
                raise self._misbehaved(impl, hook, f"raised {type(error).__name__}: {error}") from error
            if answer is not None and not isinstance(answer, type(value)):
                raise self._misbehaved(impl, hook, f"returned {type(answer).__name__}, not {type(value).__name__}")
            value = value if answer is None else answer
        return value

    def _observe(self, hook: str, **arguments: Any) -> None:
        """Tell every plugin; one that raises is warned about once, and told the next time again."""
        for impl in self._impls(hook):
            try:
                with named_if_slow(_capital(self._who(impl)), hook):
                    self._call(impl, hook, arguments)
            except Exception as error:  # noqa: BLE001 - an observer must not stop what it observes
                self.observer_failures[impl.plugin_name, hook] += 1
                if self.observer_failures[impl.plugin_name, hook] == 1:
                    problem = f"{self._who(impl)} raised in {hook}: {type(error).__name__}: {error}"
                    warnings.warn(f"{problem}. It goes on; further failures are only counted.", PluginWarning, 3)

    def _impls(self, hook: str) -> list[Any]:
        """The implementations of a hook in the order of calls."""
        return list(reversed(getattr(self._manager.hook, hook).get_hookimpls()))

    def _call(self, impl: Any, hook: str, arguments: Mapping[str, Any]) -> Any:
        wanted = impl.argnames + impl.kwargnames
        chosen = {name: value for name, value in arguments.items() if name in wanted}
        if not self._trace:
            return impl.function(**chosen)
        start, outcome = time.perf_counter(), "raised"
        try:
            answer = impl.function(**chosen)
            outcome = type(answer).__name__
            return answer
        finally:
            spent = (time.perf_counter() - start) * 1000
            print(f"fedplug: {hook} {impl.plugin_name} -> {outcome} ({spent:.1f} ms)", file=sys.stderr)  # noqa: T201

    def _who(self, impl: Any) -> str:
        record = self._records[impl.plugin_name]
        origin = f" ({record.dist} {record.version})" if record.dist else ""
        return f"plugin {record.name!r}{origin}"

    def _misbehaved(self, impl: Any, hook: str, what: str) -> PluginError:
        return PluginError(
            f"{_capital(self._who(impl))} {what} in {hook}.",
            cure=f"Report it to its authors, or leave it out with FEDPLUG_PLUGINS or by uninstalling "
            f"{self._records[impl.plugin_name].dist or impl.plugin_name}.",
            plugin=impl.plugin_name,
        )


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
