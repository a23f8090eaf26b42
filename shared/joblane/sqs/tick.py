"""The id of a tick: ``<type>:<schedule>:<time>``, so that a tick that is delivered twice is one task."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from joblane.names import full_schedule_name, lane_name
from joblane.sqs.client import Entry
from joblane.sqs.message import Message, Tick

if TYPE_CHECKING:
    from joblane.tasks.schedule import Schedule
    from joblane.tasks.task import Task

EARLY = timedelta(seconds=5)
"""A tick may be sent this long before its time, because clocks differ."""
MAX_AGE = timedelta(hours=1)
"""A tick that could not be sent for this long is dropped. By default, EventBridge Scheduler retries 185 times within 24
hours: a daily job could start a day late. Source: RetryPolicy, Scheduler API reference."""
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d)(:\d\d)?(\.\d+)?Z?", re.ASCII)


def tick_id(task: Task[Any, Any], type_: str, tick: Tick, sent_at: float) -> str:
    """Return the id of a tick, from the time in it, or else from the schedule's last time before it was sent.

    ``type_``: the type in the message, which a deploy may have renamed since the tick was first delivered.
    ``tick["at"]`` is no time if the scheduler did not substitute its context attribute. ``sent_at``: seconds since
    1970.
    """
    written = _TIME.fullmatch(tick["at"])
    if written:
        return f"{full_schedule_name(type_, tick['schedule'])}:{written[1]}Z"
    return id_of(type_, tick["schedule"], _last_fire(task, tick["schedule"], sent_at))


def is_early(tick: Tick, sent_at: float) -> bool:
    """True if a tick's time is later than the time at which its message was sent, or is not in the calendar.

    The scheduler sends a tick at its time. An earlier message is from another sender, and would use up the tick's id.
    """
    written = _TIME.fullmatch(tick["at"])
    if not written:
        return False
    try:
        at = datetime.fromisoformat(f"{written[1]}{written[2] or ''}+00:00")
    except ValueError:
        return True
    return at > datetime.fromtimestamp(sent_at, UTC) + EARLY


def id_of(type_: str, schedule: str, moment: datetime) -> str:
    """Return the id of the tick at ``moment``, an aware time."""
    return f"{full_schedule_name(type_, schedule)}:{written(moment)}"


def written(moment: datetime) -> str:
    """Return a time as it is in an id."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%MZ}"


def tick_entry(prefix: str, task: Task[Any, Any], schedule: Schedule, moment: datetime) -> Entry:
    """Return the message of a tick as EventBridge Scheduler sends it."""
    tick = Tick(schedule=str(schedule.name), at=f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}")
    body = Message(task.type, payload=schedule.payload or None, tick=tick).encode()
    return Entry(lane_name(prefix, task.queue, task.type), body)


def _last_fire(task: Task[Any, Any], name: str, sent_at: float) -> datetime:
    moment = datetime.fromtimestamp(sent_at, UTC) + EARLY
    for schedule in task.schedules:
        if schedule.name == name:
            return schedule.previous(moment).astimezone(UTC)
    return moment  # the code no longer declares the schedule, but its last ticks may still arrive
