"""What a breakpoint does to a component: its arguments are written down, its state is saved, both come back."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from fedplug.core.component_config import config_of, make
from fedplug.core.errors import FedplugError
from fedplug.core.params import Params
from fedplug.core.plain_state import freeze, thaw
from fedplug.testing.registry import LawBrokenError

T = TypeVar("T")


def remade(component: T) -> T:
    """A component that is made from the arguments that were written down of ``component``.

    Raises:
        LawBrokenError: They cannot be written down, or make another component.
    """
    kind = type(component)
    try:
        config = config_of(component)
        again = make(kind, json.loads(json.dumps(config)))
        found = config_of(again)
    except FedplugError as error:
        raise LawBrokenError(
            f"A breakpoint cannot make {kind.__name__} again: {error.message} {error.cure}".rstrip()
        ) from error
    if found != config:
        raise LawBrokenError(
            f"{kind.__name__} was made with {config}, but one that is made with these arguments says that it was "
            f"made with {found}."
        )
    return again


def saved(component: Any) -> dict[str, Any]:
    """The state of a component as it comes back from a breakpoint.

    Raises:
        LawBrokenError: It cannot be saved, or is no dict.
    """
    arrays: list[Params] = []
    state: object = component.state_dict()
    if not isinstance(state, dict):
        raise LawBrokenError(f"state_dict must return a dict, but returned {type(state).__name__}.")
    try:
        plain = json.loads(json.dumps(freeze(state, arrays), allow_nan=False))
        # copied, as what is read from a file is
        found = thaw(plain, [Params(each.spec, bytes(each.buffer)) for each in arrays])
    except FedplugError as error:
        raise LawBrokenError(f"A breakpoint cannot save the state: {error.message} {error.cure}".rstrip()) from error
    return dict(found)


def give(component: Any, state: dict[str, Any]) -> None:
    """Let a component go on from a state that was saved; as from a breakpoint, an empty one is not given.

    Raises:
        LawBrokenError: It refuses its own state.
    """
    if not state:
        return
    try:
        component.load_state_dict(state)
    except FedplugError as error:
        raise LawBrokenError(
            f"{type(component).__name__} refuses its own state: {error.message}\nThe state: {state}"
        ) from error
