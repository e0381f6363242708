"""The file that holds the model of an experiment."""

from __future__ import annotations

from pathlib import Path

from fedplug.core.errors import StoreError
from fedplug.core.params import Params
from fedplug.core.params_file import write_params


def save_model(params: Params, path: Path) -> None:
    """Write parameters as a safetensors file; the file is either the old one or the new one, never half.

    Raises:
        StoreError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_params(params, path)
    except OSError as error:
        raise StoreError(
            f"The model cannot be saved as {path}: {error}.",
            cure="Free some disk space, or mend the folder. The rounds count all the same: the model is in "
            "Experiment.params(), and the next run saves it.",
        ) from error
