"""Queues as people read them: a row for each, its lanes, and lines of how many ran."""

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
DOOR_COLUMNS = 6
"""How wide that column is."""
LEFT_OUT_FIRST = ("IN FLIGHT", "IN SQS", "OLDEST", "LATER", "RETRY")
"""Of the columns of lanes, where there is no room for all."""
NUMBERS = ("WAITING", "RUNNING", "RETRY", "LATER", "DEAD")


def queue_table(overview: Overview, width: int, *, sparks: int) -> Table:
    """Counts are rows; DEAD is messages in dead-letter queues, DOOR those at front doors, where there are any.

    ``sparks``: columns of a sparkline, 0 for none.
    """
    doors = ("DOOR",) if any(_held(one.front_door) for one in overview.queues) else ()
    if doors:
        sparks = max(0, sparks - DOOR_COLUMNS)
    oldest = ("OLDEST",) if width >= NARROW + (DOOR_COLUMNS if doors else 0) else ()
    more = (*oldest, "DONE", "FAILED") if width >= NARROW else ()
    titles = ("QUEUE", *doors, *NUMBERS, *more, *(("RUNS",) if sparks else ()), "")
    made = table(*titles, right=(*doors, *NUMBERS, *more), fold=("",))
    for one in overview.queues:
        dead = _plus(one.depth.dead, one.front_door.dead)
        done, failed = sum(m.succeeded for m in one.minutes), sum(m.failed for m in one.minutes)
        spark = (sparkline([m.started for m in one.minutes], sparks),) if sparks else ()
        row(
            made,
            word(one.queue, "bold"),
            *((_number(_held(one.front_door)),) if doors else ()),
            *_counts(one.tasks),
            _alarming(dead),
            *((_oldest(one.oldest_wait_seconds),) if oldest else ()),
            *((f"{done:,}", _alarming(failed)) if more else ()),
            *spark,
            paused(one.pause, one.lanes),
        )
    return made


def lane_table(overview: Overview, width: int) -> Table:
    """Each lane, under its queue."""
    rows: list[dict[str, object]] = [
        {
            "QUEUE": queue.queue,
            "TYPE": one.type,
            **dict(zip(NUMBERS, (*_counts(one.tasks), _alarming(one.depth.dead)), strict=True)),
            "OLDEST": _oldest(one.oldest_wait_seconds),
            "IN SQS": _number(_plus(one.depth.waiting, one.depth.delayed)),
            "IN FLIGHT": _number(one.depth.in_flight),
            "": paused(one.pause),
        }
        for queue in overview.queues
        for one in queue.lanes
    ]
    return fitted(rows, width, name="TYPE", right=(*NUMBERS, "OLDEST", "IN SQS", "IN FLIGHT"), drop=LEFT_OUT_FIRST)


def sparkline(values: Sequence[int], width: int) -> str:
    """The last values as blocks, put together so that they fit. The tallest is the most there was; none: a blank."""
    each = max(1, -(-len(values) // width))
    sums = [sum(values[at : at + each]) for at in range(0, len(values), each)]
    most = max(sums, default=0)
    return "".join(BLOCKS[0 if not one else max(1, round(one / most * (len(BLOCKS) - 1)))] for one in sums)


def paused(pause: Pause | None, lanes: Sequence[Lane] = ()) -> str:
    """A word for a column; of a queue that is not paused, how many of its lanes are."""
    count = sum(one.pause is not None for one in lanes)
    return "paused" if pause else f"{count} of {len(lanes)} lanes" if count else ""


def pause_lines(overview: Overview) -> list[str]:
    """Who paused what, and why: a sentence each."""
    found = [one.pause for one in overview.queues] + [lane.pause for one in overview.queues for lane in one.lanes]
    return [pause_line(one) for one in dict.fromkeys(pause for pause in found if pause)]


def unknown_lines(overview: Overview) -> list[str]:
    """Sentences on the queues that do not exist, and on those for which SQS did not answer."""
    missing = [name for one in overview.queues for name in (*one.front_door.missing, *one.depth.missing)]
    silent = [
        one.queue
        for one in overview.queues
        if None in (one.depth.dead, one.front_door.dead, _held(one.front_door))
        and not (one.depth.missing or one.front_door.missing)
    ]
    lines = []
    if missing:
        names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        lines.append(f"SQS has no queue {names}: `joblane up` deploys here, `cdk deploy` on AWS.")
    if silent:
        lines.append(f"SQS did not answer for {', '.join(silent)}: not all of DEAD and DOOR is known.")
    return lines


def pause_line(pause: Pause) -> str:
    """``queue low is paused by ann until …: the reason``."""
    by = f" by {pause.by}" if pause.by else ""
    until = f" until {stamp(pause.until)}" if pause.until else ""
    return f"{pause.scope} {pause.name} is paused{by}{until}" + (f": {pause.reason}" if pause.reason else "")


def _counts(tasks: Mapping[State, int]) -> list[str]:
    found = {str(state): number for state, number in tasks.items()}
    return [f"{found.get(state, 0):,}" for state in ("pending", "active", "retry", "scheduled")]


def _plus(one: int | None, other: int | None) -> int | None:
    return None if one is None and other is None else (one or 0) + (other or 0)


def _held(depth: Depth) -> int | None:
    """All that is in an SQS queue, its dead letters aside."""
    return _plus(_plus(depth.waiting, depth.in_flight), depth.delayed)


def _number(number: int | None) -> str | None:
    return None if number is None else f"{number:,}"


def _oldest(seconds: float | None) -> str | None:
    return None if seconds is None else short(seconds)


def _alarming(number: int | None) -> Text | None:
    return None if number is None else word(f"{number:,}", "red" if number else "")
