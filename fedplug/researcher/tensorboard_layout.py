"""What TensorBoard's page "Custom Scalars" shows: the curves that people look for, all runs in one chart each."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any


def layout(tests: Iterable[str]) -> bytes:
    """The layout, as TensorBoard stores it.

    Args:
        tests: The tags of tests, such as ``VALIDATION ON GLOBAL UPDATES/ACCURACY``.
    """
    from tensorboard.plugins.custom_scalar import layout_pb2

    def category(title: str, charts: Iterable[tuple[str, str]]) -> Any:
        return layout_pb2.Category(
            title=title,
            chart=[
                # TensorBoard takes a tag for a pattern that a name must begin with
                layout_pb2.Chart(title=name, multiline=layout_pb2.MultilineChartContent(tag=[f"{re.escape(tag)}$"]))
                for name, tag in charts
            ],
        )

    groups: dict[str, list[tuple[str, str]]] = {}
    for tag in sorted(tests):
        group, _, metric = tag.partition("/")
        groups.setdefault(group, []).append((metric, tag))
    training = [
        ("Loss over optimizer steps", "TRAINING/Loss"),
        ("Loss over rounds", "ROUND/loss"),
        ("Round over optimizer steps", "TRAINING/Round"),
    ]
    costs = [
        ("Seconds of a round", "TIMING/round"),
        ("Seconds of training at a node", "TIMING/train"),
        ("Bytes sent", "TRAFFIC/bytes_sent"),
        ("Bytes received", "TRAFFIC/bytes_received"),
    ]
    categories = [category("TRAINING", training), *(category(*group) for group in groups.items())]
    categories.append(category("COSTS", costs))
    return bytes(layout_pb2.Layout(category=categories).SerializeToString())


def layout_value(content: bytes) -> dict[str, Any]:
    """The value of the summary that holds a layout."""
    from tensorboard.compat.proto.types_pb2 import DT_STRING
    from tensorboard.plugins.custom_scalar import metadata

    return {
        "tag": metadata.CONFIG_SUMMARY_TAG,
        "tensor": {"dtype": DT_STRING, "tensor_shape": {}, "string_val": [content]},
        "metadata": {"plugin_data": {"plugin_name": metadata.PLUGIN_NAME}},
    }
