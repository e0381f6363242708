"""The data sets of the nodes as a table that people can read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedplug.core.messages import DatasetCard, NodeInfo
from fedplug.researcher.progress.text import one_line

_HEADERS = ("NODE", "DATA SET", "TYPE", "TAGS", "SHAPE", "TARGET", "COLUMNS", "DESCRIPTION")
_COLUMNS = 4
"""So many columns of a data set are named; the number of the others is told."""

_CELL = 40
_DESCRIPTION = 60


class NodeDatasets(dict[str, tuple[DatasetCard, ...]]):
    """Node id → the cards of its data sets. Printed, or as the last line of a notebook's cell, it is a table.

    Args:
        found: The data sets of each node.
        nodes: What is known about the nodes.
    """

    def __init__(self, found: Mapping[str, Sequence[DatasetCard]], nodes: Mapping[str, NodeInfo]) -> None:
        super().__init__({node_id: tuple(cards) for node_id, cards in found.items()})
        self.nodes = {node_id: info for node_id, info in nodes.items() if node_id in self}

    def __repr__(self) -> str:
        return dataset_table(self, self.nodes)


def dataset_table(found: Mapping[str, Sequence[DatasetCard]], nodes: Mapping[str, NodeInfo] | None = None) -> str:
    """A table with a line for each data set: what a researcher may know, shortened where it is long.

    Args:
        found: Node id → its data sets, as `list_datasets` returns them.
        nodes: What is known about the nodes; those that have a name are called by it.
    """
    rows: list[tuple[str, ...]] = [_HEADERS]
    for node_id, cards in found.items():
        info = (nodes or {}).get(node_id)
        called = info.name if info and info.name else node_id
        if called != node_id and sum(other.name == called for other in (nodes or {}).values()) > 1:
            called = f"{called} ({node_id})"
        node = one_line(called, _CELL)
        rows += [(node, *_row(card)) for card in cards] or [(node, "none", *["-"] * (len(_HEADERS) - 2))]
    widths = [max(len(row[place]) for row in rows) for place in range(len(_HEADERS))]
    widths[-1] = 0
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _row(card: DatasetCard) -> tuple[str, ...]:
    columns = ", ".join(one_line(name, 20) for name in card.columns[:_COLUMNS])
    if len(card.columns) > _COLUMNS:
        columns += f" and {len(card.columns) - _COLUMNS} more"
    cells = (card.name, card.type, ", ".join(card.tags), " x ".join(f"{n:,}" for n in card.shape), card.target)
    return (
        *(one_line(cell, _CELL) or "-" for cell in cells),
        columns or "-",
        one_line(card.description, _DESCRIPTION) or "-",
    )
