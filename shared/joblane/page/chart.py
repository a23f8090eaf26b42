"""Charts over time, as SVG within the page: stacked bars of runs, and lines of percentiles, with axes and units."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from markupsafe import Markup

WIDTH, HEIGHT = 720, 180
LEFT, RIGHT, TOP, BOTTOM = 56, 8, 8, 22
"""Margins, in which the axes have their texts."""
MOST_LABELS = 6
HOURS_OF_DATES = 48

SVG = Markup('<svg class="chart" viewBox="0 0 {} {}" role="group" aria-label="{}">{}{}{}</svg>')
GRID = Markup('<path class="grid" d="M{} {}H{}"/><text class="y" x="{}" y="{}">{}</text>')
TICK = Markup('<text class="x" x="{}" y="{}">{}</text>')
BAR = Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>')
LINE = Markup('<polyline class="{}" points="{}"/>')
HOVER = Markup(
    '<a href="{}" tabindex="-1" aria-hidden="true"><rect class="hover" x="{}" y="{}" width="{}" height="{}">'
    "<title>{}</title></rect></a>"
)


@dataclass(frozen=True, slots=True)
class Series:
    """Values of all columns, oldest first; None: a gap. ``kind``: its class in the style sheet."""

    kind: str
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Column:
    """A period of the chart. ``address``: the page that it leads to. ``text``: shown while the pointer is on it."""

    at: datetime
    address: str
    text: str


def stacked(columns: Sequence[Column], series: Sequence[Series], label: str, unit: Callable[[float], str]) -> Markup:
    """Bars, the first series at the bottom."""
    sums = [sum(one.values[at] or 0 for one in series) for at in range(len(columns))]
    top, step = nice(max(sums, default=0)), _step(columns)
    drawn = []
    for at in range(len(columns)):
        base = 0.0
        for one in series:
            value = one.values[at] or 0
            if value:
                y, height = _y(base + value, top), max(_y(base, top) - _y(base + value, top), 1.0)
                drawn.append(
                    BAR.format(one.kind, f"{LEFT + at * step:.1f}", f"{y:.1f}", f"{step * 0.85:.1f}", f"{height:.1f}")
                )
            base += value
    return _framed(columns, Markup("").join(drawn), top, label, unit)


def lines(columns: Sequence[Column], series: Sequence[Series], label: str, unit: Callable[[float], str]) -> Markup:
    """A line for each series, with a gap for each None."""
    top, step = (
        nice(max((value for one in series for value in one.values if value is not None), default=0)),
        _step(columns),
    )
    drawn = []
    for one in series:
        runs: list[list[str]] = [[]]
        for at, value in enumerate(one.values):
            if value is None:
                runs.append([])
            else:
                runs[-1].append(f"{LEFT + (at + 0.5) * step:.1f},{_y(value, top):.1f}")
        for run in filter(None, runs):
            x, _, y = run[0].partition(",")
            points = run if len(run) > 1 else [f"{float(x) - 1:.1f},{y}", f"{float(x) + 1:.1f},{y}"]
            drawn.append(LINE.format(one.kind, " ".join(points)))
    return _framed(columns, Markup("").join(drawn), top, label, unit)


def nice(value: float) -> float:
    """The end of an axis: the next 1, 2 or 5 times a power of ten, and 1 at least."""
    if value <= 1:
        return 1.0
    power = 10 ** math.floor(math.log10(value))
    return float(next(step * power for step in (1, 2, 5, 10) if step * power >= value))


def _framed(columns: Sequence[Column], drawn: Markup, top: float, label: str, unit: Callable[[float], str]) -> Markup:
    axes = Markup("").join(
        GRID.format(
            LEFT,
            f"{_y(top * part, top):.1f}",
            WIDTH - RIGHT,
            LEFT - 6,
            f"{_y(top * part, top) + 4:.1f}",
            unit(top * part),
        )
        for part in (0, 0.5, 1)
    )
    step = _step(columns)
    each = max(1, -(-len(columns) // MOST_LABELS))
    days = len(columns) > 1 and columns[-1].at - columns[0].at > timedelta(hours=HOURS_OF_DATES)
    form = "%d %b" if days else "%H:%M"
    texts = Markup("").join(
        TICK.format(f"{LEFT + at * step:.1f}", HEIGHT - 6, f"{column.at:{form}}")
        for at, column in enumerate(columns)
        if at % each == 0
    )
    hovers = Markup("").join(
        HOVER.format(column.address, f"{LEFT + at * step:.1f}", TOP, f"{step:.1f}", HEIGHT - TOP - BOTTOM, column.text)
        for at, column in enumerate(columns)
    )
    return SVG.format(WIDTH, HEIGHT, label, axes + texts, drawn, hovers)


def _step(columns: Sequence[Column]) -> float:
    return (WIDTH - LEFT - RIGHT) / max(len(columns), 1)


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - value * (HEIGHT - TOP - BOTTOM) / top
