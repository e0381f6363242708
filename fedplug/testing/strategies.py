"""Hypothesis strategies for whoever tests aggregators and their kin: layouts, parameters, updates, rounds.

Magnitudes are bounded and shapes small, so that what is found is about the component and not about NumPy; there are no
chains of filters, so that drawing is fast.

    from hypothesis import given
    from fedplug.testing import strategies as fst

    @given(fst.params())
    def test_something(params): ...
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedplug.core.errors import UsageError
from fedplug.core.params import Params, ParamsSpec
from fedplug.core.rng import SeedTree
from fedplug.core.update import Update
from fedplug.testing.cases import BOUND, LAYOUTS, Case, Layout, context, make_case

try:
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp
except ImportError as error:
    raise UsageError(
        "The strategies of fedplug.testing need Hypothesis, which is not installed.",
        cure='pip install "fedplug[testing]"',
    ) from error

FLOATS = ("float32", "float64", "float16")
DTYPES = (*FLOATS, "int64", "int32", "uint8", "bool")
"""What `layouts` draws from by default; what it shrinks to comes first."""


def layouts(
    *, dtypes: Sequence[str] = DTYPES, max_arrays: int = 3, max_dims: int = 2, max_side: int = 3, min_side: int = 0
) -> st.SearchStrategy[list[tuple[str, tuple[int, ...], str]]]:
    """Layouts of parameters: names, shapes and dtypes.

    Args:
        dtypes: Names of the dtypes.
        max_arrays: Largest number of arrays; there is at least one.
        max_dims: Largest number of axes.
        max_side: Longest axis.
        min_side: Shortest axis; 0 allows empty arrays.
    """
    shapes = hnp.array_shapes(min_dims=0, max_dims=max_dims, min_side=min_side, max_side=max_side)
    arrays = st.lists(st.tuples(shapes, st.sampled_from(dtypes)), min_size=1, max_size=max_arrays)
    return arrays.map(lambda found: [(f"a{place}", shape, dtype) for place, (shape, dtype) in enumerate(found)])


def params(
    layout: Layout | ParamsSpec | None = None, *, dtypes: Sequence[str] = DTYPES, bound: float = BOUND
) -> st.SearchStrategy[Params]:
    """Parameters whose values are finite and lie in ``[-bound, bound]``.

    Args:
        layout: Name, shape and dtype of each array, or a spec; drawn too where there is none.
        dtypes: Names of the dtypes that a drawn layout has.
        bound: Largest magnitude.
    """
    if layout is None:
        return layouts(dtypes=dtypes).flatmap(lambda drawn: params(drawn, bound=bound))
    entries = _entries(layout)
    names = [name for name, _, _ in entries]
    # tuples: a strategy for dicts may change the order of their keys
    arrays = st.tuples(*(_arrays(shape, dtype, bound) for _, shape, dtype in entries))
    return arrays.map(lambda drawn: Params.from_arrays(dict(zip(names, drawn, strict=True))))


def updates(
    layout: Layout | ParamsSpec,
    count: int | None = None,
    *,
    max_count: int = 6,
    weights: tuple[int, int] = (1, 100),
    bound: float = BOUND,
) -> st.SearchStrategy[list[Update]]:
    """Updates of ``count`` nodes (of 1 to ``max_count`` where it is None), in sorted node order.

    Args:
        layout: As for `params`; all updates share it.
        count: Number of updates.
        max_count: Largest number where ``count`` is None.
        weights: Smallest and largest ``sample_count``.
        bound: Largest magnitude of a value.
    """
    entries = _entries(layout)

    def one(place: int) -> st.SearchStrategy[Update]:
        return st.builds(
            Update,
            st.just(f"node-{place}"),
            params(entries, bound=bound),
            sample_count=st.integers(*weights),
            steps=st.integers(1, 20),
            metrics=st.fixed_dictionaries({"loss": st.floats(0, 4)}),
            timing=st.fixed_dictionaries({"train": st.floats(0, 60), "total": st.floats(60, 99)}),
        )

    if count is not None:
        return st.tuples(*map(one, range(count))).map(list)
    return st.integers(1, max_count).flatmap(lambda drawn: st.tuples(*map(one, range(drawn))).map(list))


@st.composite
def rounds(draw: st.DrawFn, *, max_count: int = 6, dtypes: Sequence[str] = FLOATS, bound: float = BOUND) -> Case:
    """One round: a start and updates of its layout, with values that Hypothesis chooses one by one.

    So values are often equal, and ties between updates common. `cases` draws values that have none.
    """
    layout = draw(layouts(dtypes=dtypes, min_side=1))
    start = draw(params(layout, bound=bound))
    drawn = draw(updates(layout, max_count=max_count, bound=bound))
    return Case(start, tuple(drawn), context([update.node_id for update in drawn], start))


@st.composite
def cases(draw: st.DrawFn, minimum_updates: int = 1, *, rounds: int = 1, max_count: int = 8) -> Case:
    """What the laws are tried on in the profile ``full``: `fedplug.testing.cases.Case`.

    Layout, number of nodes, magnitude and seed are drawn, the values made of the seed. So no two updates are equally
    good, and a rule that chooses between them has a choice to make: at a tie, a law may have nothing to say.

    Args:
        draw: Filled in by Hypothesis.
        minimum_updates: Smallest number of updates.
        rounds: Number of rounds.
        max_count: Largest number of updates, if ``minimum_updates`` is no larger.
    """
    free = layouts(dtypes=(*FLOATS, "int64"), min_side=1)
    layout = draw(st.sampled_from(LAYOUTS) | free.map(_with_floats))
    count = draw(st.integers(minimum_updates, max(max_count, minimum_updates)))
    bound = draw(st.sampled_from([BOUND, 1.0, 1 / 8]))
    seed = draw(st.integers(0, 2**32 - 1))
    return make_case(layout, count, SeedTree.root(seed).generator(), rounds=rounds, bound=bound)


def _with_floats(layout: list[tuple[str, tuple[int, ...], str]]) -> list[tuple[str, tuple[int, ...], str]]:
    """A model that learns has numbers that can move."""
    return [*layout, ("w", (5,), "float32")]


def _entries(layout: Layout | ParamsSpec) -> Layout:
    return [(t.name, t.shape, t.dtype) for t in layout.tensors] if isinstance(layout, ParamsSpec) else layout


def _arrays(shape: tuple[int, ...], dtype: str, bound: float) -> st.SearchStrategy[np.ndarray[Any, Any]]:
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return hnp.arrays(kind, shape, elements=st.booleans())
    if kind.kind in "iu":
        low = 0 if kind.kind == "u" else -int(bound)
        return hnp.arrays(kind, shape, elements=st.integers(low, int(bound)))
    width: Any = 8 * kind.itemsize
    elements = st.floats(-bound, bound, width=width, allow_subnormal=False)
    return hnp.arrays(kind, shape, elements=elements)
