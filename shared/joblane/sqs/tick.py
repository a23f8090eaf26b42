"""The id of a tick: ``<type>:<schedule>:<its time>``, so that one delivered twice is one task."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from joblane.queues import lane_name
from joblane.sqs.client import Entry
from joblane.sqs.message import Message, Tick

if TYPE_CHECKING:
    from joblane.declaration import Task
    from joblane.schedule import Schedule

EARLY = timedelta(seconds=5)
"""A tick may be sent this much before its time, where clocks differ."""
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d)(:\d\d)?(\.\d+)?Z?", re.ASCII)


def tick_id(task: Task[Any, Any], tick: Tick, sent_at: float) -> str:
    """From what the scheduler wrote; where it wrote no time, the schedule's last one before the message was sent.

    ``tick``: ``schedule``, its name, and ``at``, the scheduled time in UTC or a context attribute that was not
    substituted. ``sent_at``: seconds since 1970.
    """
    written = _TIME.fullmatch(tick["at"])
    if written:
        return f"{task.type}:{tick['schedule']}:{written[1]}Z"
    return id_of(task.type, tick["schedule"], _last_fire(task, tick["schedule"], sent_at))


def id_of(type_: str, schedule: str | None, moment: datetime) -> str:
    """``moment``: aware."""
    return f"{type_}:{schedule}:{moment.astimezone(UTC):%Y-%m-%dT%H:%M}Z"


def tick_entry(prefix: str, task: Task[Any, Any], schedule: Schedule, moment: datetime) -> Entry:
    """The message of one tick, as EventBridge Scheduler sends it."""
    tick = Tick(schedule=str(schedule.name), at=f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}")
    body = Message(task.type, payload=schedule.payload or None, tick=tick).encode()
    return Entry(lane_name(prefix, task.queue, task.type), body)


def _last_fire(task: Task[Any, Any], name: str, sent_at: float) -> datetime:
    moment = datetime.fromtimestamp(sent_at, UTC) + EARLY
    for schedule in task.schedules:
        if schedule.name == name:
            return schedule.previous(moment).astimezone(UTC)
    return moment  # a schedule that the code has dropped: its last ticks may still come
