"""Modules and regularizers as users give them: checked, made, and written down as plain data."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from declearn.optimizer import list_optim_modules, list_optim_regularizers
from declearn.optimizer.modules import OptiModule, ScaffoldClientModule, ScaffoldServerModule
from declearn.optimizer.regularizers import Regularizer

from fedplug.core.errors import UnknownNameError, UsageError

Plugged = OptiModule[Any] | Regularizer

ALLOWED: Mapping[str, tuple[type[OptiModule[Any]], ...]] = {"scaffold": (ScaffoldClientModule, ScaffoldServerModule)}
"""What may travel: ``aux_name`` of modules → their classes."""

_REFUSED = {
    "gaussian-noise": "its noise does not fit the clipping and the size of batches, so it protects nobody as told; "
    "training_args['dp_args'] is differential privacy",
    "torch-optim": "it wraps an optimizer of torch, whose state cannot be kept; a plan may return that one itself",
}


def make_modules(given: Any) -> list[OptiModule[Any]]:
    """The modules that a user asks for, in order.

    Args:
        given: None, or a list of names, of pairs ``(name, arguments)``, and of instances.

    Raises:
        UsageError: One cannot be made, is refused, or they cannot work together.
        UnknownNameError: There is no such module.
    """
    modules = [_made(OptiModule, "module", each, list_optim_modules()) for each in _listed("modules", given)]
    for module in modules:
        _refuse(module.name)
        if getattr(module, "amsgrad", False) and getattr(module, "round_reset", False):
            raise UsageError(
                f"{module.name!r} cannot have both amsgrad and round_reset: declearn 2.9 forgets to reset its maximum.",
                cure="Leave one of them out.",
            )
    talking = [name for name in map(aux_name, modules) if name]
    if len(set(talking)) < len(talking):
        raise UsageError(
            f"Two modules exchange auxiliary variables under the name {max(talking, key=talking.count)!r}.",
            cure="Leave one of them out.",
        )
    if talking and aux_name(modules[0]) != talking[0]:
        name = next(module.name for module in modules if aux_name(module))
        raise UsageError(
            f"The module {name!r} corrects gradients as they are, but comes after {modules[0].name!r}, which changes "
            "them.",
            cure="Put it first.",
        )
    return modules


def make_regularizers(given: Any) -> list[Regularizer]:
    """The regularizers that a user asks for, in order; as `make_modules`."""
    return [
        _made(Regularizer, "regularizer", each, list_optim_regularizers()) for each in _listed("regularizers", given)
    ]


def aux_name(module: OptiModule[Any]) -> str:
    """The name under which a module exchanges variables with its counterpart; empty if it does not.

    Raises:
        UsageError: It exchanges something that is not on the list.
    """
    talks = module.aux_name is not None or module.auxvar_cls is not None
    talks = talks or type(module).collect_aux_var is not OptiModule.collect_aux_var
    talks = talks or type(module).process_aux_var is not OptiModule.process_aux_var
    if not talks:
        return ""
    name = str(module.aux_name or module.name)
    if not isinstance(module, ALLOWED.get(name, ())):
        raise UsageError(
            f"The module {module.name!r} exchanges auxiliary variables ({name!r}) that FedPlug does not know.",
            cure=f"Known are: {', '.join(ALLOWED)}. What may travel stands in fedplug_declearn.specs.",
        )
    return name


def plain(plugged: Plugged) -> Any:
    """A module or regularizer as ``[name, arguments]``, which makes the same again; itself if nothing would.

    Its ``get_config`` leaves some arguments of its constructor out (``round_reset``), so these are looked up too.
    """
    known = list_optim_modules() if isinstance(plugged, OptiModule) else list_optim_regularizers()
    if known.get(plugged.name) is not type(plugged):
        return plugged
    config = dict(plugged.get_config())
    for name in inspect.signature(type(plugged)).parameters:
        if name in config:
            continue
        owner = plugged if hasattr(plugged, name) else getattr(plugged, "ewma", None)  # where rmsprop has round_reset
        if not hasattr(owner, name):
            return plugged
        config[name] = getattr(owner, name)
    return [plugged.name, config]


def _refuse(name: str) -> None:
    if name in _REFUSED:
        raise UsageError(f"The module {name!r} is not to be used: {_REFUSED[name]}.")


def _listed(what: str, given: Any) -> Sequence[Any]:
    if given is None:
        return []
    if isinstance(given, str) or not isinstance(given, list | tuple):
        raise UsageError(f"{what} must be a list, got {given!r}.", cure=f"E.g. {what}=['adam'].")
    return given


def _made(base: type[Any], what: str, given: Any, known: Mapping[str, type[Any]]) -> Any:
    if isinstance(given, base):
        return given
    pair = isinstance(given, list | tuple) and len(given) == 2 and isinstance(given[1], Mapping)
    name, arguments = (given[0], dict(given[1])) if pair else (given, {})
    # NumPy's scalars are no Python numbers to declearn, and would turn vectors of float32 into float64
    arguments = {key: each.item() if isinstance(each, np.generic) else each for key, each in arguments.items()}
    if isinstance(name, type) and issubclass(name, base):
        kind: type[Any] = name
    elif not isinstance(name, str):
        raise UsageError(
            f"{given!r} is no {what} of declearn's.",
            cure=f"Give its name, a pair (name, arguments), or an object. Known are: {', '.join(sorted(known))}.",
        )
    elif name in _REFUSED or name not in known:
        _refuse(name)
        raise UnknownNameError(f"{what} of declearn's", name, known)
    else:
        kind = known[name]
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as error:
        raise UsageError(f"The {what} {kind.name!r} cannot be made: {error}") from error
