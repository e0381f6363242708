"""The pictures of a report, as SVG that stands inside the page, takes its colours and repeats to the byte."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedplug.researcher.history import History
from fedplug.researcher.plot import Look, draw_series, dress, node_style, plain_style
from fedplug.researcher.series import NODES_DRAWN, Points, Series, drawable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours that stand for those of the page: a picture is drawn once and shown in light and dark.
_VARIABLES = {
    "#010101": "ink", "#010102": "soft", "#010103": "grid", "#010104": "together",
    **{f"#02020{i}": f"node-{i}" for i in range(1, NODES_DRAWN + 1)},
}  # fmt: skip
PAGE = Look(
    ink="#010101",
    soft="#010102",
    grid="#010103",
    together="#010104",
    nodes=tuple(f"#02020{i}" for i in range(1, NODES_DRAWN + 1)),
)

NARROW, WIDE = (3.9, 2.3), (5.4, 2.8)
"""Inches; 72 units of the SVG each. A page has three narrow ones side by side, or two wide ones."""

_BARS = 60
"""More rounds than these are drawn as an area and not as bars."""


def series_chart(name: str, series: Series, history: History) -> str:
    """One metric over rounds."""

    def draw(axes: Axes) -> None:
        draw_series(axes, series, list(history.names()), PAGE)
        axes.set_xlabel("rounds", fontsize=9, color=PAGE.soft)

    return _svg(name, draw)


def training_chart(name: str, history: History) -> str:
    """The loss over optimizer steps, as the nodes reported it while they trained; as a band if they are many."""
    curves = history.curves("loss")
    ids = list(history.names())

    def draw(axes: Axes) -> None:
        if len(curves) > NODES_DRAWN:
            rounds: dict[str, Points] = {
                node: [(float(step), drawable(loss)) for _, step, loss in points] for node, points in curves.items()
            }
            bands = Series("train", "loss", nodes=_in_bins(rounds)).bands()
            xs, low, high = ([band[i] for band in bands] for i in range(3))
            axes.fill_between(xs, low, high, color=PAGE.nodes[0], alpha=0.3, linewidth=0)
        else:
            for place, (node, points) in enumerate(curves.items()):
                style = node_style(ids.index(node) if node in ids else place, PAGE)
                xs = [step for _, step, _ in points]
                axes.plot(xs, [drawable(loss) for _, _, loss in points], linewidth=1.1, **style)
        dress(axes, PAGE)
        axes.set_xlabel("optimizer steps of the node", fontsize=9, color=PAGE.soft)

    return _svg(name, draw)


def stacked_chart(name: str, xs: Sequence[int], parts: Mapping[str, Sequence[float]], unit: str) -> str:
    """Amounts of each round on top of each other; ``parts`` from below."""

    def draw(axes: Axes) -> None:
        below = [0.0] * len(xs)
        for place, amounts in enumerate(parts.values()):
            top = [low + drawable(amount) for low, amount in zip(below, amounts, strict=True)]
            colour = PAGE.nodes[place % len(PAGE.nodes)]
            if len(xs) > _BARS:
                axes.fill_between(xs, below, top, color=colour, linewidth=0, alpha=0.85)
            else:
                heights = [drawable(amount) for amount in amounts]
                axes.bar(xs, heights, bottom=below, color=colour, width=0.7, alpha=0.85)
            below = top
        dress(axes, PAGE)
        if len(xs) <= _BARS:
            axes.set_xlim(min(xs) - 0.7, max(xs) + 0.7)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("round", fontsize=9, color=PAGE.soft)
        axes.set_title(unit, fontsize=9, loc="left", color=PAGE.soft)

    return _svg(name, draw, WIDE)


def _in_bins(curves: Mapping[str, Points]) -> dict[str, Points]:
    """Points of all curves moved to common places, so that nodes can be compared: 40 along the longest curve."""
    width = max((x for points in curves.values() for x, _ in points), default=0.0) / 40 or 1.0
    return {node: [((x // width + 0.5) * width, y) for x, y in points] for node, points in curves.items()}


def _svg(name: str, draw: Callable[[Axes], None], size: tuple[float, float] = NARROW) -> str:
    """Draw into an SVG element whose ids begin with ``name``."""
    from matplotlib.figure import Figure

    nothing: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with plain_style(salt=name):
        figure = Figure(figsize=size, layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        draw(axes)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata=nothing)
    return _for_page(out.getvalue(), name)


def _for_page(text: str, name: str) -> str:
    """The ``svg`` element alone, with ids of its own, the page's colours and the page's font."""
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<(metadata|style)[ >].*?</\1>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(xlink:)?href="#', f'href="#{name}-', text)
    text = text.replace("url(#", f"url(#{name}-")
    text = re.sub(r'font(?:-family)?: ?([\d.]+px )?[^;"]*sans-serif', _without_family, text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    size = re.search(r'viewBox="[^"]*"', text)
    opening = f'<svg {size[0] if size else ""} aria-hidden="true" focusable="false">'
    return re.sub(r"<svg[^>]*>", opening, text, count=1)


def _without_family(match: re.Match[str]) -> str:
    return f"font-size: {match[1].strip()}" if match[1] else "font-style: normal"
