"""The rows as a table in Markdown, for a terminal and for docs/peers.md."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.peers.rows import Row

TITLES = {
    "S1": "S1: MLP, 100 nodes of 600 images, 10 a round",
    "S2": "S2: the same with a convolutional network",
    "S3": "S3: MLP, 1,000 nodes of 60 images, 100 a round",
    "R1": "R1: rounds in which nothing is trained, 10 nodes in one process or simulation",
    "R2": "R2: the same over a network, 4 node processes on one machine",
}
BEGIN, END = "<!-- figures: made by benchmarks.peers -->", "<!-- end of figures -->"
_HEAD = ("framework", "how", "CPU / plain loop", "time / plain loop", "CPU, ms a round", "time, ms a round")


def markdown(rows: Sequence[Row]) -> str:
    """A table for each workload, in the order of the rows."""
    parts = []
    for workload in dict.fromkeys(row.workload for row in rows):
        lines = [f"**{TITLES[workload]}**", "", _line(_HEAD), _line(["---", "---", *["---:"] * 4])]
        lines += [_line(_cells(row)) for row in rows if row.workload == workload]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def into_page(page: str, figures: str) -> str:
    """A page with other figures between its two marks.

    Raises:
        ValueError: It does not have each mark once, in order.
    """
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in tail or END in head:
        raise ValueError(f"The page must have {BEGIN} and {END}, each once.")
    return f"{head}{BEGIN}\n\n{figures}\n\n{END}{tail}"


def _cells(row: Row) -> list[str]:
    name = f"{row.framework} {row.version}".strip()
    if row.problem:
        return [name, f"no figures: {_plain(row.problem)}", "", "", "", ""]
    ratios = ["" if value is None else f"{value:.2f}" for value in (row.cpu, row.wall)]
    times = ["" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}" for value in (
        row.cpu_ms, row.wall_ms
    )]  # fmt: skip
    return [name, _plain(row.how), *ratios, *times]


def _plain(text: str) -> str:
    """Text of a stranger in one cell."""
    text = " ".join(text.split()).replace("|", "/")
    return text if len(text) <= 200 else text[:199] + "…"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
