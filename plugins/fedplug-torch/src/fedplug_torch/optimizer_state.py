"""States of optimizers and schedulers as named arrays and plain data, and back.

`pack` and `unpack` do this for any state dict. `read` and `write` are what a node keeps between rounds: there, only
the state of an optimizer is taken along (momentum, moments, step counts). The settings of its parameter groups
(learning rate, weight decay) are what ``init_optimizer`` of the round makes them, so training arguments that change
between rounds take effect. A scheduler that goes on does so relative to the learning rate of the round.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from fedplug.core import plan_optimizer
from fedplug.core.errors import ParamsError, PlanError
from fedplug.core.params import Array, Params
from fedplug.core.plan_optimizer import PlanOptimizer

_PLAN_OPTIMIZER = "optimizer/"


def read(optimizer: torch.optim.Optimizer | PlanOptimizer, scheduler: Any = None) -> tuple[Params, dict[str, Any]]:
    """The state of ``optimizer`` and of ``scheduler``, copied: tensors by their places, and everything else.

    Raises:
        PlanError: An entry is neither a tensor nor plain data.
    """
    if isinstance(optimizer, PlanOptimizer):
        return plan_optimizer.read_state(optimizer)
    arrays: dict[str, Array] = {}
    kept = {**_identity(optimizer), "state": pack(optimizer.state_dict()["state"], "optimizer", arrays)}
    if scheduler is not None:
        kept["schedule"] = type(scheduler).__name__
        kept["scheduler"] = pack(scheduler.state_dict(), "scheduler", arrays)
    return Params.from_arrays(arrays), kept


def write(
    optimizer: torch.optim.Optimizer | PlanOptimizer,
    arrays: Mapping[str, Array],
    values: Mapping[str, Any],
    scheduler: Any = None,
) -> None:
    """Give ``optimizer``, which has made no step yet, and ``scheduler`` the state that `read` gave.

    Raises:
        ParamsError: It is the state of another kind of optimizer or scheduler, or for other parameters.
    """
    if isinstance(optimizer, PlanOptimizer):
        plan_optimizer.write_state(optimizer, arrays, values)
        return
    for name, mine in _identity(optimizer).items():
        if values.get(name) != mine:
            raise ParamsError(f"it belongs to another optimizer (its {name} was {values.get(name)!r}, now {mine!r})")
    if "state" not in values:
        raise ParamsError("it was kept by another version of fedplug-torch")
    kept = values.get("schedule")
    if scheduler is not None and kept is not None and kept != type(scheduler).__name__:
        raise ParamsError(f"it belongs to another scheduler ({kept}, now {type(scheduler).__name__})")
    state = unpack(values["state"], "optimizer", arrays)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    if scheduler is not None and kept is not None:
        copy_schedule(unpack(values["scheduler"], "scheduler", arrays), scheduler)


def pack_optimizer(optimizer: torch.optim.Optimizer | PlanOptimizer, arrays: dict[str, Array]) -> dict[str, Any]:
    """Settings and state of ``optimizer`` as plain data, whose arrays are copied into ``arrays``."""
    if isinstance(optimizer, PlanOptimizer):
        kept, values = plan_optimizer.read_state(optimizer)
        arrays.update({f"{_PLAN_OPTIMIZER}{name}": array for name, array in kept.items()})
        return values
    return {"torch": pack(optimizer.state_dict(), "optimizer", arrays)}


def unpack_optimizer(
    optimizer: torch.optim.Optimizer | PlanOptimizer, values: Mapping[str, Any], arrays: Mapping[str, Array]
) -> None:
    """Let ``optimizer`` go on from what `pack_optimizer` gave."""
    if isinstance(optimizer, PlanOptimizer):
        mine = {name.removeprefix(_PLAN_OPTIMIZER): arrays[name] for name in arrays if name.startswith(_PLAN_OPTIMIZER)}
        plan_optimizer.write_state(optimizer, mine, values)
    elif "torch" in values:
        optimizer.load_state_dict(unpack(values["torch"], "optimizer", arrays))
    else:
        raise ParamsError("it belongs to another optimizer")


def copy_schedule(state: Mapping[str, Any], scheduler: Any) -> None:
    """Let ``scheduler`` go on from the state dict of another one, from the learning rates of its own optimizer."""
    fresh = scheduler.state_dict()
    state = {key: Counter(value) if isinstance(fresh.get(key), Counter) else value for key, value in state.items()}
    rates = state["_last_lr"]
    if "base_lrs" in fresh and "base_lrs" in state:
        before, now = state["base_lrs"], fresh["base_lrs"]
        rates = [
            rate if old == new or not old else rate * new / old
            for rate, old, new in zip(rates, before, now, strict=True)
        ]
        state["base_lrs"] = now
    scheduler.load_state_dict({**state, "_last_lr": rates})
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def pack(value: Any, place: str, arrays: dict[str, Array]) -> Any:
    """A state dict as plain data, whose tensors are copied into ``arrays`` by their places.

    Raises:
        PlanError: There is something in it that is neither a tensor nor plain data.
    """
    if isinstance(value, torch.Tensor):
        stored = torch.empty(value.shape, dtype=value.dtype).copy_(value.detach())
        kind = str(value.dtype)
        arrays[place] = (stored.view(torch.int16) if kind == "torch.bfloat16" else stored).numpy()
        return {"tensor": kind}
    if isinstance(value, dict):
        return {"dict": [[key, pack(each, f"{place}/{key}", arrays)] for key, each in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [pack(each, f"{place}/{i}", arrays) for i, each in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise PlanError(
        f"The state of an optimizer or scheduler cannot be kept: its {place!r} is a {type(value).__name__}.",
        cure="Use one whose state is made of tensors, numbers and text; or set keep_optimizer_state=False.",
    )


def unpack(packed: Any, place: str, arrays: Mapping[str, Array]) -> Any:
    """The state dict that `pack` was given."""
    if not isinstance(packed, dict):
        return packed
    ((kind, content),) = packed.items()
    if kind == "tensor":
        tensor = torch.from_numpy(np.array(arrays[place]))
        return tensor.view(torch.bfloat16) if content == "torch.bfloat16" else tensor
    if kind == "dict":
        return {key: unpack(each, f"{place}/{key}", arrays) for key, each in content}
    parts = [unpack(each, f"{place}/{i}", arrays) for i, each in enumerate(content)]
    return parts if kind == "list" else tuple(parts)


def _identity(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    groups = optimizer.param_groups
    return {
        "class": type(optimizer).__name__,
        "shapes": [[list(param.shape) for param in group["params"]] for group in groups],
    }
