"""Aggregators: how the nodes' updates become the next global model.

One method to write, `Aggregator.aggregate`. An aggregator that can fold updates one at a time derives from
`StreamingAggregator` instead, and then the researcher never holds more than one update in memory.

The researcher always hands updates over in sorted node order, so that the result does not depend on who
replied first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from fedplug.core.context import RoundContext
from fedplug.core.errors import NoUpdatesError, UsageError
from fedplug.core.mean import WeightedMean
from fedplug.core.params import Params
from fedplug.core.stateful import Stateful
from fedplug.core.update import Aux, Update

S = TypeVar("S")
Weighting = Literal["samples", "steps", "uniform"]


@dataclass(frozen=True, slots=True)
class AggregatorTags:
    """The laws an aggregator obeys; ``fedplug plugins check`` tests the ones that are claimed.

    Attributes:
        symmetric: Relabelling the nodes does not change the result (beyond rounding).
        weighted: Weights matter: scaling all changes nothing, zero means absent, an integer means repetition.
        convex: Each value of the result lies between the smallest and the largest of the updates'.
        scale_equivariant: Scaling start and all updates scales the result.
        shift_equivariant: Shifting start and all updates shifts the result.
        streaming: Folds one update at a time; set by `StreamingAggregator`.
        minimum_updates: The rule is undefined below this number of updates.
        breakdown: What holds while no more than `Aggregator.withstands` updates are hostile, whatever they hold:
            ``"hull"``: each value of the result lies between the smallest and the largest of the honest ones;
            ``"ball"``: the result lies within `Aggregator.radius` of the mean of the honest ones; empty: nothing.
    """

    symmetric: bool = True
    weighted: bool = True
    convex: bool = True
    scale_equivariant: bool = True
    shift_equivariant: bool = True
    streaming: bool = False
    minimum_updates: int = 1
    breakdown: Literal["", "hull", "ball"] = ""


@dataclass(frozen=True)
class NodePayload:
    """What an aggregator wants a node to receive beside the global parameters.

    Attributes:
        aux: Arrays by name. The same `Params` object given to several nodes is encoded once.
        training_args: Training arguments that are set for this node, e.g. ``fedprox_mu``.
    """

    aux: Aux
    training_args: Mapping[str, Any]


class Aggregator(Stateful, ABC):
    """Base of all aggregators. Override `aggregate`; everything else has a working default."""

    tags: AggregatorTags = AggregatorTags()
    """The laws it obeys; set on the instance where they depend on its arguments."""

    @abstractmethod
    def aggregate(self, start: Params, updates: Sequence[Update], ctx: RoundContext) -> Params:
        """The next global parameters.

        Args:
            start: The global parameters that the nodes started from.
            updates: The round's updates in sorted node order; read-only. An update may be mapped from a
                file, so iterate rather than copy.
            ctx: The round.

        Returns:
            Parameters with the names, shapes and dtypes of ``start``.

        Raises:
            NoUpdatesError: ``updates`` is empty.
        """

    def check(self, training_args: Mapping[str, Any]) -> None:
        """Refuse training arguments that this aggregator cannot work with, before anything is sent.

        Raises:
            UsageError: With the cause and the cure.
        """

    def node_payload(self, node_id: str, ctx: RoundContext) -> NodePayload | None:
        """What ``node_id`` receives beside the global parameters in this round; None for nothing."""
        return None

    def check_update(self, update: Update, start: Params) -> None:
        """Refuse an update that this aggregator cannot fold, as it arrives, e.g. for its ``aux``.

        Args:
            update: Its arrays are finite, and its parameters laid out as ``start``.
            start: The global parameters.

        Raises:
            UpdateRejectedError: The node's update does not count.
        """

    def withstands(self, count: int) -> int:
        """How many of ``count`` updates may hold anything at all while ``tags.breakdown`` still holds; 0 by default."""
        return 0

    def radius(self, count: int, hostile: int, diameter: float) -> float:
        """How far the result may be from the mean of the honest updates, as an Euclidean norm.

        Over all arrays; a rule that measures floating-point arrays only, and treats the others by themselves, says so.

        Of interest where ``tags.breakdown`` is ``"ball"``.

        Args:
            count: Number of updates.
            hostile: How many of them are hostile; at most ``withstands(count)``.
            diameter: Largest distance between two honest updates, or between one and the start.
        """
        return 0.0

    def largest_share(self, updates: Sequence[Update]) -> float | None:
        """How far a change of length 1 in any one of ``updates`` can move the result, as an Euclidean norm.

        For a weighted mean, the largest weight over the sum of all. Noise for central differential privacy is made in
        proportion to it, so it must hold for all parameters that updates can have.

        Args:
            updates: The round's updates; only their counts are of interest.

        Returns:
            The share; None where there is no such bound, and then central differential privacy is refused.
        """
        return None


class StreamingAggregator(Aggregator, Generic[S]):
    """An aggregator that folds updates one at a time: ``begin``, ``accumulate`` for each, ``finalize``.

    ``S`` is the type of the running state, which belongs to one round and one caller.
    """

    tags: AggregatorTags = AggregatorTags(streaming=True)

    @abstractmethod
    def begin(self, start: Params, ctx: RoundContext) -> S:
        """The state before any update."""

    @abstractmethod
    def accumulate(self, state: S, update: Update) -> None:
        """Fold one update into ``state``; the update is not kept."""

    @abstractmethod
    def finalize(self, state: S) -> Params:
        """The next global parameters.

        Raises:
            NoUpdatesError: Nothing was folded.
        """

    def aggregate(self, start: Params, updates: Iterable[Update], ctx: RoundContext) -> Params:
        """Fold ``updates`` in the order given."""
        state = self.begin(start, ctx)
        for update in updates:
            self.accumulate(state, update)
        return self.finalize(state)


def update_weight(update: Update, weighting: Weighting) -> float:
    """The weight of an update in a mean.

    Args:
        update: The update.
        weighting: ``"samples"`` (number of training samples), ``"steps"`` (optimizer steps) or ``"uniform"``.

    Raises:
        UsageError: The weighting is not known.
    """
    if weighting == "samples":
        return update.sample_count
    if weighting == "steps":
        return update.steps
    if weighting == "uniform":
        return 1
    raise UsageError(f"There is no weighting named {weighting!r}.", cure="Use 'samples', 'steps' or 'uniform'.")


__all__ = [
    "Aggregator",
    "AggregatorTags",
    "NoUpdatesError",
    "NodePayload",
    "StreamingAggregator",
    "WeightedMean",
    "Weighting",
    "update_weight",
]
