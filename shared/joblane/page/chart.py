"""Charts over time within the page: stacked bars and lines, each with an axis of its own.

A chart is a grid of three SVGs: the labels of its values, the plot, and the labels of its times. The plot is stretched
to the width of the page, and no text is in it, so that text has the same size on every screen.

Marks stand for deploys, pauses and the like. The page lists them as text too, for the keyboard and for readers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

from markupsafe import Markup

from joblane.page.scale import Axis, Scale, Tick, Unit, axis, times

HEIGHT, MARGIN = 150, 9
"""Height of a plot, and the room above and below it for the half of a label, in pixels."""
WIDTH = 1000
"""Width of a plot in its own units: it is stretched to the room that the page has."""
CHARACTER, GAP = 6.4, 8
"""Width of a character of a label, and the room between a label and the plot, in pixels."""
LEAST_WIDTH = 40
"""Width of the labels of values, in pixels, if they are short: so the charts of a page begin at the same place."""
BAR_SHARE = 0.85
MARK_WIDTH = 9
"""Width in which the pointer finds a mark, in pixels."""
LEAST = 1.0
"""Height of the smallest bar that is not empty, in pixels."""

WHOLE = Markup(
    '<div class="chart" role="group" aria-label="{label}"{span}>'
    '<svg class="y" width="{width}" height="{height}" aria-hidden="true">{values}</svg>'
    '<svg class="plot" width="100%" height="{height}">{grid}<svg y="{top}" width="100%" height="{inner}"'
    ' viewBox="0 0 {units} {inner}" preserveAspectRatio="none">{drawn}</svg>{over}</svg>'
    '<svg class="x" width="100%" height="16" aria-hidden="true">{times}</svg></div>'
)
SPAN = Markup(' data-from="{:.0f}" data-to="{:.0f}"')
VALUE = Markup('<text x="{}" y="{:.1f}">{}</text>')
GRID = Markup('<line class="grid" x2="100%" y1="{0:.1f}" y2="{0:.1f}"/>')
TICK = Markup('<line class="tick" x1="{0:.3%}" x2="{0:.3%}" y1="{1}" y2="{2}"/>')
TIME = Markup('<text class="{}" x="{:.3%}" y="11">{}</text>')
BARS = Markup('<path class="{}" d="{}"/>')
LINE = Markup('<polyline class="{}" points="{}"/>')
POINT = Markup('<circle class="{}" cx="{:.2%}" cy="{:.1f}" r="2"/>')
OVER = Markup('<svg class="over" x="{:.2%}" y="1" overflow="visible"><path d="M-4 7h8l-4-6z"/></svg>')
HOVER = Markup(
    '<a href="{}" tabindex="-1" aria-hidden="true"><rect class="hover" x="{:.2f}" width="{:.2f}" height="{}">'
    "<title>{}</title></rect></a>"
)
MARK = Markup(
    '<a href="{}" tabindex="-1" aria-hidden="true" class="mark {}"><title>{}</title><svg x="{:.3%}" y="{}"'
    ' overflow="visible"><rect x="{}" width="{}" height="{}"/><path d="M0 0V{}M-4 0h8l-4 6z"/></svg></a>'
)
EMPTY = Markup()


@dataclass(frozen=True, slots=True)
class Series:
    """Values of all columns, oldest first; None: a gap. ``kind``: its classes in the style sheet."""

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


@dataclass(frozen=True)
class Frame:
    """The columns, marks and axis of time that the charts of a page share. ``length``: of a column."""

    columns: Sequence[Column]
    length: timedelta
    marks: Sequence[Mark] = ()
    scale: Scale = Scale.LINEAR

    def stacked(self, series: Sequence[Series], label: str, unit: Unit, line: Series | None = None) -> Markup:
        """Draw bars, the first series at the bottom, with the links and words of the columns. ``line``: over them.

        On a logarithmic axis, only the first series and the whole bars can be read.
        """
        tops = [math.fsum(one.values[at] or 0 for one in series) for at in range(len(self.columns))]
        above = [] if line is None else [value for value in line.values if value is not None]
        found = axis([*tops, *above], unit, self.scale)
        bases = [0.0] * len(self.columns)
        drawn = [self._bars(one, bases, found) for one in series]
        points, alone = (EMPTY, EMPTY) if line is None else self._line(line, found)
        return self._whole(_joined([*drawn, points, self._hovers]), label, unit, found, alone + self._over(tops, found))

    def lines(self, series: Sequence[Series], label: str, unit: Unit, *, columns: bool = False) -> Markup:
        """Draw a line for each series, with a gap for each None. The first series is on top.

        ``columns``: with the links and words of the columns. A page needs them once.
        """
        tops = [
            max((value for one in series if (value := one.values[at]) is not None), default=0.0)
            for at in range(len(self.columns))
        ]
        found = axis(tops, unit, self.scale)
        drawn = [self._line(one, found) for one in reversed(series)]
        points, alone = _joined(points for points, _ in drawn), _joined(alone for _, alone in drawn)
        over = alone + self._over(tops, found)
        return self._whole(points + (self._hovers if columns else EMPTY), label, unit, found, over)

    def _bars(self, series: Series, bases: list[float], found: Axis) -> Markup:
        """Draw the bars of a series on those below, and add its values to ``bases``."""
        bars, width = [], self._step * BAR_SHARE
        for at, base in enumerate(bases):
            if value := max(series.values[at] or 0, 0):
                below = _y(found, base)
                height = max(below - _y(found, base + value), LEAST)
                bars.append(f"M{at * self._step:.2f} {below:.1f}v{-height:.1f}h{width:.2f}v{height:.1f}z")
                bases[at] = base + value
        return BARS.format(series.kind, "".join(bars))

    def _line(self, series: Series, found: Axis) -> tuple[Markup, Markup]:
        """Draw the lines, and the points that have no neighbours."""
        runs: list[list[tuple[float, float]]] = [[]]
        for at, value in enumerate(series.values):
            if value is None:
                runs.append([])
            else:
                runs[-1].append(((at + 0.5) * self._step, _y(found, value)))
        lines = (LINE.format(series.kind, " ".join(f"{x:.1f},{y:.1f}" for x, y in run)) for run in runs if len(run) > 1)
        points = (POINT.format(series.kind, run[0][0] / WIDTH, run[0][1] + MARGIN) for run in runs if len(run) == 1)
        return _joined(lines), _joined(points)

    def _over(self, tops: Sequence[float], found: Axis) -> Markup:
        """Arrows at the columns whose values end above the axis."""
        middle = BAR_SHARE / 2
        return _joined(
            OVER.format((at + middle) * self._step / WIDTH) for at, top in enumerate(tops) if top > found.top
        )

    def _whole(self, drawn: Markup, label: str, unit: Unit, found: Axis, over: Markup) -> Markup:
        places = [MARGIN + _y(found, tick) for tick in found.ticks]
        labels = [unit.text(tick) for tick in found.ticks]
        width = max(math.ceil(max(map(len, labels)) * CHARACTER), LEAST_WIDTH)
        bottom = MARGIN + HEIGHT
        return WHOLE.format(
            label=label,
            span=self._span,
            width=width + GAP,
            height=bottom + MARGIN,
            values=_joined(VALUE.format(width, y + 4, text) for y, text in zip(places, labels, strict=True)),
            grid=_joined(map(GRID.format, places))
            + _joined(TICK.format(tick.share, MARGIN, bottom) for tick in self._ticks),
            top=MARGIN,
            inner=HEIGHT,
            units=WIDTH,
            drawn=drawn,
            over=over + self._marks,
            times=_joined(TIME.format(_classes(tick), tick.share, tick.text) for tick in self._ticks),
        )

    @property
    def _step(self) -> float:
        return WIDTH / max(len(self.columns), 1)

    @cached_property
    def _end(self) -> datetime | None:
        return self.columns[-1].at + self.length if self.columns else None

    @cached_property
    def _span(self) -> Markup:
        """The times of the plot in seconds, for the cursor that all charts of a page share."""
        return SPAN.format(self.columns[0].at.timestamp(), self._end.timestamp()) if self._end else EMPTY

    @cached_property
    def _ticks(self) -> list[Tick]:
        return times(self.columns[0].at, self._end) if self._end else []

    @cached_property
    def _hovers(self) -> Markup:
        return _joined(
            HOVER.format(column.address, at * self._step, self._step, HEIGHT, column.text)
            for at, column in enumerate(self.columns)
        )

    @cached_property
    def _marks(self) -> Markup:
        """The marks within the columns. Those of one column are drawn as one, with all labels."""
        if self._end is None:
            return EMPTY
        first = self.columns[0].at
        together: dict[int, list[Mark]] = {}
        for mark in sorted(self.marks, key=lambda mark: mark.at):
            if first <= mark.at < self._end:
                together.setdefault(int((mark.at - first) / self.length), []).append(mark)
        drawn = []
        for found in together.values():
            share = (found[0].at - first) / (self._end - first)
            address = found[0].address if len(found) == 1 else "#marks"
            kind = min((mark.kind for mark in found), key=lambda kind: kind != "deploy")
            area = (-MARK_WIDTH / 2, MARK_WIDTH, HEIGHT, HEIGHT)
            drawn.append(MARK.format(address, kind, "\n".join(mark.text for mark in found), share, MARGIN, *area))
        return _joined(drawn)


def _joined(parts: Iterable[Markup]) -> Markup:
    return EMPTY.join(parts)


def _y(found: Axis, value: float) -> float:
    return HEIGHT * (1 - found.share(value))


def _classes(tick: Tick) -> str:
    """The classes of a label. The last one ends with the plot; the first one has room below the labels of values."""
    place = "last" if tick.share > 0.97 else "middle"
    return f"{place} fine" if tick.is_fine else place
