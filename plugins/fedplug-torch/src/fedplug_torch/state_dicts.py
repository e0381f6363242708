"""State dicts of optimizers and schedulers as named arrays and plain data, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from fedplug.core.errors import PlanError
from fedplug.core.params import Array


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
        f"The optimizer's or scheduler's {place!r} is a {type(value).__name__}, which cannot be saved.",
        cure="Use one whose state is made of tensors, numbers and text.",
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
