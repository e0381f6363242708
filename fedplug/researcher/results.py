"""What an experiment keeps of its rounds, and the file that holds its model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedplug.core.errors import StoreError
from fedplug.core.messages import TrainReply
from fedplug.core.params import Params
from fedplug.core.params_file import write_params


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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_params(params, path)
    except OSError as error:
        raise StoreError(
            f"The model cannot be saved as {path}: {error}.",
            cure="Free some disk space, or mend the folder. The rounds count all the same: the model is in "
            "Experiment.params(), and the next run saves it.",
        ) from error
