"""The arguments of `Experiment` that have no setter, and the names of all of them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, ParamSpec, TypeVar

from fedplug.core.errors import FedplugError, UsageError
from fedplug.core.numbers import is_whole
from fedplug.core.pool import NodePool
from fedplug.core.transport import TransportOptions
from fedplug.researcher.settings.data import checked_tags
from fedplug.researcher.shown import shown

P = ParamSpec("P")
T = TypeVar("T")

_SEED_BITS = 256

Problems = list[tuple[str, FedplugError]]
"""Wrong arguments: their names, and what is wrong with each."""


def check_arguments(
    *,
    tags: Any,
    training_data: object,
    min_nodes: object,
    connect_timeout: object,
    seed: object,
    transport: object,
    transport_options: object,
) -> Problems:
    """What is wrong with the arguments of `Experiment` that no setter checks, or only by searching for data."""
    found: Problems = []

    def refuse(name: str, rule: str, value: object, cure: str = "") -> None:
        found.append((name, UsageError(f"{name} must be {rule}, got {shown(value)}.", cure=cure)))

    if tags is not None:
        if training_data is not None:
            found.append(("tags", UsageError("Give either tags or training_data, not both.")))
        try:
            checked_tags(tags)
        except FedplugError as error:
            found.append(("tags", error))
    if min_nodes is not None and not is_whole(min_nodes, 1):
        refuse("min_nodes", "a whole number above zero or None", min_nodes)
    if isinstance(connect_timeout, bool) or not isinstance(connect_timeout, int | float) or not connect_timeout >= 0:
        refuse("connect_timeout", "a number of seconds", connect_timeout)
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        refuse("seed", "a whole number or None", seed)
    elif isinstance(seed, int) and seed.bit_length() > _SEED_BITS:
        text = f"seed must have at most {_SEED_BITS} bits, and not {seed.bit_length()}."
        found.append(("seed", UsageError(text, cure="secrets.randbits(64) makes a good one.")))
    if transport is not None and not isinstance(transport, str | NodePool):
        forgotten = "Wrap it: transport=fedplug.simulation.Federation({...})." if isinstance(transport, Mapping) else ""
        refuse("transport", "an address or a federation", transport, forgotten)
    if transport_options is not None and not isinstance(transport_options, TransportOptions):
        cure = "E.g. fedplug.core.transport.TransportOptions(insecure_plaintext=True)."
        refuse("transport_options", "TransportOptions or None", transport_options, cure)
    return found


def known_arguments(function: Callable[P, T]) -> Callable[P, T]:
    """Let ``function`` refuse arguments that it does not have with the nearest names that it has.

    Its signature and its types stay as they are.
    """
    names = [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]
    what = function.__qualname__.removesuffix(".__init__")

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        unknown = [name for name in kwargs if name not in names]
        if unknown:
            raise UsageError(
                "\n".join(_unknown(what, name, names) for name in unknown), cure=f"help({what}) lists all."
            )
        return function(*args, **kwargs)

    return checked


def _unknown(what: str, name: str, names: Sequence[str]) -> str:
    near = get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{what} has no argument {name!r}.{hint}"
