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

_MOST = 24
"""Most tasks in a group. More are no faster at once, and their results would have to be kept until it is their turn."""

_LAST = 8
"""Tasks in the last group of a worker: the fewer they are, the less is left to do when all workers have come to their
end; but small groups take more time for a task.
"""


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
        self._sizes: list[int] = []  # of groups that are formed while there may come more tasks, the next one first
        self._weight = self._seconds = 0.0  # of tasks so far: how many, and how long

    def add(self, number: int) -> None:
        """There is another task."""
        if not self._together:
            self.groups.append([number])
            return
        self._loose.append(number)
        self._submitted += 1
        if self._sizes and len(self._loose) == self._sizes[0]:
            self._form(self._sizes[:1])
            self._sizes = self._sizes[1:]

    def seal(self) -> None:
        """The result of one is asked for: what has been submitted is to be trained without waiting for more."""
        if not self._submitted:
            return
        self._form(group_sizes(len(self._loose), self._workers))
        sizes = group_sizes(self._submitted, self._workers)
        self._sizes = sizes if sizes[0] > 1 else []
        self._submitted = 0

    def portion(self, has: int, latest: int) -> int:
        """How many of the next groups a worker is to get now.

        Args:
            has: How many tasks it has.
            latest: How many of them are those of the last group that it got.
        """
        if self._together:  # one group to train and one to go on with
            return 1 if has <= latest else 0
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

    def has(self, number: int) -> bool:
        """Whether a task is here."""
        return number in self._loose or any(number in group for group in self.groups)

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

    def _form(self, sizes: Sequence[int]) -> None:
        for size in sizes:
            self.groups.append(self._loose[:size])
            self._loose = self._loose[size:]


def group_sizes(tasks: int, workers: int) -> list[int]:
    """How many of ``tasks`` are trained together, group by group, if all workers are to have about equally many.

    Each worker has large groups first, and a small one at the end.
    """
    sizes: list[int] = []
    left = tasks
    while left:
        each = math.ceil(left / workers)  # for every worker, that still has to do
        size = each if each < 2 * _LAST else min(_MOST, each - _LAST)
        for _ in range(workers):
            size = min(size, left)
            if size:
                sizes.append(size)
            left -= size
    return sizes
