"""What a history is made of: one entry per round, one part per node, as plain checked data.

The same structures check what comes out of a breakpoint file, which may be anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from fedplug.core.context import RollEntry, RoundContext, RoundResult
from fedplug.core.messages import TrainReply

TEST_GLOBAL, TEST_LOCAL, TRAIN, PRIVACY = "test_global", "test_local", "train", "privacy"
"""Phases that a metric's name tells: ``test_global_accuracy`` is the metric ``accuracy`` of ``test_global``."""

VALUE_CELLS = 10_000
"""Larger values than this (a confusion matrix of more than 100 classes) are kept of the latest round only."""

_PREFIXES = ((f"{TEST_GLOBAL}_", TEST_GLOBAL), (f"{TEST_LOCAL}_", TEST_LOCAL), ("dp_", PRIVACY))
_MAX_DEPTH = 12

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class NodeEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """What one node did in a round. Metrics and values by the names that the node gave them."""

    samples: Count
    steps: Count = 0
    attempt: Count = 0
    metrics: dict[str, float] = {}
    values: dict[str, Any] = {}
    timing: dict[str, float] = {}
    state: str = "none"

    def record(self, node: str, number: int) -> dict[str, Any]:
        """What ``node`` replied in round ``number``, for people and notebooks."""
        return {
            "node_id": node,
            "round": number,
            "attempt": self.attempt,
            "sample_count": self.samples,
            "steps": self.steps,
            "metrics": dict(self.metrics),
            "timing": dict(self.timing),
            "state": self.state,
        }


class RoundEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What came out of a round; ``trained`` is false for an evaluation without training."""

    round: Count
    trained: bool
    nodes: dict[str, NodeEntry]
    dropped: dict[str, str] = {}
    metrics: dict[str, float] = {}
    values: dict[str, Any] = {}
    seconds: float = 0.0
    traffic: dict[str, int] = {}
    roll: tuple[RollEntry, ...] = ()

    @classmethod
    def build(cls, ctx: RoundContext, result: RoundResult, trained: bool) -> RoundEntry:
        """The entry of a finished round."""
        common, of_nodes = values_of(result)
        return cls(
            round=ctx.round,
            trained=trained,
            nodes={node: _node_entry(reply, of_nodes.get(node, {})) for node, reply in sorted(result.replies.items())},
            dropped=dict(sorted(result.dropped.items())),
            metrics={str(name): float(value) for name, value in result.metrics.items()},
            values=common,
            seconds=float(result.seconds),
            traffic={str(name): int(count) for name, count in result.traffic.items()},
            roll=tuple(result.roll),
        )

    def slim(self) -> RoundEntry:
        """This entry without what is only kept of the latest round: the nodes' values, and large ones."""
        if not self.values and not any(node.values for node in self.nodes.values()):
            return self
        return msgspec.structs.replace(
            self,
            nodes={name: msgspec.structs.replace(node, values={}) for name, node in self.nodes.items()},
            values={name: value for name, value in self.values.items() if _cells(value) <= VALUE_CELLS},
        )


def values_of(result: RoundResult) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The results that are no single numbers, as plain data: over all nodes by name, and by node and name."""
    of_nodes = {node: _plain_values(values) for node, values in result.node_values.items()}
    return _plain_values(result.values), of_nodes


def split_name(name: str) -> tuple[str, str]:
    """Phase and metric of a name: ``test_local_accuracy`` → ``("test_local", "accuracy")``."""
    for prefix, phase in _PREFIXES:
        if name.startswith(prefix) and len(name) > len(prefix):
            return phase, name[len(prefix) :]
    return TRAIN, name


def plain_value(value: Any, depth: int = 0) -> Any:
    """``value`` as numbers, text, lists and dicts; what is none of these becomes its text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if depth < _MAX_DEPTH:
        if callable(getattr(value, "tolist", None)):  # arrays and their scalars
            return plain_value(value.tolist(), depth + 1)
        if isinstance(value, Mapping):
            return {str(key): plain_value(each, depth + 1) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [plain_value(each, depth + 1) for each in value]
    return str(value)


def _plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    return {str(name): plain_value(value) for name, value in values.items()}


def _node_entry(reply: TrainReply, values: dict[str, Any]) -> NodeEntry:
    return NodeEntry(
        samples=reply.sample_count,
        steps=reply.steps,
        attempt=reply.key.attempt,
        metrics={str(name): float(value) for name, value in reply.metrics.items()},
        values=values,
        timing={str(name): float(value) for name, value in reply.timing.items()},
        state=reply.state,
    )


def _cells(value: Any) -> int:
    if isinstance(value, dict):
        return sum(_cells(each) for each in value.values())
    if isinstance(value, list):
        return sum(_cells(each) for each in value)
    return 1
