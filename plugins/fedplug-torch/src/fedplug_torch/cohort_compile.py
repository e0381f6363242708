"""Compiled stacked steps, where the researcher asks for them: several in one graph, and distrusted.

`torch.compile` has made wrong gradients without an error before. So what it makes is compared with the recorded
programs, which have been compared with the plan's own step; and where it differs, or there is no compiler, these are
played back instead, and the log says so.
"""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

_LOG = logging.getLogger("fedplug.simulation")

Program = Callable[..., Any]

AT_ONCE = 4
"""Steps in one graph."""

_CLOSE = 1e-5
"""How far compiled steps may be from the recorded ones, over the largest value of each tensor."""


class Compiler:
    """Compiles programs, as long as that goes well."""

    def __init__(self) -> None:
        self._why_not = _missing()
        if self._why_not:
            self._tell()

    def several(self, play: Program, values: Sequence[torch.Tensor], leaves: Sequence[torch.Tensor]) -> Program:
        """`AT_ONCE` steps as one function: of the parameters, and of the batches one after the other.

        Args:
            play: One step; it changes parameters in place and returns losses first.
            values: Parameters that it can be tried with; they are not changed.
            leaves: The batches of all steps that it can be tried with.
        """
        width, count = len(leaves) // AT_ONCE, len(values)

        def steps(*tensors: torch.Tensor) -> list[torch.Tensor]:
            moved, batches = tensors[:count], tensors[count:]
            return [play(*moved, *batches[low : low + width])[0] for low in range(0, len(batches), width)]

        if self._why_not:
            return steps
        from torch._inductor import config

        made: Program = torch.compile(steps, dynamic=False, fullgraph=True)
        found, expected = ([_copy(value) for value in values] for _ in range(2))
        try:
            with warnings.catch_warnings(), config.patch(compile_threads=1):  # no processes that outlive this one
                warnings.simplefilter("ignore")  # of what the compiler is made of
                losses = made(*found, *leaves)
        except Exception as error:  # noqa: BLE001 - whatever happens in a compiler, there is another way
            self._why_not = f"compiling fails ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        else:
            wanted = steps(*expected, *leaves)
            if not all(map(_is_close, (*losses, *found), (*wanted, *expected))):
                self._why_not = "compiled steps come to something else than those that are not"
        if not self._why_not:
            return made
        self._tell()
        return steps

    def _tell(self) -> None:
        _LOG.warning("Stacked steps are not compiled: %s.", self._why_not)


def _missing() -> str:
    """Why nothing can be compiled on this machine, in words; empty if it can."""
    from torch._inductor import config

    names: Any = config.cpp.cxx
    looked_for = [str(name) for name in ((names,) if isinstance(names, str) else names) if name]
    if any(map(shutil.which, looked_for)):
        return ""
    return f"there is no C++ compiler (PyTorch looks for {', '.join(looked_for)}; install g++)"


def _copy(value: torch.Tensor) -> torch.Tensor:
    """A copy with the same layout, gaps included."""
    copy = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)
    return copy.copy_(value)


def _is_close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    if not expected.numel():
        return True
    size = float(expected.abs().nan_to_num(0.0, 0.0, 0.0).max())
    return torch.allclose(found, expected, rtol=0.0, atol=_CLOSE * max(size, 1e-30), equal_nan=True)
