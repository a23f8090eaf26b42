"""Tables of declared schedules and of schedules at run time, and the details of one at run time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from joblane.cli import terminal
from joblane.cli.terminal import LEAST_NAME, WIDE, milliseconds, relative, word
from joblane.inspector.durations import stamp
from joblane.inspector.schedule_words import in_words

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from joblane.inspector.views import RunTimeScheduleRow, RunTimeScheduleView, ScheduleView, TickView

MISSED_SHOWN = 6
"""Times of missed ticks; ``--json`` shows more."""
MISSED = {"latest": "the latest runs late", "skip": "they do not run"}
"""Policy for missed ticks → its words."""
LEFT_OUT_FIRST = ("NEWEST", "TENANT", "TYPE")
"""Columns of schedules at run time in the order in which they are left out of a narrow table."""


# --- Declared in the code ------------------------------------------------------------------------------------------


def missed_line(schedule: ScheduleView) -> str:
    """The number of missed ticks, and the times of the latest."""
    times = ", ".join(f"{at.astimezone(UTC):%H:%M}Z" for at in schedule.missed_at[:MISSED_SHOWN])
    more = ", …" if schedule.missed > MISSED_SHOWN else ""
    return f"{schedule.type} {schedule.name}: {schedule.missed:,} missed in 24 h: {times}{more}"


def schedule_table(found: Sequence[ScheduleView], width: int) -> Table:
    """A row for each schedule."""
    from joblane.cli.queue_tables import paused

    wide, now = width >= WIDE, datetime.now(UTC)
    more = ("OVERLAP", "ON AWS") if wide else ()
    pauses = ("PAUSED",) if any(schedule.pause for schedule in found) else ()
    took = ("TOOK",) if wide else ()
    made = terminal.table("TYPE", "NAME", "SCHEDULE", *more, "NEXT", "LAST TICKS", *took, *pauses, fold=("SCHEDULE",))
    for schedule in found:
        extra = (schedule.overlap, schedule.on_aws) if wide else ()
        words = in_words(schedule.text, schedule.timezone)
        next_time = relative(schedule.next[0], now) if schedule.next else None
        last = (paused(schedule.pause),) if pauses else ()
        terminal.row(
            made,
            schedule.type,
            schedule.name,
            words,
            *extra,
            next_time,
            _ticks(schedule.ticks),
            *(_took(schedule.ticks) for _ in took),
            *last,
        )
    return made


def _took(ticks: tuple[TickView, ...]) -> str | None:
    """The duration of the last run, and the longest of those whose ticks are shown."""
    durations = [tick.duration_ms for tick in ticks if tick.duration_ms is not None]
    if not durations:
        return None
    longest = max(durations)
    return milliseconds(durations[0]) + (f", longest {milliseconds(longest)}" if longest > durations[0] else "")


def _ticks(ticks: tuple[TickView, ...]) -> Text:
    """A mark for each of the last ticks, newest last."""
    from rich.text import Text

    marks = {"completed": ("✓", "green"), "archived": ("✗", "red"), "cancelled": ("–", "dim"), None: ("×", "bold red")}
    text = Text()
    for tick in reversed(ticks[:10]):
        text.append(*marks.get(tick.state, ("…", "blue")))
    return text


# --- Made at run time ----------------------------------------------------------------------------------------------


def run_time_table(found: Sequence[RunTimeScheduleRow], width: int) -> Table:
    """A row for each schedule, at least one."""
    now = datetime.now(UTC)
    rows: list[dict[str, object]] = [
        {
            "NAME": one.name,
            "TYPE": one.type,
            "TENANT": one.tenant,
            "SCHEDULE": in_words(one.text, one.timezone),
            "NEXT": _next(one, now),
            "NEWEST": _last(one, now),
            "PROBLEM": word(one.problem, "red") if one.problem else "",
        }
        for one in found
    ]
    if not any(one.problem for one in found):
        rows = [{title: cell for title, cell in row.items() if title != "PROBLEM"} for row in rows]
    fold = {"NAME": LEAST_NAME, "TYPE": LEAST_NAME, "TENANT": LEAST_NAME, "SCHEDULE": LEAST_NAME, "PROBLEM": LEAST_NAME}
    return terminal.fitted(rows, width, fold=fold, right=(), drop=LEFT_OUT_FIRST)


def _next(one: RunTimeScheduleRow, now: datetime) -> Text | str | None:
    if one.paused_at is not None:
        return word("paused", "yellow")
    return None if one.next_at is None else relative(one.next_at, now)


def _last(one: RunTimeScheduleRow, now: datetime) -> Text | str | None:
    """The state of the last tick's task, and the time of the tick."""
    if one.last_at is None:
        return None
    state = "removed" if one.last is None or one.last.state is None else str(one.last.state)
    return word(state).append(f" {relative(one.last_at, now)}", "none")


def run_time_schedule(to: Console, view: RunTimeScheduleView, now: datetime) -> None:
    """All details of one schedule, with its payload and what operators did."""
    from joblane.cli import task_tables

    one = view.row
    to.print(word(one.name, "bold"), word(one.type), *([word("paused", "yellow")] if one.paused_at else []), sep="  ")
    if one.problem:
        to.print(word(f"Problem: {one.problem}", "red"))
    to.print()
    made = terminal.table("", "", fold=("",))
    made.show_header = False
    for name, value in _named(view, now):
        if value:
            terminal.row(made, word(name, "dim"), value)
    to.print(made)
    to.print()
    to.print(word("Payload", "bold"))
    to.print(word(terminal.pretty(view.payload), "none"), soft_wrap=True)
    if view.audit:
        to.print()
        to.print(word("Audit", "bold"))
        to.print(task_tables.audit(view.audit, now, to.width, targets=False))


def _named(view: RunTimeScheduleView, now: datetime) -> Iterator[tuple[str, str | None]]:
    one = view.row

    def at(moment: datetime | None) -> str | None:
        return None if moment is None else f"{stamp(moment)}  {relative(moment, now)}"

    yield "schedule", in_words(one.text, one.timezone)
    yield "cron", f"{one.text} {one.timezone}"
    yield "tenant", one.tenant
    yield "missed ticks", MISSED[one.missed]
    yield "paused", at(one.paused_at)
    title = "would be next" if one.paused_at else "next"
    for moment in view.next:
        yield title, at(moment)
        title = "then"
    yield "newest tick", at(one.last_at)
    yield "its task", f"{one.last.id}  {one.last.state or 'removed'}" if one.last else None
    yield "options", json.dumps(view.options) if view.options else None
    yield "created", at(view.created_at)
    yield "changed", at(view.updated_at) if view.updated_at != view.created_at else None
