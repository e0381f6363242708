"""A module's state as `Params` and back: parameters and buffers, in the order of ``state_dict``, one copy each way.

A tensor that the module holds under several names (tied weights) is one entry, under its first name.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from fedplug.core.errors import ParamsError, PlanError
from fedplug.core.params import Array, Params, ParamsSpec

_NAMES = {
    torch.bool: "bool",
    torch.int8: "int8",
    torch.uint8: "uint8",
    torch.int16: "int16",
    torch.int32: "int32",
    torch.int64: "int64",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float32: "float32",
    torch.float64: "float64",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


def check(module: nn.Module) -> None:
    """Check that the module's state can travel.

    Raises:
        PlanError: It has a lazy parameter, a dtype that cannot travel, or extra state that is no tensor.
    """
    for name, value in module.state_dict(keep_vars=True).items():
        if not isinstance(value, torch.Tensor):
            raise PlanError(
                f"The module's state {name!r} is a {type(value).__name__}, no tensor, and cannot travel.",
                cure="Keep it in a buffer (register_buffer), or leave it out of the state_dict.",
            )
        if isinstance(value, nn.UninitializedParameter | nn.UninitializedBuffer):
            raise PlanError(
                f"The module's parameter {name!r} has no shape yet (a lazy module).",
                cure="Call the module once on a batch of the right shape in init_model.",
            )
        if value.dtype not in _NAMES or value.layout != torch.strided:
            raise PlanError(
                f"The module's parameter {name!r} is {value.dtype} ({value.layout}), which cannot travel.",
                cure=f"Use a dense tensor of one of: {', '.join(_NAMES.values())}.",
            )


def names(module: nn.Module) -> dict[str, bool]:
    """The names of the module's parameters and buffers, in order, and whether each is a buffer."""
    tensors = distinct(module.state_dict(keep_vars=True))[0]
    return {name: not isinstance(tensor, nn.Parameter) for name, tensor in tensors.items()}


def every(module: nn.Module) -> Iterator[torch.Tensor]:
    """All parameters and buffers of a module, those that are not part of its state too; some more than once."""
    for part in module.modules():
        for kept in (part._parameters, part._buffers):
            yield from (tensor for tensor in kept.values() if tensor is not None)


def read(
    module: nn.Module, allocate: Callable[[int], Any] | None = None, only: Collection[str] | None = None
) -> Params:
    """The module's parameters and buffers, copied once.

    Args:
        module: On any device.
        allocate: Gives the memory to copy into; fresh memory by default.
        only: The names of those to read; all by default.
    """
    return pack(_chosen(distinct(module.state_dict())[0], only), allocate)


def write(module: nn.Module, params: Params, only: Collection[str] | None = None) -> None:
    """Copy ``params`` into the module.

    Args:
        module: On any device.
        params: Parameters and buffers by name.
        only: The names of those to write; all by default. The others stay as they are.

    Raises:
        ParamsError: They are not laid out as the module's state.
    """
    plain = _is_plain(module)
    state = module.state_dict(keep_vars=plain)
    tensors, aliases = distinct(state)
    chosen = _chosen(tensors, only)
    params.require(spec_of(chosen))
    given = views(params)
    if plain:  # then load_state_dict would do the same, in three times the time
        with torch.no_grad():
            for name, tensor in chosen.items():
                tensor.copy_(given[name])
        return
    for alias, name in aliases.items():
        if name in given:
            given[alias] = given[name]
    module.load_state_dict(given if only is None else {**state, **given})


def pack(tensors: Mapping[str, torch.Tensor], allocate: Callable[[int], Any] | None = None) -> Params:
    """Tensors on any device as `Params`, copied once.

    Raises:
        ParamsError: A dtype cannot travel.
    """
    spec = spec_of(tensors)

    def fill(name: str, out: Array) -> None:
        tensor = tensors[name]
        if tensor.dtype == torch.bfloat16:  # NumPy knows it only through ml_dtypes, torch not at all
            target = torch.from_numpy(out.reshape(-1).view(np.int16)).view(torch.bfloat16).reshape(out.shape)
        else:
            target = torch.from_numpy(out)
        target.copy_(tensor)

    return Params.build(spec, fill, None if allocate is None else allocate(spec.nbytes))


def unpack(params: Params) -> dict[str, torch.Tensor]:
    """Copies of ``params`` as tensors, on the processor."""
    return {name: view.clone() for name, view in views(params).items()}


