"""Watches a plan's step while it is recorded, where the operations of the backend do not show what it does."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from fedplug_torch.tape import Tape


class Guard(TorchFunctionMode):
    """Refuses what brings something that is no tensor out of a tensor, but for its shape and the like.

    Args:
        tape: Is told what is refused, and what fails: a step may catch errors, and do something else then.
    """

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self._tape = tape

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            out = func(*args, **(kwargs or {}))
        except Exception as error:
            self._tape.refuse(f"an operation of its step fails ({type(error).__name__})")
            raise
        if not _is_tensors(out):
            name = func.__name__
            if name == "__get__":
                name = func.__self__.__name__
            if name not in _OF_THE_LAYOUT:
                raise self._tape.refuse(f"training looks at values of tensors ({name})")
        return out


_OF_THE_LAYOUT = frozenset(
    ("shape", "dtype", "device", "layout", "ndim", "requires_grad", "is_leaf", "itemsize", "nbytes", "is_cuda",
     "is_sparse", "is_quantized", "is_nested", "is_mkldnn", "is_meta", "__len__", "dim", "size", "stride", "numel",
     "nelement", "ndimension", "element_size", "storage_offset", "is_contiguous", "is_floating_point", "is_complex",
     "get_device", "is_signed", "is_inference")
)  # fmt: skip


def _is_tensors(value: Any) -> bool:
    if isinstance(value, tuple | list) and not isinstance(value, torch.Size):
        return all(map(_is_tensors, value))
    return value is None or isinstance(value, torch.Tensor)
