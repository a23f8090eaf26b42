"""Tables of the runs of one type or tenant, and a chart of runs per minute from block characters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from joblane.cli.tables import BLOCKS, dollars, sparkline
from joblane.cli.terminal import milliseconds, short, word
from joblane.inspector.durations import stamp
from joblane.inspector.filter import Measure
from joblane.inspector.views import Chart, Lane, Overview, Percentiles, Performance

SPARKS, OTHER_COLUMNS = 60, 46
FORMS: Mapping[Measure, Callable[[float], str]] = {
    Measure.FAILED_SHARE: lambda value: f"{value:.1f} %",
    Measure.WAIT: milliseconds,
    Measure.DURATION: milliseconds,
    Measure.COST: dollars,
}
"""Series → the form of its values. Others are whole numbers."""


def performance(found: Performance, width: int, *, throughput: bool = True) -> RenderableType:
    """Totals, and lines over time. ``throughput`` False: without the number of runs over time."""
    total, counts = found.total, [period.counts for period in found.periods]
    sparks = min(SPARKS, max(10, width - OTHER_COLUMNS))
    share = f" ({total.unsuccessful / total.number:.1%})" if total.number else ""
    failed = f"{total.unsuccessful:,}{share}, {total.archived:,} archived, {total.lost:,} lost"
    title = f"{found.name or 'no tenant'}: from {stamp(found.periods[0].at)}, every {short(found.step_seconds)}"
    lines = (
        ("RUNS", f"{total.number:,}", sparkline([one.number for one in counts], sparks)),
        ("FAILED", failed, word(sparkline([one.unsuccessful for one in counts], sparks), "red")),
        ("WAIT", _times(total.wait_ms), _sparks([one.wait_ms for one in counts], sparks)),
        ("DURATION", _times(total.duration_ms), _sparks([one.duration_ms for one in counts], sparks)),
        ("COST", dollars(total.cost_usd), ""),
    )
    made = Table("", "", "OVER TIME", box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name, numbers, drawn in lines if throughput else lines[1:]:
        made.add_row(name, numbers, drawn)
    return Group(word(title, "bold"), made)


def lines(found: Chart, title: str, width: int) -> RenderableType:
    """The lines of a chart: the value of the whole time, the highest, and blocks over time."""
    text: Callable[[float], str] = FORMS.get(found.of, "{:,.0f}".format)
    sparks = min(SPARKS, max(10, width - OTHER_COLUMNS))
    made = Table(str(found.by).upper(), "WHOLE", "HIGHEST", "OVER TIME", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in made.columns[1:3]:
        column.justify = "right"
    named = [(found.by.shown(line.key), line) for line in found.lines]
    named += [("others", found.others)] if found.others else []
    named += [("before", found.before)] if found.before else []
    for name, line in named:
        peaks = [value or 0 for value in line.values]
        each = max(1, -(-len(peaks) // sparks))
        drawn = [max(peaks[at : at + each]) for at in range(0, len(peaks), each)]
        whole = "–" if line.whole is None else text(line.whole)
        made.add_row(name, whole, text(max(peaks, default=0)), sparkline(drawn, len(drawn)))
    return Group(word(f"{title}: from {stamp(found.start)}, every {short(found.step_seconds)}", "bold"), made)


def lanes(overview: Overview, type_: str) -> list[Lane]:
    """The lanes of a type."""
    return [lane for queue in overview.queues for lane in queue.lanes if lane.type == type_]


def _times(times: Percentiles | None) -> str:
    if times is None:
        return "–"
    return f"p50 {milliseconds(times.p50)}, p95 {milliseconds(times.p95)}, p99 {milliseconds(times.p99)}"


def _sparks(times: Sequence[Percentiles | None], width: int) -> str:
    """The percentile p95 over time, in each block the largest."""
    values = [0 if one is None else one.p95 for one in times]
    each = max(1, -(-len(values) // width))
    peaks = [max(values[at : at + each]) for at in range(0, len(values), each)]
    return sparkline(peaks, len(peaks))


AXIS = 7
"""Columns for the numbers at the left."""
WIDEST_BAR = 3


def chart(started: Sequence[int], failed: Sequence[int], width: int, height: int = 4) -> Group:
    """Bars of runs per minute, ``height`` lines high, and a red line of failed runs on the same scale below them.

    ``started``, ``failed``: numbers by minute, oldest first. If there are more minutes than columns, a bar is the
    largest minute of several. Both are on one scale, whose largest number is at the left.
    """
    room = max(1, width - AXIS)
    each = max(1, -(-len(started) // room))
    bars, bad = _peaks(started, each), _peaks(failed, each)
    wide = min(WIDEST_BAR, max(1, room // max(1, len(bars))))
    most = max((*bars, *bad, 1))
    title = f"RUNS PER MINUTE  {sum(started):,} in {len(started)} minutes, "
    head = word(title, "bold").append(f"{sum(failed):,} failed", "red" if any(failed) else "dim")
    lines = [head]
    for level in range(height - 1, -1, -1):
        axis = f"{most:>{AXIS - 2},}┤ " if level == height - 1 else f"{'':>{AXIS - 2}}│ "
        lines.append(
            Text(axis, "dim").append("".join(_part(value, most, height, level) * wide for value in bars), "blue")
        )
    lines.append(Text("failed ", "dim").append("".join(_part(value, most, 1, 0) * wide for value in bad), "red"))
    first, last = f"{len(started)} minutes ago", "now"
    blanks = max(1, len(bars) * wide - len(first) - len(last))
    return Group(*lines, Text(f"{'':>{AXIS}}{first}{' ' * blanks}{last}", "dim"))


def _peaks(values: Sequence[int], each: int) -> list[int]:
    return [max(values[at : at + each]) for at in range(0, len(values), each)]


def _part(value: int, most: int, height: int, level: int) -> str:
    """The block of a bar in one line, of which the lowest is level 0. A bar above 0 is always visible."""
    full = len(BLOCKS) - 1
    eighths = max(1, round(value / most * height * full)) if value else 0
    return BLOCKS[min(full, max(0, eighths - level * full))]
