"""Schedules at run time: their rows, and the statements that change them. Each statement has one parameter, JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, overload

from joblane.errors import DeclarationError
from joblane.quotas import MAX_DELAY_SECONDS
from joblane.record.sql_functions import VERSION
from joblane.tasks.schedule import Schedule

LOCK = f"select joblane.lock_schedule_{VERSION}(cast($1 as json))"
CANCEL_TICKS = f"select joblane.cancel_ticks_{VERSION}(cast($1 as json))"
ROW = "cast(pg_catalog.row_to_json(s) as text)"
_NAMED = "s.name = cast($1 as json) ->> 'name'"
GET = f"select {ROW} from joblane.schedules s where {_NAMED}"
WRITE = """
insert into joblane.schedules as s (name, type, payload, schema, tenant, options, expression, timezone, missed,
                                    revision, next_at, last_at, last_task)
select x.name, x.type, x.payload, x.schema, x.tenant, x.options, x.expression, x.timezone, x.missed,
       x.revision, x.next_at, x.last_at, x.last_task
  from json_to_record(cast($1 as json)) as x(
         name text, type text, payload jsonb, schema text, tenant text, options jsonb, expression text, timezone text,
         missed text, revision bigint, next_at timestamptz, last_at timestamptz, last_task text)
on conflict (name) do update set
  type = excluded.type, payload = excluded.payload, schema = excluded.schema, options = excluded.options,
  expression = excluded.expression, timezone = excluded.timezone, missed = excluded.missed,
  revision = excluded.revision, next_at = excluded.next_at, last_at = coalesce(excluded.last_at, s.last_at),
  last_task = coalesce(excluded.last_task, s.last_task), problem = null, updated_at = clock_timestamp()
returning s.name
"""
PAUSE = f"""
update joblane.schedules s set paused_at = clock_timestamp(), updated_at = clock_timestamp() where {_NAMED}
returning s.name
"""
RESUME = f"""
update joblane.schedules s
   set paused_at = null, revision = x.revision, next_at = x.next_at, last_at = coalesce(x.last_at, s.last_at),
       last_task = coalesce(x.last_task, s.last_task), updated_at = clock_timestamp()
  from json_to_record(cast($1 as json)) as x(
         revision bigint, next_at timestamptz, last_at timestamptz, last_task text) where {_NAMED}
returning s.name
"""
DELETE = f"delete from joblane.schedules s where {_NAMED} returning s.name"

DUE = f"""
select cast(pg_catalog.row_to_json(s) as text), cast(now() as text) from joblane.schedules s
 where s.paused_at is null and s.next_at <= now() + interval '{MAX_DELAY_SECONDS} s'
 order by s.next_at, s.name limit $1::integer for update skip locked
"""
"""The schedules that fire within the time of a message's delay, read by an index, since ``now()`` is stable. A locked
one is being changed, and is left to the sweep that the change has woken."""
DUE_BY_NAME = f"""
select cast(pg_catalog.row_to_json(s) as text), cast(now() as text) from joblane.schedules s
 where s.name = $1 and s.paused_at is null
   and s.next_at <= now() + interval '{MAX_DELAY_SECONDS} s' for update skip locked
"""
MOVE = """
update joblane.schedules s
   set next_at = x.next_at, last_at = coalesce(x.last_at, s.last_at), last_task = coalesce(x.last_task, s.last_task),
       problem = x.problem
  from json_to_recordset($1::json) as x(
         name text, next_at timestamptz, last_at timestamptz, last_task text, problem text)
 where s.name = x.name
