"""Charts over time, as SVG within the page: stacked bars of runs, and lines of percentiles, with axes and units.

Marks stand for deploys, pauses and the like. The page lists them as text too, for the keyboard and for readers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from markupsafe import Markup

WIDTH, HEIGHT = 720, 180
LEFT, RIGHT, TOP, BOTTOM = 56, 8, 8, 22
"""Margins, in which the axes have their labels."""
MOST_LABELS = 6
HOURS_OF_DATES = 48

SVG = Markup('<svg class="chart" viewBox="0 0 {} {}" role="group" aria-label="{}">{}{}{}{}</svg>')
GRID = Markup('<path class="grid" d="M{} {}H{}"/><text class="y" x="{}" y="{}">{}</text>')
TICK = Markup('<text class="x" x="{}" y="{}">{}</text>')
BAR = Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>')
LINE = Markup('<polyline class="{}" points="{}"/>')
HOVER = Markup(
    '<a href="{}" tabindex="-1" aria-hidden="true"><rect class="hover" x="{}" y="{}" width="{}" height="{}">'
    "<title>{}</title></rect></a>"
)
MARK = Markup(
    '<a href="{}" tabindex="-1" aria-hidden="true" class="mark {}"><title>{}</title>'
    '<rect x="{}" y="{}" width="{}" height="{}"/><path d="M{} {}V{}m-4-{}h8l-4 6z"/></a>'
)
MARK_WIDTH = 8
"""Width in which the pointer finds a mark."""


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


@dataclass(frozen=True, slots=True)
class Mark:
    """An event. ``kind``: its class in the style sheet. ``text``: shown while the pointer is on it."""

    at: datetime
    kind: str
    address: str
    text: str


def stacked(
    columns: Sequence[Column],
    series: Sequence[Series],
    label: str,
    unit: Callable[[float], str],
    marks: Sequence[Mark] = (),
) -> Markup:
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
    return _framed(columns, Markup("").join(drawn), top, label, unit, marks=marks)


def lines(
    columns: Sequence[Column],
    series: Sequence[Series],
    label: str,
    unit: Callable[[float], str],
    marks: Sequence[Mark] = (),
) -> Markup:
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
    return _framed(columns, Markup("").join(drawn), top, label, unit, marks=marks)


def nice(value: float) -> float:
    """The end of an axis: the next 1, 2 or 5 times a power of ten, and 1 at least."""
    if value <= 1:
        return 1.0
    power = 10 ** math.floor(math.log10(value))
    return float(next(step * power for step in (1, 2, 5, 10) if step * power >= value))


def _framed(
    columns: Sequence[Column],
    drawn: Markup,
    top: float,
    label: str,
    unit: Callable[[float], str],
    *,
    marks: Sequence[Mark],
) -> Markup:
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
    labels = Markup("").join(
        TICK.format(f"{LEFT + at * step:.1f}", HEIGHT - 6, f"{column.at:{form}}")
        for at, column in enumerate(columns)
        if at % each == 0
    )
    hovers = Markup("").join(
        HOVER.format(column.address, f"{LEFT + at * step:.1f}", TOP, f"{step:.1f}", HEIGHT - TOP - BOTTOM, column.text)
        for at, column in enumerate(columns)
    )
    return SVG.format(WIDTH, HEIGHT, label, axes + labels, drawn, hovers, _drawn(columns, marks))


def _drawn(columns: Sequence[Column], marks: Sequence[Mark]) -> Markup:
    """Draw the marks within the columns. Those of one column are drawn as one, with all labels."""
    if len(columns) < 2:
        return Markup()
    first, length, step = columns[0].at, columns[1].at - columns[0].at, _step(columns)
    together: dict[int, list[Mark]] = {}
    for mark in sorted(marks, key=lambda mark: mark.at):
        if 0 <= (place := (mark.at - first) / length) < len(columns):
            together.setdefault(int(place), []).append(mark)
    drawn = []
    for found in together.values():
        x = LEFT + (found[0].at - first) / length * step
        address = found[0].address if len(found) == 1 else "#marks"
        kind = min((mark.kind for mark in found), key=lambda kind: kind != "deploy")
        text, bottom = "\n".join(mark.text for mark in found), HEIGHT - BOTTOM
        area = (f"{x - MARK_WIDTH / 2:.1f}", TOP, MARK_WIDTH, bottom - TOP)
        drawn.append(MARK.format(address, kind, text, *area, f"{x:.1f}", TOP, bottom, bottom - TOP))
    return Markup("").join(drawn)


def _step(columns: Sequence[Column]) -> float:
    return (WIDTH - LEFT - RIGHT) / max(len(columns), 1)


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - value * (HEIGHT - TOP - BOTTOM) / top
