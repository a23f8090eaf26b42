"""Small charts of a queue's last minutes, as SVG within the page."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from joblane.inspector.views import TickView

WIDTH, HEIGHT = 240, 36
TICK_WIDTH = 12

FRAME = Markup(
    '<svg class="spark {}" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">{}{}</svg>'
)
BAR = Markup('<rect x="{}" y="{}" width="{}" height="{}"/>')
FAILED = Markup('<rect class="part" x="{}" y="{}" width="{}" height="{}"/>')
TICK = Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>')
LINE = Markup('<polyline points="{}"/>')
METER = Markup(
    '<svg class="{}" viewBox="0 0 {} 4" preserveAspectRatio="none" aria-hidden="true">{}<path d="M{} 0V4"/></svg>'
)
MARK = Markup('<path class="mark" d="M{} 0V{}"><title>{}</title></path>')

Marks = Sequence[tuple[float, str]]
"""Events: the share of the width that lies before, and the text."""


def bars(
    values: Sequence[int], label: str, kind: str, marks: Marks = (), top: float = 1, *, failed: Sequence[int] = ()
) -> Markup:
    """A bar for each value, oldest first; none for zero. ``top``: the smallest value that is as high as the chart.
    ``failed``: the red part of each bar, at its foot."""
    step, top = WIDTH / max(len(values), 1), max([1, top, *values])

    def drawn(numbers: Sequence[int], bar: Markup, least: float) -> Markup:
        return Markup("").join(
            bar.format(round(at * step, 2), round(HEIGHT - height, 2), round(step * 0.8, 2), round(height, 2))
            for at, height in ((at, max(value * HEIGHT / top, least)) for at, value in enumerate(numbers) if value)
        )

    both = drawn(values, BAR, 1.5) + drawn(failed, FAILED, 4)
    return FRAME.format(kind, WIDTH, HEIGHT, label, both, _drawn(marks))


def strip(ticks: Sequence[TickView], label: str) -> Markup:
    """A bar for each tick, the latest on the right: its height is the duration, its colour the state."""
    longest = max([1, *(tick.duration_ms or 0 for tick in ticks)])
    drawn = Markup("").join(
        TICK.format(
            tick.state or "missed", at * TICK_WIDTH, round(HEIGHT - height, 2), TICK_WIDTH - 3, round(height, 2)
        )
        for at, tick in enumerate(reversed(ticks))
        for height in (max((tick.duration_ms or 0) * HEIGHT / longest, 3),)
    )
    return FRAME.format("strip", len(ticks) * TICK_WIDTH, HEIGHT, label, drawn, "")


PATH = Markup(
    '<svg class="spark heights" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">'
    '<path d="{}"/></svg>'
)


def heights(values: Sequence[int], label: str) -> Markup:
    """A small chart for the row of a table, as one path: a bar for each value on a scale of its own, oldest first."""
    top = max([1, *values])
    drawn = "".join(
        f"M{at * TICK_WIDTH} {HEIGHT}v{-max(round(value * HEIGHT / top), 2)}h{TICK_WIDTH - 2}V{HEIGHT}"
        for at, value in enumerate(values)
        if value
    )
    return PATH.format(len(values) * TICK_WIDTH, HEIGHT, label, drawn)


def line(values: Sequence[int | None], label: str, kind: str, marks: Marks = (), top: float = 1) -> Markup:
    """A line through the values, with a gap for each None. ``top``: as for :func:`bars`."""
    step, top = WIDTH / max(len(values), 1), max([1, top, *(value for value in values if value is not None)])
    runs: list[list[str]] = [[]]
    for at, value in enumerate(values):
        if value is None:
            runs.append([])
        else:
            x, y = (at + 0.5) * step, HEIGHT - 1 - value * (HEIGHT - 2) / top
            runs[-1].append(f"{x:.1f},{y:.1f}")
    drawn = Markup("").join(
        LINE.format(" ".join(run if len(run) > 1 else [_moved(run[0], -1), _moved(run[0], 1)])) for run in runs if run
    )
    return FRAME.format(kind, WIDTH, HEIGHT, label, drawn, _drawn(marks))


def target(value: float, most: float) -> Markup:
    """A bar for a time, and a mark for the time that it should not pass. Both are within the width."""
    top = max(value, most, 0.001) * 1.05
    bar = BAR.format(0, 0, round(value * WIDTH / top, 1), 4)
    css = "target late" if value > most else "target"
    return METER.format(css, WIDTH, bar, f"{most * WIDTH / top:.1f}")


def _drawn(marks: Marks) -> Markup:
    return Markup("").join(MARK.format(f"{share * WIDTH:.1f}", HEIGHT, text) for share, text in marks)


def _moved(point: str, by: float) -> str:
    """A point next to a single point, so that the line is visible."""
    x, _, y = point.partition(",")
    return f"{float(x) + by:.1f},{y}"
