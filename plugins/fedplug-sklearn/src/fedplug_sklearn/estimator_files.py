"""An estimator as a file: joblib and skops hold all of it, npz and safetensors its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

from fedplug.core.model_files import JOBLIB, NPZ, SAFETENSORS, SKOPS, ModelFormat
from fedplug.core.params import Array


class EstimatorFile(NamedTuple):
    """What an export writes.

    Attributes:
        estimator: A fitted scikit-learn estimator.
        arrays: Its parameters by name.
    """

    estimator: Any
    arrays: Mapping[str, Array]


def _whole(form: ModelFormat) -> ModelFormat:
    def save(model: EstimatorFile, file: BinaryIO) -> None:
        form.save(model.estimator, file)

    return ModelFormat(save, form.load, form.load_trusted)


def _parameters(form: ModelFormat) -> ModelFormat:
    def save(model: EstimatorFile, file: BinaryIO) -> None:
        form.save(model.arrays, file)

    return ModelFormat(save, form.load, form.load_trusted)


FORMATS: Mapping[str, ModelFormat] = {
    ".joblib": _whole(JOBLIB), ".skops": _whole(SKOPS), ".npz": _parameters(NPZ),
    ".safetensors": _parameters(SAFETENSORS),
}  # fmt: skip
"""Formats by suffix."""
