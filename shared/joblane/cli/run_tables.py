"""Tables of the runs of one type or tenant."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType

from joblane.cli.durations import milliseconds, short
from joblane.cli.queue_tables import sparkline
from joblane.cli.task_tables import dollars
from joblane.cli.terminal import row, table, word
from joblane.inspector.durations import stamp
from joblane.inspector.views import DeadGroup, Lane, Overview, Percentiles, Performance

MOST_ERRORS = 5
SPARKS, OTHER_COLUMNS = 60, 46


def performance(found: Performance, width: int, *, throughput: bool = True) -> RenderableType:
    """Totals, and lines over time. ``throughput`` False: without the number of runs over time."""
    total, counts = found.total, [period.counts for period in found.periods]
    sparks = min(SPARKS, max(10, width - OTHER_COLUMNS))
    share = f" ({total.unsuccessful / total.number:.1%})" if total.number else ""
    failed = f"{total.unsuccessful:,}{share}, {total.archived:,} archived, {total.lost:,} lost"
    title = f"{found.name}: from {stamp(found.periods[0].at)}, every {short(found.step_seconds)}"
    made = table("", "", "OVER TIME")
    if throughput:
        row(made, "RUNS", f"{total.number:,}", sparkline([one.number for one in counts], sparks))
    row(made, "FAILED", failed, word(sparkline([one.unsuccessful for one in counts], sparks), "red"))
    row(made, "WAIT", _times(total.wait_ms), _sparks([one.wait_ms for one in counts], sparks))
    row(made, "DURATION", _times(total.duration_ms), _sparks([one.duration_ms for one in counts], sparks))
    row(made, "COST", f"~{dollars(total.cost_usd)}", "")
    return Group(word(title, "bold"), made)


def now(overview: Overview, type_: str) -> RenderableType:
    """The tasks of a type now, a line for each queue."""
    made = table("QUEUE", "PENDING", "HELD", "ACTIVE", "RETRY", "SCHEDULED", "OLDEST", right=("PENDING", "ACTIVE"))
    for lane in lanes(overview, type_):
        numbers = [f"{lane.tasks.get(state, 0):,}" for state in ("pending", "held", "active", "retry", "scheduled")]  # type: ignore[call-overload]
        oldest = None if lane.oldest_wait_seconds is None else short(lane.oldest_wait_seconds)
        row(made, lane.queue, *numbers, oldest)
    return made


def lanes(overview: Overview, type_: str) -> list[Lane]:
    """The lanes of a type."""
    return [lane for queue in overview.queues for lane in queue.lanes if lane.type == type_]


def error_lines(groups: Sequence[DeadGroup]) -> list[str]:
    """The latest errors, a sentence for each."""
    lines = [f"{group.count:,} archived: {group.error_type}: {group.message}" for group in groups[:MOST_ERRORS]]
    return [*lines, *([f"{len(groups) - MOST_ERRORS} more errors: joblane dead"] if len(groups) > MOST_ERRORS else [])]


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
