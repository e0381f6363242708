"""Nodes that fail and nodes that are slow, by chance and by a clock that is only reckoned, for research."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedplug.core.errors import UsageError
from fedplug.core.messages import TaskFailure, TrainRequest
from fedplug.core.numbers import is_number
from fedplug.core.rng import SeedTree


@dataclass(frozen=True)
class Faults:
    """What befalls the virtual nodes of a federation. All of it follows from the experiment's seed, and nobody waits.

    A node's training takes as many units of time as the node has samples, times a factor of its own that stays the
    same in all rounds. Nodes reply in the order of their times.

    Args:
        drop_out: The chance, in [0, 1], that a node fails in a round.
        spread: Standard deviation of the logarithm of the nodes' factors, which are log-normal with median 1; with 0
            all nodes are equally fast, with 1 two thirds of them are between 0.37 and 2.7.
        deadline: Units of time after which a node is too slow, and fails.

    Raises:
        UsageError: An argument is out of range.
    """

    drop_out: float = 0.0
    spread: float = 0.0
    deadline: float = math.inf

    def __post_init__(self) -> None:
        if not (is_number(self.drop_out) and 0 <= self.drop_out <= 1):
            raise UsageError(f"drop_out must be a chance in [0, 1], got {self.drop_out!r}.")
        if not (is_number(self.spread) and 0 <= self.spread < math.inf):
            raise UsageError(f"spread must be a number of at least 0, got {self.spread!r}.")
        if not (is_number(self.deadline) and self.deadline > 0):
            raise UsageError(f"deadline must be a number above 0, got {self.deadline!r}.")

    def seconds(self, request: TrainRequest, samples: int) -> float:
        """How many units of time a training takes.

        Args:
            request: What is asked for.
            samples: Of the node's data set.
        """
        speed = SeedTree.root(request.data_seed).child("faults", "speed").generator().standard_normal()
        return samples * math.exp(self.spread * float(speed))

    def failure(self, request: TrainRequest, seconds: float) -> TaskFailure | None:
        """Why a training that takes ``seconds`` does not end well; None if it does."""
        chance = SeedTree.root(request.seed).child("faults", "drop-out", request.key.attempt).generator().random()
        if chance < self.drop_out:
            text = "The node has dropped out, as the simulation was asked to let it."
            return TaskFailure(key=request.key, code="dropped-out", text=text)
        if seconds > self.deadline:
            text = f"The node is too slow: it takes {seconds:.4g} units of time, and the deadline is {self.deadline:g}."
            return TaskFailure(key=request.key, code="too-slow", text=text)
        return None
