"""Batches of the samples that local differential privacy has drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from fedplug.core.data import BatchSource, LoaderArgs
from fedplug.core.params import Array


def pick(source: BatchSource, picked: Array, loader: LoaderArgs) -> tuple[Any, Any]:
    """One batch of the samples ``picked``; of no samples, tensors without rows."""
    extra = dict(loader.extra or {})
    # A pool of workers for each batch would cost more than it brings.
    kept = {"collate_fn": extra["collate_fn"]} if "collate_fn" in extra else None
    rows = picked if picked.size else np.zeros(1, np.int64)
    args = LoaderArgs(len(rows), shuffle=False, extra=kept)
    data, target = next(iter(source.subset(rows).batches(args, None)))
    return (data, target) if picked.size else (_none_of(data), _none_of(target))


def _none_of(data: Any) -> Any:
    if isinstance(data, torch.Tensor):
        return data[:0]
    if isinstance(data, Mapping):
        return {key: _none_of(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        parts = (_none_of(value) for value in data)
        return type(data)(*parts) if hasattr(data, "_fields") else type(data)(parts)
    return data
