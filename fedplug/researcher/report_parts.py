"""The building blocks of a report: HTML for figures, tables, legends. Whatever text comes in is escaped here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from fedplug.researcher.plot import BAND, TOGETHER
from fedplug.researcher.progress.text import block, one_line
from fedplug.researcher.series import NODES_DRAWN

LARGEST_MATRIX = 40
"""Classes; a larger confusion matrix is not printed."""

_DASHES = ("none", "5 2.5", "1.8 1.8")
_LONGEST_SOURCE = 400_000


@dataclass(frozen=True)
class Html:
    """Text that is HTML already."""

    text: str


Cell = str | Html


def text(value: str, limit: int = 300) -> str:
    """Text of unknown origin, for HTML: on one line, without control characters, escaped."""
    return escape(one_line(value, limit))


def cell(value: Cell, *, number: bool = False, kind: str = "") -> str:
    """One cell of a table."""
    names = " ".join(filter(None, ("number" if number else "", kind)))
    inside = value.text if isinstance(value, Html) else text(value)
    return f'<td class="{names}">{inside}</td>' if names else f"<td>{inside}</td>"


def table(
    caption: str,
    head: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    words: Sequence[int] = (),
    kinds: Mapping[int, str] | None = None,
    note: str = "",
    name: str = "",
) -> str:
    """A table whose first column names the rows.

    Args:
        caption: What it shows.
        head: The heads of its columns.
        rows: Its cells.
        words: The columns that hold words; the others hold numbers.
        kinds: CSS classes of columns.
        note: A sentence below the caption.
        name: CSS class of the table.
    """
    left = {0, *words}
    heads = "".join(
        f'<th scope="col">{text(title)}</th>' if i in left else f'<th scope="col" class="number">{text(title)}</th>'
        for i, title in enumerate(head)
    )
    body = []
    for row in rows:
        first = row[0].text if isinstance(row[0], Html) else text(row[0])
        rest = "".join(
            cell(value, number=i not in left, kind=(kinds or {}).get(i, "")) for i, value in enumerate(row) if i
        )
        body.append(f'<tr><th scope="row">{first}</th>{rest}</tr>')
    about = f"<caption><strong>{text(caption)}</strong>{text(note)}</caption>"
    opening = f'<table class="{name}">' if name else "<table>"
    return _scrolling(caption, f"{opening}{about}<thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table>")


def settings_table(caption: str, values: Mapping[str, Any]) -> str:
    """Names and values; a value that is no text is written as JSON."""
    rows = [(str(name), plain_text(value)) for name, value in values.items()]
    return table(caption, ("name", "value"), rows, words=(1,), name="settings")


def plain_text(value: Any) -> str:
    """A setting for people."""
    if isinstance(value, str):
        return value
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return json.dumps(value, ensure_ascii=False, default=str)


def figures(pairs: Iterable[tuple[str, Cell]]) -> str:
    """Large figures with what they are."""
    found = [
        f'<div class="card"><dt>{text(name)}</dt>'
        f"<dd>{value.text if isinstance(value, Html) else text(value)}</dd></div>"
        for name, value in pairs
    ]
    return f'<dl class="figures">{"".join(found)}</dl>'


def chart(title: str, svg: str, spoken: str, *, note: str = "", legend: str = "") -> str:
    """A picture with its title; ``spoken`` says what is to be seen to those who cannot."""
    small = f"<small>{text(note)}</small>" if note else ""
    return (
        f'<figure class="card"><figcaption>{text(title)}{small}</figcaption>{legend}'
        f'<div role="img" aria-label="{text(spoken)}">{svg}</div></figure>'
    )


def legend_of_nodes(names: Mapping[str, str]) -> str:
    """Who is who in the curves."""
    items = [(TOGETHER, "var(--together)", "none", 3.2)]
    if len(names) > NODES_DRAWN:
        items.append((BAND, "var(--node-1)", "band", 9.0))
    else:
        for place, name in enumerate(names.values()):
            items.append((name, f"var(--node-{place + 1})", _DASHES[place % len(_DASHES)], 2.0))
    return _legend(items)


def legend_of_parts(names: Iterable[str]) -> str:
    """What the parts of stacked bars are."""
    return _legend([(name, f"var(--node-{place})", "bar", 10.0) for place, name in enumerate(names, start=1)])


def matrix(caption: str, value: Any) -> str:
    """A confusion matrix as a heat map; empty if ``value`` is none, or too large for a page."""
    if not is_matrix(value) or len(value) > LARGEST_MATRIX:
        return ""
    size = len(value)
    heads = "".join(f'<th scope="col">{place}</th>' for place in range(size))
    rows = []
    for place, row in enumerate(value):
        total = sum(abs(each) for each in row if math.isfinite(each)) or 1
        cells = "".join(
            f'<td style="--share:{(abs(each) / total if math.isfinite(each) else 0):.3f}">{each:,.6g}</td>'
            for each in row
        )
        rows.append(f'<tr><th scope="row">{place}</th>{cells}</tr>')
    # not a caption of the table: that would be squeezed to the width of a small matrix
    about = (
        f'<p class="caption"><strong>{text(caption)}</strong>A row is a true class, a column what the model said. The '
        "stronger the colour of a cell, the larger its share of the row.</p>"
    )
    head = (
        f'<thead><tr><th scope="col">class</th><th colspan="{size}" scope="colgroup">predicted</th></tr>'
        f'<tr><th scope="col">true</th>{heads}</tr></thead>'
    )
    cells = f"{head}<tbody>{''.join(rows)}</tbody>"
    return _scrolling(caption, f'{about}<table class="matrix" aria-label="{text(caption)}">{cells}</table>')


def is_matrix(value: Any) -> bool:
    """Whether it is a square list of lists of numbers."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(row, list) and len(row) == len(value) for row in value)
        and all(isinstance(each, int | float) for row in value for each in row)
    )


def source(title: str, code: str) -> str:
    """Source code that opens on a click."""
    shown = escape(block(code[:_LONGEST_SOURCE].replace("\t", "    "), _LONGEST_SOURCE))
    cut = '<p class="note">The rest is left out.</p>' if len(code) > _LONGEST_SOURCE else ""
    return f'<details class="card"><summary>{text(title)}</summary><pre><code>{shown}</code></pre>{cut}</details>'


def _legend(items: Iterable[tuple[str, str, str, float]]) -> str:
    found = []
    for name, colour, kind, width in items:
        see = ' opacity="0.3"' if kind == "band" else ""
        dashes = f' stroke-dasharray="{kind}"' if kind not in ("none", "band", "bar") else ""
        line = f'<line x1="0" y1="6" x2="30" y2="6" stroke="{colour}" stroke-width="{width:g}"{dashes}{see}/>'
        found.append(f'<li><svg viewBox="0 0 30 12" aria-hidden="true">{line}</svg>{text(name, 60)}</li>')
    return f'<ul class="legend" aria-label="Legend">{"".join(found)}</ul>'


def _scrolling(label: str, content: str) -> str:
    """A wide table scrolls inside its card, also by keyboard."""
    return f'<div class="card scroll" role="region" tabindex="0" aria-label="{text(label)}">{content}</div>'
