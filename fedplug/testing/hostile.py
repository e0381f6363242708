"""Updates that should not be: NaN and infinities, and what hostile nodes may send."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fedplug.core.aggregator import Aggregator
from fedplug.core.params import Array, Params
from fedplug.core.rng import SeedTree
from fedplug.core.update import Update
from fedplug.testing.cases import BOUND, LAYOUTS, Case, make_case
from fedplug.testing.registry import Profile, Subject

_MANY = (50, 64, 100, 128, 200, 256, 500, 1000)

_LARGEST_INTEGER = 2.0**40


def attacks(honest: Sequence[Params], count: int, rng: np.random.Generator) -> Iterator[tuple[str, list[Params]]]:
    """What ``count`` hostile nodes may send, with a name for it.

    From far away, one-sided or in all directions and of every size that a dtype can hold, to just beyond the honest
    ones, where no rule could tell them apart; alone, or all together at one place.
    """
    spec = honest[0].spec

    def made(value: Any) -> Params:
        return Params.build(spec, lambda name, out: np.copyto(out, value(name, out), casting="unsafe"))

    for fraction, words in ((0.0, "ten times as far"), (0.5, "very far"), (1.0, "as far as its dtype goes")):
        for sign in (1, -1):
            place = made(lambda _, out, s=sign, f=fraction: np.full(out.shape, s * _size(out.dtype, f)))
            yield f"all at one place, {words}{'' if sign > 0 else ', below'}", [place] * count
        scattered = [
            made(lambda _, out, f=fraction: rng.choice([-1.0, 1.0], out.shape) * _size(out.dtype, f))
            for _ in range(count)
        ]
        yield f"in all directions, {words}", scattered
    stacks = {name: np.stack([np.asarray(params[name], np.float64) for params in honest]) for name in honest[0]}
    mean = {name: stack.mean(axis=0) for name, stack in stacks.items()}
    spread = {name: stack.std(axis=0) for name, stack in stacks.items()}
    yield "just beyond the honest ones", [made(lambda name, _: mean[name] + 1.5 * spread[name])] * count
    yield "the mean of the honest ones, mirrored", [made(lambda name, _: -10 * mean[name])] * count
    yield "copies of an honest one", [honest[0]] * count
    yield "zeros", [made(lambda _, out: np.zeros(out.shape))] * count


def _size(dtype: np.dtype[Any], fraction: float) -> float:
    """A magnitude between ten times that of honest values and the largest of a dtype, evenly on a logarithmic scale."""
    top = float(np.finfo(dtype).max) if dtype.kind == "f" else min(float(np.iinfo(dtype).max), _LARGEST_INTEGER)
    low = min(10 * BOUND, top)
    return top if fraction == 1 else float(low * (top / low) ** fraction)


def places(count: int, hostile: int) -> Iterable[tuple[int, ...]]:
    """Which of ``count`` updates are hostile: the first, the last, or some in between."""
    first, last = tuple(range(hostile)), tuple(range(count - hostile, count))
    between = tuple(int(place) for place in np.linspace(0, count - 1, hostile + 2)[1:-1])
    return dict.fromkeys(each for each in (first, last, between) if len(set(each)) == hostile)


class HostileTrials:
    """Rounds of honest updates, of numbers of which a rule says that it withstands some."""

    def seeded(self, subject: Subject, profile: Profile) -> Iterable[Case]:
        """All layouts, with the smallest such numbers."""
        for count in _counts(subject.component, 4 if profile == "full" else 2):
            for seed in range(3 if profile == "full" else 1):
                for index, layout in enumerate(LAYOUTS):
                    rng = SeedTree.root(seed).child("hostile", index, count).generator()
                    yield fair(replace(make_case(layout, count, rng), complete=subject.complete))

    def drawn(self, subject: Subject) -> Any:
        """None: what matters is the attack, and all are tried on every case."""
        return None


def fair(case: Case) -> Case:
    """``case`` with equal weights: a rule that takes weights at their word cannot withstand a node that lies."""
    return case.each(lambda updates: [replace(each, sample_count=10, steps=5) for each in updates])


def counts_of(aggregator: Aggregator) -> list[int]:
    """Numbers of updates among which those are looked for that a rule says it withstands some of."""
    least = aggregator.tags.minimum_updates
    return [*range(least, least + 40), *(count for count in _MANY if count >= least + 40)]


def _counts(aggregator: Aggregator, most: int) -> list[int]:
    """Numbers of updates of which one, and of which two are withstood, and some more."""
    able = [count for count in counts_of(aggregator) if aggregator.withstands(count) > 0]
    two = [count for count in able if aggregator.withstands(count) > 1]
    return list(dict.fromkeys([*able[:1], *two[:1], *able[1:2], *two[1:3]]))[:most]


def poisoned(params: Params, value: float) -> Params:
    """``params`` with its first floating-point value replaced."""
    first = next((name for name in params if params[name].dtype.kind == "f" and params[name].size), "")

    def put(name: str, array: Array) -> Array:
        changed = np.array(array)
        if name == first:
            changed.flat[0] = value
        return changed

    return Params.from_arrays({name: put(name, array) for name, array in params.items()})


def replaced(updates: Sequence[Update], some: Iterable[int], params: Sequence[Params]) -> list[Update]:
    """``updates`` with the parameters at some places replaced."""
    new = dict(zip(some, params, strict=True))
    return [replace(each, params=new.get(place, each.params)) for place, each in enumerate(updates)]
