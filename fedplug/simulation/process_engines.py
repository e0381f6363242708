"""Which engine trains inside a worker process, and with which plugins, said so that both sides understand it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

import msgspec

from fedplug.core.errors import UsageError
from fedplug.core.plugin_checks import BUILTIN
from fedplug.simulation.engines import Engine, make_engine

if TYPE_CHECKING:
    from fedplug.core.plugins import PluginHost


class InnerEngine(msgspec.Struct, frozen=True, array_like=True):
    """An engine and its arguments.

    Attributes:
        name: The name of an engine that a plugin offers, or of a class.
        module: Where the class is defined; empty for an engine by name.
        options: Arguments.
    """

    name: str
    module: str
    options: dict[str, Any]

    @classmethod
    def of(cls, engine: str | type[Engine], options: Mapping[str, Any]) -> InnerEngine:
        """The description of ``engine``.

        Raises:
            UsageError: It is none, or defined where another process cannot import it from; or the arguments are no
                plain data.
        """
        try:
            msgspec.msgpack.encode(dict(options))
        except (TypeError, OverflowError) as error:
            raise UsageError(
                f"The arguments of the worker processes' engine must be plain data: {error}.",
                cure="Give numbers, text, lists and dicts of them.",
            ) from None
        if isinstance(engine, str):
            return cls(engine, "", dict(options))
        given: object = engine
        if not (isinstance(given, type) and issubclass(given, Engine)):
            raise UsageError(
                f"The engine of the worker processes must be a name or a class, but is {engine!r}.",
                cure='E.g. ProcessEngine(engine="serial"); its arguments stand behind it, by name.',
            )
        inner = cls(engine.__qualname__, engine.__module__, dict(options))
        if engine.__module__ == "__main__" or inner._found(sys.modules.get(engine.__module__)) is not engine:
            raise UsageError(
                f"Worker processes cannot import the engine {engine.__qualname__} from {engine.__module__!r}.",
                cure="Define it at the top level of a module of its own.",
            )
        return inner

    def make(self, host: PluginHost) -> Engine:
        """A new engine.

        Args:
            host: Knows the engines that are installed.

        Raises:
            UsageError: There is none of that name, or it does not take the arguments.
            PluginError: It cannot be loaded.
        """
        made = self._found(import_module(self.module)) if self.module else type(make_engine(self.name, host))
        try:
            engine: Engine = made(**self.options)
        except TypeError as error:
            raise UsageError(f"The engine {self.name!r} of the worker processes cannot be made: {error}.") from None
        return engine

    def _found(self, place: Any) -> Any:
        for part in self.name.split("."):
            place = getattr(place, part, None)
        return place


def plugins_of(host: PluginHost) -> list[str]:
    """The plugins that a worker process must load, to have those of ``host``.

    Raises:
        UsageError: One is not installed.
    """
    usable = [record for record in host.records if record.name != BUILTIN and record.state in ("ok", "conflict")]
    for record in usable:
        if not record.dist:
            raise UsageError(
                f"Plugin {record.name!r} was registered in this process, so worker processes do not have it.",
                cure="Install it as a package, or use engine='serial'.",
            )
    return [record.name for record in usable]
