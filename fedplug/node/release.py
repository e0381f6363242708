"""What may leave the node: the declared tensors, bounded figures and log lines, and nothing else.

All of this runs in the supervisor, which plan code cannot reach.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase

from fedplug.core.dataset_type import DatasetRecord, most_samples
from fedplug.core.errors import RefusedError
from fedplug.core.metrics import TEST_AUX
from fedplug.core.params import Params
from fedplug.node.jobs import Job, Trained
from fedplug.node.policy.rules import effective_rules
from fedplug.node.policy.schema import Policy
from fedplug.node.signs import MOST_METRICS, MOST_NAME, is_name

SMALL = 4096
"""Elements of an extra array that need not be shaped like a tensor of the model."""

MOST_TENSORS = 64
MOST_EXTRA = 4
MOST_SMALL_BYTES = 1 << 20
"""Extra arrays may take so many times the bytes of the model, and this many besides."""


def check_outgoing(job: Job, outcome: Trained, policy: Policy) -> None:
    """Check what a training wants to send.

    Args:
        job: The training.
        outcome: What came out.
        policy: The rules.

    Raises:
        RefusedError: There is more than was declared, or something without bound (code ``"policy"``).
    """
    expected = job.params.spec if job.request.train else Params.from_arrays({}).spec
    difference = expected.difference(outcome.params.spec)
    if difference:
        raise _refused(f"other tensors than those of the model: {difference}")
    reply = outcome.reply
    for what, figures in (("metrics", reply.metrics), ("times", reply.timing)):
        problem = _figures_problem(figures)
        if problem:
            raise _refused(f"{what} {problem}")
    if len(reply.state) > MOST_NAME or set(reply.aux) != set(outcome.aux):
        raise _refused("a reply that is not what its arrays are")
    _check_count(job, reply.sample_count)
    _check_extra(job, outcome.aux, policy)


def _check_count(job: Job, count: int) -> None:
    """A weight in the mean that the data do not give."""
    record = job.dataset
    most = most_samples(record.type, record.shape) if isinstance(record, DatasetRecord) else None
    if count < 0 or (most is not None and count > most):
        raise _refused(f"a number of samples, {count}, that the data set does not have")


def _check_extra(job: Job, extra: Mapping[str, Params], policy: Policy) -> None:
    shapes = {(tensor.shape, tensor.dtype) for tensor in job.params.spec.tensors}
    allowed = effective_rules(policy, job.dataset.name)[0].extra_arrays
    for name, params in extra.items():
        if allowed is not None and name != TEST_AUX and not any(fnmatchcase(name, pattern) for pattern in allowed):
            raise _refused(f"extra arrays {name!r}, which no rule allows (training.extra_arrays)")
        # Names could carry what the arrays may not.
        if not is_name(name) or len(params.spec.tensors) > MOST_TENSORS + MOST_EXTRA * len(job.params.spec.tensors):
            raise _refused(f"extra arrays in a number or with a name that no method has: {name[:40]!r}")
        for tensor in params.spec.tensors:
            if not is_name(tensor.name):
                raise _refused(f"an extra array with a name that is none: {tensor.name[:40]!r}")
            small = math.prod(tensor.shape) <= SMALL
            if not small and (tensor.shape, tensor.dtype) not in shapes and name != TEST_AUX:
                raise _refused(f"an extra array {tensor.name!r} of {name!r} that is shaped like no tensor of the model")
    total = sum(params.nbytes for params in extra.values())
    if total > MOST_EXTRA * job.params.nbytes + MOST_SMALL_BYTES:
        raise _refused(f"{total:,} bytes of extra arrays, far more than a model of this size has")


def _figures_problem(figures: Mapping[str, float]) -> str:
    if len(figures) > MOST_METRICS:
        return f"in too large a number: {len(figures)}"
    wrong = next((name for name in figures if not is_name(name)), None)
    return "" if wrong is None else f"with a name that is none: {wrong[:40]!r}"


def _refused(what: str) -> RefusedError:
    return RefusedError(
        f"The training wants to send {what}. Nothing of it has left the node.",
        code="policy",
        cure="A training sends the model's tensors, the arrays of its method, and figures.",
    )
