"""An optimizer's state (momentum, moments, step counts) as arrays and plain data, and back.

Only the state is taken along. The settings of the parameter groups (learning rate, weight decay) are what
``init_optimizer`` of the round makes them, so training arguments that change between rounds take effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from fedplug.core.errors import ParamsError, PlanError
from fedplug.core.params import Params
from fedplug_torch import params as torch_params

_PLAIN = (bool, int, float, str, type(None))


def read(optimizer: torch.optim.Optimizer) -> tuple[Params, dict[str, Any]]:
    """The state of ``optimizer``: tensors named ``index/key``, and everything else.

    Raises:
        PlanError: An entry is neither a tensor nor a plain value.
    """
    tensors: dict[str, torch.Tensor] = {}
    plain: dict[str, Any] = {}
    for index, entries in optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}/{key}"] = value
            elif isinstance(value, _PLAIN):
                plain[f"{index}/{key}"] = value
            else:
                raise PlanError(
                    f"The state of {type(optimizer).__name__} cannot be kept: its {key!r} is a {type(value).__name__}.",
                    cure="Set keep_optimizer_state=False, or use an optimizer whose state is tensors and numbers.",
                )
    return torch_params.pack(tensors), {**_identity(optimizer), "plain": plain}


def write(optimizer: torch.optim.Optimizer, arrays: Params, values: Mapping[str, Any]) -> None:
    """Give ``optimizer``, which has made no step yet, the state that `read` gave.

    Raises:
        ParamsError: It is the state of another kind of optimizer, or for other parameters.
    """
    for name, mine in _identity(optimizer).items():
        if values.get(name) != mine:
            raise ParamsError(f"it belongs to another optimizer (its {name} was {values.get(name)!r}, now {mine!r})")
    state: dict[int, dict[str, Any]] = {}
    for name, value in [*torch_params.unpack(arrays).items(), *values["plain"].items()]:
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _identity(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    groups = optimizer.param_groups
    return {
        "class": type(optimizer).__name__,
        "shapes": [[list(param.shape) for param in group["params"]] for group in groups],
    }