"""


class Missed(StrEnum):
    """The policy for ticks that were missed, for example because no sweep ran for hours."""

    LATEST = "latest"
    """The newest of them runs, late. The others do not run."""
    SKIP = "skip"
    """None of them runs, unless it is at most 6 minutes late."""


@dataclass(frozen=True, slots=True)
class RunTimeSchedule:
    """A schedule that was made at run time. Times are in UTC."""

    name: str
    """Name, unique in the stage."""
    type: str
    """Type of its tasks."""
    payload: Mapping[str, Any] = field(repr=False)
    """Payload of each task, as JSON values. Redacted fields are not masked."""
    tenant: str | None
    """Tenant of its tasks. None: none."""
    options: Mapping[str, Any] = field(repr=False)
    """Enqueue options of its tasks, by their names; durations in seconds."""
    expression: str
    """Times at which it fires: five fields of Unix cron."""
    timezone: str
    """Time zone of these times: a name of the IANA database."""
    missed: Missed
    """Policy for missed ticks."""
    paused_at: datetime | None
    """Time since which it is paused. None: it is not paused."""
    next_at: datetime | None
    """Time of the next tick. A time in the past: the sweep has not made its task yet. None: it is paused."""
    last_at: datetime | None
    """Time of the last tick that got a task, at most 15 minutes ahead. None: none yet."""
    last_task: str | None
    """Id of the task of this tick. None: none yet."""
    problem: str | None
    """Why the last tick got no task. None: it got one."""
    created_at: datetime
    """Time at which it was first put."""
    updated_at: datetime
    """Time at which it was last put with a change, paused or resumed."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> RunTimeSchedule:
        """Return the schedule of a row of ``joblane.schedules``, as ``row_to_json`` writes it."""
        plain = ("name", "type", "payload", "tenant", "options", "expression", "timezone", "last_task", "problem")
        return cls(
            **{name: row[name] for name in plain},
            missed=Missed(row["missed"]),
            paused_at=_time(row["paused_at"]),
            next_at=_next_tick(row) if row["paused_at"] is None else None,
            last_at=_time(row["last_at"]),
            created_at=_time(row["created_at"]),
            updated_at=_time(row["updated_at"]),
        )


@dataclass(frozen=True, slots=True)
class PutSchedule:
    """The result of ``jobs.schedules.put``."""

    name: str
    """Name of the schedule."""
    created: bool
    """True if no schedule had this name."""
    changed: bool
    """False if the schedule was the same already, so that nothing was written. True if it is new."""
    next_at: datetime | None
    """Time of its next tick, in UTC. None: it is paused."""


def listing(*, by_tenant: bool, by_type: bool) -> str:
    """Return the statement of a page of schedules in the order of their names, with or without filters."""
    filters = ["s.name > x.after"]
    filters += ["s.tenant = x.tenant"] * by_tenant + ["s.type = x.type"] * by_type
    return f"""
select {ROW} from json_to_record(cast($1 as json)) as x(tenant text, type text, after text, number integer),
       lateral (select * from joblane.schedules s where {" and ".join(filters)}
                 order by s.name limit x.number) as s
 order by s.name
"""


def read(text: str) -> dict[str, Any]:
    """Read a document of the database."""
    return json.loads(text)  # type: ignore[no-any-return]


def by_schedules(moment: datetime) -> datetime:
    """Return a time of the database by the clock of the schedules: the same time. The test kit replaces it."""
    return moment.astimezone(UTC)


def by_database(moment: datetime) -> datetime:
    """Return a time of the schedules by the clock of the database: the same time. The test kit replaces it."""
    return moment


@overload
def _time(text: str) -> datetime: ...
@overload
def _time(text: str | None) -> datetime | None: ...
def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)


def _next_tick(row: Mapping[str, Any]) -> datetime:
    """Return the time of the next tick. ``next_at`` of the row is after the ticks that have a task already."""
    without_task = _time(str(row["next_at"]))
    try:
        schedule = schedule_of(row["expression"], row["timezone"])
    except DeclarationError:  # written by hand, or this machine lacks the time zone
        return without_task
    return min(without_task, by_database(schedule.next_after(by_schedules(datetime.now(UTC)))))


@lru_cache(maxsize=10_000)
def schedule_of(expression: str, timezone: str) -> Schedule:
    """Return the times of a schedule. Raises :class:`DeclarationError`."""
    return Schedule(expression, timezone)
