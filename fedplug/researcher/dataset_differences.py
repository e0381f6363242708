"""What differs between the data sets of an experiment's nodes, in sentences for a warning."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from fedplug.core.messages import DatasetCard
from fedplug.researcher.progress.text import one_line

H = TypeVar("H", bound=Hashable)

_LISTED = 6
"""So many nodes or columns are named in a sentence."""

_WIDTH = re.compile(r"(str|bytes)\d+")


def differences(cards: Mapping[str, DatasetCard]) -> list[str]:
    """How data sets differ where those of one experiment should not, a sentence for each difference.

    What most nodes have is taken to be right, and what the first has where they are evenly split.

    Args:
        cards: What people call a node → the card of its data set.
    """
    said = _told("type", _groups(cards, lambda card: card.type or None))
    columns = _columns(cards)
    said += columns + _dtypes(cards)
    # The columns of a table are its width: what was said about the ones need not be said about the other.
    if not (columns and all(card.shape[1:] == (len(card.columns),) for card in cards.values())):
        said += _told("shape of a sample", _groups(cards, lambda card: card.shape[1:] if card.shape else None))
    said += _told("target", _groups(cards, lambda card: card.target or None))
    return [one_line(sentence) for sentence in said]  # names come from other machines


def _groups(cards: Mapping[str, DatasetCard], fact: Callable[[DatasetCard], H | None]) -> list[tuple[H, list[str]]]:
    """Each fact and the nodes whose cards say it, what most say first; None is no fact."""
    groups: dict[H, list[str]] = defaultdict(list)
    for node, card in cards.items():
        if (found := fact(card)) is not None:
            groups[found].append(node)
    return sorted(groups.items(), key=lambda group: -len(group[1]))  # stable: the first of equals stays first


def _told(what: str, groups: Sequence[tuple[Hashable, list[str]]]) -> list[str]:
    """A sentence for each group but the first."""
    return [
        f"The {what} is {value!r} on {_some(nodes)}, but {groups[0][0]!r} on {_some(groups[0][1])}."
        for value, nodes in groups[1:]
    ]


def _columns(cards: Mapping[str, DatasetCard]) -> list[str]:
    groups = _groups(cards, lambda card: card.columns or None)
    said = []
    for columns, nodes in groups[1:]:
        usual, elsewhere = groups[0][0], _some(groups[0][1])
        lacking = [repr(name) for name in usual if name not in columns]
        beyond = [repr(name) for name in columns if name not in usual]
        if not lacking and not beyond:
            said.append(f"The columns stand in another order on {_some(nodes)} than on {elsewhere}.")
            continue
        parts = [f"no {_some(lacking)}" if lacking else "", f"{_some(beyond)} besides" if beyond else ""]
        said.append(
            f"The columns on {_some(nodes)} ({len(columns)} in all) are not those on {elsewhere} ({len(usual)}): "
            f"there is {' and '.join(part for part in parts if part)}."
        )
    return said


def _dtypes(cards: Mapping[str, DatasetCard]) -> list[str]:
    """One sentence for all columns that differ in the same way."""
    types = {
        node: dict(zip(card.columns, (_WIDTH.sub(r"\1", dtype) for dtype in card.dtypes), strict=True))
        for node, card in cards.items()
        if len(card.columns) == len(card.dtypes)  # a card that was made by hand may lack them
    }
    alike: dict[tuple[str, str], list[str]] = defaultdict(list)
    for column in dict.fromkeys(name for found in types.values() for name in found):
        groups: dict[str, list[str]] = defaultdict(list)
        for node, found in types.items():
            if column in found:
                groups[found[column]].append(node)
        (usual, usual_nodes), *others = sorted(groups.items(), key=lambda group: -len(group[1]))
        for dtype, nodes in others:
            alike[f"{dtype} on {_some(nodes)}", f"{usual} on {_some(usual_nodes)}"].append(repr(column))
    return [f"The type of {_some(columns)} is {here}, but {there}." for (here, there), columns in alike.items()]


def _some(names: Sequence[str]) -> str:
    """The first few of ``names``, and how many more there are."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
