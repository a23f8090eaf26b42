"""The ticks of schedules: which of them are due, and their tasks.

The task of a schedule that was made at run time is made up to 15 minutes before its tick, so that SQS can delay its
message until then, to the second. Its id has the name of the schedule, the time and the revision, so that a tick that
is handled twice is one task.

The ticks of a schedule of the code are messages of EventBridge Scheduler, and the claim makes their tasks. Their ids
have no revision, so a tick is one task around a deploy, and one that the sweep has made does not run again when its
message comes at last.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from joblane.enqueue.check import check, with_row_id
from joblane.quotas import MAX_DELAY_SECONDS
from joblane.record import schedules
from joblane.record.schedules import UNDELIVERED, Origin
from joblane.sqs.tick import written
from joblane.tasks.job import NOT_OF_TICKS, Job, options_from_json
from joblane.tasks.schedule import Missed
from joblane.tasks.unique import Unique

if TYPE_CHECKING:
    from joblane.record.task.insert import NewTask
    from joblane.tasks.schedule import Schedule
    from joblane.tasks.task import Task

AHEAD = timedelta(seconds=MAX_DELAY_SECONDS)
"""The tasks of ticks are made this long before their time."""
GRACE = timedelta(minutes=6)
"""A tick of a schedule made at run time is missed after this time. A sweep starts at most five minutes after a put."""
LONGEST_LOOK_BACK = timedelta(days=1)
MOST_LOOKED_FOR = 200
"""Ticks of a schedule of the code that were due earlier, or before so many others, are not looked for."""
MAX_NAME = 128
NAME_PATTERN = re.compile(rf"[!-~]{{1,{MAX_NAME}}}")
TICK_PATTERN = re.compile(r"@(?P<name>[!-~]+):(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\dZ):(?P<revision>\d+)", re.ASCII)
"""The id of a tick's task."""
SCHEDULE = "schedule"
"""The option of a task with the name of its schedule."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A row of ``joblane.schedules``, for its ticks."""

    name: str
    origin: str
    type: str
    payload: Mapping[str, Any]
    schema: str | None
    tenant: str | None
    options: Mapping[str, Any]
    expression: str
    timezone: str
    missed: str
    revision: int

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Stored:
        return cls(**{name: row[name] for name in cls.__slots__})

    def job(self, task: Task[Any, Any]) -> Job:
        """Return the job of a tick, without its time.

        Raises :class:`EnqueueError` and :class:`UnreadablePayloadError`.
        """
        options = options_from_json(self.options, others=NOT_OF_TICKS)
        return Job(task, task.read(self.payload, self.schema), tenant=self.tenant, **options)


def due_ticks(schedule: Schedule, next_at: datetime, now: datetime, missed: str) -> tuple[list[datetime], datetime]:
    """Return the times of the ticks whose tasks are made now, and the time of the first tick after them.

    At most one of them is past: the newest, if it is not missed, or by the policy.
    """
    moment, ticks = next_at, list[datetime]()
    if next_at <= now:
        moment = max(schedule.previous(now), next_at)
        if missed == Missed.LATEST or now - moment <= GRACE:
            ticks.append(moment)
        moment = schedule.next_after(moment)
    while moment <= now + AHEAD:
        ticks.append(moment)
        moment = schedule.next_after(moment)
    return ticks, moment


def past_ticks(
    schedule: Schedule, next_at: datetime, now: datetime, *, most: int | None = MOST_LOOKED_FOR
) -> list[datetime]:
    """Return the times of the ticks of a schedule of the code from ``next_at`` up to now, of a day at most.

    ``most``: the newest of them at most. None: all.
    """
    first = max(next_at, now - UNDELIVERED - LONGEST_LOOK_BACK) - timedelta(microseconds=1)
    return [*deque(takewhile(lambda moment: moment <= now, schedule.after(first)), most)]


def tick_id(stored: Stored, moment: datetime) -> str:
    """Return the id of a tick's task."""
    id_ = f"{start_of_ids(stored.name, stored.origin)}{written(moment)}"
    return id_ if stored.origin == Origin.CODE else f"{id_}:{stored.revision}"


def start_of_ids(name: str, origin: str) -> str:
    """Return the beginning of the ids of a schedule's ticks. The time follows.

    No type begins with ``@``, so the ids of schedules of the code and of others differ.
    """
    return f"{name}:" if origin == Origin.CODE else f"@{name}:"


def part_of_key(stored: Stored) -> str:
    """Return what names the schedule in the unique key of its ticks that do not overlap."""
    return stored.name.removeprefix(f"{stored.type}:") if stored.origin == Origin.CODE else f"@{stored.name}"


def tick_tasks(stored: Stored, task: Task[Any, Any], ticks: Sequence[datetime], *, prefix: str) -> list[NewTask]:
    """Return the tasks of ticks. Raises :class:`EnqueueError` and :class:`UnreadablePayloadError`."""
    job = stored.job(task)
    return [_tick_task(stored, job, tick, prefix) for tick in ticks]


def _tick_task(stored: Stored, job: Job, moment: datetime, prefix: str) -> NewTask:
    new = with_row_id(check(job, record=True, prefix=prefix), tick_id(stored, moment))
    key = new.unique
    if key is None:
        key = job.task.key_of_message(new.queue, new.payload, part_of_key(stored))
    return replace(
        new,
        at=schedules.by_database(moment),
        unique=None,
        tick_key=None if key is None else Unique(key.key, key.seconds + AHEAD.total_seconds(), key.until),
        links={SCHEDULE: stored.name},
    )


def keyed(stored: Stored, job: Job) -> Job:
    """Return a job with the unique key that the ticks of its schedule take."""
    key = None
    if job.unique_for is None:
        key = job.task.key_of_message(job.queue or job.task.queue, {}, part_of_key(stored))
    if key is None or job.task.unique_for is not None:
        return job
    given = key.key.removeprefix(f"{job.task.type} ")
    return replace(job, unique_key=given, unique_for=timedelta(seconds=key.seconds), unique_until=key.until)
