"""What may leave the node: the declared tensors, bounded figures, and nothing else."""

from __future__ import annotations

from fedplug.node.jobs import Job, Trained
from fedplug.node.policy.schema import Policy


def check_outgoing(job: Job, outcome: Trained, policy: Policy) -> None:
    """Check what a training wants to send, in the supervisor, which plan code cannot reach.

    Raises:
        RefusedError: There is more than the model's tensors, or figures without bound (code ``"policy"``).
    """
