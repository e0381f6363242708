"""What an experiment keeps of its rounds, and the file that holds its model."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from fedplug.core.errors import StoreError
from fedplug.core.messages import TrainReply
from fedplug.core.params import Params


def reply_record(reply: TrainReply) -> dict[str, Any]:
    """A reply as plain data for people and notebooks."""
    return {
        "node_id": reply.key.node_id,
        "round": reply.key.round,
        "attempt": reply.key.attempt,
        "sample_count": reply.sample_count,
        "steps": reply.steps,
        "metrics": dict(reply.metrics),
        "timing": dict(reply.timing),
        "state": reply.state,
    }


def save_model(params: Params, path: Path) -> None:
    """Write parameters as a safetensors file; the file is either the old one or the new one, never half.

    Raises:
        StoreError: It cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    draft = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(dict(params), draft, metadata={"fingerprint": params.fingerprint()})
        draft.replace(path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise StoreError(
            f"The model cannot be saved as {path}: {error}.",
            cure="Free some disk space, or mend the folder. The rounds count all the same: the model is in "
            "Experiment.params(), and the next run saves it.",
        ) from error
