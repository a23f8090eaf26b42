"""The table of schedules, and the details of one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from joblane.cli import terminal
from joblane.cli.terminal import LEAST_NAME, WIDE, milliseconds, relative, word
from joblane.inspector.durations import stamp
from joblane.inspector.schedule_words import ORIGINS, a_day, in_words

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from joblane.inspector.views import SchedulePause, ScheduleRow, ScheduleView, TickView

MISSED_SHOWN = 6
"""Times of missed ticks; ``--json`` shows more."""
MISSED = {"latest": "the latest runs late", "skip": "they do not run"}
"""Policy for missed ticks → its words."""
LEFT_OUT_FIRST = ("TOOK", "ON AWS", "ORIGIN", "TYPE", "TENANT", "TICKS/DAY", "LAST TICKS")
"""Columns in the order in which they are left out of a narrow table."""


def missed_line(row: ScheduleRow) -> str:
    """The number of missed ticks, and the times of the latest."""
    times = ", ".join(f"{at.astimezone(UTC):%H:%M}Z" for at in row.missing_at[:MISSED_SHOWN])
    more = ", …" if row.missing > MISSED_SHOWN else ""
    return f"{row.name}: {row.missing:,} missed in 24 h: {times}{more}"


def schedule_table(found: Sequence[ScheduleRow], width: int) -> Table:
    """A row for each schedule, at least one. A column in which no schedule has a value is left out."""
    now = datetime.now(UTC)
    rows: list[dict[str, object]] = [
        {
            "NAME": one.name,
            "ORIGIN": ORIGINS[one.origin],
            "TYPE": one.type,
            "TENANT": one.tenant,
            "SCHEDULE": in_words(one.text, one.timezone),
            "TICKS/DAY": a_day(one.ticks_a_day),
            "NEXT": None if one.next_at is None else relative(one.next_at, now),
            "LAST TICKS": _ticks(one.ticks),
            "TOOK": _took(one.ticks),
            "ON AWS": one.on_aws,
            "PAUSED": _paused(one.pause, now),
            "PROBLEM": word(one.problem, "red") if one.problem else "",
        }
        for one in found
    ]
    optional = ("TENANT", "TOOK", "ON AWS", "PAUSED", "PROBLEM")
    empty = {title for title in optional if not any(row[title] for row in rows)}
    empty |= {"ORIGIN"} if len({one.origin for one in found}) == 1 else set()
    empty |= {"TOOK", "ON AWS"} if width < WIDE else set()
    rows = [{title: cell for title, cell in row.items() if title not in empty} for row in rows]
    fold = dict.fromkeys(("NAME", "TYPE", "TENANT", "SCHEDULE", "PROBLEM"), LEAST_NAME)
    return terminal.fitted(rows, width, fold=fold, right=("TICKS/DAY",), drop=LEFT_OUT_FIRST)


def _paused(pause: SchedulePause | None, now: datetime) -> Text | str:
    if pause is None:
        return ""
    return word("yes" if pause.until is None else f"ends {relative(pause.until, now)}", "yellow")


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


def schedule(to: Console, view: ScheduleView, now: datetime) -> None:
    """All details of one schedule, with its payload and the actions of operators."""
    from joblane.cli import task_tables

    one = view.row
    to.print(word(one.name, "bold"), word(one.type), *([word("paused", "yellow")] if one.pause else []), sep="  ")
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


def _named(view: ScheduleView, now: datetime) -> Iterator[tuple[str, str | None]]:
    one = view.row

    def at(moment: datetime | None) -> str | None:
        return None if moment is None else f"{stamp(moment)}  {relative(moment, now)}"

    yield "schedule", in_words(one.text, one.timezone)
    yield "cron", f"{one.text} {one.timezone}"
    yield "ticks a day", a_day(one.ticks_a_day)
    yield "origin", ORIGINS[one.origin]
    yield "tenant", one.tenant
    yield "overlap", view.overlap
    yield "missed ticks", MISSED[one.missed]
    yield "on AWS", one.on_aws
    yield "paused", None if one.pause is None else pause_line(one.pause)
    title = "would be next" if one.next_at is None else "next"
    for moment in view.next:
        yield title, at(moment)
        title = "then"
    title = "last ticks"
    for tick in one.ticks:
        took = "" if tick.duration_ms is None else f", {milliseconds(tick.duration_ms)}"
        yield title, f"{stamp(tick.at)}  " + ("missed" if tick.state is None else f"{tick.state}{took}  {tick.task_id}")
        title = "before"
    yield "missed", missed_line(one).removeprefix(f"{one.name}: ") if one.missing else None
    yield "options", json.dumps(view.options) if view.options else None
    yield "created", at(view.created_at)
    yield "changed", at(view.updated_at) if view.updated_at != view.created_at else None


# --- Sentences -----------------------------------------------------------------------------------------------------


def pause_line(pause: SchedulePause) -> str:
    """``since …, until …, by ann: the reason``."""
    until = f", until {stamp(pause.until)}" if pause.until else ""
    by = f", by {pause.by}" if pause.by else ""
    return f"since {stamp(pause.since)}{until}{by}" + (f": {pause.reason}" if pause.reason else "")


def paused_line(view: ScheduleView) -> str:
    """A sentence about a new pause."""
    until = view.row.pause and view.row.pause.until
    return f"Paused {view.row.name}: it has no ticks until {stamp(until) if until else 'it is resumed'}."


def resumed_line(view: ScheduleView) -> str:
    """A sentence about a pause that was ended."""
    at = f": its next tick is at {stamp(view.row.next_at)}" if view.row.next_at else ""
    return f"Resumed {view.row.name}{at}."
