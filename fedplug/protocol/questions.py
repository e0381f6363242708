"""What the researcher asks all nodes, or some: posed once, repeated to each node until it has answered."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass

from fedplug.protocol.limits import Limits
from fedplug.protocol.sessions import Node

Message = Callable[[Node], tuple[bytes, bytes] | None]
"""Header and body of the question for a node; None if it is not for that node."""


@dataclass(slots=True)
class _Turn:
    """One node's: the last question that it has answered, when to ask again, and the seconds until the time after."""

    answered: int | None = None
    due: float = 0.0
    wait: float = 0.0


class Question:
    """One kind of question. Posing another replaces the one before.

    Args:
        limits: When to repeat.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._number: int | None = None
        self._message: Message | None = None
        self._nodes: Container[str] | None = None
        self._turns: dict[str, _Turn] = {}

    def pose(self, number: int, message: Message, nodes: Container[str] | None = None) -> None:
        """Ask something new.

        Args:
            number: Names the question; answers repeat it.
            message: Makes the message for a node.
            nodes: Ids of the nodes to ask; None: all.
        """
        self._number, self._message, self._nodes = number, message, nodes

    def ask(self, node: Node, now: float, *, again: bool = False) -> tuple[bytes, bytes] | None:
        """The message for a node that has not answered yet; None if there is nothing to ask it."""
        if self._message is None or (self._nodes is not None and node.node_id not in self._nodes):
            return None
        turn = self._turns.setdefault(node.node_id, _Turn())
        if turn.answered == self._number:
            return None
        turn.wait = min(2 * turn.wait, self._limits.repeat_longest) if again else self._limits.repeat
        turn.due = now + turn.wait
        return self._message(node)

    @property
    def is_posed(self) -> bool:
        """Whether anything was asked yet."""
        return self._message is not None

    def is_due(self, node: Node, now: float) -> bool:
        """Whether to ask a node again."""
        turn = self._turns.get(node.node_id)
        return turn is not None and turn.answered != self._number and 0 < turn.due <= now

    def pause(self, node: Node) -> None:
        """The node is gone; it is asked when it is back."""
        if node.node_id in self._turns:
            self._turns[node.node_id].due = 0.0

    def take_answer(self, node: Node, number: int) -> bool:
        """Note an answer. Returns whether it is the first one to the question that stands."""
        turn = self._turns.setdefault(node.node_id, _Turn())
        if number != self._number or turn.answered == number:
            return False
        turn.answered = number
        return True
