"""declearn's vectors over arrays and tensors of ours, and states made of them as plain data.

A vector is a dict of arrays with arithmetic; making one copies nothing.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from declearn.model.api import Vector
from declearn.model.sklearn import NumpyVector

from fedplug.core.errors import UsageError
from fedplug.core.params import Array, Params


def vector_over(arrays: Mapping[str, Any]) -> Vector[Any]:
    """A vector over tensors of PyTorch, or arrays of NumPy, as they come; nothing is copied."""
    torch = sys.modules.get("torch")  # not imported: then nothing can be a tensor
    if torch is not None and any(isinstance(each, torch.Tensor) for each in arrays.values()):
        from declearn.model.torch import TorchVector

        return TorchVector({name: each.detach() for name, each in arrays.items()})
    return NumpyVector(dict(arrays))


def movable(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """What has a gradient: everything but NumPy's whole numbers and truth values."""
    return {n: each for n, each in arrays.items() if not (isinstance(each, np.ndarray) and each.dtype.kind in "biu")}


def zeros_like(array: Any) -> Any:
    """Zeros of the shape, dtype and device of a tensor or an array."""
    return array.new_zeros(array.shape) if hasattr(array, "new_zeros") else np.zeros_like(array)


def copied(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Copies of tensors or arrays, which later steps do not change."""
    return {name: each.detach().clone() if hasattr(each, "detach") else np.array(each) for name, each in arrays.items()}


def pack(state: Any) -> Any:
    """The state of a module as plain data, in which each vector has become `Params`.

    Raises:
        UsageError: There is something else in it.
    """
    if isinstance(state, Vector):
        return Params.from_arrays({name: _stored(each) for name, each in state.coefs.items()})
    if isinstance(state, Mapping) and all(isinstance(key, str) for key in state):
        return {key: pack(each) for key, each in state.items()}
    if isinstance(state, list | tuple):
        return [pack(each) for each in state]
    if isinstance(state, set | frozenset):
        return [pack(each) for each in sorted(state)]
    if state is None or isinstance(state, bool | int | float | str):
        return state
    raise UsageError(
        f"The state of a module of declearn's holds a {type(state).__name__}, which cannot be kept.",
        cure="Leave keep_optimizer_state out, or use a module whose state is vectors and numbers.",
    )


def unpack(state: Any, like: Mapping[str, Any]) -> Any:
    """What `pack` was given, with vectors of the kind (framework, device) of ``like``."""
    if isinstance(state, Params):
        return vector_over({name: _as(state[name], like.get(name)) for name in state})
    if isinstance(state, Mapping):
        return {key: unpack(each, like) for key, each in state.items()}
    if isinstance(state, list | tuple):
        return [unpack(each, like) for each in state]
    return state


def fits(state: Any, like: Mapping[str, Any]) -> bool:
    """Whether all vectors of a state, packed or not, have the names and sizes of the arrays ``like``."""
    if isinstance(state, Vector | Params):
        return same_layout(state.coefs if isinstance(state, Vector) else state, like)
    parts = state.values() if isinstance(state, Mapping) else state if isinstance(state, list | tuple) else ()
    return all(fits(each, like) for each in parts)


def same_layout(arrays: Mapping[str, Any], like: Mapping[str, Any]) -> bool:
    """Whether ``arrays`` have the names and sizes of ``like``; (1,) may stand for (), of which declearn makes it."""
    if arrays.keys() != like.keys():
        return False
    return all(math.prod(each.shape) == math.prod(like[name].shape) for name, each in arrays.items())


def _stored(each: Any) -> Array:
    """An array, or a tensor as one on the processor; of bfloat16, which NumPy does not know, the bits as int16."""
    if not hasattr(each, "detach"):
        return np.asarray(each)
    tensor = each.detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":
        tensor = tensor.view(sys.modules["torch"].int16)
    found: Array = tensor.numpy()
    return found


def _as(array: Array, like: Any) -> Any:
    """A copy of ``array`` as whatever ``like`` is, in a dtype of its own: the state of a module may be more precise."""
    if not hasattr(like, "new_tensor"):
        return np.array(array)
    import torch

    tensor = torch.from_numpy(np.array(array))
    return (tensor.view(torch.bfloat16) if tensor.dtype is torch.int16 else tensor).to(like.device)
