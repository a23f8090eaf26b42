"""Tables of queues and lanes, with sparklines of their runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from joblane.cli.durations import short
from joblane.cli.terminal import NARROW, fitted, row, table, word
from joblane.inspector.durations import stamp
from joblane.inspector.views import Depth, Lane, Overview, Pause
from joblane.record.states import State

BLOCKS = " ▁▂▃▄▅▆▇█"
FRONT_DOOR_WIDTH, PAUSED_WIDTH = 12, 14
"""Widths of the columns FRONT DOOR and PAUSED."""
LEFT_OUT_FIRST = ("IN FLIGHT", "IN SQS", "OLDEST", "LATER", "RETRY")
"""Columns of lanes in the order in which they are left out of a narrow table."""
NUMBERS = ("WAITING", "RUNNING", "RETRY", "LATER", "DEAD")


def queue_table(overview: Overview, width: int, *, sparks: int) -> Table:
    """A row for each queue: its tasks, and messages in dead-letter queues (DEAD) and at the front door, if any.

    ``sparks``: columns of a sparkline, 0 for none.
    """
    front_doors = ("FRONT DOOR",) if any(_messages(queue.front_door) for queue in overview.queues) else ()
    pauses = ("PAUSED",) if any(paused(queue.pause, queue.lanes) for queue in overview.queues) else ()
    extra = (FRONT_DOOR_WIDTH if front_doors else 0) + (PAUSED_WIDTH if pauses else 0)
    sparks = max(0, sparks - extra)
    oldest = ("OLDEST",) if width >= NARROW + (FRONT_DOOR_WIDTH if front_doors else 0) else ()
    counts = [name for name in NUMBERS if name != "LATER" or width >= NARROW or not front_doors]
    completed = ("COMPLETED",) if width >= NARROW + extra else ()
    failed = ("FAILED",) if width >= NARROW else ()
    numbers = (*front_doors, *counts, *oldest, *completed, *failed)
    made = table("QUEUE", *numbers, *(("RUNS",) if sparks else ()), *pauses, right=numbers, fold=pauses)
    for queue in overview.queues:
        dead = _alarming(_plus(queue.depth.dead, queue.front_door.dead))
        cells = dict(zip(NUMBERS, (*_counts(queue.tasks), dead), strict=True))
        spark = (sparkline([minute.started for minute in queue.minutes], sparks),) if sparks else ()
        row(
            made,
            word(queue.queue, "bold"),
            *((_number(_messages(queue.front_door)),) if front_doors else ()),
            *(cells[name] for name in counts),
            *((_oldest(queue.oldest_wait_seconds),) if oldest else ()),
            *((f"{sum(minute.completed for minute in queue.minutes):,}",) if completed else ()),
            *((_alarming(sum(minute.failed for minute in queue.minutes)),) if failed else ()),
            *spark,
            *((paused(queue.pause, queue.lanes),) if pauses else ()),
        )
    return made


def lane_table(overview: Overview, width: int) -> Table:
    """A row for each lane, in the order of the queues."""
    rows: list[dict[str, object]] = [
        {
            "QUEUE": queue.queue,
            "TYPE": lane.type,
            **dict(zip(NUMBERS, (*_counts(lane.tasks), _alarming(lane.depth.dead)), strict=True)),
            "OLDEST": _oldest(lane.oldest_wait_seconds),
            "IN SQS": _number(_plus(lane.depth.waiting, lane.depth.delayed)),
            "IN FLIGHT": _number(lane.depth.in_flight),
            "PAUSED": paused(lane.pause),
        }
        for queue in overview.queues
        for lane in queue.lanes
    ]
    if not any(cells["PAUSED"] for cells in rows):
        for cells in rows:
            del cells["PAUSED"]
    return fitted(rows, width, name="TYPE", right=(*NUMBERS, "OLDEST", "IN SQS", "IN FLIGHT"), drop=LEFT_OUT_FIRST)


def sparkline(values: Sequence[int], width: int) -> str:
    """The values as blocks, summed up to fit the width. The tallest block is the largest sum; zero is a blank."""
    each = max(1, -(-len(values) // width))
    sums = [sum(values[at : at + each]) for at in range(0, len(values), each)]
    most = max(sums, default=0)
    return "".join(BLOCKS[0 if not value else max(1, round(value / most * (len(BLOCKS) - 1)))] for value in sums)


def paused(pause: Pause | None, lanes: Sequence[Lane] = ()) -> str:
    """The cell of a column PAUSED: ``yes``, or the number of paused lanes of a queue."""
    count = sum(lane.pause is not None for lane in lanes)
    return "yes" if pause else f"{count} of {len(lanes)} lanes" if count else ""


def pause_lines(overview: Overview) -> list[str]:
    """A sentence for each pause: its target, operator and reason."""
    found = [queue.pause for queue in overview.queues] + [
        lane.pause for queue in overview.queues for lane in queue.lanes
    ]
    return [pause_line(pause) for pause in dict.fromkeys(pause for pause in found if pause)]


def unknown_lines(overview: Overview) -> list[str]:
    """Sentences about queues that do not exist, and about queues for which SQS did not answer."""
    missing = [name for queue in overview.queues for name in (*queue.front_door.missing, *queue.depth.missing)]
    silent = [
        queue.queue
        for queue in overview.queues
        if None in (queue.depth.dead, queue.front_door.dead, _messages(queue.front_door))
        and not (queue.depth.missing or queue.front_door.missing)
    ]
    lines = []
    if missing:
        names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        lines.append(f"SQS has no queue {names}: deploy with `joblane up` on this machine, `cdk deploy` on AWS.")
    if silent:
        lines.append(f"SQS did not answer for {', '.join(silent)}: the counts of its messages are incomplete.")
    return lines


def pause_line(pause: Pause) -> str:
    """``queue low is paused by ann until …: the reason``."""
    by = f" by {pause.by}" if pause.by else ""
    until = f" until {stamp(pause.until)}" if pause.until else ""
    return f"{pause.scope} {pause.name} is paused{by}{until}" + (f": {pause.reason}" if pause.reason else "")


def _counts(tasks: Mapping[State, int]) -> list[str]:
    found = {str(state): number for state, number in tasks.items()}
    return [f"{found.get(state, 0):,}" for state in ("pending", "active", "retry", "scheduled")]


def _plus(first: int | None, second: int | None) -> int | None:
    return None if first is None and second is None else (first or 0) + (second or 0)


def _messages(depth: Depth) -> int | None:
    """All messages in an SQS queue, without its dead letters."""
    return _plus(_plus(depth.waiting, depth.in_flight), depth.delayed)


def _number(number: int | None) -> str | None:
    return None if number is None else f"{number:,}"


def _oldest(seconds: float | None) -> str | None:
    return None if seconds is None else short(seconds)


def _alarming(number: int | None) -> Text | None:
    return None if number is None else word(f"{number:,}", "red" if number else "")
