"""The details of one schedule."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from joblane.cli import terminal
from joblane.cli.tables import listed
from joblane.cli.terminal import milliseconds, relative, word
from joblane.inspector.durations import stamp
from joblane.inspector.sentences.pauses import MISSED, missed_line, schedule_pause_line
from joblane.inspector.sentences.schedules import ORIGINS, a_day, in_words

if TYPE_CHECKING:
    from rich.console import Console

    from joblane.inspector.views import ScheduleView


def schedule(to: Console, view: ScheduleView, now: datetime) -> None:
    """All details of one schedule, with its payload and the actions of operators."""
    one = view.row
    to.print(word(one.name, "bold"), word(one.type), *([word("paused", "yellow")] if one.pause else []), sep="  ")
    if one.problem:
        to.print(word(f"Problem: {one.problem}", "red"))
    to.print()
    to.print(terminal.facts(_named(view, now)))
    to.print()
    to.print(word("Payload", "bold"))
    for line in terminal.pretty(view.payload).split("\n"):
        to.print(word(line, "none"), soft_wrap=True)
    if view.audit:
        to.print()
        to.print(word("Audit", "bold"))
        to.print(listed(view.audit, to.width, without=("No", "Target")))


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
    yield "paused", None if one.pause is None else schedule_pause_line(one.pause)
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
