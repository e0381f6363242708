"""What the conformance kit needs to know about `Scaffold`: what its nodes send."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fedplug.core.params import Params, widened
from fedplug.core.update import Update
from fedplug_scaffold.scaffold import AUX

if TYPE_CHECKING:
    from fedplug.testing.cases import Case


def complete(update: Update, case: Case) -> Update:
    """The update of a node that takes part in every round, with a control variate that follows its parameters."""
    payload = case.payloads[update.node_id]
    assert payload is not None  # Scaffold sends one to every node
    sent = payload.aux[AUX]
    about = {"generation": sent["generation"], "fresh": np.int64(not any(name.startswith("common/") for name in sent))}
    delta = {
        f"delta/{name}": widened(array) - widened(case.start[name])
        for name, array in update.params.items()
        if array.dtype.kind == "f" and name not in case.ctx.buffers
    }
    return replace(update, aux={AUX: Params.from_arrays({**delta, **about})})