def views(params: Params) -> dict[str, torch.Tensor]:
    """The arrays of ``params`` as tensors that nobody must write to, or keep longer than ``params``."""
    return over(params.spec, flat(params))


def over(spec: ParamsSpec, flat: torch.Tensor) -> dict[str, torch.Tensor]:
    """Views of ``flat``, the bytes of what ``spec`` describes, as tensors."""
    found: dict[str, torch.Tensor] = {}
    for entry in spec.tensors:
        dtype = _DTYPES[entry.dtype]
        raw = flat[entry.offset : entry.offset + entry.size * dtype.itemsize]
        found[entry.name] = raw.view(dtype).view(entry.shape)
    return found


def stacked(spec: ParamsSpec, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """Views of many rows of bytes, each of which begins with what ``spec`` describes, along a first axis."""
    found: dict[str, torch.Tensor] = {}
    for entry in spec.tensors:
        dtype = _DTYPES[entry.dtype]
        raw = rows[:, entry.offset : entry.offset + entry.size * dtype.itemsize]
        found[entry.name] = raw.view(dtype).view(len(rows), *entry.shape)
    return found


def bits_equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are equal to the bit, be they NaN or not."""
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    return torch.equal(*(each.contiguous().reshape(-1).view(torch.uint8) for each in (one, other)))


def _chosen(tensors: dict[str, torch.Tensor], only: Collection[str] | None) -> dict[str, torch.Tensor]:
    return tensors if only is None else {name: tensors[name] for name in only}


def _is_plain(module: nn.Module) -> bool:
    """Whether the entries of the module's ``state_dict`` are its own tensors, and loading one is copying it."""
    if type(module).load_state_dict is not nn.Module.load_state_dict:
        return False
    for part in module.modules():
        kind = type(part)
        if (
            kind._load_from_state_dict not in _PLAIN_LOADS
            or kind.state_dict is not nn.Module.state_dict
            or kind._save_to_state_dict is not nn.Module._save_to_state_dict
            or any(getattr(part, name) for name in _STATE_HOOKS)
        ):
            return False
    return True


_PLAIN_LOADS = (nn.Module._load_from_state_dict, nn.modules.batchnorm._NormBase._load_from_state_dict)
_STATE_HOOKS = (
    "_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
)  # fmt: skip


def spec_of(tensors: Mapping[str, torch.Tensor]) -> ParamsSpec:
    """The table of tensors, in their order.

    Raises:
        ParamsError: A dtype cannot travel.
    """
    return _spec(tuple([(name, tensor.shape, tensor.dtype) for name, tensor in tensors.items()]))


@functools.lru_cache(maxsize=64)
def _spec(entries: tuple[tuple[str, torch.Size, torch.dtype], ...]) -> ParamsSpec:
    """The table; one object for all models that are laid out alike, of which there may be one for each node."""
    try:
        return ParamsSpec.build([(name, tuple(shape), _NAMES[dtype]) for name, shape, dtype in entries])
    except KeyError as error:
        raise ParamsError(f"The module has a tensor of {error.args[0]}, which cannot travel.") from None


def distinct(state: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The state without tensors that occur under an earlier name too, and those: name -> earlier name."""
    if len({tensor.data_ptr() for tensor in state.values()}) == len(state):  # the common case, kept lean
        return dict(state), {}
    tensors: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[object, ...], str] = {}
    for name, tensor in state.items():
        key = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and key in first:
            aliases[name] = first[key]
        else:
            first[key] = name
            tensors[name] = tensor
    return tensors, aliases


def flat(params: Params) -> torch.Tensor:
    """The bytes of ``params`` as a tensor that nobody must write to, or keep longer than ``params``.

    ``torch.from_numpy`` would warn that the memory is read-only; torch has no read-only tensors.
    """
    if not params.nbytes:
        return torch.empty(0, dtype=torch.uint8)
    address = np.frombuffer(params.buffer, np.uint8).ctypes.data
    return torch.frombuffer(_bytes(params.nbytes).from_address(address), dtype=torch.uint8)


@functools.lru_cache(maxsize=16)
def _bytes(count: int) -> type[ctypes.Array[ctypes.c_uint8]]:
    """The type of so many bytes. Making one takes longer than copying a small model, and is work for the collector."""
    return ctypes.c_uint8 * count
