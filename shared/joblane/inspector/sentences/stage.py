"""The sentences on a stage and its charts."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from joblane.inspector.durations import lasting, milliseconds, stamp
from joblane.inspector.sentences.counts import because, by, plural

if TYPE_CHECKING:
    from joblane.inspector.views import Chart, Mark, Overview, RunCounts, TypeView


def earlier_line(counts: RunCounts) -> str:
    """``A day earlier: 1,200 runs, 3.1 % failed, wait p95 1.4s, duration p95 2.0s.``"""
    if not counts.number:
        return "A day earlier: no run."
    parts = [plural(counts.number, "run"), f"{100 * counts.unsuccessful / counts.number:.1f} % failed"]
    for what, times in (("wait", counts.wait_ms), ("duration", counts.duration_ms)):
        parts += [f"{what} p95 {milliseconds(times.p95)}"] if times else []
    return f"A day earlier: {', '.join(parts)}."


def live_line(overview: Overview) -> str | None:
    """The live tasks that are counted; None if all are."""
    half = overview.live.number // 2
    counts = f"Of the live tasks only the oldest {half:,} and the newest {half:,} are counted."
    return None if overview.live.exact else counts


def unknown_lines(overview: Overview) -> list[str]:
    """Name what the counts leave out: live tasks, queues that do not exist, queues that did not answer."""
    from joblane.inspector.views.stage import messages

    missing = [name for queue in overview.queues for name in (*queue.front_door.missing, *queue.depth.missing)]
    silent = [
        queue.queue
        for queue in overview.queues
        if None in (queue.depth.dead, queue.front_door.dead, messages(queue.front_door))
        and not (queue.depth.missing or queue.front_door.missing)
    ]
    lines = [line] if (line := live_line(overview)) else []
    if missing:
        names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        lines.append(f"SQS has no queue {names}: deploy with `joblane up` on this machine, `cdk deploy` on AWS.")
    if silent:
        lines.append(f"SQS did not answer for {', '.join(silent)}: the counts of its messages are incomplete.")
    return lines


def target_line(declared: TypeView) -> str:
    """The tasks of a type that may run at a time, and the time within which they should start."""
    most = declared.max_concurrency and declared.max_concurrency * declared.batch_size
    start = f"Its tasks should start within {lasting(timedelta(seconds=declared.target_wait_seconds))}"
    if declared.place is not None:
        together = f": up to {most:,} tasks of all of them run at a time in each lane" if most else ""
        return f"{start}. It runs on {runs_on(declared.place, declared.others)}{together}."
    return f"{start}, and up to {most:,} run at a time in each lane." if most else f"{start}."


def runs_on(place: str, others: int) -> str:
    """A place, and the number of other types there."""
    return f"{place}, with {others:,} other type{'' if others == 1 else 's'}" if others else f"{place}, alone"


def mark_line(mark: Mark) -> str:
    """A mark of a chart, with its operator and its reason."""
    return f"{stamp(mark.at)} {mark.text}{by(mark.who)}{because(mark.reason)}"


def chart_lines(chart: Chart) -> list[str]:
    """The time that a chart covers and compares with, and what it leaves out."""
    if chart.until is None:
        return ["The sweep has not counted runs yet."]
    lines = [f"The sweep has counted the runs up to {stamp(chart.until)}."]
    left_out = chart.groups - len(chart.lines)
    if left_out > 0 and chart.others is not None:
        lines.append(f"One line adds up {plural(left_out, 'smaller group')}.")
    elif left_out > 0:
        lines.append(f"Not shown: {plural(left_out, 'group')} with a shorter mean.")
    if chart.before is not None:
        lines.append(
            f"Before: all runs in the same period, {lasting(timedelta(seconds=chart.before_seconds))} earlier."
        )
    return lines
