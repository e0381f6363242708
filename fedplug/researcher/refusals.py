"""What a round does not put up with: impossible updates, and components that raise or answer nonsense."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

import numpy as np

from fedplug.core.agg_optimizer import AggOptimizer
from fedplug.core.aggregator import StreamingAggregator
from fedplug.core.context import RoundContext
from fedplug.core.error_places import place_of
from fedplug.core.errors import FedplugError, RoundError, UpdateRejectedError
from fedplug.core.messages import TrainReply
from fedplug.core.metrics.sums import TEST_AUX, check_layout
from fedplug.core.params import Params, ParamsSpec
from fedplug.core.strategy import Decision, RoundState
from fedplug.core.update import Update

MOST_AUX = 8
"""Extra arrays may take so many times the bytes of the model ..."""

MOST_SMALL_AUX = 64 * 1024 * 1024
"""... and this many besides."""


def check_reply(
    reply: TrainReply, spec: ParamsSpec, aux: Mapping[str, ParamsSpec], model: Params, samples: int | None = None
) -> None:
    """Refuse an update by what is known of it before a byte of its arrays is fetched.

    Args:
        reply: The reply.
        spec: How its parameters are laid out.
        aux: How its extra arrays are, by name.
        model: What its parameters must be laid out as.
        samples: How many samples the node has registered; None if that is not known.

    Raises:
        UpdateRejectedError: The layout is not the model's, or the counts are impossible.
    """
    difference = model.spec.difference(spec)
    if difference:
        raise UpdateRejectedError(f"its update does not fit the model: {difference}.")
    if TEST_AUX in aux:
        check_layout(aux[TEST_AUX])
    if not 1 <= reply.sample_count < 2**53:
        raise UpdateRejectedError(f"its sample count of {reply.sample_count} is impossible.")
    if samples is not None and reply.sample_count > samples:
        raise UpdateRejectedError(
            f"it says that it has used {reply.sample_count:,} samples, but its data set has {samples:,}. If "
            "that is right, the data set has changed: search again."
        )
    if reply.steps < 0:
        raise UpdateRejectedError(f"its step count of {reply.steps} is impossible.")
    for name, value in reply.timing.items():
        if not (math.isfinite(value) and value >= 0):
            raise UpdateRejectedError(f"its timing {name!r} is {value}.")
    extra = sum(each.nbytes for each in aux.values())
    if extra > MOST_AUX * model.nbytes + MOST_SMALL_AUX:
        raise UpdateRejectedError(f"it offers {extra:,} bytes of extra arrays, far more than a model of this size has.")


def check_update(update: Update, model: Params, settle: Callable[[], None] | None = None) -> None:
    """Refuse an update that would spoil the sum. ``settle`` is as for `NodePool.fetch`.

    Raises:
        UpdateRejectedError: It holds a NaN or an infinity, or values so large that it has no norm; the array is named.
    """
    for what, params in (("update", update.params), *(("auxiliary " + name, p) for name, p in update.aux.items())):
        array = params.first_without_norm(settle)
        if array and not np.isfinite(params[array]).all():
            raise UpdateRejectedError(f"its {what} holds values that are not finite (NaN or infinity) in {array!r}.")
        if array:
            raise UpdateRejectedError(
                f"its {what} holds values in {array!r} whose squares are too large for {params[array].dtype}: no "
                "training that works comes to such values."
            )
    update.params.require(model.spec)


def check_decision(decision: object, strategy: object) -> Decision:
    """What a strategy answered, if it is an answer.

    Raises:
        RoundError: It is not; waiting for a better one would be waiting for ever.
    """
    if isinstance(decision, Decision) and decision.verdict in ("wait", "enough", "abort"):
        return decision
    answer = decision.verdict if isinstance(decision, Decision) else decision
    raise RoundError(
        f"Strategy {type(strategy).__name__} answered {answer!r} when it was asked how to go on.",
        cure='Its method judge must return Decision("wait"), Decision("enough") or Decision("abort", "the reason").',
    )


def check_ask(decision: Decision, state: RoundState, strategy: object) -> tuple[str, ...]:
    """The nodes that a strategy wants to give a task besides, if they can be given one.

    Raises:
        RoundError: One of them cannot.
    """
    if not decision.ask:
        return ()
    possible = {*state.others, *(node for node, outcome in state.outcomes.items() if outcome == "interrupted")}
    for node in decision.ask:
        if node not in possible:
            raise RoundError(
                f"Strategy {type(strategy).__name__} wants to ask {node!r}, which can be given no task now.",
                cure="Decision.ask takes nodes that were interrupted, and those of RoundState.others.",
            )
    return tuple(dict.fromkeys(decision.ask))


def check_result(params: object, model: Params, maker: object) -> None:
    """Refuse new global parameters that are none; ``maker`` is the aggregator or the optimizer that made them.

    Raises:
        RoundError: They are not laid out as the model, or not finite.
    """
    kind = "Optimizer" if isinstance(maker, AggOptimizer) else "Aggregator"
    name = type(maker).__name__
    method = "advance" if isinstance(maker, AggOptimizer) else "aggregate"
    method = "finalize" if isinstance(maker, StreamingAggregator) else method
    cure = f"Its method {method} must return Params laid out as the model, such as arithmetic with Params gives."
    if params is None:
        raise RoundError(f"{kind} {name} returned nothing from {method}.", cure="Is a return missing?")
    if not isinstance(params, Params):
        raise RoundError(f"{kind} {name} returned {type(params).__name__}, not Params.", cure=cure)
    difference = model.spec.difference(params.spec)
    if difference or (difference := params.first_non_finite()):
        raise RoundError(f"{kind} {name} returned parameters that do not fit the model: {difference}.", cure=cure)


def given_up(ctx: RoundContext, reason: str, details: Sequence[str], *, train: bool) -> RoundError:
    """The error for a round, or a test without training, that its strategy has given up.

    Args:
        ctx: The round.
        reason: Why.
        details: Tracebacks of plans, as far as nodes have told.
        train: Whether it was to train.
    """
    if not train:
        message = f"The test of the global model was given up: {reason}"
        cure = (
            "Nothing has changed; test again when the cause is mended. A strategy decides what a test can do without."
        )
    else:
        message = f"Round {ctx.round + 1} was given up: {reason}"
        cure = "The global model is as it was before this round; run it again when the cause is mended. "
        cure += "A strategy decides what a round can do without."
    return RoundError(message, cure=cure, details="\n".join(details))


class blamed:  # noqa: N801 - used as a function: `with blamed(...):`, several times for each node of a round
    """Say whose fault it is when a strategy or an aggregator raises; errors of our own say so themselves.

    Args:
        kind: What it is, e.g. ``"Strategy"``.
        component: Whose method is called inside the ``with`` block.
        method: Its name.

    Raises:
        RoundError: In the place of what was raised, which is its cause.
    """

    __slots__ = ("_component", "_kind", "_method")

    def __init__(self, kind: str, component: object, method: str) -> None:
        self._kind, self._component, self._method = kind, component, method

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, FedplugError):
            raise RoundError(
                f"{self._kind} {type(self._component).__name__} failed in {self._method}: "
                f"{type(error).__name__}: {error}",
                cure=f"It happened in {place_of(error)}. The global model is as it was before this round.",
            ) from error
