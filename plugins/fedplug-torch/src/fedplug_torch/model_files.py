"""A module's ``state_dict`` as a file: PyTorch's own kind, and safetensors."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch
from torch import nn

from fedplug.core.errors import UsageError
from fedplug.core.model_files import ModelFormat, damaged, require_finite, require_layout
from fedplug_torch import params as torch_params


def state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """The whole ``state_dict``, tied weights under all their names, copied to the processor."""
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}


def take_state(module: nn.Module, found: Any, path: str | Path) -> None:
    """Copy what was read from ``path`` into the module, if it is a state of the same layout and finite.

    Raises:
        UsageError: It holds something else than tensors by name.
        ParamsError: It is the state of another module, or has a value that is not finite.
    """
    given = found.state_dict() if isinstance(found, nn.Module) else found
    if not isinstance(given, Mapping) or not all(isinstance(value, torch.Tensor) for value in given.values()):
        wrong = [n for n, v in given.items() if not isinstance(v, torch.Tensor)] if isinstance(given, Mapping) else []
        what = f"{wrong[0]!r}, which is no tensor" if wrong else f"a {type(given).__name__}"
        raise UsageError(
            f"{path} does not hold tensors by name, but {what}.",
            cure="Save it as torch.save(model.state_dict(), path).",
        )
    own = module.state_dict()
    tensors = {str(name): tensor for name, tensor in given.items()}
    for alias, name in torch_params.distinct(own)[1].items():  # others may have saved tied weights once
        if alias not in tensors and name in tensors:
            tensors[alias] = tensors[name]
    require_layout(path, _layout(own), _layout(tensors))
    require_finite(path, [n for n, t in tensors.items() if t.is_floating_point() and not torch.isfinite(t).all()])
    module.load_state_dict(tensors)


def _save(state: Mapping[str, torch.Tensor], file: BinaryIO) -> None:
    torch.save(dict(state), file)


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        if not _is_torch_file(path):
            raise damaged(path, error) from error
        raise UsageError(
            f"{path} holds more than tensors, and reading the rest could run any code that its maker has put in.",
            cure="Save torch.save(model.state_dict(), path), or a .safetensors file. Only for a file that you "
            "have made yourself: import_model(path, trusted=True).",
        ) from error
    except Exception as error:
        raise damaged(path, error) from error


def _load_trusted(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        raise damaged(path, error) from error


def _is_torch_file(path: Path) -> bool:
    """Whether it looks like what ``torch.save`` writes: an archive, or a pickle."""
    with path.open("rb") as file:
        return file.read(1) == b"\x80" or zipfile.is_zipfile(path)


def _save_safetensors(state: Mapping[str, torch.Tensor], file: BinaryIO) -> None:
    from safetensors.torch import save

    file.write(save({name: tensor.contiguous() for name, tensor in state.items()}))


def _load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:
        raise damaged(path, error) from error


def _layout(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[tuple[int, ...], str]]:
    return {name: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for name, tensor in tensors.items()}


_TORCH = ModelFormat(_save, _load, _load_trusted)

FORMATS: Mapping[str, ModelFormat] = {
    ".pt": _TORCH, ".pth": _TORCH, ".bin": _TORCH, ".safetensors": ModelFormat(_save_safetensors, _load_safetensors),
}  # fmt: skip
"""Formats of a ``state_dict``, by suffix."""
