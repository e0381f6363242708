"""Differential privacy without a framework: which request gets which noise, and what protects a node's whole update.

*Local* (per sample, at the node) is the business of a framework's plugin: Abadi et al., Deep Learning with
Differential Privacy, CCS 2016, algorithm 1. What is here is its key: `request_key`.

*Central* (per node, noise at the researcher) needs no framework: McMahan et al., Learning Differentially Private
Recurrent Language Models, ICLR 2018, algorithm 1. The node clips its update, ``d = w_k - w``, to
``d * min(1, clip / ||d||)``, the norm being over all shared parameters (`clip_update`); the researcher adds
``N(0, (sigma * clip * s)^2)`` to each value of the aggregate (`add_noise`), where ``s`` is the largest share that one
update has in it (`fedplug.core.aggregator.Aggregator.largest_share`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec
import numpy as np

from fedplug.core.errors import ParamsError, UsageError
from fedplug.core.local_state import LocalState
from fedplug.core.messages import TrainRequest
from fedplug.core.noise import NoiseStream, derive_key
from fedplug.core.params import BLOCK, Array, Params
from fedplug.core.params_spec import ParamsSpec
from fedplug.core.training_args import TrainingArgs

PRIVACY = "privacy"
"""The section of a node's state in which it keeps what a plan's trainings have spent."""

_MOST_TRIES = 24  # the last one shortens an update to the half; float16 needs a few, float32 one or two


def privacy_args(
    training_args: Mapping[str, Any] | TrainingArgs, type: Literal["local", "central"]
) -> dict[str, Any] | None:
    """``dp_args`` if they ask for this type of privacy, else None; not a copy.

    Args:
        training_args: Checked training arguments, or the same as plain data.
        type: The type.
    """
    args = training_args.dp_args if isinstance(training_args, TrainingArgs) else training_args.get("dp_args")
    return args if args and args["type"] == type else None


def refuse_local(framework: str, training_args: Mapping[str, Any] | TrainingArgs) -> None:
    """Refuse local privacy for plans of a framework that cannot give it.

    Raises:
        UsageError: It is asked for.
    """
    if privacy_args(training_args, "local"):
        raise UsageError(
            f"Plans of framework {framework!r} cannot train with local differential privacy: it needs the gradient of "
            "each sample.",
            cure="Use dp_args with type 'central', or a framework's plan that can: fedplug_torch.TorchTrainingPlan.",
        )


# which request gets which noise ------------------------------------------------------------------------------


def request_key(
    secret: bytes,
    request: TrainRequest,
    plan_hash: str,
    params: Params,
    aux: Mapping[str, Params],
    state: LocalState | None,
    data: bytes = b"",
) -> bytes:
    """The key of all randomness that protects the samples in one training.

    It depends on everything that the training depends on, and not on the number of the attempt. So a request that is
    repeated (its reply was lost, the researcher has crashed) is answered with the same bits and tells nothing new,
    and any other request gets noise of its own.

    Args:
        secret: The node's.
        request: What is asked for.
        plan_hash: Identity of the training plan.
        params: The parameters that came with it.
        aux: The extra arrays that came with it.
        state: What the training goes on from.
        data: Whatever tells one state of the data set from another, e.g. size and time of a file.

    Raises:
        UsageError: The arguments hold something that is not plain data, as they may in a simulation.
    """
    base = ("", "") if state is None else (state.arrays.fingerprint(), hashlib.sha256(state.values).hexdigest())
    return derive_key(secret, b"request", _encoded((_facts(request, plan_hash, params, aux), base, data)))


def request_digest(request: TrainRequest, plan_hash: str, params: Params, aux: Mapping[str, Params]) -> str:
    """All that a researcher decides about one training with local privacy, as SHA-256 in hex.

    To two requests with one digest, a node whose data and state have not changed gives the same answer.

    Args:
        request: What is asked for.
        plan_hash: Identity of the training plan.
        params: The parameters that go with it.
        aux: The extra arrays that go with it.

    Raises:
        UsageError: As for `request_key`.
    """
    return hashlib.sha256(_encoded(_facts(request, plan_hash, params, aux))).hexdigest()


def _facts(request: TrainRequest, plan_hash: str, params: Params, aux: Mapping[str, Params]) -> tuple[Any, ...]:
    """A request apart from what cannot change the training: the attempt, and how often progress is told."""
    args = {name: value for name, value in request.training_args.items() if name != "log_interval"}
    key = msgspec.structs.replace(request.key, attempt=0)
    arrays = [(name, each.fingerprint()) for name, each in sorted(aux.items())]
    return msgspec.structs.replace(request, key=key, training_args=args), plan_hash, params.fingerprint(), arrays


def _encoded(facts: Any) -> bytes:
    try:
        return msgspec.msgpack.encode(facts, order="deterministic")
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(
            f"With local differential privacy, model_args must be plain data: {error}.",
            cure="Use numbers, text, lists and dicts, as a node in a network would need them too.",
        ) from None


# central -----------------------------------------------------------------------------------------------------


def check_clippable(spec: ParamsSpec) -> None:
    """Refuse parameters that clipping and noise cannot protect.

    Raises:
        UsageError: A shared array holds whole numbers or truth values.
    """
    wrong = next((tensor for tensor in spec.tensors if tensor.is_exact), None)
    if wrong is not None:
        raise UsageError(
            f"Central differential privacy protects floating-point parameters only, but {wrong.name!r} is "
            f"{wrong.dtype} and would be shared as it is.",
            cure="Counters of BatchNorm and the like: replace BatchNorm by GroupNorm, keep buffers at the nodes with "
            "training_args['share_persistent_buffers'] = False, or tag the parameter 'local' in tag_parameters.",
        )


def update_norm(start: Params, trained: Params) -> float:
    """The Euclidean norm of ``trained - start`` over all arrays together, in float64."""
    total = 0.0
    for before, after in zip(start.runs(), trained.runs(), strict=True):
        for low in range(0, after.size, BLOCK):
            part = _float(after[low : low + BLOCK]) - _float(before[low : low + BLOCK])
            total += float(np.dot(part, part))
    return math.sqrt(total)


def clip_update(start: Params, trained: Params, clip: float, allocate: Callable[[int], Any] | None = None) -> Params:
    """``start + d * min(1, clip / ||d||)`` with ``d = trained - start``: an update no longer than ``clip``.

    The bound holds for what is returned, after it was rounded to the arrays' dtypes: if rounding has made the update
    longer, it is shortened a little more. An update of no more than ``clip`` is returned to the last bit.

    Args:
        start: The parameters that the node was sent.
        trained: Its own, laid out alike.
        clip: The bound, > 0.
        allocate: Gives the memory to build in; fresh memory by default.

    Raises:
        ParamsError: The layouts differ, or the update is not finite.
        UsageError: There is an array that cannot be clipped; see `check_clippable`.
    """
    trained.require(start.spec)
    check_clippable(start.spec)
    with np.errstate(over="ignore", invalid="ignore"):
        norm = update_norm(start, trained)
    if not math.isfinite(norm):
        where = trained.first_non_finite() or "its norm"
        raise ParamsError(f"The update cannot be clipped: {where} is not finite (NaN or infinity).")
    buffer = None if allocate is None else allocate(start.spec.nbytes)
    if norm <= clip:
        return Params.build(start.spec, lambda name, out: np.copyto(out, trained[name]), buffer)
    factor = clip / norm
    for attempt in range(_MOST_TRIES):
        clipped = Params.build(start.spec, _moved(start, trained, factor), None)
        length = update_norm(start, clipped)
        if length <= clip:
            return Params.build(start.spec, lambda name, out: np.copyto(out, clipped[name]), buffer)  # noqa: B023 - called at once
        factor *= clip / length * (1 - 2.0 ** (attempt - _MOST_TRIES))
    # ``clip`` is below the distance between neighbouring numbers of this dtype: the only bounded update is none.
    return Params.build(start.spec, lambda name, out: np.copyto(out, start[name]), buffer)


def add_noise(params: Params, std: float, stream: NoiseStream) -> Params:
    """Each value plus a draw of ``N(0, std^2)``, computed in float64 and rounded to its dtype."""
    runs = params.runs()

    def fill(index: int, out: Array) -> None:
        for low in range(0, out.size, BLOCK):
            part = _float(runs[index][low : low + BLOCK])
            out[low : low + BLOCK] = part + std * stream.normal(part.size)

    with np.errstate(over="ignore"):  # who takes the result looks whether it is finite
        return Params.build_runs(params.spec, fill)


def _moved(start: Params, trained: Params, factor: float) -> Callable[[str, Array], object]:
    def fill(name: str, out: Array) -> None:
        before = _float(start[name])
        out[...] = before + factor * (_float(trained[name]) - before)

    return fill


def _float(array: Array) -> Array:
    return array.astype(np.float64)
