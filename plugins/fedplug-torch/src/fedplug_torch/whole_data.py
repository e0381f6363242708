"""Arrays that virtual nodes share, as tensors: over the same memory where that can be."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from fedplug.core.data import BatchSource, DataManager
from fedplug_torch.data import TensorData, wrap

_MOST_CONVERTED = 64 << 20
"""Bytes of shared data that may be copied to another type, once."""


def whole(manager: DataManager) -> BatchSource | None:
    """Batches of the data that all nodes share; None where that would take much memory.

    Args:
        manager: Whole arrays, which nobody may write to, arranged as the plan's ``training_data`` does. They must
            live as long as what is returned.

    Raises:
        DatasetError: The data cannot be used.
    """
    data, target = _shared(manager.dataset, is_target=False), _shared(manager.target, is_target=True)
    found = wrap(DataManager(data, target))
    if not isinstance(found, TensorData):
        return None
    copied = _copied(manager.dataset, found.data) + _copied(manager.target, found.target)
    return found if copied <= _MOST_CONVERTED else None


def _shared(data: Any, *, is_target: bool) -> Any:
    """Arrays that nobody may write to as tensors over the same memory, where they need not be converted.

    ``torch.from_numpy`` would warn that the memory is read-only; torch has no read-only tensors.
    """
    if isinstance(data, Mapping):
        return {key: _shared(value, is_target=is_target) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return type(data)(_shared(value, is_target=is_target) for value in data)
    if not isinstance(data, np.ndarray) or data.dtype.name not in (_AS_TARGET if is_target else _AS_DATA):
        return data
    if not (data.size and data.flags.c_contiguous and data.dtype.isnative):
        return data
    memory = (ctypes.c_uint8 * data.nbytes).from_address(data.ctypes.data)
    return torch.frombuffer(memory, dtype=getattr(torch, data.dtype.name)).view(data.shape)


_AS_TARGET = ("float32", "int64")
_AS_DATA = (*_AS_TARGET, "uint8", "int8", "int16", "int32")
"""Types that batches keep, as `fedplug_torch.data.wrap` makes them."""


def _copied(before: Any, after: Any) -> int:
    """Bytes of tensors that do not share the memory of the arrays that they were made of."""
    if isinstance(after, Mapping):
        return sum(_copied(before[key], value) for key, value in after.items())
    if isinstance(after, list | tuple):
        return sum(map(_copied, before, after))
    if not isinstance(after, torch.Tensor) or after.data_ptr() == before.ctypes.data:
        return 0
    return after.numel() * after.element_size()
