"""Tables of queues and lanes, with sparklines of their runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from joblane.cli.terminal import LEAST_NAME, fitted, plural, short, table, word
from joblane.inspector.durations import stamp
from joblane.inspector.views import Depth, Lane, Overview, Pause, TenantRow
from joblane.record.row.states import State

ZERO = "·"
BLOCKS = " ▁▂▃▄▅▆▇█"
SPARKS = 12
"""Width of a sparkline: with it the table fits into a terminal of 100 columns."""
NUMBERS = ("PENDING", "HELD", "ACTIVE", "RETRY", "SCHEDULED", "DEAD LETTERS")
LEFT_OUT_FIRST = ("RUNS", "COMPLETED", "OLDEST", "FAILED", "SCHEDULED", "RETRY", "HELD")
"""Columns of queues in the order in which they are left out of a narrow table."""
OVERVIEW_LEFT_OUT_FIRST = ("IN SQS", "SCHEDULED", "RETRY", "HELD")
LANES_LEFT_OUT_FIRST = ("IN FLIGHT", "IN SQS", "OLDEST", "SCHEDULED", "RETRY", "HELD")


def queue_table(overview: Overview, width: int, *, sparks: bool) -> Table:
    """A row for each queue: its tasks, and messages in dead-letter queues and at the front door, if any.

    ``sparks``: with a sparkline of the runs, if there is room.
    """
    rows: list[dict[str, object]] = [
        {
            "QUEUE": word(queue.queue, "bold"),
            "FRONT DOOR": _number(_messages(queue.front_door)),
            **_counts(queue.tasks, _plus(queue.depth.dead, queue.front_door.dead)),
            "OLDEST": _oldest(queue.oldest_wait_seconds),
            "COMPLETED": f"{sum(minute.completed for minute in queue.minutes):,}",
            "FAILED": _alarming(sum(minute.failed for minute in queue.minutes)),
            "RUNS": sparkline([minute.started for minute in queue.minutes], SPARKS),
            "PAUSED": paused(queue.pause, queue.lanes),
        }
        for queue in overview.queues
    ]
    left_out = [] if sparks else ["RUNS"]
    if not any(_messages(queue.front_door) for queue in overview.queues):
        left_out.append("FRONT DOOR")
    return _fitted(rows, width, left_out, fold={}, drop=LEFT_OUT_FIRST)


def lane_table(overview: Overview, width: int) -> Table:
    """A row for each lane, in the order of the queues."""
    rows: list[dict[str, object]] = [
        {
            "QUEUE": queue.queue,
            "TYPE": lane.type,
            **_counts(lane.tasks, lane.depth.dead),
            "OLDEST": _oldest(lane.oldest_wait_seconds),
            "IN SQS": _number(_plus(lane.depth.waiting, lane.depth.delayed)),
            "IN FLIGHT": _number(lane.depth.in_flight),
            "PAUSED": paused(lane.pause),
        }
        for queue in overview.queues
        for lane in queue.lanes
    ]
    return _fitted(rows, width, [], fold={"TYPE": LEAST_NAME}, drop=LANES_LEFT_OUT_FIRST)


def overview_table(overview: Overview, width: int) -> Table:
    """A row for each queue, and below it a row for each of its lanes."""
    rows: list[dict[str, object]] = []
    for queue in overview.queues:
        sums = _named_dead(_counts(queue.tasks, _plus(queue.depth.dead, queue.front_door.dead)))
        sqs = _number(_plus(queue.depth.waiting, _messages(queue.front_door)))
        rows.append(
            {
                "QUEUE": word(queue.queue, "bold"),
                "TYPE": word(plural(len(queue.lanes), "lane"), "dim"),
                **sums,
                "OLDEST": _oldest(queue.oldest_wait_seconds),
                "IN SQS": sqs,
                "PAUSED": paused(queue.pause, queue.lanes),
            }
        )
        rows += [
            {
                "QUEUE": "",
                "TYPE": lane.type,
                **_named_dead(_counts(lane.tasks, lane.depth.dead)),
                "OLDEST": _oldest(lane.oldest_wait_seconds),
                "IN SQS": _number(_plus(lane.depth.waiting, lane.depth.delayed)),
                "PAUSED": paused(lane.pause),
            }
            for lane in queue.lanes
        ]
    return _fitted(rows, width, [], fold={"TYPE": 32}, drop=OVERVIEW_LEFT_OUT_FIRST)


def tenant_table(tenants: Sequence[TenantRow], width: int) -> Table:
    """A row for each tenant."""
    rows: list[dict[str, object]] = [
        {
            "TENANT": row.tenant or word("none", "dim"),
            "DUE": f"{row.due:,}",
            "OLDEST": _oldest(row.oldest_wait_seconds),
            "ACTIVE": f"{row.active:,}",
            "HELD": f"{row.held:,}",
            "LATER": f"{row.later:,}",
            "RUNS 1H": f"{row.started:,}",
            "FAILED 1H": _alarming(row.failed),
            "PAUSED": "yes" if row.pause else "",
        }
        for row in tenants
    ]
    right = ("DUE", "OLDEST", "ACTIVE", "HELD", "LATER", "RUNS 1H", "FAILED 1H")
    if not any(row.pause for row in tenants):
        rows = [{title: cell for title, cell in row.items() if title != "PAUSED"} for row in rows]
    return fitted(rows, width, fold={"TENANT": LEAST_NAME}, right=right, drop=("LATER", "HELD"))


def _fitted(
    rows: Sequence[dict[str, object]],
    width: int,
    left_out: Sequence[str],
    *,
    fold: Mapping[str, int],
    drop: Sequence[str],
) -> Table:
    """The table without the columns ``left_out``, and without PAUSED or HELD if no row has anything there."""
    empty = ("", ZERO)
    left_out = [
        *left_out,
        *(title for title in ("PAUSED", "HELD") if all(str(cells[title]) in empty for cells in rows)),
    ]
    shown = [{title: cell for title, cell in cells.items() if title not in left_out} for cells in rows]
    right = (*NUMBERS, "DEAD", "FRONT DOOR", "OLDEST", "IN SQS", "IN FLIGHT", "COMPLETED", "FAILED")
    return fitted(shown, width, fold=fold, right=right, drop=drop) if shown else table()


def sparkline(values: Sequence[int], width: int) -> str:
    """The values as blocks, summed up to fit the width. The tallest block is the largest sum; zero is a blank."""
    each = max(1, -(-len(values) // width))
    sums = [sum(values[at : at + each]) for at in range(0, len(values), each)]
    most = max(sums, default=0)
    return "".join(BLOCKS[0 if not value else max(1, round(value / most * (len(BLOCKS) - 1)))] for value in sums)


def paused(pause: Pause | None, lanes: Sequence[Lane] = ()) -> str:
    """The cell of a column PAUSED: ``yes``, or the number of paused lanes of a queue."""
    count = sum(lane.pause is not None for lane in lanes)
    return "yes" if pause else plural(count, "lane") if count else ""


def pause_lines(overview: Overview) -> list[str]:
    """A sentence for each pause: its target, operator and reason, and the number of due tasks that wait for its end."""
    return [
        f"{pause_line(paused.pause)} ({plural(paused.waiting, 'due task')} wait{'' if paused.waiting != 1 else 's'})"
        for paused in overview.paused
    ]


def unknown_lines(overview: Overview) -> list[str]:
    """Sentences about what the counts leave out: live tasks, queues that do not exist, queues that did not answer."""
    missing = [name for queue in overview.queues for name in (*queue.front_door.missing, *queue.depth.missing)]
    silent = [
        queue.queue
        for queue in overview.queues
        if None in (queue.depth.dead, queue.front_door.dead, _messages(queue.front_door))
        and not (queue.depth.missing or queue.front_door.missing)
    ]
    lines = []
    if not overview.live.exact:
        half = overview.live.number // 2
        lines.append(f"Of the live tasks only the oldest {half:,} and the newest {half:,} are counted.")
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


def _counts(tasks: Mapping[State, int], dead: int | None) -> dict[str, object]:
    """The cells of the columns :data:`NUMBERS`."""
    found = {str(state): number for state, number in tasks.items()}
    live = [_quiet(found.get(state, 0)) for state in ("pending", "held", "active", "retry", "scheduled")]
    return dict(zip(NUMBERS, (*live, _alarming(dead)), strict=True))


def _named_dead(cells: Mapping[str, object]) -> dict[str, object]:
    """The cells with a short title for dead letters."""
    return {"DEAD" if title == "DEAD LETTERS" else title: cell for title, cell in cells.items()}


def _plus(first: int | None, second: int | None) -> int | None:
    return None if first is None and second is None else (first or 0) + (second or 0)


def _messages(depth: Depth) -> int | None:
    """All messages in an SQS queue, without its dead letters."""
    return _plus(_plus(depth.waiting, depth.in_flight), depth.delayed)


def _number(number: int | None) -> str | None:
    return None if number is None else f"{number:,}"


def _quiet(number: int) -> str | Text:
    """A number that is not worth a look if it is 0."""
    return f"{number:,}" if number else word(ZERO, "dim")


def _oldest(seconds: float | None) -> str | None:
    return None if seconds is None else short(seconds)


def _alarming(number: int | None) -> str | Text | None:
    return None if number is None else word(f"{number:,}", "red") if number else _quiet(0)
