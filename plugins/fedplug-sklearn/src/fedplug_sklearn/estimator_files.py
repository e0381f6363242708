"""An estimator as a file: joblib and skops hold all of it, npz and safetensors its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from fedplug.core.errors import UsageError
from fedplug.core.model_files import JOBLIB, NPZ, SAFETENSORS, SKOPS, ModelFormat, damaged
from fedplug.core.params import Array

_HARMLESS = frozenset(
    f"sklearn.neural_network._stochastic_optimizers.{name}" for name in ("AdamOptimizer", "SGDOptimizer")
)
"""Types that skops does not know to be harmless: plain data with arrays, which each MLPClassifier holds."""


class EstimatorFile(NamedTuple):
    """What an export writes.

    Attributes:
        estimator: A scikit-learn estimator.
        arrays: Its parameters by name.
    """

    estimator: Any
    arrays: Mapping[str, Array]


def _save_whole(form: ModelFormat, model: EstimatorFile, file: BinaryIO) -> None:
    form.save(model.estimator, file)


def _save_arrays(form: ModelFormat, model: EstimatorFile, file: BinaryIO) -> None:
    form.save(model.arrays, file)


def _load_skops(path: Path, *, trusted: bool = False) -> Any:
    """An estimator from a file; only of types that run no code when they are read, unless it is trusted."""
    try:
        skops = import_module("skops.io")
    except ImportError:
        return SKOPS.load(path)  # which says what to install
    try:
        foreign = skops.get_untrusted_types(file=path)
        if trusted or _HARMLESS.issuperset(foreign):
            return skops.load(path, trusted=foreign)
    except Exception as error:
        raise damaged(path, error) from error
    raise UsageError(
        f"{path} holds types of which nobody knows whether they run code: {', '.join(sorted(foreign))}.",
        cure="import_model(path, trusted=True) for a file that you have made yourself; or export the parameters alone, "
        "as .safetensors.",
    )


FORMATS: Mapping[str, ModelFormat] = {
    ".joblib": ModelFormat(partial(_save_whole, JOBLIB), JOBLIB.load, JOBLIB.load_trusted),
    ".skops": ModelFormat(partial(_save_whole, SKOPS), _load_skops, partial(_load_skops, trusted=True)),
    ".npz": ModelFormat(partial(_save_arrays, NPZ), NPZ.load),
    ".safetensors": ModelFormat(partial(_save_arrays, SAFETENSORS), SAFETENSORS.load),
}
"""Formats by suffix."""
