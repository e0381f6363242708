"""Frozen facts that travel with a round: who, which round, with which seed. They do nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import msgspec

from fedplug.core.messages import TrainReply
from fedplug.core.params import Params
from fedplug.core.rng import SeedTree


@dataclass(frozen=True, slots=True)
class RoundContext:
    """One round, as aggregators, strategies and observers see it.

    Attributes:
        experiment_id: Unique id of the experiment.
        round: Number of the round, from 0.
        seed: The subtree of seeds for this round.
        node_ids: The nodes that were selected, sorted.
        training_args: The training arguments in force, as plain data.
        all_node_ids: All nodes of the experiment, selected or not, sorted.
        buffers: Names of the parameters that no optimizer moves: running means, counters.
    """

    experiment_id: str = ""
    round: int = 0
    seed: SeedTree = field(default_factory=lambda: SeedTree.root(0))
    node_ids: tuple[str, ...] = ()
    training_args: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    all_node_ids: tuple[str, ...] = ()
    buffers: frozenset[str] = frozenset()


class RollEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """What happened to one node in a round.

    Attributes:
        seconds: When: since the round began.
        node_id: To whom.
        event: What: ``replied``, another `fedplug.core.strategy.Outcome`, ``back`` (it was lost or stalled and is not
            any more), ``asked`` (it takes part from now on), ``asked again`` (it got its task once more) or
            ``left out`` (the round ended without it).
        reason: Why, in words; empty where there is nothing to say.
    """

    seconds: float
    node_id: str
    event: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What came out of a round.

    Attributes:
        params: The new global parameters.
        replies: The replies that were aggregated, by node id, without their arrays.
        dropped: The nodes whose work did not count, with the reason.
        metrics: Scalars over all nodes: what tests found (``test_global_...``, ``test_local_...``) is that of the
            nodes' test samples together, made of sums; anything else, e.g. ``loss``, is the mean over nodes, weighted
            by the number of their training samples.
        seconds: Wall time of the round.
        traffic: Bytes of the round: ``bytes_sent``, ``bytes_received``.
        values: What tests found over all nodes that is no scalar, e.g. ``test_global_confusion_matrix``.
        node_values: The same of each node, by node id.
        roll: What happened to the nodes, in the order of time.
    """

    params: Params
    replies: Mapping[str, TrainReply]
    dropped: Mapping[str, str]
    metrics: Mapping[str, float]
    seconds: float
    traffic: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    values: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    node_values: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
    roll: tuple[RollEntry, ...] = ()
