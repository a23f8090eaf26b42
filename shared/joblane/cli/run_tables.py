"""Tables of the runs of one type or tenant."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType

from joblane.cli.durations import milliseconds, short
from joblane.cli.queue_tables import sparkline
from joblane.cli.task_tables import dollars
from joblane.cli.terminal import row, table, word
from joblane.inspector.choices import MOST_ERRORS
from joblane.inspector.durations import stamp
from joblane.inspector.views import DeadGroup, Lane, Mark, Overview, Percentiles, Performance, TypeView
from joblane.record.flow.limit_status import LimitKind, LimitStatus
from joblane.tasks.limit import values_text

MOST_MARKS = 5
SPARKS, OTHER_COLUMNS = 60, 46


def performance(found: Performance, width: int, *, throughput: bool = True) -> RenderableType:
    """Totals, and lines over time. ``throughput`` False: without the number of runs over time."""
    total, counts = found.total, [period.counts for period in found.periods]
    sparks = min(SPARKS, max(10, width - OTHER_COLUMNS))
    share = f" ({total.unsuccessful / total.number:.1%})" if total.number else ""
    failed = f"{total.unsuccessful:,}{share}, {total.archived:,} archived, {total.lost:,} lost"
    title = f"{found.name or 'no tenant'}: from {stamp(found.periods[0].at)}, every {short(found.step_seconds)}"
    made = table("", "", "OVER TIME")
    if throughput:
        row(made, "RUNS", f"{total.number:,}", sparkline([one.number for one in counts], sparks))
    row(made, "FAILED", failed, word(sparkline([one.unsuccessful for one in counts], sparks), "red"))
    row(made, "WAIT", _times(total.wait_ms), _sparks([one.wait_ms for one in counts], sparks))
    row(made, "DURATION", _times(total.duration_ms), _sparks([one.duration_ms for one in counts], sparks))
    row(made, "COST", f"~{dollars(total.cost_usd)}", "")
    return Group(word(title, "bold"), made)


def now(overview: Overview, type_: str, declared: TypeView | None) -> RenderableType:
    """The tasks of a type now, a line for each queue. ``declared`` None: no code declares it any more."""
    titles = ("PENDING", "HELD", "ACTIVE", "RETRY", "SCHEDULED", "OLDEST", "TARGET")
    made = table("QUEUE", *titles, right=("PENDING", "ACTIVE"))
    most = declared and declared.max_concurrency and declared.max_concurrency * declared.batch_size
    target = short(declared.target_wait_seconds) if declared else None
    for lane in lanes(overview, type_):
        numbers = [f"{lane.tasks.get(state, 0):,}" for state in ("pending", "held", "active", "retry", "scheduled")]  # type: ignore[call-overload]
        oldest = None if lane.oldest_wait_seconds is None else short(lane.oldest_wait_seconds)
        numbers[2] += f"/{most:,}" if most else ""
        row(made, lane.queue, *numbers, oldest, target)
    return made


def lanes(overview: Overview, type_: str) -> list[Lane]:
    """The lanes of a type."""
    return [lane for queue in overview.queues for lane in queue.lanes if lane.type == type_]


def error_lines(groups: Sequence[DeadGroup]) -> list[str]:
    """The latest errors, a sentence for each."""
    lines = [
        f"{group.count:,} archived: {group.error_type}: {group.message}{_known(group)}"
        for group in groups[:MOST_ERRORS]
    ]
    return [*lines, *([f"{len(groups) - MOST_ERRORS} more errors: joblane dead"] if len(groups) > MOST_ERRORS else [])]


def limit_lines(limits: Sequence[LimitStatus]) -> list[str]:
    """The limits with the tasks that run and wait, a sentence for each."""
    lines = []
    for limit in limits:
        name = limit.name if limit.key is None else f"{limit.name}, key {limit.key}"
        each = " for each key" if limit.kind is LimitKind.EACH_KEY else ""
        allowed = values_text(limit.in_force.at_a_time, limit.in_force.rate)
        lines.append(f"Limit {name}: {allowed}{each}. {limit.running:,} run, and {limit.held:,} wait.")
    return lines


def mark_lines(marks: Sequence[Mark]) -> list[str]:
    """The latest marks, a line for each."""
    lines = []
    for mark in marks[:MOST_MARKS]:
        by, reason = f" by {mark.who}" if mark.who else "", f": {mark.reason}" if mark.reason else ""
        lines.append(f"{stamp(mark.at)} {mark.text}{by}{reason}")
    return lines


def _known(group: DeadGroup) -> str:
    if group.acknowledged is None:
        return " [new]" if group.is_new else ""
    return f" [known to {group.acknowledged.who}: {group.acknowledged.note}]"


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
