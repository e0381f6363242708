"""A quick picture of a history, and how curves are drawn. Needs matplotlib, and no display."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedplug.core.errors import UsageError
from fedplug.researcher.history import History
from fedplug.researcher.progress.text import one_line
from fedplug.researcher.series import NODES_DRAWN, Series, chosen_series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NODE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#3fa0d8", "#7a5195")
"""Colours of nodes, told apart also by people who are colour-blind (after Okabe and Ito, 2008)."""

DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
"""Line styles in turn, so that nobody needs colours at all."""

_MOST_PANELS = 12
_LONGEST_LABEL = 24


@dataclass(frozen=True)
class Look:
    """The colours of a picture."""

    ink: str = "#1b1f24"
    soft: str = "#6a737d"
    grid: str = "#d9dee3"
    together: str = "#1b1f24"
    nodes: tuple[str, ...] = NODE_COLOURS


def plot(history: History, metrics: Sequence[str] | str | None = None) -> Figure:
    """Draw metrics over rounds: thin lines for nodes, a thick one for all of them together.

    More than seven nodes are drawn as a band in which the middle 80 % of them lie.

    Args:
        history: What to draw.
        metrics: Names such as ``"loss"``, ``"accuracy"`` (of every kind of test) or ``"test_local_accuracy"``;
            None for the loss and every test. At most twelve panels are drawn.

    Returns:
        A figure that shows itself in a notebook; ``figure.savefig("picture.png")`` writes it to a file.

    Raises:
        UsageError: There is nothing to draw yet, or matplotlib is not installed.
        UnknownNameError: There is no such metric.
    """
    load_matplotlib()
    wanted = [metrics] if isinstance(metrics, str) else None if metrics is None else list(metrics)
    if not history:
        raise UsageError("There is nothing to plot yet: no round is finished.", cure="Call run() first.")
    panels = chosen_series(history, wanted)[:_MOST_PANELS]
    columns = min(len(panels), 3) or 1
    rows = math.ceil(len(panels) / columns) or 1
    look = Look()
    ids = list(history.names())
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    with plain_style():
        figure = _picture_class()(figsize=(4.6 * columns + 1.6, 3.2 * rows), layout=layout, facecolor="white")
        drawn: dict[str, Any] = {}
        for place, series in enumerate(panels, start=1):
            axes = figure.add_subplot(rows, columns, place)
            drawn |= draw_series(axes, series, ids, look)
            axes.set_title(series.title, fontsize=10, loc="left", parse_math=False)
            axes.set_xlabel("rounds", fontsize=9, color=look.soft)
        if drawn:
            names = history.names()
            # A label that begins with "_" or holds "$" means something to matplotlib: it is set afterwards, as it is.
            legend = figure.legend(list(drawn.values()), [" "] * len(drawn), loc="outside right upper", frameon=False)
            for text, label in zip(legend.get_texts(), drawn, strict=True):
                text.set_parse_math(False)
                text.set_text(one_line(names.get(label, label), _LONGEST_LABEL))
    return figure


def draw_series(axes: Axes, series: Series, ids: Sequence[str], look: Look) -> dict[str, Any]:
    """Draw one metric. Returns what stands for whom: node id (or ``together``, ``band``) → artist."""
    drawn: dict[str, Any] = {}
    if len(ids) > NODES_DRAWN:
        bands = series.bands()
        xs, low, high = ([band[i] for band in bands] for i in range(3))
        if bands:
            drawn[BAND] = axes.fill_between(xs, low, high, color=look.nodes[0], alpha=0.25, linewidth=0)
            if len(xs) == 1:
                drawn[BAND] = axes.vlines(xs, low, high, color=look.nodes[0], alpha=0.35, linewidth=5)
    else:
        for node_id, points in series.nodes.items():
            style = node_style(ids.index(node_id), look)
            drawn[node_id] = _line(axes, points, linewidth=1.3, **style)
    if series.together:
        line = _line(axes, series.together, color=look.together, linewidth=3.0, zorder=1.5)  # below thin lines
        drawn = {TOGETHER: line} | drawn
    dress(axes, look)
    return drawn


TOGETHER = "all nodes together"
BAND = "middle 80 % of the nodes"


def node_style(place: int, look: Look) -> dict[str, Any]:
    """Colour and line style of the node at ``place``."""
    return {"color": look.nodes[place % len(look.nodes)], "linestyle": DASHES[place % len(DASHES)]}


def dress(axes: Axes, look: Look) -> None:
    """Give axes our look: a light grid, no box, whole rounds."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.grid(axis="y", color=look.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.03)
    axes.tick_params(colors=look.soft, labelsize=9, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(look.grid)


def load_matplotlib() -> None:
    """Make sure that matplotlib is there.

    Raises:
        UsageError: It is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"Pictures need matplotlib, which cannot be imported ({error}).", cure="pip install 'fedplug[report]'"
        ) from error


@contextmanager
def plain_style(salt: str | None = None) -> Iterator[None]:
    """Matplotlib's own defaults for a while, whatever the user's are, so that a picture is always the same.

    Args:
        salt: What the ids in an SVG are made from, which are random otherwise. Its text stays text then.
    """
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        if salt is not None:
            mpl.rcParams["svg.hashsalt"] = salt
            mpl.rcParams["svg.fonttype"] = "none"
        yield


def _line(axes: Axes, points: Sequence[tuple[float, float]], **style: Any) -> Any:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    # one point makes no line, and a figure between two gaps neither
    marker = "o" if len(points) < 13 or any(math.isnan(y) for y in ys) else None
    return axes.plot(xs, ys, marker=marker, markersize=style["linewidth"] * 1.4 + 1.4, **style)[0]


def _picture_class() -> type[Figure]:
    """A figure that a notebook can show though pyplot knows nothing of it."""
    from matplotlib.figure import Figure

    class Picture(Figure):
        def _repr_png_(self) -> bytes:
            out = io.BytesIO()
            with plain_style(), warnings.catch_warnings():
                # a node's name may be written in a script that the font lacks
                warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
                self.savefig(out, format="png")
            return out.getvalue()

    return Picture
