"""A trainer on disk: a header of plain data, then the arrays of each model. Nothing in it is code.

::

    8 bytes   magic
    8 bytes   length of the header, little-endian
    header    msgpack: version, round, trainings so far, global random streams, and of each model its plain
              state and the table of its arrays
    arrays    the buffers, one after the other
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fedplug.core.errors import CodecError, UsageError
from fedplug.core.params import Params, ParamsSpec
from fedplug.core.trainer.backend import BackendState
from fedplug.core.whole_file import whole_file

_MAGIC = b"FPTRAIN\x01"


class _Model(msgspec.Struct, forbid_unknown_fields=True):
    plain: dict[str, Any]
    spec: ParamsSpec


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    round: int
    routines: int
    python_stream: tuple[int, list[int], float | None]
    numpy_stream: tuple[str, bytes, int, int, float]
    models: list[_Model]


def save(path: Path, states: Sequence[BackendState], cur_round: int, routines: int) -> None:
    """Write a checkpoint; the file is there as a whole or not at all."""
    arrays = [Params.from_arrays(state.arrays) for state in states]
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - plan code may use this stream
    header = _Header(
        cur_round, routines,
        (version, list(internal), gauss),
        (str(name), np.asarray(keys, "<u4").tobytes(), int(position), int(has_gauss), float(cached)),
        [_Model(dict(state.plain), each.spec) for state, each in zip(states, arrays, strict=True)],
    )  # fmt: skip
    encoded = msgspec.msgpack.encode(header)
    with whole_file(path) as draft, draft.open("xb") as file:
        file.write(_MAGIC + len(encoded).to_bytes(8, "little") + encoded)
        for each in arrays:
            file.write(each.buffer)


def load(path: Path, models: int) -> tuple[list[BackendState], int, int]:
    """Read a checkpoint, and set the global random streams as they were.

    Args:
        path: The file.
        models: How many models there must be.

    Returns:
        The states of the models, the round, and the number of trainings.

    Raises:
        UsageError: There is no such file, or it has another number of models.
        CodecError: It is no checkpoint.
    """
    if not path.is_file():
        raise UsageError(f"There is no checkpoint {path}.", cure="Check the path; save_model writes one.")
    data = path.read_bytes()
    size = int.from_bytes(data[8:16], "little")
    if data[:8] != _MAGIC or len(data) < 16 + size:
        raise CodecError(f"{path} is no checkpoint of a trainer, or it is cut off.")
    try:
        header = msgspec.msgpack.decode(data[16 : 16 + size], type=_Header)
        states, start = [], 16 + size
        for model in header.models:
            arrays = Params(model.spec, bytearray(data[start : start + model.spec.nbytes]))
            states.append(BackendState(arrays, model.plain))
            start += model.spec.nbytes
    except Exception as error:
        raise CodecError(f"{path} is damaged: {error}") from error
    if len(states) != models:
        raise UsageError(f"{path} has {len(states)} models, but the trainer has {models}.")
    version, internal, gauss = header.python_stream
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = header.numpy_stream
    np.random.set_state((name, np.frombuffer(keys, "<u4"), position, has_gauss, cached))  # noqa: NPY002
    return states, header.round, header.routines
