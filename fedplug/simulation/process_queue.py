"""In which portions tasks are given to worker processes.

An engine that trains one by one gets single tasks. One that trains several at once gets groups, which must not depend
on how fast anybody is: with another group the result may be another one in the last bits. So a group follows from the
order of the tasks, and from how many are submitted before the first is asked for.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

_WINDOW = 0.004
"""Seconds of work that a worker is given ahead, so that it never waits for the simulation."""

_MOST_AHEAD = 64
"""Most tasks that a worker is given ahead: each may hold open files."""

_MEMORY = 0.98
"""How much of the weight of earlier tasks stays when the time of another one is counted in."""

_MOST = 16
"""Most tasks in a group. More are no faster at once, and the last group would be waited for longer."""


class TaskQueue:
    """Tasks that no worker has, in groups that one worker trains.

    Args:
        workers: How many workers there are.
        together: Whether they train several tasks at once.

    Attributes:
        groups: The next ones first.
    """

    def __init__(self, workers: int, *, together: bool) -> None:
        self.groups: deque[list[int]] = deque()
        self._workers = workers
        self._together = together
        self._loose: list[int] = []  # tasks that are not in a group yet
        self._submitted = 0  # since the last time that a result was asked for
        self._has_formed = False  # whether some of these are in groups
        self._size = 0  # of groups that are formed while there may come more tasks; 0 for none
        self._weight = self._seconds = 0.0  # of tasks so far: how many, and how long

    def add(self, number: int) -> None:
        """There is another task."""
        if not self._together:
            self.groups.append([number])
            return
        self._loose.append(number)
        self._submitted += 1
        if len(self._loose) == self._size:
            self._form(self._size)
            self._has_formed = True

    def seal(self) -> None:
        """The result of one is asked for: what has been submitted is to be trained without waiting for more."""
        if not self._submitted:
            return
        size = group_size(self._submitted, self._workers)
        self._form(self._size if self._has_formed else size)
        self._size = size if size > 1 else 0
        self._submitted, self._has_formed = 0, False

    def portion(self, has: int) -> int:
        """How many of the next groups a worker that has so many tasks is to get now."""
        if self._together:  # one group to train and one to go on with
            return 1 if has <= len(self.groups[0]) else 0
        ahead = 2
        if self._seconds:
            ahead = min(max(2, 1 + math.ceil(_WINDOW * self._weight / self._seconds)), _MOST_AHEAD)
        if ahead - has < max(1, ahead // 2):
            return 0
        return min(ahead - has, math.ceil(len(self.groups) / (2 * self._workers)))

    def count_in(self, seconds: float) -> None:
        """A task has taken so long."""
        self._weight = _MEMORY * self._weight + 1
        self._seconds = _MEMORY * self._seconds + seconds

    def put_back(self, numbers: Sequence[int]) -> None:
        """These come first: a worker has had them."""
        if self._together and numbers:
            self.groups.appendleft(list(numbers))
        else:
            self.groups.extendleft([number] for number in reversed(numbers))

    def remove(self, number: int) -> bool:
        """Take a task out; whether it was there."""
        if number in self._loose:
            self._loose.remove(number)
            return True
        for group in self.groups:
            if number in group:
                group.remove(number)
                if not group:
                    self.groups.remove(group)
                return True
        return False

    def _form(self, size: int) -> None:
        self.groups.extend(self._loose[low : low + size] for low in range(0, len(self._loose), size))
        self._loose = []


def group_size(tasks: int, workers: int) -> int:
    """How many of ``tasks`` are trained together: as many as can be, if all workers are to have equally many groups."""
    each = math.ceil(tasks / workers)
    return math.ceil(each / math.ceil(each / _MOST))
