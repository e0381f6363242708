"""Libraries that only some types of data sets need: imported on first use, with the command that brings them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from fedplug.core.errors import DatasetError


def library(module: str, kind: str) -> Any:
    """The module called ``module``, for data sets of type ``kind``, whose extra has the same name.

    Raises:
        DatasetError: It is not installed here.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise DatasetError(
            f"Data sets of type {kind!r} need {error.name}, which is not installed at this node.",
            cure=f'pip install "fedplug[{kind}]"',
        ) from None
