"""Missed ticks: times at which a schedule should have fired and for which no task exists."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from joblane.record.driver.connection import Connection
from joblane.sqs.tick import id_of
from joblane.tasks.schedule import Schedule
from joblane.tasks.task import Task

PATIENCE = timedelta(minutes=30)
"""A tick counts as missed only after this time, because its message may wait in a lane with a backlog."""
LONGEST_LOOK_BACK = timedelta(days=1)

# A new schedule is checked from now on, and a removed schedule is deleted. A schedule's times are part of its name
# here, so that a schedule with changed times is a new one.
SCHEDULES = """
with declared as (
  select * from jsonb_to_recordset($1::jsonb) as x(type text, name text)
),
dropped as (
  delete from joblane.declared_schedules s
   where not exists (select from declared d where (d.type, d.name) = (s.type, s.name))
),
new as (
  insert into joblane.declared_schedules (type, name, checked_until)
  select d.type, d.name, $2::timestamptz from declared d
  on conflict do nothing
)
select s.type, s.name, s.checked_until from joblane.declared_schedules s join declared d using (type, name)
"""
WITHOUT_TASK = """
select x.id from jsonb_array_elements_text($1::jsonb) as x(id)
 where not exists (select from joblane.tasks t where t.id = x.id)
 order by x.id
"""
MARK_CHECKED = (
    "update joblane.declared_schedules set checked_until = $1::timestamptz where checked_until < $1::timestamptz"
)


def key_of(schedule: Schedule) -> str:
    """The name of a schedule in ``joblane.declared_schedules``."""
    return f"{schedule.name} {schedule.text} {schedule.timezone}"


def missed_ticks(connection: Connection, tasks: Iterable[Task[Any, Any]], now: datetime) -> list[str]:
    """Return the ids of the ticks that were missed since the last call, oldest first per schedule.

    It looks back a day at most. ``now``: an aware time.
    """
    schedules = {(task.type, key_of(schedule)): schedule for task in tasks for schedule in task.schedules}
    declared = [{"type": type_, "name": name} for type_, name in schedules]
    horizon = now - PATIENCE
    expected: list[str] = []
    for type_, name, checked_until in connection.run(SCHEDULES, json.dumps(declared), now.isoformat()):
        moment = max(checked_until, horizon - LONGEST_LOOK_BACK)
        schedule = schedules[type_, name]
        while (moment := schedule.next_after(moment)) <= horizon:
            expected.append(id_of(type_, schedule.name, moment))
    missed = [row[0] for row in connection.run(WITHOUT_TASK, json.dumps(expected))] if expected else []
    connection.run(MARK_CHECKED, horizon.isoformat())
    return missed
