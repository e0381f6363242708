"""`Params` as a safetensors file: readable by any software that knows the format, and whole or not there at all."""

from __future__ import annotations

import json
from pathlib import Path

from fedplug.core.errors import CodecError, ParamsError
from fedplug.core.params import Params
from fedplug.core.whole_file import whole_file


def write_params(params: Params, path: Path) -> None:
    """Write ``params`` to ``path``, durably; the file is either the old one or the new one, never half.

    The order of the names and the fingerprint stand in the file's metadata.

    Raises:
        OSError: It cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    metadata = {"fingerprint": params.fingerprint(), "names": json.dumps(list(params))}
    with whole_file(path) as draft:
        try:
            save_file(dict(params), draft, metadata=metadata)
        except SafetensorError as error:
            raise OSError(str(error)) from error


def read_params(path: Path) -> Params:
    """What `write_params` wrote.

    Raises:
        CodecError: The file is damaged, or was written by something else.
        OSError: It cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            names = json.loads(metadata["names"])
            params = Params.from_arrays({name: file.get_tensor(name) for name in names})
            known = set(file.keys())
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, ParamsError) as error:
        raise CodecError(f"{path} cannot be read as parameters: {type(error).__name__}: {error}.") from None
    if known != set(params) or params.fingerprint() != metadata.get("fingerprint"):
        raise CodecError(f"{path} is damaged: it does not hold what it says.")
    return params
