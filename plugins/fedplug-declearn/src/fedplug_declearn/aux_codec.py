"""Auxiliary variables of declearn's modules as `Params`, and back: what travels beside the parameters.

declearn's own serialisers are not used: one of them unpickles. Here there is a list of what may travel, and everything
is arrays: a field that is a vector becomes arrays ``field/name``, one that is a number an array ``field``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from declearn.model.api import Vector
from declearn.optimizer.modules import (
    AuxVar,
    OptiModule,
    ScaffoldAuxVar,
    ScaffoldClientModule,
    ScaffoldServerModule,
)

from fedplug.core.errors import CodecError, UsageError
from fedplug.core.params import Array, Params
from fedplug_declearn.vectors import to_numpy

ALLOWED: Mapping[str, tuple[type[AuxVar], tuple[str, ...]]] = {"scaffold": (ScaffoldAuxVar, ("state", "delta"))}
"""What may travel: ``aux_name`` of modules → their class of variables, and its fields. Names of nodes are no part of
it: who has sent an update is known without being told."""


def aux_name(module: OptiModule[Any]) -> str:
    """The name under which a module exchanges variables with its counterpart; empty if it does not.

    Raises:
        UsageError: It exchanges something that is not on the list.
    """
    talks = module.aux_name is not None or module.auxvar_cls is not None
    talks = talks or type(module).collect_aux_var is not OptiModule.collect_aux_var
    talks = talks or type(module).process_aux_var is not OptiModule.process_aux_var
    if not talks:
        return ""
    name = str(module.aux_name or module.name)
    if name not in ALLOWED or not isinstance(module, ScaffoldClientModule | ScaffoldServerModule):
        raise UsageError(
            f"The module {module.name!r} exchanges auxiliary variables ({name!r}) that FedPlug does not know.",
            cure=f"Known are: {', '.join(ALLOWED)}. What may travel stands in fedplug_declearn.aux_codec.",
        )
    return name


def pack_aux(name: str, value: AuxVar) -> dict[str, Array]:
    """The fields of auxiliary variables as arrays; a field that is None is left out."""
    _, fields = ALLOWED[name]
    found: dict[str, Array] = {}
    for field in fields:
        content = getattr(value, field)
        if isinstance(content, Vector):
            found |= {f"{field}/{each}": array for each, array in to_numpy(content).items()}
        elif content is not None:
            found[field] = np.array(float(content))
    return found


def unpack_field(arrays: Params, field: str) -> dict[str, Array] | float | None:
    """One field: arrays by name, a number, or None if it is not there.

    Raises:
        CodecError: It is neither.
    """
    prefix = f"{field}/"
    many = {name[len(prefix) :]: arrays[name] for name in arrays if name.startswith(prefix)}
    if many and field in arrays:
        raise CodecError(f"{field!r} is a number and a vector.")
    if many:
        return many
    if field not in arrays:
        return None
    value = np.asarray(arrays[field])
    if value.shape != () or value.dtype.kind not in "fiu" or not math.isfinite(float(value)):
        raise CodecError(f"{field!r} is no number.")
    return float(value)


def whole_number(arrays: Params, field: str) -> int:
    """A whole number that stands beside the fields.

    Raises:
        CodecError: It is missing, or no whole number.
    """
    value = np.asarray(arrays[field]) if field in arrays else np.zeros(1)
    if value.shape != () or value.dtype.kind not in "iu":
        raise CodecError(f"{field!r} is no whole number.")
    return int(value)
