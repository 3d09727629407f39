"""Charts of a figure over time, a line a role: in the terminal, or as a PNG where matplotlib is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from heteroscale.console import figure
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.units import instant_text

WIDTH: Final = 72
HEIGHT: Final = 16
_MARKS: Final = "●○▲△■□"


class Point(NamedTuple):
    """A value at a window's end."""

    at_ms: int
    value: float


def draw_text(title: str, lines: Mapping[str, Sequence[Point]]) -> str:
    """A chart of WIDTH by HEIGHT characters; windows that share a column show their mean."""
    points = [point for line in lines.values() for point in line]
    first_ms, last_ms = min(point.at_ms for point in points), max(point.at_ms for point in points)
    top = max(point.value for point in points) or 1.0
    grid = [[" "] * WIDTH for _ in range(HEIGHT)]
    for index, (_, line) in enumerate(sorted(lines.items())):
        columns: dict[int, list[float]] = {}
        for point in line:
            columns.setdefault(_place(point.at_ms - first_ms, last_ms - first_ms, WIDTH), []).append(point.value)
        for column, values in columns.items():
            row = HEIGHT - 1 - _place(max(0.0, sum(values) / len(values)), top, HEIGHT)
            grid[row][column] = _MARKS[index % len(_MARKS)]
    legend = "  ".join(f"{_MARKS[index % len(_MARKS)]} {name}" for index, name in enumerate(sorted(lines)))
    axis = max(len(f"{top:,.6g}"), 1)
    labels = {0: f"{top:,.6g}", HEIGHT - 1: "0"}
    body = [f"{labels.get(row, ''):>{axis}} │{''.join(cells).rstrip()}" for row, cells in enumerate(grid)]
    start, end = instant_text(first_ms), instant_text(last_ms)
    foot = f"{'':>{axis}} └{'─' * WIDTH}\n{'':>{axis}}  {start}{end:>{max(len(end) + 1, WIDTH - len(start))}}"
    return "\n".join([f"{title}   {legend}", *body, foot])


def draw_png(title: str, lines: Mapping[str, Sequence[Point]], path: Path) -> None:
    """The same as a picture. Raises Rejected without matplotlib, or if the file cannot be written."""
    drawn = figure.figure((10.0, 4.5), "--png")
    axes = drawn.subplots()
    begin_ms = min(point.at_ms for line in lines.values() for point in line)
    for name, line in sorted(lines.items()):
        axes.plot([(point.at_ms - begin_ms) / 60_000 for point in line], [point.value for point in line], label=name)
    axes.set(title=title, xlabel=f"minutes since {instant_text(begin_ms)}")
    axes.set_ylim(bottom=0)
    axes.legend()
    axes.grid(alpha=0.3)
    try:
        path.write_bytes(figure.png(drawn))
    except OSError as error:
        raise Rejected("unwritable", str(error), str(path)) from error


def _place(value: float, whole: float, cells: int) -> int:
    return min(cells - 1, int(value / whole * (cells - 1) + 0.5)) if whole else 0
