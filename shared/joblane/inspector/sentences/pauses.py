"""The sentences on pauses, and on schedules."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from joblane.inspector.durations import lasting, stamp
from joblane.inspector.sentences.counts import because, by, waits

if TYPE_CHECKING:
    from joblane.inspector.views import Pause, Paused, SchedulePause, ScheduleRow

UNKNOWN_OPERATOR = "an unknown operator"
PAUSE_EFFECT = "running tasks continue, nothing new starts. Tasks wait without spending attempts"
MISSED_SHOWN = 6
"""Times of missed ticks; ``--json`` shows more."""
MISSED = {"latest": "the latest runs late", "skip": "they do not run"}
"""Policy for missed ticks → its words."""


def pause_line(pause: Pause, without_end: str = "") -> str:
    """``queue low is paused by ann until …: the reason``. ``without_end``: words for a pause without an end."""
    until = f" until {stamp(pause.until)}" if pause.until else without_end and f" {without_end}"
    return f"{pause.scope} {pause.name} is paused{by(pause.by)}{until}{because(pause.reason)}"


def waiting_line(paused: Paused) -> str:
    """The same, with the number of due tasks that wait for its end."""
    return f"{pause_line(paused.pause)} ({waits(paused.waiting, 'due task')})"


def paused_line(paused: Pause) -> str:
    """A new pause: its end, its effect, and the pause that it replaces."""
    end = f"until {stamp(paused.until)}" if paused.until else "until it is resumed"
    line = f"Paused {paused.scope} {paused.name} {end}: {PAUSE_EFFECT}."
    if not paused.replaced:
        return line
    return (
        f"{line} It was already paused{by(paused.replaced_by)}, since {stamp(paused.since)}; "
        "your reason and end replace the earlier ones."
    )


def resumed_line(was: Pause) -> str:
    """A pause that was ended."""
    return f"Resumed {was.scope} {was.name}; it was paused{by(was.by)} since {stamp(was.since)}."


def held_pause_line(
    pause: Pause | SchedulePause, now: datetime, *, waiting: int = 0, oldest: float | None = None
) -> str:
    """A pause with its age, operator and reason, and the due tasks that wait for its end. ``oldest``: in seconds."""
    line = f"paused {lasting(now - pause.since)} ago by {pause.by or UNKNOWN_OPERATOR}{because(pause.reason)}"
    if not waiting or oldest is None:
        return line
    first = lasting(timedelta(seconds=oldest))
    return f"{line.rstrip('.')}. {waits(waiting, 'due task')} for its end, the oldest for {first}"


def missed_line(row: ScheduleRow) -> str:
    """The number of missed ticks, and the times of the latest."""
    times = ", ".join(f"{at.astimezone(UTC):%H:%M}Z" for at in row.missing_at[:MISSED_SHOWN])
    more = ", …" if row.missing > MISSED_SHOWN else ""
    return f"{row.name}: {row.missing:,} missed in 24 h: {times}{more}"


def schedule_pause_line(pause: SchedulePause) -> str:
    """``since …, until …, by ann: the reason``."""
    until = f", until {stamp(pause.until)}" if pause.until else ""
    by = f", by {pause.by}" if pause.by else ""
    return f"since {stamp(pause.since)}{until}{by}{because(pause.reason)}"


def paused_schedule_line(row: ScheduleRow) -> str:
    """A new pause of a schedule."""
    until = row.pause and row.pause.until
    return f"Paused {row.name}: it has no ticks until {stamp(until) if until else 'it is resumed'}."


def resumed_schedule_line(row: ScheduleRow) -> str:
    """A pause of a schedule that was ended."""
    at = f": its next tick is at {stamp(row.next_at)}" if row.next_at else ""
    return f"Resumed {row.name}{at}."


def deleted_schedule_line(row: ScheduleRow) -> str:
    """A schedule that was deleted."""
    return f"Deleted {row.name}: it has no ticks any more."
